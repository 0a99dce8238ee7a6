// Bundles src/cli and what it uses of the core into packages/cli/dist/cli/main.js, the package `fusenorm-cli`, with other packages
// left outside, and puts the embedded images beside it. The depth of that path is that of dist/cli/main.js: `packagePath` goes by it.
import { cpSync, rmSync } from "node:fs";
import { join } from "node:path";
import { build } from "esbuild";
import { root } from "./lib/package.ts";

const home = join(root, "packages/cli");
for (const name of ["dist", "data", "LICENSE"]) rmSync(join(home, name), { recursive: true, force: true });
for (const name of ["data", "LICENSE"]) cpSync(join(root, name), join(home, name), { recursive: true });

await build({
  entryPoints: [join(root, "src/cli/main.ts")],
  outfile: join(home, "dist/cli/main.js"),
  ...{
    bundle: true,
    platform: "node",
    target: "node20.19",
    format: "esm",
    packages: "external",
    logLevel: "warning",
  },
});
