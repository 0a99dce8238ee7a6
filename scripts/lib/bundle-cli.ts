import { cpSync } from "node:fs";
import { dirname, join } from "node:path";
import { build } from "esbuild";
import { root } from "./package.ts";

/**
 * Bundles src/cli and what it uses of the core into one file, with other packages left outside. `packagePath` goes by the file's depth,
 * which has to be that of dist/cli/main.js in a package.
 */
export async function bundleCli(outfile: string): Promise<void> {
  await build({
    entryPoints: [join(root, "src/cli/main.ts")],
    outfile,
    bundle: true,
    platform: "node",
    target: "node20.19",
    format: "esm",
    packages: "external",
    logLevel: "warning",
  });
  // Run as a process of its own: see src/node/parquet.ts.
  cpSync(join(root, "src/node/parquet-child.mjs"), join(dirname(outfile), "parquet-child.mjs"));
}
