// Runs a property: so many cases, every failure shrunk and printed as something to paste, and on to the rest.

import { writeFileSync } from "node:fs";
import fc from "fast-check";

/** Cases of all properties together, those of other processes among them. */
export const RUNS = Number(process.env.FUSENORM_FUZZ_RUNS ?? 500);
/** "3/14": this process takes the third of fourteen parts of the cases. */
const SHARD = process.env.FUSENORM_FUZZ_SHARD ?? "1/1";
const [part, parts] = SHARD.split("/").map(Number) as [number, number];
/** Whether these are all cases, or only some of them. */
export const IS_WHOLE = parts === 1;
const USUAL_SEED = 20180601;
const FIRST_SEED = Number(process.env.FUSENORM_FUZZ_SEED ?? USUAL_SEED);
/** Whether chance has had no say: what a short run of this seed shows of the generator, it shows each time. */
export const IS_USUAL = FIRST_SEED === USUAL_SEED;
/** Of the first case: the same each time unless asked for. Parts begin far from each other. */
export const SEED = (FIRST_SEED + (part - 1) * Math.floor(2 ** 31 / parts)) % 2 ** 31;
/** Failures of one property that are worth shrinking. */
const FAILURES = RUNS > 500 ? 5 : 1;
/** Calls of the body in which a failure is made smaller. */
const SHRINKING = 250;

/** This process's part of a share of `RUNS`, of which there is at least one case. With many parts some have none. */
export function casesOf(share: number): number {
  const all = Math.max(1, Math.round(RUNS * share));
  return Math.floor((all * part) / parts) - Math.floor((all * (part - 1)) / parts);
}

export interface Checked {
  /** Cases whose body ran to its end. */
  cases: number;
  /** Cases that `fc.pre` refused. */
  skipped: number;
}

/** Where a long run writes, every second, how many cases of each property are done: it may be interrupted. */
const COUNTS_FILE = process.env.FUSENORM_FUZZ_COUNTS;
const WRITE_MS = 1000;
const TELL_MS = 30_000;
const counts: Record<string, { done: number; of: number; failures: number }> = {};
let written = 0;

/** Counts one property's cases as they are done, and tells of them now and then, where `npm run fuzz` asks for it. */
function progressOf(name: string, cases: number) {
  const count = { done: 0, of: cases, failures: 0 };
  const started = performance.now();
  let told = started;
  counts[name] = count;
  const write = () => {
    written = performance.now();
    if (COUNTS_FILE) writeFileSync(COUNTS_FILE, JSON.stringify(counts));
  };
  return {
    done(caseSeed: number) {
      count.done += 1;
      const now = performance.now();
      if (!COUNTS_FILE || now - written < WRITE_MS) return;
      write();
      if (now - told < TELL_MS) return;
      told = now;
      const rate = count.done / ((now - started) / 60_000);
      console.error(
        `fuzz: ${name}: ${count.done} of ${cases} cases, seed ${SEED} (case seed ${caseSeed}), ${rate.toFixed(0)} a minute, ${count.failures} failures`,
      );
    },
    failed() {
      count.failures += 1;
      write();
    },
    end: write,
  };
}

/** @throws Error with every failure: its seed, its smallest case by `show`, what was wrong. */
export async function checkProperty<T>(
  name: string,
  cases: number,
  arbitrary: fc.Arbitrary<T>,
  body: (value: T) => void | Promise<void>,
  show: (value: T) => string = (value) => fc.stringify(value),
): Promise<Checked> {
  const failures: string[] = [];
  const done = { cases: 0, skipped: 0 };
  if (cases === 0) {
    console.log(`${name}: no cases are in shard ${SHARD} of ${RUNS}`);
    return done;
  }
  const progress = progressOf(name, cases);
  let seed = SEED;
  for (let left = cases; left > 0 && failures.length < FAILURES; seed = (seed + 1) | 0) {
    let failed = 0;
    const property = fc.asyncProperty(arbitrary, async (value) => {
      if (failed > SHRINKING) fc.pre(false);
      if (failed > 0) failed += 1;
      try {
        await body(value);
        if (failed === 0) progress.done(seed);
      } catch (error) {
        if (!(error instanceof fc.PreconditionFailure)) failed ||= 1;
        throw error;
      }
    });
    const details = await fc.check(property, { numRuns: left, seed, maxSkipsPerRun: 1000 });
    done.cases += details.numRuns;
    done.skipped += details.numSkips;
    left -= Math.max(1, details.numRuns);
    if (!details.failed) break;
    const error = details.errorInstance;
    const reason = error instanceof Error ? (error.stack ?? error.message) : String(error);
    const smallest = details.counterexample ? show(details.counterexample[0]) : "too many cases were refused";
    const failure =
      `${name}: FUSENORM_FUZZ_SEED=${FIRST_SEED}${IS_WHOLE ? "" : ` FUSENORM_FUZZ_SHARD=${SHARD}`} (case seed ${seed}, path ${details.counterexamplePath}, shrunk ${details.numShrinks} times)\n` +
      `${smallest}\n${reason}`;
    failures.push(failure);
    progress.failed();
    if (FAILURES > 1) console.error(failure); // a long run tells at once
  }
  progress.end();
  if (failures.length > 0) throw new Error(`${failures.length} failures\n\n${failures.join("\n\n")}`);
  return done;
}

/**
 * Whether `actual` is `expected` but for rounding: ‖actual − expected‖ against 1e-5 of ‖expected‖ (or `tolerance`), and against
 * what noise makes of `expected`, since a sum may cancel. `absolute`: what each number may be off by beside that.
 */
export function differs(
  actual: ArrayLike<number>,
  expected: ArrayLike<number>,
  noisy: readonly ArrayLike<number>[] = [],
  tolerance = 1e-5,
  absolute = 0,
): string | null {
  if (actual.length !== expected.length) return `${actual.length} elements instead of ${expected.length}`;
  const norm = (of: (i: number) => number) =>
    Math.hypot(...Array.from({ length: expected.length }, (_, i) => of(i)));
  const error = norm((i) => actual[i]! - expected[i]!);
  const noise = Math.max(0, ...noisy.map((other) => norm((i) => other[i]! - expected[i]!)));
  const given = absolute * Math.sqrt(expected.length);
  const allowed = tolerance * norm((i) => expected[i]!) + 10 * noise + given + 1e-30;
  if (error <= allowed) return null;
  const first = (values: ArrayLike<number>) =>
    Array.from({ length: Math.min(4, values.length) }, (_, i) => values[i]!.toPrecision(6)).join(", ");
  return (
    `‖got − expected‖ = ${error.toPrecision(3)}, ‖expected‖ = ${norm((i) => expected[i]!).toPrecision(3)}, ` +
    `allowed ${allowed.toPrecision(3)}; got ${first(actual)} …, expected ${first(expected)} …`
  );
}
