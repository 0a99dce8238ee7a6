// What the page proposes and how it tells of a failure, from numbers alone.

import { describe, expect, it } from "vitest";
import { Marks } from "../../demo/src/marks.ts";
import type { Failure } from "../../demo/src/messages.ts";
import { DEFAULTS, DEPTHS, RATES, type Settings } from "../../demo/src/settings.ts";
import {
  learnsAt,
  nextMove,
  type Progress,
  type Situation,
  tellFailure,
  tellPair,
} from "../../demo/src/words.ts";

const failure = (more: Partial<Failure> = {}): Failure => ({
  ...{ side: 1, kind: "diverged", step: 42, rate: 0.3, loss: 56_500 },
  ...{ layer: 2, growth: [3, 20, 300, 4000, 5] },
  ...more,
});
const going = (learns: boolean, stepsAtRate: number): Progress => ({ learns, stepsAtRate, failure: null });
const broken = (side: 0 | 1): Progress => ({ learns: false, stepsAtRate: 9, failure: failure({ side }) });
const NOW: Situation = { moved: false, searched: false, searching: false, paused: false };

describe("the next move", () => {
  it("leads from the start to the largest rates, to more layers, and to another norm", () => {
    const move = (a: Progress, b: Progress, now: Partial<Situation> = {}, settings: Partial<Settings> = {}) =>
      nextMove({ ...DEFAULTS, ...settings }, [a, b], { ...NOW, ...now });
    expect(move(going(false, 3), going(false, 3))).toEqual({
      sentence: "Give both a moment to learn; then you raise the rate.",
      action: null,
    });
    expect(move(going(true, 40), going(true, 40)).action).toEqual({ label: "Raise it to 0.3", rate: 0.3 });
    // What was true of the start is not said of a rate that was raised.
    expect(move(going(true, 2), going(true, 2), { moved: true }, { rate: 0.3 }).sentence).toMatch(
      /^The rate is 0.3 now/,
    );
    expect(move(going(true, 5), broken(1), { moved: true }, { rate: 0.3 })).toEqual({
      sentence: "The network with batch-norm goes on at the same rate: watch whether its loss comes down.",
      action: null,
    });
    expect(move(going(true, 25), broken(1), { moved: true }, { rate: 0.3 }).action).toMatchObject({
      rate: 3,
    });
    const both = move(broken(0), broken(1), { moved: true }, { rate: 3 });
    expect(both.action).toEqual({ label: "Find them", search: true });
    expect(move(broken(0), broken(1), { searching: true }).action).toBeNull();
    expect(move(broken(0), broken(1), { searched: true }).action).toMatchObject({
      change: { depth: 32, rate: DEFAULTS.rate },
    });
    const deepest = { depth: DEPTHS.at(-1)! };
    expect(move(broken(0), broken(1), { searched: true }, deepest).action).toMatchObject({
      change: { norms: ["batch", "layer"], depth: DEFAULTS.depth },
    });
    const last = move(broken(0), broken(1), { searched: true }, { ...deepest, norms: ["batch", "layer"] });
    expect(last.sentence).toMatch(/choose any two norms/);
  });

  it("comes at each rate, whatever learns, and never is the rate that is set", () => {
    for (const rate of RATES) {
      for (const a of [true, false]) {
        for (const b of [true, false]) {
          for (const right of [going(b, 200), broken(1)]) {
            const { action, sentence } = nextMove({ ...DEFAULTS, rate }, [going(a, 200), right], NOW);
            expect(action, `${rate} ${a} ${b}: ${sentence}`).not.toBeNull();
            if (!action!.search) expect(action!.rate ?? action!.change!.rate).not.toBe(rate);
          }
        }
      }
    }
  });

  it("does not change its mind with each mini-batch, and says what a paused page waits for", () => {
    expect(learnsAt(0.19, false)).toBe(false);
    expect(learnsAt(0.21, false)).toBe(true);
    expect(learnsAt(0.17, true)).toBe(true);
    expect(learnsAt(0.12, true)).toBe(false);
    const paused = { ...NOW, paused: true };
    expect(nextMove(DEFAULTS, [going(false, 3), going(false, 3)], paused).sentence).toMatch(
      /^Paused: press Play/,
    );
    expect(nextMove(DEFAULTS, [going(true, 40), going(true, 40)], paused).action).toMatchObject({
      rate: 0.3,
    });
  });
});

describe("what is said of the pair", () => {
  it("names the norms that differ", () => {
    expect(tellPair(["batch", "none"])).toBe("One has batch-norm.");
    expect(tellPair(["none", "group"])).toBe("One has group norm.");
    expect(tellPair(["batch", "layer"])).toBe("One has batch-norm, the other layer norm.");
    expect(tellPair(["none", "none"])).toBe("Neither has a norm.");
  });
});

describe("what is said of a failure", () => {
  it("where: the layer, and how far it has come, in whole sentences", () => {
    const where = (more: Partial<Failure>) => tellFailure(failure(more), DEFAULTS).where;
    expect(where({})).toBe(
      "At rate 0.3 the loss of this mini-batch is 56500. Layer 2 is the first whose activations are over ten times as wide as at the start (20 times); " +
        "those of layer 4 are 4000 times as wide as at the start.",
    );
    expect(where({ layer: null, growth: [1, 2, 2, 3, 5] })).toMatch(
      /56500\. The activations of layer 4 are 3 times as wide as at the start\.$/,
    );
    expect(where({ growth: [3, Number.POSITIVE_INFINITY, Number.NaN, Number.NaN, Number.NaN] })).toMatch(
      /at the start: they are wider than a float32 can tell\.$/,
    );
    // Layers of zeros at the start are not compared with them.
    expect(where({ growth: [3, 20, null, null, null] })).toMatch(/\(20 times\)\.$/);
  });

  it("why: not that batch-norm would have helped, of a network that has it", () => {
    for (const kind of ["diverged", "stuck"] as const) {
      expect(tellFailure(failure({ kind }), DEFAULTS).why).toMatch(/Batch-norm puts every channel back/);
      for (const norm of ["batch", "layer", "group", "instance"] as const) {
        const { why } = tellFailure(failure({ kind }), { ...DEFAULTS, norms: ["none", norm] });
        expect(why).toMatch(/^Its norm puts every channel back/);
        expect(why).not.toMatch(/Batch-norm/);
      }
    }
  });
});

describe("the marks", () => {
  it("show a rate that was tried and stood, also where the page may keep nothing", () => {
    const marks = new Marks(null);
    marks.stood({ ...DEFAULTS, rate: 0.3 }, 0);
    marks.stood({ ...DEFAULTS, rate: 3 }, 0);
    expect(marks.mark(DEFAULTS, 0)).toMatchObject({ rate: 3, searched: false });
    // It got stuck later.
    marks.broke(DEFAULTS, 0, 3);
    expect(marks.mark(DEFAULTS, 0)).toMatchObject({ rate: 0.3 });
    marks.broke(DEFAULTS, 0, 0.1);
    expect(marks.mark(DEFAULTS, 0)).toBeNull();
  });
});
