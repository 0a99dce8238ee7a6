// Contenders that run in one page of headless Chromium, on its SwiftShader: this package as a page has it, and ONNX Runtime Web.
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { fileURLToPath } from "node:url";
import type { AdapterSummary } from "../../src/device/adapter.ts";
import { bundle, launch } from "../../test/browser/harness.ts";
import type { Contender, PeerWork, Prepared } from "../lib/work.ts";
import { onnxWork, refusedAsGraph, resultsOf } from "./graphs.ts";
import type { PageCalls, ServedWork } from "./page-entry.ts";

/** ONNX Runtime's module, with its WebAssembly beside it. */
const ORT = new URL(import.meta.resolve("onnxruntime-web/webgpu"));
const ORT_FILE = /^\/ort\/(ort[\w.-]+\.(?:mjs|wasm))$/;
const ENTRY = fileURLToPath(new URL("page-entry.ts", import.meta.url));

/** Version of the package that is compared. */
export function ortWebVersion(): string {
  return JSON.parse(readFileSync(new URL("../package.json", ORT), "utf8")).version;
}

/** Opens the page. The second contender closes it. */
export async function contendersInPage(): Promise<{ adapter: AdapterSummary; contenders: Contender[] }> {
  const files = new Map<string, string | Uint8Array>();
  files.set("/entry.js", await bundle(`export { default } from ${JSON.stringify(ENTRY)};`));
  files.set("/", "<!doctype html><title>bench:peers</title>");
  const server = createServer(({ url = "" }, response) => {
    const ort = ORT_FILE.exec(url)?.[1];
    const content = ort ? readFileSync(new URL(ort, ORT)) : files.get(url);
    const types = { js: "text/javascript", mjs: "text/javascript", wasm: "application/wasm" };
    const end = url.split(".").at(-1) as keyof typeof types;
    response.writeHead(content ? 200 : 404, {
      "content-type": types[end] ?? (url === "/" ? "text/html" : "application/octet-stream"),
    });
    response.end(content ?? "");
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const browser = await launch();
  const page = await browser.newPage();
  const said: string[] = [];
  page.on("console", (message) => said.push(message.text()));
  page.on("pageerror", (error) => said.push(String(error)));
  const evaluate = async <T>(code: string): Promise<T> => {
    try {
      return (await page.evaluate(code)) as T;
    } catch (error) {
      throw new Error([(error as Error).message, ...said.slice(-20)].join("\n  page: "), { cause: error });
    }
  };
  const call = <K extends keyof PageCalls>(
    name: K,
    ...args: Parameters<PageCalls[K]>
  ): Promise<Awaited<ReturnType<PageCalls[K]>>> =>
    evaluate(`bench.${name}(${args.map((arg) => JSON.stringify(arg)).join(", ")})`);
  await page.goto(`http://127.0.0.1:${(server.address() as AddressInfo).port}/`);
  const module = `/ort/${ORT.pathname.split("/").at(-1)}`;
  const adapter = await evaluate<AdapterSummary>(
    `import("/entry.js").then((entry) => entry.default(${JSON.stringify(module)}))`,
  );

  const prepared = (id: number, results: (lists: number[][]) => Float32Array[]): Prepared => ({
    run: (iterations) => call("run", id, iterations),
    result: async () => results(await call("result", id)),
    dispose: () => void call("dispose", id),
  });
  const ours: Contender = {
    name: "fusenorm in Chromium",
    device: adapter.name,
    refuses: () => null,
    // The page makes the same numbers as `workData` here.
    prepare: async (work) =>
      prepared(await call("prepareOurs", work), (lists) => lists.map((list) => Float32Array.from(list))),
    close: async () => {},
  };
  let served = 0;
  const serve = (content: Uint8Array) => {
    served += 1;
    files.set(`/data/${served}`, content);
    return `/data/${served}`;
  };
  const theirs: Contender = {
    name: "ONNX Runtime Web WebGPU",
    device: adapter.name,
    refuses: (work: PeerWork) => refusedAsGraph(work),
    async prepare(work, data) {
      const { model, feeds, outputs } = onnxWork(work, data);
      const given: ServedWork = {
        ...{ model: serve(model), outputs },
        feeds: Object.fromEntries(
          Object.entries(feeds).map(([name, { data: values, shape }]) => [
            name,
            { address: serve(new Uint8Array(values.buffer, values.byteOffset, values.byteLength)), shape },
          ]),
        ),
      };
      const id = await call("prepareOrt", given);
      for (const address of [given.model, ...Object.values(given.feeds).map((feed) => feed.address)]) {
        files.delete(address);
      }
      const names = Object.keys(outputs);
      return prepared(id, (lists) =>
        resultsOf(outputs, (name) => Float32Array.from(lists[names.indexOf(name)]!)),
      );
    },
    async close() {
      await browser.close();
      server.closeAllConnections();
      server.close();
    },
  };
  return { adapter, contenders: [ours, theirs] };
}
