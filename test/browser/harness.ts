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

const FLAGS = [
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

async function launch(): Promise<Browser> {
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

/** In the page, `vitest` is its runner and matchers alone, and the tests' GPU is `navigator.gpu`'s. */
const forThePage: Plugin = {
  name: "for-the-page",
  enforce: "pre",
  resolveId(source) {
    if (source === "vitest") return here("vitest-in-page.ts");
    if (/(^|\/)helpers\/gpu\.ts$/.test(source) || source === "./gpu.ts") return here("gpu-in-page.ts");
  },
};

function virtualEntry(code: string): Plugin {
  return {
    name: "entry",
    enforce: "pre",
    // Vite has made a path of it by now.
    resolveId: (source) => (source.endsWith("virtual:entry") ? "\0entry" : undefined),
    load: (id) => (id === "\0entry" ? code : undefined),
  };
}

async function bundle(code: string): Promise<string> {
  const result = await build({
    configFile: false,
    root,
    logLevel: "silent",
    plugins: [forThePage, refuseNodeModules, virtualEntry(code)],
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

/** Bundles a module that has `code` and gives what its default export, a function, returns in the page. */
async function evaluateInPage<T>(code: string): Promise<T> {
  const script = await bundle(code);
  const server = createServer((request, response) => {
    const isScript = request.url === "/entry.js";
    response.setHeader("content-type", isScript ? "text/javascript" : "text/html");
    response.end(isScript ? script : "<!doctype html><title>fusenorm</title>");
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const browser = await launch();
  try {
    const page = await browser.newPage();
    const said: string[] = [];
    page.on("console", (message) => said.push(message.text()));
    page.on("pageerror", (error) => said.push(String(error)));
    await page.goto(`http://127.0.0.1:${(server.address() as AddressInfo).port}/`);
    try {
      // As text: otherwise the loader of this file rewrites the `import`.
      return await page.evaluate<T>(`import("/entry.js").then((entry) => entry.default())`);
    } catch (error) {
      throw new Error([(error as Error).message, ...said.slice(-20)].join("\n  page: "), { cause: error });
    }
  } finally {
    await browser.close();
    server.close();
  }
}

/** Runs the default export of a module (a function, sync or async) in the page; the result must survive JSON. */
export async function runInBrowser<T>(entryFile: string): Promise<T> {
  if (!existsSync(entryFile)) throw new Error(`runInBrowser: ${entryFile} does not exist`);
  return evaluateInPage<T>(`export { default } from ${JSON.stringify(entryFile)};`);
}

/** Runs vitest test files, unchanged, in one page. Paths are relative to the repository. */
export async function runTestsInBrowser(files: readonly string[]): Promise<PageTest[]> {
  const entries = files.map(
    (file) => `${JSON.stringify(file)}: () => import(${JSON.stringify(root + file)}),`,
  );
  return evaluateInPage<PageTest[]>(
    `import { runFiles } from ${JSON.stringify(here("vitest-in-page.ts"))};
     export default () => runFiles({ ${entries.join("\n")} });`,
  );
}
