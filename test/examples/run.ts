// Runs the examples as their READMEs say, on the package as `npm run build` makes it: in a checkout `fusenorm` is the checkout itself.

import { execFileSync, spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { extname, join } from "node:path";
import { fileURLToPath } from "node:url";
import type { Page } from "playwright-core";
import { launch } from "../browser/harness.ts";

export const root = fileURLToPath(new URL("../../", import.meta.url));
export const example = (path: string): string => join(root, "examples", path);

let built = false;

/** What examples import: `dist` of the sources as they are now. */
export function buildPackage(): void {
  if (built) return;
  const bin = (name: string) => join(root, "node_modules/.bin", name);
  for (const [command, ...args] of [
    [bin("tsx"), "scripts/embed-shaders.ts", "dist/shaders"],
    [bin("tsc"), "-p", "tsconfig.build.json"],
    [bin("tsx"), "scripts/build-single.ts"],
  ] as [string, ...string[]][]) {
    execFileSync(command, args, { cwd: root, stdio: "inherit" });
  }
  built = true;
}

/** What a program printed; throws if it fails. */
export function run(
  command: string,
  args: readonly string[],
  options: { cwd: string; env?: Record<string, string> },
): Promise<string> {
  const env = { ...process.env, ...options.env };
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { cwd: options.cwd, env });
    let [out, all] = ["", ""];
    child.stdout.on("data", (chunk) => {
      out += chunk;
      all += chunk;
    });
    child.stderr.on("data", (chunk) => {
      all += chunk;
    });
    child.on("error", reject);
    child.on("close", (code) => {
      if (code === 0) resolve(out);
      else reject(new Error(`${command} ${args.join(" ")}: ended with ${code}: ${all.slice(-3000)}`));
    });
  });
}

const TYPES: Record<string, string> = { ".html": "text/html", ".js": "text/javascript" };

/** Opens a folder's `index.html` in headless Chromium, with the package in its node_modules, and gives what `read` does. */
export async function visit<T>(folder: string, read: (page: Page) => Promise<T>): Promise<T> {
  const server = createServer((request, response) => {
    const path = new URL(request.url!, "http://localhost").pathname;
    const own = path.replace(/^\/node_modules\/fusenorm\//, "");
    try {
      const file = own === path ? join(folder, path === "/" ? "index.html" : path) : join(root, own);
      const body = readFileSync(file);
      response.setHeader("content-type", TYPES[extname(file)] ?? "text/plain");
      response.end(body);
    } catch {
      response.writeHead(404).end();
    }
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const browser = await launch();
  try {
    const page = await browser.newPage({ locale: "en-US" });
    const said: string[] = [];
    page.on("console", (message) => said.push(message.text()));
    page.on("pageerror", (error) => said.push(String(error)));
    await page.goto(`http://127.0.0.1:${(server.address() as AddressInfo).port}/`);
    try {
      return await read(page);
    } catch (error) {
      throw new Error([(error as Error).message, ...said.slice(-10)].join("\n  page: "), { cause: error });
    }
  } finally {
    await browser.close();
    server.close();
  }
}

/** The lines of `#log`, once there are so many of them. */
export async function logOf(page: Page, lines: number): Promise<string[]> {
  await page.waitForFunction(
    `document.querySelector("#log").textContent.trim().split("\\n").length >= ${lines}`,
    null,
    { timeout: 240_000 },
  );
  return (await page.textContent("#log"))!.trim().split("\n");
}

/** The losses in what an example prints. */
export const lossesOf = (printed: string): number[] =>
  [...printed.matchAll(/^step \d+: loss ([\d.e-]+)$/gm)].map(([, loss]) => Number(loss));
