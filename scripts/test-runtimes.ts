// Packs the package and takes a training step with it, checked against float64 (test/runtimes/step.js), in every runtime that
// this machine has: Node 20, 22 and 24, Bun (both by npx), Deno, Chromium, Firefox (`FUSENORM_FIREFOX`, or `firefox` on the PATH).
// Prints the README's table; ends with 1 if a cell failed. Names as arguments run some rows alone: `npm run test:runtimes -- Bun`.

import { type ExecFileSyncOptionsWithStringEncoding, execFileSync, spawn } from "node:child_process";
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { extname, join } from "node:path";
import { isLavapipe, thisMachine } from "../src/node/adapters.ts";
import { embeddedChromium } from "../src/node/embedded.ts";
import { FLAGS } from "../test/browser/harness.ts";
import { denoProgram } from "../test/deno/program.ts";
import { findFirefox, PREFERENCES } from "../test/helpers/firefox.ts";
import { DEVICES } from "../test/runtimes/step.js";
import { packPackages, root } from "./lib/package.ts";

type Outcomes = Record<string, { adapter?: string; error?: number; failure?: string }>;

interface Row {
  name: string;
  /** What to start, or null where it is not here. */
  find(): { command: string; args: string[] } | null | Promise<{ command: string; args: string[] } | null>;
  adapters: ("lavapipe" | "SwiftShader")[];
}

const MINUTES = 60_000;
const COLUMNS = [...Object.keys(DEVICES), "commands"];
const packed = await packPackages();
const { folder } = packed;
const home = join(folder, "home");
mkdirSync(home);
writeFileSync(join(folder, "package.json"), '{ "type": "module" }');
copyFileSync(join(root, "test/runtimes/step.js"), join(folder, "step.js"));
writeFileSync(
  join(folder, "run.js"),
  `import * as fusenorm from "fusenorm";
   import { requestAdapter, requestGpu } from "fusenorm/node";
   import { everyDevice } from "./step.js";
   const entry = async () => (await requestAdapter()).gpu;
   console.log("outcomes " + JSON.stringify(await everyDevice(fusenorm, { all: () => requestGpu(), entry })));
   process.exit(0);`,
);
/** The page takes the one file, by an import map, the worker the modules. */
const MAP = JSON.stringify({ imports: { fusenorm: "/node_modules/fusenorm/dist/fusenorm.js" } });
const inBrowser = (from: string) => `import * as fusenorm from "${from}";
   import { everyDevice } from "/step.js";
   const run = () => everyDevice(fusenorm, { all: () => fusenorm.Gpu.request(), entry: async () => navigator.gpu });
   const report = (place, outcomes) => fetch("/" + place, { method: "POST", body: JSON.stringify(outcomes) });`;
writeFileSync(
  join(folder, "page.js"),
  `${inBrowser("fusenorm")} await report("page", await run()); new Worker("/worker.js", { type: "module" });`,
);
writeFileSync(
  join(folder, "worker.js"),
  `${inBrowser("/node_modules/fusenorm/dist/index.js")} await report("worker", await run());`,
);

/** What a child printed, or why it failed. */
function run(
  command: string,
  args: string[],
  env: Record<string, string | undefined>,
): Promise<{ code: number | null; said: string }> {
  return new Promise((resolve) => {
    const child = spawn(command, args, {
      cwd: folder,
      env: { ...process.env, DENO_DIR: home, ...env },
      timeout: 10 * MINUTES, // a busy machine takes several
    });
    let said = "";
    for (const stream of [child.stdout, child.stderr]) {
      stream.on("data", (chunk) => {
        said += chunk;
      });
    }
    child.on("error", (error) => resolve({ code: null, said: error.message }));
    child.on("close", (code) => resolve({ code, said }));
  });
}

/** The path of a program that npx brings, or null. */
function byNpx(pkg: string, name: string): string | null {
  try {
    const print = ["-e", "console.log(process.execPath)"];
    const options: ExecFileSyncOptionsWithStringEncoding = {
      encoding: "utf8",
      timeout: 5 * MINUTES,
      stdio: ["ignore", "pipe", "ignore"],
    };
    return execFileSync("npx", ["-y", "-p", pkg, name, ...print], options).trim();
  } catch {
    return null;
  }
}

function node(major: number): Row {
  const own = Number(process.versions.node.split(".")[0]) === major;
  const find = () => {
    const command = own ? process.execPath : byNpx(`node@${major}`, "node");
    return command ? { command, args: [] } : null;
  };
  return { name: `Node ${major}`, find, adapters: ["lavapipe", "SwiftShader"] };
}

const ROWS: Row[] = [
  node(20),
  node(22),
  node(24),
  {
    name: "Bun",
    find: () => {
      const command = byNpx("bun", "bun");
      return command ? { command, args: [] } : null;
    },
    adapters: ["lavapipe", "SwiftShader"],
  },
  {
    name: "Deno",
    find: () => ({ command: process.execPath, args: [denoProgram(), "run", "-A"] }),
    adapters: ["lavapipe", "SwiftShader"],
  },
];

/** Takes the step, and two more by the command line. */
async function inProcess(
  { command, args }: { command: string; args: string[] },
  adapter: string,
): Promise<Outcomes> {
  const env = { FUSENORM_ADAPTER: adapter.toLowerCase() };
  const { said } = await run(command, [...args, "run.js"], env);
  const told = /^outcomes (.*)$/m.exec(said)?.[1];
  const outcomes: Outcomes = told
    ? JSON.parse(told)
    : Object.fromEntries(Object.keys(DEVICES).map((name) => [name, { failure: said.slice(-600) }]));
  const cli = await run(
    command,
    [
      ...args,
      ...[
        "node_modules/fusenorm-cli/dist/cli/main.js",
        "train",
        "--depth",
        "8",
        "--width",
        "4",
        "--max-steps",
        "2",
      ],
      ...["--out", mkdtempSync(join(folder, "run-")), "--json"],
    ],
    env,
  );
  const loss = Number(/"loss": ([\d.]+)/.exec(cli.said)?.[1]);
  outcomes.commands =
    cli.code === 0 && loss > 1 && loss < 10 ? { error: 0 } : { failure: cli.said.slice(-600) };
  return outcomes;
}

/** Opens the page in a browser, which posts what came out, and ends it. */
async function visit(
  command: string,
  args: string[],
  env: Record<string, string>,
): Promise<Record<string, Outcomes>> {
  const posted: Record<string, Outcomes> = {};
  const types: Record<string, string> = { ".js": "text/javascript", ".html": "text/html" };
  let done = () => {};
  const server = createServer((request, response) => {
    const url = request.url ?? "/";
    if (request.method === "POST") {
      let body = "";
      request.on("data", (chunk) => {
        body += chunk;
      });
      request.on("end", () => {
        posted[url.slice(1)] = JSON.parse(body);
        response.end();
        if (posted.page && posted.worker) done();
      });
      return;
    }
    response.setHeader("content-type", types[extname(url)] ?? "text/html");
    if (url === "/")
      response.end(
        `<!doctype html><title>fusenorm</title><script type="importmap">${MAP}</script><script type="module" src="/page.js"></script>`,
      );
    else {
      try {
        response.end(readFileSync(join(folder, url)));
      } catch {
        response.writeHead(404).end();
      }
    }
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const address = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`;
  const child = spawn(command, [...args, address], {
    env: { ...process.env, ...env },
    stdio: "ignore",
    detached: true,
  });
  await Promise.race([
    new Promise<void>((resolve) => {
      done = resolve;
    }),
    new Promise((resolve) => child.on("error", resolve).on("close", resolve)),
    new Promise((resolve) => setTimeout(resolve, 10 * MINUTES).unref()),
  ]);
  try {
    process.kill(-child.pid!, "SIGKILL"); // the browser with its helpers, which are a group of their own
  } catch {}
  server.closeAllConnections();
  server.close();
  return posted;
}

async function chromium() {
  const { executable, libraries } = await embeddedChromium();
  const env = { LD_LIBRARY_PATH: [libraries, process.env.LD_LIBRARY_PATH].filter(Boolean).join(":") };
  const flags = ["--headless=new", "--no-sandbox", `--user-data-dir=${join(home, "chromium")}`, ...FLAGS];
  return visit(process.env.FUSENORM_CHROMIUM ?? executable, flags, env);
}

async function firefox(command: string) {
  const profile = join(home, "firefox");
  mkdirSync(profile, { recursive: true });
  const lines = Object.entries(PREFERENCES).map(
    ([name, value]) => `user_pref("${name}", ${JSON.stringify(value)});\n`,
  );
  writeFileSync(join(profile, "user.js"), lines.join(""));
  const lavapipe = thisMachine().manifests().filter(isLavapipe).join(":");
  const env = { HOME: home, ...(lavapipe ? { VK_DRIVER_FILES: lavapipe } : {}) };
  return visit(command, ["--headless", "--no-remote", "--profile", profile], env);
}

const wanted = process.argv.slice(2);
const isWanted = (name: string) =>
  wanted.length === 0 || wanted.some((word) => name.toLowerCase().includes(word.toLowerCase()));
const hasLavapipe = thisMachine().manifests().some(isLavapipe);
const table: string[] = [`| | ${COLUMNS.join(" | ")} |`, `|---|${COLUMNS.map(() => "---").join("|")}|`];
const failures: string[] = [];
const absent: string[] = [];

function add(name: string, outcomes: Outcomes | undefined, columns = COLUMNS): void {
  const cells = COLUMNS.map((column) => {
    if (!columns.includes(column)) return "–";
    const { failure } = outcomes?.[column] ?? { failure: "nothing was reported" };
    if (failure) failures.push(`${name}, ${column}: ${failure}`);
    return failure ? "no" : "yes";
  });
  table.push(`| ${name} | ${cells.join(" | ")} |`);
  console.error(table.at(-1));
}

try {
  for (const { name, find, adapters } of ROWS) {
    if (!isWanted(name)) continue;
    const program = await find();
    if (!program) {
      absent.push(name);
      continue;
    }
    for (const adapter of adapters) {
      if (adapter === "lavapipe" && !hasLavapipe) absent.push(`${name}, lavapipe`);
      else add(`${name}, ${adapter}`, await inProcess(program, adapter));
    }
  }
  const pages = [
    { name: "Chromium", command: "embedded", open: chromium },
    {
      name: "Firefox",
      command: findFirefox(),
      open: firefox,
    },
  ];
  for (const { name, command, open } of pages) {
    if (!isWanted(name)) continue;
    if (!command) {
      absent.push(name);
      continue;
    }
    const posted = await open(command);
    for (const place of ["page", "worker"]) add(`${name}, ${place}`, posted[place], Object.keys(DEVICES));
  }
} finally {
  packed.remove();
}
console.log(table.join("\n"));
if (absent.length > 0) console.log(`\nnot here: ${absent.join("; ")}`);
if (failures.length > 0) {
  console.error(`\n${failures.join("\n")}`);
  process.exitCode = 1;
}
