// Bundles the command into packages/cli/dist/cli/main.js, the package `fusenorm-cli`, and puts the embedded images beside it.
import { cpSync, rmSync } from "node:fs";
import { join } from "node:path";
import { bundleCli } from "./lib/bundle-cli.ts";
import { root } from "./lib/package.ts";

const home = join(root, "packages/cli");
for (const name of ["dist", "data", "LICENSE"]) rmSync(join(home, name), { recursive: true, force: true });
for (const name of ["data", "LICENSE"]) cpSync(join(root, name), join(home, name), { recursive: true });
await bundleCli(join(home, "dist/cli/main.js"));
