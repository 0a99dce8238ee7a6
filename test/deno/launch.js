// Deno, as the devDependency `deno` would start it. That one waits for it without hearing anything else, and so outlives a test run
// that is killed; this one takes Deno with it when it ends.

import { spawn } from "node:child_process";
import { createRequire } from "node:module";

const program = createRequire(import.meta.url)("deno/install_api.cjs").runInstall();
const child = spawn(program, process.argv.slice(2), { stdio: "inherit" });
process.on("exit", () => child.kill("SIGKILL"));
for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => child.kill(signal));
child.on("error", (error) => {
  console.error(error.message);
  process.exit(1);
});
child.on("exit", (code) => process.exit(code ?? 1));
