// Runs modules of this repository in headless Chromium: bundled by Vite as for any web page, served on the
// loopback, with WebGPU on Chromium's own SwiftShader. `FUSENORM_CHROMIUM` names another Chromium.

import { existsSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { fileURLToPath } from "node:url";
import { type Browser, chromium } from "playwright-core";
import { build, type Plugin } from "vite";
import { embeddedChromium } from "../../src/node/embedded.ts";

const root = fileURLToPath(new URL("../..", import.meta.url));
const here = (file: string) => fileURLToPath(new URL(file, import.meta.url));

/** What a test of the page came to. */
export interface PageTest {
  file: string;
  name: string;
  passed: boolean;
  errors: string[];
  ms: number;
}

export const FLAGS = [
  "--enable-unsafe-webgpu",
  "--use-webgpu-adapter=swiftshader",
  // Nothing but the page is to be fetched.
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-domain-reliability",
  "--disable-quic",
  "--disable-sync",
  "--no-first-run",
  "--no-pings",
];

/** Chromium, on SwiftShader. */
export async function launch(): Promise<Browser> {
  const own = process.env.FUSENORM_CHROMIUM;
  if (own) return chromium.launch({ executablePath: own, args: FLAGS });
  const { executable, libraries } = await embeddedChromium();
  const env = { ...process.env } as Record<string, string>;
  env.LD_LIBRARY_PATH = [libraries, env.LD_LIBRARY_PATH].filter(Boolean).join(":");
  return chromium.launch({ executablePath: executable, args: FLAGS, env });
}

/** What only Node has must not be reached from what runs in browsers; Vite would only warn. */
const refuseNodeModules: Plugin = {
  name: "refuse-node-modules",
  enforce: "pre",
  resolveId(source, importer) {
    if (source.startsWith("node:") || source === "webgpu") {
      throw new Error(`${importer} imports ${source}, which browsers do not have`);
    }
  },
};

/** Without Node, `vitest` is its runner and matchers alone, and the tests' GPU is that of the module `gpu`. */
const withoutNode = (gpu: string): Plugin => ({
  name: "without-node",
  enforce: "pre",
  resolveId(source, importer) {
    if (source === "vitest") return here("vitest-in-page.ts");
    const beside = source === "./gpu.ts" && importer?.includes("/test/helpers/");
    if (beside || /(^|\/)helpers\/gpu\.ts$/.test(source)) return gpu;
  },
});

function virtualEntry(code: string): Plugin {
  return {
    name: "entry",
    enforce: "pre",
    // Vite has made a path of it by now.
    resolveId: (source) => (source.endsWith("virtual:entry") ? "\0entry" : undefined),
    load: (id) => (id === "\0entry" ? code : undefined),
  };
}

/** One module of `code` and all that it imports, which runs without Node; `gpu` has the `testGpu` of test files. */
export async function bundle(code: string, gpu = here("gpu-in-page.ts")): Promise<string> {
  const result = await build({
    configFile: false,
    root,
    logLevel: "silent",
    plugins: [withoutNode(gpu), refuseNodeModules, virtualEntry(code)],
    build: {
      write: false,
      minify: false,
      target: "esnext",
      lib: { entry: "virtual:entry", formats: ["es"], fileName: "entry" },
      rollupOptions: { output: { codeSplitting: false } },
    },
  });
  const [output] = [result].flat();
  if (!output || !("output" in output)) throw new Error("harness: Vite made no bundle");
  return output.output[0].code;
}

/** What Playwright's pages and Puppeteer's have in common, as far as it is used here. */
export interface OpenPage {
  goto(address: string): Promise<unknown>;
  evaluate(code: string): Promise<unknown>;
}

export interface OpenBrowser {
  page: OpenPage;
  /** What the page said, for messages. */
  said: string[];
  close(): Promise<void>;
}

async function openChromium(): Promise<OpenBrowser> {
  const browser = await launch();
  const page = await browser.newPage();
  const said: string[] = [];
  page.on("console", (message) => said.push(message.text()));
  page.on("pageerror", (error) => said.push(String(error)));
  return { page, said, close: () => browser.close() };
}

/** Bundles a module that has `code` and gives what its default export, a function, returns in a page. */
async function evaluateInPage<T>(code: string, open = openChromium): Promise<T> {
  const script = await bundle(code);
  const server = createServer((request, response) => {
    const isScript = request.url === "/entry.js";
    response.setHeader("content-type", isScript ? "text/javascript" : "text/html");
    response.end(isScript ? script : "<!doctype html><title>fusenorm</title>");
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  try {
    const { page, said, close } = await open();
    try {
      await page.goto(`http://127.0.0.1:${(server.address() as AddressInfo).port}/`);
      // As text: otherwise the loader of this file rewrites the `import`.
      return (await page.evaluate(`import("/entry.js").then((entry) => entry.default())`)) as T;
    } catch (error) {
      throw new Error([(error as Error).message, ...said.slice(-20)].join("\n  page: "), { cause: error });
    } finally {
      await close();
    }
  } finally {
    server.closeAllConnections();
    server.close();
  }
}

/** Runs the default export of a module (a function, sync or async) in the page; the result must survive JSON. */
export async function runInBrowser<T>(entryFile: string): Promise<T> {
  if (!existsSync(entryFile)) throw new Error(`runInBrowser: ${entryFile} does not exist`);
  return evaluateInPage<T>(`export { default } from ${JSON.stringify(entryFile)};`);
}

/** A module whose default export runs vitest test files, unchanged, with what else `runFiles` takes. */
export function testsAsModule(files: readonly string[]): string {
  const entries = files.map(
    (file) => `${JSON.stringify(file)}: () => import(${JSON.stringify(root + file)}),`,
  );
  return `import { runFiles } from ${JSON.stringify(here("vitest-in-page.ts"))};
     export default (...rest) => runFiles({ ${entries.join("\n")} }, ...rest);`;
}

/** Runs vitest test files, unchanged, in one page, Chromium's if not told otherwise. Paths are relative to the repository. */
export async function runTestsInBrowser(
  files: readonly string[],
  open?: () => Promise<OpenBrowser>,
): Promise<PageTest[]> {
  return evaluateInPage<PageTest[]>(testsAsModule(files), open);
}
