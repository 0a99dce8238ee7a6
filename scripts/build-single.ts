// Writes dist/fusenorm.js: the core in one minified file, for pages with an import map and no bundler. Run after tsc.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { build } from "esbuild";
import { root } from "./lib/package.ts";

const { version, license } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));

await build({
  entryPoints: [join(root, "dist/index.js")],
  outfile: join(root, "dist/fusenorm.js"),
  // pako, which unpacks gzip, and fflate, which unpacks zip, come along: nothing else has to be named in the import map.
  ...{ bundle: true, minify: true, format: "esm", target: "es2023" },
  banner: { js: `/*! fusenorm ${version}, ${license} */` },
});
