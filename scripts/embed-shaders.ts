// Links shaders/ and writes src/generated/shaders.ts, so that a browser bundle needs no loader. With a folder as argument: also
// every module there as a file that compiles alone.
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { fileURLToPath } from "node:url";
import { generate, LinkError, linkLibrary, wholeModules } from "./link-wgsl.ts";

const root = fileURLToPath(new URL("..", import.meta.url));
const [folder] = process.argv.slice(2);

const names = readdirSync(`${root}shaders`, { recursive: true, encoding: "utf8" })
  .filter((file) => file.endsWith(".wgsl"))
  .map((file) => file.replaceAll("\\", "/").slice(0, -".wgsl".length))
  .sort();
const texts = Object.fromEntries(
  names.map((name) => [name, readFileSync(`${root}shaders/${name}.wgsl`, "utf8")]),
);

/** Left alone when nothing changed, so that watchers do not restart. */
function write(target: string, text: string): void {
  mkdirSync(dirname(target), { recursive: true });
  let current = "";
  try {
    current = readFileSync(target, "utf8");
  } catch {}
  if (current !== text) writeFileSync(target, text);
}

try {
  const library = linkLibrary(texts);
  write(`${root}src/generated/shaders.ts`, generate(library));
  if (folder !== undefined) {
    rmSync(`${root}${folder}`, { recursive: true, force: true });
    for (const [name, text] of Object.entries(wholeModules(texts, library))) {
      write(`${root}${folder}/${name}.wgsl`, text);
    }
  }
} catch (error) {
  if (!(error instanceof LinkError)) throw error;
  console.error(error.message);
  process.exitCode = 1;
}
