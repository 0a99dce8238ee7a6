import { describe, expect, it } from "vitest";
import { Engine } from "../../demo/src/engine.ts";
import type { FromWorker, Search } from "../../demo/src/messages.ts";
import { type Limits, RateSearch, type Verdict } from "../../demo/src/rate-search.ts";
import { DEFAULTS, RATES, type Settings, STANDS } from "../../demo/src/settings.ts";
import { loadDataset } from "../../src/node/index.ts";
import { testGpu } from "../helpers/gpu.ts";

/** What a search finds where each rung of the ladder has its verdict, and how often it tried. */
function climb(verdicts: readonly Verdict[]): { limits: Limits; tries: number } {
  const search = new RateSearch();
  let tries = 0;
  for (let rate = search.next; rate !== null; rate = search.next) {
    expect(search.limits).toBeNull();
    search.tell(rate, verdicts[RATES.indexOf(rate)]!);
    tries += 1;
  }
  return { limits: search.limits!, tries };
}

describe("the search for the largest rates", () => {
  it("finds both limits on any ladder whose lower rungs stand, however stuck and diverging alternate above", () => {
    for (let stands = 0; stands <= RATES.length; stands += 1) {
      // Which of up to eight rungs above diverge, in every way; the others are stuck.
      for (let bits = 0; bits < 256; bits += 1) {
        const verdicts = RATES.map((_, rung): Verdict => {
          if (rung < stands) return "stands";
          return (bits >> ((rung - stands) % 8)) & 1 ? "diverged" : "stuck";
        });
        const diverged = verdicts.indexOf("diverged");
        const { limits, tries } = climb(verdicts);
        expect(limits).toEqual({
          stands: RATES[stands - 1] ?? null,
          stable: (diverged < 0 ? RATES.at(-1) : RATES[diverged - 1]) ?? null,
          open: diverged < 0,
        });
        const climbed = (diverged < 0 ? RATES.length : diverged + 1) - stands;
        expect(tries).toBeLessThanOrEqual(Math.ceil(Math.log2(RATES.length + 1)) + climbed);
      }
    }
  });

  it("finds by trials what training at these rates comes to, and stops when it is told to", async () => {
    const gpu = await testGpu();
    const said: FromWorker[] = [];
    const engine = new Engine(
      gpu,
      await loadDataset("embedded"),
      (message) => said.push(message),
      () => 0,
    );
    const searches = () => said.flatMap((one): Search[] => (one.type === "search" ? [one.search] : []));
    const settings: Settings = { ...DEFAULTS, depth: 8, batchSize: 8 };
    await engine.begin(settings);
    await engine.search();
    const { state, limits, trial } = searches().at(-1)!;
    expect(state).toBe("done");
    expect(trial).toBeLessThan(RATES.length);
    // Each step is told, and nothing of a trial comes after its last.
    expect(Math.max(...searches().map(({ step }) => step))).toBe(STANDS);

    /** Of the run at a rate, from the start: what becomes of each network. */
    const train = async (rate: number) => {
      const from = said.length;
      await engine.begin({ ...settings, rate });
      for (let step = 0; step <= STANDS; step += 1) await engine.step(step === STANDS);
      const failures = said.slice(from).flatMap((one) => (one.type === "failure" ? [one.failure] : []));
      return [0, 1].map((side) => failures.find((one) => one.side === side)?.kind ?? "stands");
    };
    const above = (rate: number) => RATES[RATES.indexOf(rate) + 1]!;
    for (const side of [0, 1]) {
      const { stands, stable, open } = limits[side]!;
      expect((await train(stands!))[side]).toBe("stands");
      if (stands !== RATES.at(-1)) expect((await train(above(stands!)))[side]).not.toBe("stands");
      if (!open) expect((await train(above(stable!)))[side]).toBe("diverged");
    }
    // The paper's point. Where a network gets stuck hangs on rounding, where it diverges does not.
    expect(limits[0]!.stable!).toBeGreaterThan(2 * limits[1]!.stable!);

    await engine.begin(settings);
    const bytes = gpu.stats.liveBytes;
    const heard = searches().length;
    const search = engine.search();
    while (searches().length < heard + 4) await new Promise((resolve) => setTimeout(resolve, 1));
    engine.stopSearch();
    await search;
    expect(searches().at(-1)).toMatchObject({ state: "stopped", limits: [null, null] });
    expect(gpu.stats.liveBytes).toBe(bytes);
    // Fresh networks end it, too, and nobody plays on for it.
    const other = engine.search();
    await engine.begin(settings);
    await other;
    expect(said.filter((one) => one.type === "error")).toEqual([]);
    expect(said.some((one) => one.type === "playing" && one.playing)).toBe(false);
  }, 120_000);
});
