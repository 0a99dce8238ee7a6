// Writes src/generated/shaders.ts: every shaders/*.wgsl as a string, so that a browser bundle needs no loader.
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));
const names = readdirSync(`${root}shaders`)
  .filter((file) => file.endsWith(".wgsl"))
  .map((file) => file.slice(0, -".wgsl".length))
  .sort();

const entries = names.map((name) => {
  const source = readFileSync(`${root}shaders/${name}.wgsl`, "utf8");
  return `  ${JSON.stringify(name)}: ${JSON.stringify(source)},\n`;
});
const text = `// Written by scripts/embed-shaders.ts from shaders/*.wgsl.\nexport const shaders = {\n${entries.join("")}} as const;\n\nexport type ShaderName = keyof typeof shaders;\n`;

const target = `${root}src/generated/shaders.ts`;
mkdirSync(`${root}src/generated`, { recursive: true });
let current = "";
try {
  current = readFileSync(target, "utf8");
} catch {}
// Left alone when nothing changed, so that watchers do not restart.
if (current !== text) writeFileSync(target, text);
