// Interleaved timing on top of benny.
//
// benny (and benchmark.js beneath it) runs one case to the end before it begins the next, and repeats a case until it
// trusts the mean. On a machine whose speed drifts that compares the drift, not the cases. So each round here is a
// benny suite of its own in which every case is called exactly once (`ONE_CALL`): A B C, A B C, … One call does
// the work `iterations` times and waits for the device once, because a wait may end up to a millisecond late.

import benny from "benny";

/** One thing to time against others. */
export interface Case {
  name: string;
  /** Does the work `iterations` times and returns when the device has done it. This is what is timed. */
  run(iterations: number): Promise<void>;
  /** What must be ready before `run(iterations)`; not timed. */
  before?(iterations: number): Promise<void>;
}

export interface SamplingOptions {
  rounds: number;
  /** A timed call lasts about this long, in ms. */
  callMs: number;
  /** Default 200. */
  maxIterations?: number;
  onRound?(round: number): void;
}

export interface Sample {
  name: string;
  iterations: number;
  /** ms per iteration, one entry a round. */
  times: number[];
}

const ONE_CALL = { initCount: 1, minSamples: 1, minTime: 1e-9, maxTime: 1e-9, delay: 0 };

/** Times `cases` against each other. The first calls, which compile, are not counted. */
export async function sampleInterleaved(
  cases: readonly Case[],
  { rounds, callMs, maxIterations = 200, onRound }: SamplingOptions,
): Promise<Sample[]> {
  const samples: Sample[] = [];
  for (const one of cases) {
    const timed = async (iterations: number) => {
      await one.before?.(iterations);
      const start = performance.now();
      await one.run(iterations);
      return (performance.now() - start) / iterations;
    };
    await timed(1);
    const callsFor = (ms: number) => Math.max(1, Math.min(maxIterations, Math.round(callMs / ms)));
    // Twice: a single iteration seems longer than it is, by the wait for it.
    const first = callsFor(await timed(1));
    samples.push({
      name: one.name,
      iterations: first === 1 ? 1 : callsFor(await timed(Math.min(first, 10))),
      times: [],
    });
  }
  for (let round = 0; round < rounds; round += 1) {
    for (const [i, one] of cases.entries()) await one.before?.(samples[i]!.iterations);
    const times = await oneRound(cases.map((one, i) => () => one.run(samples[i]!.iterations)));
    times.forEach((ms, i) => {
      samples[i]!.times.push(ms / samples[i]!.iterations);
    });
    onRound?.(round + 1);
  }
  return samples;
}

/** ms of one call of each function, in turn, as benny measured them. */
async function oneRound(calls: readonly (() => Promise<void>)[]): Promise<number[]> {
  let started = false;
  let failure: unknown = null;
  const timed = async (call: () => Promise<void>) => {
    // benny calls each function twice beforehand, to learn whether it is asynchronous: those calls do nothing.
    if (!started || failure) return;
    try {
      await call();
    } catch (error) {
      failure = error; // benny would wait for ever for a rejected promise
    }
  };
  const suite = await benny.suite(
    "round",
    ...calls.map((call, i) => benny.add(`${i}`, () => timed(call), ONE_CALL)),
    // An entry of our own: removes the listener that prints a line for every suite.
    async () => (events) =>
      events.off("start").on("start", () => {
        started = true;
      }),
  );
  if (failure) throw failure;
  return suite.results.map(({ name, samples, details }) => {
    if (samples !== 1) throw new Error(`internal: benny called case ${name} ${samples} times in one round`);
    return 1000 * details.sampleResults[0]!;
  });
}
