// `npm run fuzz` for machines that have the built package alone, without a test runner: scripts/build-bench.ts makes
// dist/bench/fuzz.js of it, and puts the files of test/property in place of `virtual:property-tests`.

// @ts-expect-error made by scripts/build-bench.ts
import propertyTests from "virtual:property-tests";
import { runFiles } from "../test/browser/vitest-in-page.ts";
import { fuzzing } from "./lib/fuzz.ts";

const { env, tell } = fuzzing("node dist/bench/fuzz.js");
Object.assign(process.env, env, { FUSENORM_CHOICES: "off" });
for (const [signal, code] of [["SIGINT", 130] as const, ["SIGTERM", 143] as const]) {
  process.once(signal, () => {
    tell(false, true);
    process.exit(code);
  });
}

/** It reads the sources. */
const LEFT_OUT = /no op of the package is left out/;
let failed = 0;
await runFiles(propertyTests, LEFT_OUT, ({ file, name, passed, errors, ms }) => {
  console.log(`${passed ? "passed" : "failed"} ${file} > ${name} (${(ms / 1000).toFixed(1)} s)`);
  if (passed) return;
  failed += 1;
  for (const error of errors) console.error(error);
});
tell(failed === 0, false);
process.exit(failed === 0 ? 0 : 1); // devices would keep the process alive
