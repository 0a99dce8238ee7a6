// What an import of the package costs in a page, after `npm run build`: minified by esbuild, Rollup and Vite, then gzipped. Fails
// where a bundle is more than 3 % larger than docs/sizes.json says; `-- --write` writes that file anew.
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import * as esbuild from "esbuild";
import { type Plugin, rollup } from "rollup";
import * as vite from "vite";
import { textTable } from "../src/experiments/page.ts";
import { root } from "./lib/package.ts";

const SLACK = 1.03;
const FILE = join(root, "docs/sizes.json");
const PACKAGE = JSON.stringify(join(root, "dist/index.js"));

const IMPORTS: Record<string, string> = {
  "conv2d, batchNorm and SGD": `export { Gpu, conv2d, batchNorm, SGD } from ${PACKAGE};`,
  "encodeConv2d and encodeBatchNorm": `export { encodeConv2d, encodeBatchNorm } from ${PACKAGE};`,
  "relu alone": `export { relu } from ${PACKAGE};`,
  "the whole core": `export * from ${PACKAGE};`,
};

/** The module of `code`, for bundlers with Rollup's plugins. */
const entry = (code: string): Plugin => ({
  name: "entry",
  resolveId: (source) => (source.endsWith("virtual:entry") ? "\0entry" : null),
  load: (id) => (id === "\0entry" ? code : null),
});

const minified = async (code: string) =>
  (await esbuild.transform(code, { minify: true, format: "esm", target: "es2023" })).code;

// pako is loaded when a gzip file is read, fflate when an .npz file is, not before.
const BUNDLERS: Record<string, (code: string) => Promise<string>> = {
  esbuild: async (contents) => {
    const { outputFiles } = await esbuild.build({
      stdin: { contents, resolveDir: root },
      ...{
        bundle: true,
        minify: true,
        format: "esm",
        target: "es2023",
        write: false,
        external: ["pako", "fflate"],
      },
    });
    return outputFiles[0]!.text;
  },
  Rollup: async (code) => {
    const bundle = await rollup({
      input: "virtual:entry",
      plugins: [entry(code)],
      external: ["pako", "fflate"],
      // The package says in its manifest that its modules have no side effects; Rollup itself does not read it.
      treeshake: { moduleSideEffects: false },
    });
    const { output } = await bundle.generate({ format: "es" });
    return minified(output[0].code);
  },
  Vite: async (code) => {
    const result = await vite.build({
      configFile: false,
      root,
      logLevel: "silent",
      plugins: [{ ...entry(code), enforce: "pre" } as vite.Plugin],
      build: {
        ...{ write: false, minify: true, target: "es2023" },
        lib: { entry: "virtual:entry", formats: ["es"], fileName: "entry" },
        rollupOptions: { external: ["pako", "fflate"] },
      },
    });
    const [built] = [result].flat();
    if (!built || !("output" in built)) throw new Error("sizes: Vite made no bundle");
    return minified(built.output[0].code); // Vite leaves the white space of libraries
  },
};

const sizes: Record<string, Record<string, number>> = {};
for (const [what, code] of Object.entries(IMPORTS)) {
  sizes[what] = {};
  for (const [bundler, bundle] of Object.entries(BUNDLERS)) {
    sizes[what][bundler] = gzipSync(await bundle(code), { level: 9 }).length;
  }
}
const single = readFileSync(join(root, "dist/fusenorm.js"));
sizes["dist/fusenorm.js, with pako and fflate"] = { "as it is": gzipSync(single, { level: 9 }).length };

const kb = (bytes: number) => `${(bytes / 1000).toFixed(1)} kB`;
const rows = Object.entries(sizes).flatMap(([what, by]) =>
  Object.entries(by).map(([bundler, bytes]) => [what, bundler, kb(bytes)]),
);
console.log(textTable(["gzipped", "bundler", "size"], rows));

if (process.argv.includes("--write")) {
  writeFileSync(FILE, `${JSON.stringify(sizes, null, 2)}\n`);
} else {
  const bounds = JSON.parse(readFileSync(FILE, "utf8")) as typeof sizes;
  for (const [what, by] of Object.entries(sizes)) {
    for (const [bundler, bytes] of Object.entries(by)) {
      const before = bounds[what]?.[bundler];
      if (before !== undefined && bytes <= before * SLACK) continue;
      const was = before === undefined ? "has no bound" : `was ${kb(before)}`;
      console.error(
        `sizes: ${what}, ${bundler}: ${kb(bytes)}, ${was}; if it is worth that, npm run sizes -- --write`,
      );
      process.exitCode = 1;
    }
  }
}
