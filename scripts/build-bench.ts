// Bundles the benchmarks, the op tests and the property tests into dist/bench, beside the built package whose modules they use, so that they
// run where there is nothing but dist/, shaders/ and the production dependencies: `node dist/bench/gpu-suite.js`.
// Run after tsc, by `npm run build`.
import { copyFileSync, mkdirSync, readdirSync } from "node:fs";
import { builtinModules } from "node:module";
import { relative, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { build, type Plugin } from "vite";

const root = fileURLToPath(new URL("..", import.meta.url));
const out = resolve(root, "dist/bench");

/** `../src/gpu.ts` → `../gpu.js`: the built modules are used as they are, not bundled once more. */
const useBuiltPackage: Plugin = {
  name: "use-built-package",
  enforce: "pre",
  resolveId(source, importer) {
    if (!importer || !/^\.\.?\//.test(source)) return;
    const path = relative(resolve(root, "src"), resolve(importer, "..", source));
    if (path.startsWith("..")) return;
    return { id: `../${path.replace(/\.ts$/, ".js")}`, external: true };
  },
};

/** The tests of some folders, as functions that import them. */
const FOLDERS: Readonly<Record<string, string>> = {
  "virtual:op-tests": "test/ops",
  "virtual:property-tests": "test/property",
};

const tests: Plugin = {
  name: "tests",
  enforce: "pre",
  resolveId(source) {
    if (Object.hasOwn(FOLDERS, source)) return `\0${source}`;
    if (source === "vitest") return resolve(root, "test/browser/vitest-in-page.ts");
  },
  load(id) {
    const path = FOLDERS[id.slice(1)];
    if (!path || !id.startsWith("\0")) return;
    const folder = resolve(root, path);
    const files = readdirSync(folder).filter((file) => file.endsWith(".test.ts"));
    const entries = files.map(
      (file) =>
        `${JSON.stringify(`${path}/${file}`)}: () => import(${JSON.stringify(resolve(folder, file))})`,
    );
    return `export default {\n${entries.join(",\n")}\n};`;
  },
  // The package has no side effects, but its tests register themselves when they are imported.
  transform: (code, id) => (id.includes("/test/") ? { code, moduleSideEffects: "no-treeshake" } : undefined),
};

/** benchmark.js, beneath benny, asks for its own dependencies in a way that bundlers can't follow. */
const namedRequires: Plugin = {
  name: "named-requires",
  transform(code, id) {
    if (!id.endsWith("/benchmark/benchmark.js")) return;
    const hidden = "var freeRequire = typeof require == 'function' && require;";
    if (!code.includes(hidden))
      throw new Error("build-bench: benchmark.js has changed; look at its freeRequire");
    const plain =
      'function (id) { return { lodash: () => require("lodash"), platform: () => require("platform") }[id]?.(); }';
    return code.replace(hidden, `var freeRequire = ${plain};`);
  },
};

const production = ["cli-progress", "commander", "vega", "vega-lite", "webgpu"];

await build({
  configFile: false,
  root,
  logLevel: "warn",
  plugins: [useBuiltPackage, tests, namedRequires],
  ssr: { noExternal: true, external: production },
  build: {
    ssr: true,
    target: "node20",
    outDir: out,
    emptyOutDir: true,
    minify: false,
    rollupOptions: {
      input: {
        main: resolve(root, "bench/main.ts"),
        "gpu-suite": resolve(root, "bench/gpu-suite.ts"),
        fuzz: resolve(root, "scripts/fuzz-built.ts"),
      },
      external: [...builtinModules, /^node:/, ...production],
      output: { format: "es", entryFileNames: "[name].js", chunkFileNames: "[name]-[hash].js" },
    },
  },
});
mkdirSync(resolve(out, "peers"), { recursive: true });
copyFileSync(resolve(root, "bench/peers/pytorch.py"), resolve(out, "peers/pytorch.py"));
