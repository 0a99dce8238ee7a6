// Random programs, folded and unfolded, on the kernels of both classes of adapter, against float64.

import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { OverwrittenTensorError } from "../../src/errors.ts";
import { type Choices, hash, withChoices } from "../helpers/choices.ts";
import { testGpu } from "../helpers/gpu.ts";
import { generator } from "../helpers/numbers.ts";
import { isOnKink, noiseOf } from "../reference/autodiff.ts";
import { interpret } from "../reference/program.ts";
import { casesOf, checkProperty, differs, IS_USUAL, IS_WHOLE, RUNS, SEED } from "./check.ts";
import { execute } from "./execute.ts";
import { LIKELIEST, programs } from "./generate.ts";
import { type Observations, type Program, type Ref, refsOf, show } from "./program.ts";

const gpu = await testGpu();
const NOISE = 3e-7;
const LARGEST = 1e12;

/** What a program must show, and what rounding may make of it. */
interface Expectation {
  exact: Observations;
  noisy: Observations[];
  /** Where a cast to float16 rounds, a number may go the other way: one of a few hundred, by 2^-11. */
  tolerance: number | undefined;
}

/** Null if a decision hangs on rounding. */
function expectationOf(program: Program): Expectation | null {
  const exact = interpret(program);
  // Of a gradient that cancels to one number two draws of noise may both be small by chance.
  const noisy = [1, 2, 3, 4].map((i) => interpret(program, noiseOf(generator(hash(program.seed, i)), NOISE)));
  const sound = [...exact.observed.values()].every(
    (data) => data?.every((v) => Math.abs(v) < LARGEST) ?? true,
  );
  const onKink = exact.tapes.some((tape, t) =>
    isOnKink(
      tape,
      noisy.map(({ tapes }) => tapes[t]!),
    ),
  );
  if (!sound || onKink) return null;
  const tolerance = program.steps.some(({ op }) => op === "half") ? 2e-3 : undefined;
  return { exact: exact.observed, noisy: noisy.map(({ observed }) => observed), tolerance };
}

interface Mode extends Choices {
  name: string;
  folds: boolean;
}

/** Folded on both families, and one of the other ways; in a short run that for every other one, and few convolutions in tiles or bands. */
function modesOf(program: Program): Mode[] {
  const quick = (kernel: string, shape: string) =>
    RUNS <= 1000 && (kernel !== "conv2d.forward" || !LIKELIEST.some((sizes) => shape.startsWith(sizes)));
  const mode = (family: Choices["family"], folding: Choices["folding"]): Mode => ({
    name: `${folding === "all" ? "folded" : folding === "none" ? "unfolded" : "by default"}, ${family}`,
    ...{ family, folding, quick, seed: SEED, folds: folding !== "none" },
  });
  const others = [
    mode("software", "none"),
    mode("hardware", "none"),
    mode("software", "default"),
    mode("hardware", "default"),
  ];
  const other = others[hash(program.seed, "mode") % (RUNS > 1000 ? 4 : 8)];
  return [mode("software", "all"), mode("hardware", "all"), ...(other ? [other] : [])];
}

/** How often what folding could get wrong occurs. */
const seen = {
  programs: 0,
  refused: 0,
  folded: 0,
  kernels: new Map<string, number>(),
  patterns: new Map<string, number>(),
};

function count(map: Map<string, number>, key: string): void {
  map.set(key, (map.get(key) ?? 0) + 1);
}

const OF_INTEREST = [
  ...["half", "double", "dropout", "convTranspose2d", "interpolate", "adaptiveAvgPool2d", "crossEntropy"],
  ...["where", "clamp", "pow", "maximum", "minimum", "groupNorm", "layerNorm", "instanceNorm"],
];

/** What stands next to a batch-norm, through views that say otherwise of the channels or not. */
function patternsOf(program: Program): Set<string> {
  const makers = new Map<Ref, Program["steps"][number]>(program.steps.map((step) => [step.out, step]));
  const found = new Set<string>();
  if (program.poison) found.add("not finite");
  if (program.clip) found.add("value" in program.clip ? "clipGradValue" : "clipGradNorm");
  for (const step of program.steps) {
    const { op } = step;
    if (OF_INTEREST.includes(op)) found.add(op);
    if ((op === "max" || op === "min") && step.axes.length > 1) found.add("extreme of several axes");
    if ((op === "conv2d" || op === "linear") && step.length !== null) found.add("weightNorm");
    if (op === "batchNorm" && step.frozen) found.add("frozen layer");
    if (op === "batchNorm" && step.skips) found.add(program.poison ? "skips what is not finite" : "skips");
    if (step.op === "fill" && step.by !== "fill") found.add("own kernel overwrites");
    if (!["batchNorm", "relu", "activate", "conv2d", "convTranspose2d"].includes(op)) continue;
    let maker = makers.get(refsOf(step)[0]!);
    const views = maker?.op === "reshape" || maker?.op === "flatten";
    while (maker?.op === "reshape" || maker?.op === "flatten") maker = makers.get(maker.x);
    if (maker && (maker.op === "batchNorm") !== (step.op === "batchNorm")) {
      found.add([maker.op, ...(views ? ["view"] : []), step.op].join(" → "));
    }
    if (step.op === "batchNorm") {
      if (step.residual !== null) found.add("residual");
      if (!step.training && maker?.op === "conv2d") found.add("conv2d → frozen batchNorm");
      const later = program.steps.filter(({ op, out }) => op === "conv2d" && out > step.x && out < step.out);
      if (maker?.op === "conv2d" && later.length > 0) found.add("conv2d, conv2d → batchNorm");
    }
    if ((step.op === "relu" || step.op === "activate") && maker?.op === "add") {
      const summands = [maker.a, maker.b].map((ref) => makers.get(ref)?.op);
      if (summands.includes("batchNorm")) found.add("batchNorm → add → activation");
    }
    if (step.op === "conv2d" && maker?.op === "batchNorm" && makers.get(maker.x)?.op === "add") {
      found.add("add → batchNorm → conv2d");
    }
  }
  return found;
}

/** What was observed is what was to be expected, in every name that `concerns`. */
function compare(
  mode: string,
  observed: Observations,
  { exact, noisy, tolerance }: Expectation,
  concerns: (what: string) => boolean = () => true,
): void {
  for (const [what, values] of exact) {
    if (!concerns(what)) continue;
    const got = observed.get(what);
    expect(got === undefined ? "missing" : got === null, `${mode}: ${what} is null`).toBe(values === null);
    if (!values || !got) continue;
    const others = noisy.map((other) => other.get(what)!);
    expect(differs(got, values, others, tolerance), `${mode}: ${what}`).toBe(null);
  }
}

async function checkProgram(program: Program): Promise<void> {
  const expected = expectationOf(program);
  seen.programs += 1;
  if (!expected) seen.refused += 1;
  fc.pre(expected !== null);
  for (const pattern of patternsOf(program)) count(seen.patterns, pattern);
  for (const { name, folds, ...choices } of modesOf(program)) {
    gpu.flush(); // what a case that failed left waiting
    const live = gpu.stats.liveBuffers;
    const { observed, kernels } = await withChoices(gpu, choices, () => execute(gpu, program, folds));
    compare(name, observed, expected!);
    expect(gpu.stats.liveBuffers, `${name}: live buffers`).toBe(live);
    if (kernels.some((kernel) => kernel.includes("+slopes"))) count(seen.patterns, "rides along");
    if (choices.folding === "all" && choices.family === "software") {
      const parts = new Set(kernels.flatMap((kernel) => kernel.match(/\+\w+/g) ?? []));
      if (parts.size > 0) seen.folded += 1;
      for (const part of parts) count(seen.kernels, part);
    }
  }
}

/** A program, and a tensor of it that somebody overwrites between forward and backward. */
interface Spoilt {
  program: Program;
  spoilt: Ref;
}

const spoiltPrograms: fc.Arbitrary<Spoilt> = fc.tuple(programs(6), fc.nat(30)).map(([program, which]) => {
  const steps = program.steps.filter(({ op }) => !["dispose", "read"].includes(op));
  const made = steps.filter(({ op }) => op !== "fill" && op !== "write").map(({ out }) => out);
  const refs = [...program.leaves.keys(), ...made];
  return {
    program: {
      ...program,
      steps,
      ...{ iterations: 1, batches: 1, capture: false, scope: "none", sgd: null, clip: null, poison: null },
    },
    spoilt: refs[which % refs.length]!,
  };
});

/** Backward refuses, or it did not need what was there: never a wrong gradient. */
const spoils = { refused: 0, unharmed: 0 };

async function checkSpoilt({ program, spoilt }: Spoilt): Promise<void> {
  const expected = expectationOf(program);
  fc.pre(expected !== null && program.sinks.some(({ requiresGrad }) => requiresGrad));
  gpu.flush(); // what a case that failed left waiting
  const live = gpu.stats.liveBuffers;
  const { name, folds, ...choices } = modesOf(program)[program.seed % 2]!;
  try {
    const { observed } = await withChoices(gpu, choices, () => execute(gpu, program, folds, spoilt));
    compare(name, observed, expected!, (what) => what.includes("gradient of"));
    spoils.unharmed += 1;
  } catch (error) {
    if (!(error instanceof OverwrittenTensorError)) throw error;
    spoils.refused += 1;
  }
  expect(gpu.stats.liveBuffers, `${name}: live buffers`).toBe(live);
}

describe("random programs", () => {
  it("agree with float64, folded and unfolded", { timeout: 4 * 3600_000 }, async () => {
    const started = Date.now();
    const { cases } = await checkProperty(
      "programs",
      casesOf(RUNS > 1000 ? 0.4 : 0.11),
      programs(),
      checkProgram,
      show,
    );
    if (cases === 0) return;
    const share = (n: number) => n / cases;
    const percent = (n: number) => `${Math.round(100 * share(n))} %`;
    console.log(
      `${cases} programs in ${Math.round((Date.now() - started) / 1000)} s, ${seen.refused} of ${seen.programs} refused, ` +
        `${percent(seen.folded)} fold; ${gpu.stats.pipelines} pipelines\n` +
        [...seen.kernels, ...seen.patterns].map(([key, n]) => `${key}: ${percent(n)}`).join(", "),
    );
    // Of other seeds few programs are too few to judge the generator by.
    if (!IS_WHOLE || cases < (IS_USUAL ? 50 : 400)) return;
    expect(seen.refused / seen.programs).toBeLessThan(0.6);
    expect(share(seen.folded)).toBeGreaterThan(0.35);
    for (const part of ["+statistics", "+x_affine", "+gradient_sums"]) {
      expect(share(seen.kernels.get(part) ?? 0), part).toBeGreaterThan(0.08);
    }
    const risky = [
      ...["conv2d → view → batchNorm", "batchNorm → view → relu", "batchNorm → view → conv2d"],
      ...["conv2d → batchNorm", "batchNorm → relu", "batchNorm → conv2d", "residual"],
      ...["conv2d → frozen batchNorm", "conv2d, conv2d → batchNorm", "add → batchNorm → conv2d"],
      ...["batchNorm → add → activation", "half", "double", "own kernel overwrites"],
      ...["batchNorm → activate", "dropout", "convTranspose2d", "interpolate", "crossEntropy"],
    ];
    for (const pattern of risky) {
      expect(share(seen.patterns.get(pattern) ?? 0), pattern).toBeGreaterThan(0.015);
    }
    if (cases < 400) return;
    const rarer = [
      ...["not finite", "skips what is not finite", "skips", "frozen layer", "weightNorm"],
      ...["clipGradNorm", "clipGradValue", "extreme of several axes", ...OF_INTEREST],
    ];
    for (const pattern of rarer) {
      expect(share(seen.patterns.get(pattern) ?? 0), pattern).toBeGreaterThan(0.005);
    }
  });

  it("never give a wrong gradient for a tensor that was overwritten", { timeout: 3600_000 }, async () => {
    const { cases } = await checkProperty(
      ...(["spoilt", casesOf(0.03), spoiltPrograms, checkSpoilt] as const),
      ({ program, spoilt }) => `${show(program)}\n// before backward: fill of ${spoilt}`,
    );
    console.log(`${cases} programs with an overwritten tensor: ${JSON.stringify(spoils)}`);
    if (cases >= 15) expect(Math.min(spoils.refused, spoils.unharmed)).toBeGreaterThan(0);
  });
});
