// Installs the packed package as its users do, by npm into empty folders: a TypeScript project for Node, a page by Vite, a Deno program.
// Each compiles its own code and trains (test/install), and the losses of all have to agree. Prints how long it takes from the
// install to the trained network. After `npm run build`; `npm run test:install`.

import { execFileSync, spawnSync } from "node:child_process";
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { extname, join } from "node:path";
import { textTable } from "../src/experiments/page.ts";
import { isLavapipe, thisMachine } from "../src/node/adapters.ts";
import { launch } from "../test/browser/harness.ts";
import { denoDrivers, denoProgram } from "../test/deno/program.ts";
import { manifest, packPackages, root } from "./lib/package.ts";

/** Of the losses: what runtimes may differ by, and what a network that learns nothing would not reach. */
const TOLERANCE = 1e-3;
const LEARNT = 0.5;

const ranges = manifest(root).devDependencies as Record<string, string>;
const packed = await packPackages({ dependencies: false });
const { tarball } = packed.packages.find(({ name }) => name === "fusenorm")!;
const base = mkdtempSync(join(tmpdir(), "fusenorm-install-"));

/** An empty folder with the package and `others` installed, and the files of test/install that its program is made of. */
function project(
  name: string,
  files: readonly string[],
  others: readonly string[],
  init: object = {},
): string {
  const folder = join(base, name);
  mkdirSync(folder);
  writeFileSync(join(folder, "package.json"), JSON.stringify({ type: "module", private: true, ...init }));
  const wanted = others.map((one) => `${one}@${ranges[one]}`);
  execFileSync("npm", ["install", "--no-audit", "--no-fund", "--silent", tarball, ...wanted], {
    cwd: folder,
  });
  for (const file of files) copyFileSync(join(root, "test/install", file), join(folder, file));
  return folder;
}

/** What a program prints. @throws Error with all that it said, where it fails */
function output(
  folder: string,
  command: string,
  args: readonly string[],
  env: Record<string, string> = {},
): string {
  const run = spawnSync(command, args, {
    ...{ cwd: folder, encoding: "utf8", timeout: 300_000 },
    env: { ...process.env, ...env },
  });
  if (run.status === 0) return run.stdout;
  const said = `${run.error?.message ?? ""}${run.stdout}${run.stderr}`;
  throw new Error(`${command} ${args.join(" ")} ended with ${run.status}: ${said.slice(-3000)}`);
}

function lossesIn(text: string): number[] {
  const told = /^losses (.*)$/m.exec(text)?.[1];
  if (!told) throw new Error(`no losses were told, but: ${text.slice(-2000)}`);
  return JSON.parse(told) as number[];
}

const COMPILER = { strict: true, skipLibCheck: false, target: "ES2023", noEmitOnError: true };

function inNode(): number[] {
  // Without a driver of the machine's own, the package's optional peer brings one.
  const drivers = thisMachine().manifests().some(isLavapipe) ? [] : ["@sparticuz/chromium"];
  const folder = project(
    "node",
    ["train.ts", "node.ts"],
    ["typescript", "@types/node", "webgpu", ...drivers],
  );
  const compilerOptions = {
    ...COMPILER,
    module: "NodeNext",
    lib: ["ES2023"],
    types: ["node"],
    outDir: "dist",
  };
  writeFileSync(join(folder, "tsconfig.json"), JSON.stringify({ compilerOptions, files: ["node.ts"] }));
  output(folder, "npx", ["--no-install", "tsc"]);
  return lossesIn(output(folder, process.execPath, ["dist/node.js"]));
}

async function inDeno(): Promise<number[]> {
  const folder = project("deno", ["train.ts", "deno.ts"], []);
  // Mesa's compiler takes most of the time, and less of it without its optimisations.
  const mesa = { GALLIVM_PERF: "nopt" };
  const env = {
    ...(await denoDrivers()),
    ...mesa,
    DENO_DIR: join(base, "deno-cache"),
    DENO_NO_UPDATE_CHECK: "1",
  };
  const deno = denoProgram();
  output(folder, process.execPath, [deno, "check", "deno.ts"], env);
  return lossesIn(output(folder, process.execPath, [deno, "run", "-A", "--unstable-webgpu", "deno.ts"], env));
}

async function inPage(): Promise<number[]> {
  const folder = project("page", ["train.ts", "page.ts"], ["vite"]);
  const page = (script: string) =>
    `<!doctype html><title>…</title><script type="module" src="/${script}"></script>`;
  const build = () => output(folder, "npx", ["--no-install", "vite", "build", "--logLevel", "warn"]);
  // What only Node has is refused while the page is built.
  writeFileSync(join(folder, "wrong.ts"), 'import { requestGpu } from "fusenorm/node"; requestGpu();');
  writeFileSync(join(folder, "index.html"), page("wrong.ts"));
  let refusal = "";
  try {
    build();
  } catch (error) {
    refusal = (error as Error).message;
  }
  if (!/requestGpu[\s\S]*not-for-browsers/.test(refusal)) {
    throw new Error(
      `a page that imports fusenorm/node was built, or failed otherwise: ${refusal || "no error"}`,
    );
  }
  writeFileSync(join(folder, "index.html"), page("page.ts"));
  build();
  const types: Record<string, string> = { ".js": "text/javascript", ".html": "text/html" };
  const server = createServer((request, response) => {
    const file = request.url === "/" ? "/index.html" : request.url!;
    try {
      const body = readFileSync(join(folder, "dist", file));
      response.setHeader("content-type", types[extname(file)] ?? "application/octet-stream").end(body);
    } catch {
      response.writeHead(404).end();
    }
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const browser = await launch();
  try {
    const opened = await browser.newPage();
    const said: string[] = [];
    opened.on("console", (message) => said.push(message.text()));
    opened.on("pageerror", (error) => said.push(String(error)));
    await opened.goto(`http://127.0.0.1:${(server.address() as AddressInfo).port}/`);
    await opened
      .waitForFunction('document.title.startsWith("losses")', null, { timeout: 120_000 })
      .catch((error: Error) => {
        throw new Error([error.message, ...said].join("\n  page: "));
      });
    return lossesIn(await opened.title());
  } finally {
    await browser.close();
    server.close();
  }
}

const PROGRAMS = {
  "a TypeScript project, in Node": inNode,
  "a Deno program": inDeno,
  "a page by Vite": inPage,
};
const rows: string[][] = [];
let expected: number[] | null = null;
try {
  for (const [name, run] of Object.entries(PROGRAMS)) {
    const start = performance.now();
    const losses = await run();
    const [first, last] = [losses[0]!, losses.at(-1)!];
    expected ??= losses;
    const off = Math.max(...losses.map((loss, i) => Math.abs(loss - expected![i]!)));
    if (!(first > 0.3) || !(last < LEARNT * first)) {
      throw new Error(
        `${name}: the loss went from ${first} to ${last}; expected it to fall under ${LEARNT} of that`,
      );
    }
    if (!(off < TOLERANCE) || losses.length !== expected.length) {
      throw new Error(
        `${name}: the losses ${losses.join(", ")} are off by ${off} from ${expected.join(", ")}`,
      );
    }
    const seconds = ((performance.now() - start) / 1000).toFixed(1);
    rows.push([name, `${first.toFixed(3)} → ${last.toFixed(3)}`, `${seconds} s`]);
  }
} finally {
  packed.remove();
  rmSync(base, { recursive: true, force: true });
}
console.log(textTable(["installed for", "loss", "from npm install to here"], rows));
