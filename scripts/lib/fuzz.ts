// What `npm run fuzz` and its built form (fuzz-built.ts) have in common: what they are asked for, and what they tell at the end.

import { randomInt } from "node:crypto";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";

/** A run, as the tests read it from the environment, and what it comes to. */
export interface Fuzzing {
  /** For test/property/check.ts. */
  env: Record<string, string>;
  /** Prints how many cases were done, and how to do them again. `good`: every test has passed. */
  tell(good: boolean, interrupted: boolean): void;
}

/** Reads `[CASES [SEED]] [--shard I/N]` and says what is about to be done. Ends the process with 2 if that can't be. */
export function fuzzing(command: string): Fuzzing {
  const refuse = (what: string): never => {
    console.error(`fuzz: ${what}: ${command} [CASES [SEED]] [--shard I/N]`);
    process.exit(2);
  };
  const whole = (name: string, text: string, least: number): string =>
    /^\d+$/.test(text) && Number(text) >= least && Number(text) < 2 ** 31
      ? text
      : refuse(`${name} is ${text}; expected a whole number of at least ${least}`);
  const given = (() => {
    try {
      return parseArgs({ allowPositionals: true, options: { shard: { type: "string" } } });
    } catch (error) {
      return refuse((error as Error).message);
    }
  })();
  const [first, second, third] = given.positionals;
  if (third !== undefined) refuse(`there is a third argument, ${third}; expected two at most`);
  const cases = whole("CASES", first ?? process.env.FUSENORM_FUZZ_RUNS ?? "10000", 1);
  const seed = whole("SEED", second ?? process.env.FUSENORM_FUZZ_SEED ?? String(randomInt(2 ** 31)), 0);
  const shard = given.values.shard ?? process.env.FUSENORM_FUZZ_SHARD ?? "1/1";
  const [part, parts] = /^(\d{1,6})\/(\d{1,6})$/.exec(shard)?.slice(1).map(Number) ?? [0, 0];
  if (!(part! >= 1 && part! <= parts!)) refuse(`--shard is ${shard}; expected I/N with I from 1 to N`);

  const of = parts === 1 ? "" : `shard ${shard} of `;
  console.log(`fuzz: ${of}${cases} cases from seed ${seed}`);
  const folder = mkdtempSync(join(tmpdir(), "fusenorm-fuzz-"));
  const countsFile = join(folder, "counts.json");
  const started = performance.now();
  return {
    env: {
      FUSENORM_FUZZ_RUNS: cases,
      FUSENORM_FUZZ_SEED: seed,
      FUSENORM_FUZZ_SHARD: shard,
      FUSENORM_FUZZ_COUNTS: countsFile,
    },
    tell(good, interrupted) {
      const counts: Record<string, { done: number; of: number; failures: number }> = existsSync(countsFile)
        ? JSON.parse(readFileSync(countsFile, "utf8"))
        : {};
      rmSync(folder, { recursive: true });
      let done = 0;
      let failures = 0;
      for (const [name, count] of Object.entries(counts)) {
        console.log(`fuzz: ${name}: ${count.done} of ${count.of} cases, ${count.failures} failures`);
        done += count.done;
        failures += count.failures;
      }
      const minutes = (performance.now() - started) / 60_000;
      const again = `${command} ${cases} ${seed}${parts === 1 ? "" : ` --shard ${shard}`}`;
      console.log(
        `fuzz: ${interrupted ? "interrupted: " : ""}${of}${done} cases in ${minutes.toFixed(1)} minutes from seed ${seed}, ` +
          (good ? "all as they should be" : `${failures} failures; again with ${again}`),
      );
    },
  };
}
