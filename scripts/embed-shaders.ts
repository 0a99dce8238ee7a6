// Links shaders/ and writes src/generated/, so that a browser bundle needs no loader. With a folder as argument: also
// every module there as a file that compiles alone, and a table of all.
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { fileURLToPath } from "node:url";
import { generate, LinkError, linkLibrary, wholeModules } from "./link-wgsl.ts";
import { shaderFiles } from "./shader-files.ts";
import { shaderTables } from "./shader-table.ts";

const root = fileURLToPath(new URL("..", import.meta.url));
const [folder] = process.argv.slice(2);

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
  const files = shaderFiles();
  const library = linkLibrary(files);
  for (const [name, text] of Object.entries(generate(library))) write(`${root}src/generated/${name}`, text);
  if (folder !== undefined) {
    rmSync(`${root}${folder}`, { recursive: true, force: true });
    const modules = wholeModules(files, library);
    for (const [name, text] of Object.entries(modules)) write(`${root}${folder}/${name}.wgsl`, text);
    write(`${root}${folder}/README.md`, shaderTables(modules));
  }
} catch (error) {
  if (!(error instanceof LinkError)) throw error;
  console.error(error.message);
  process.exitCode = 1;
}
