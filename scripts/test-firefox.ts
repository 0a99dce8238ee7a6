// The op tests in Firefox (`FUSENORM_FIREFOX`, or `firefox` on the PATH), a fresh one for each file; those that pages leave out for
// their size are left out here, too. `npm run test:firefox [-- WORD…]`: the files whose names have one of the words. Ends with 1 if
// a test failed, or a file ran none that should run some.

import { readdirSync } from "node:fs";
import { join } from "node:path";
import { runTestsInBrowser } from "../test/browser/harness.ts";
import { launchFirefox, whyNoFirefox } from "../test/helpers/firefox.ts";
import { root } from "./lib/package.ts";

/** Firefox has no subgroups, and so none of this file's tests. */
const NO_TESTS = "test/ops/conv2d-fused-subgroup.test.ts";

async function openFirefox() {
  const firefox = await launchFirefox();
  const { page, problems } = await firefox.open();
  return { page, said: problems, close: () => firefox.close() };
}

const why = whyNoFirefox();
if (why) throw new Error(`test:firefox: ${why}`);
// Mesa compiles faster so, and compiling is most of the time.
process.env.GALLIVM_PERF ??= "nopt";

const words = process.argv.slice(2);
const files = readdirSync(join(root, "test/ops"))
  .filter((file) => file.endsWith(".test.ts"))
  .map((file) => `test/ops/${file}`)
  .filter((file) => words.length === 0 || words.some((word) => file.includes(word)));
if (files.length === 0)
  throw new Error(`test:firefox: no file of test/ops has ${words.join(" or ")} in its name`);

for (const file of files) {
  const started = performance.now();
  try {
    const tests = await runTestsInBrowser([file], openFirefox);
    const failed = tests.filter(({ passed }) => !passed);
    for (const { name, errors } of failed)
      console.error(`${file}, ${name}: ${errors.join("\n").slice(0, 2000)}`);
    const none = tests.length === 0 && file !== NO_TESTS;
    if (none || failed.length > 0) process.exitCode = 1;
    const seconds = ((performance.now() - started) / 1000).toFixed(0);
    console.log(`${file}: ${tests.length - failed.length} of ${tests.length} tests passed, ${seconds} s`);
  } catch (error) {
    process.exitCode = 1;
    console.error(`${file}: ${(error as Error).message}`);
  }
}
