// `npm run fuzz [-- CASES [SEED]] [--shard I/N]`: the property tests at length, 10,000 cases from a random seed unless told
// otherwise. Every failure is printed with its seed and its smallest case, and the run goes on; it ends with 1 if there was one. It tells
// how far it is every half minute, and what it did when it ends or is interrupted. Several processes with the same seed share the
// cases, each with a shard of its own.
import { spawn } from "node:child_process";
import { fileURLToPath } from "node:url";
import { fuzzing } from "./lib/fuzz.ts";

/** Where this process is killed, the tests end too. */
const END_WITH_PARENT = new URL("../test/helpers/end-with-parent.js", import.meta.url).href;
const { env, tell } = fuzzing("npm run fuzz --");
const child = spawn("npx", ["vitest", "run", "test/property"], {
  cwd: fileURLToPath(new URL("..", import.meta.url)),
  stdio: "inherit",
  env: {
    ...process.env,
    ...env,
    NODE_OPTIONS: `${process.env.NODE_OPTIONS ?? ""} --import ${END_WITH_PARENT}`,
  },
  detached: true, // a group of its own: an interruption reaches it through the handler below, once
});
let interrupted = false;
for (const signal of ["SIGINT", "SIGTERM"] as const) {
  process.on(signal, () => {
    interrupted = true;
    process.kill(-child.pid!, "SIGTERM");
  });
}
const status = await new Promise<number | null>((resolve, reject) => {
  child.on("error", reject);
  child.on("close", resolve);
});
tell(status === 0 && !interrupted, interrupted);
process.exitCode = interrupted ? 130 : (status ?? 1);
