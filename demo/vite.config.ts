import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { defineConfig } from "vite";

const here = (path: string) => fileURLToPath(new URL(path, import.meta.url));
const { version } = JSON.parse(readFileSync(here("../package.json"), "utf8")) as { version: string };

export default defineConfig({
  root: here("."),
  // The page may lie in any folder of a site.
  base: "./",
  define: { FUSENORM_VERSION: JSON.stringify(version) },
  // The benchmarks' timing, without what only Node has.
  resolve: { alias: { benny: here("src/benny-in-page.ts") } },
  server: { fs: { allow: [here("..")] } },
  build: { outDir: "dist", emptyOutDir: true, target: "esnext", assetsInlineLimit: 0 },
  worker: { format: "es" },
});
