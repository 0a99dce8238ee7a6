// Checks a program of ./program.ts: numbers, gradients, buffers, a plan's replay, and which dispatches it takes.

import { expect } from "vitest";
import * as shaders from "../../src/generated/shaders.ts";
import type { DispatchNote } from "../../src/gpu.ts";
import { Packed } from "../../src/optim/packed.ts";
import type { Tensor } from "../../src/tensor/tensor.ts";
import { type Choices, hash, withChoices } from "../helpers/choices.ts";
import { sampled, testGpu } from "../helpers/gpu.ts";
import { relativeError } from "../helpers/numbers.ts";
import { type Expected, isStatistic, leafData, type Program, packageOps, reference } from "./program.ts";

const gpu = await testGpu();

interface Mode extends Omit<Choices, "seed"> {
  name: string;
  folds: boolean;
  /** Whether gradients lie next to each other, as those of an optimizer's parameters do: then what finishes them may ride along. */
  packed?: boolean;
}

export const FOLDED: readonly Mode[] = [
  { name: "folded, software", family: "software", folding: "all", folds: true },
  { name: "folded, hardware", family: "hardware", folding: "all", folds: true },
];
export const PACKED: Mode = {
  name: "folded, hardware, packed",
  family: "hardware",
  folding: "all",
  folds: true,
  packed: true,
};
const UNFOLDED: readonly Mode[] = [
  { name: "separate", family: "software", folding: "none", folds: true },
  { name: "folds: false", family: "software", folding: "all", folds: false },
];

/** `body` with the mode's choices. Convolutions of any but the usual size take the kernel that compiles fastest. */
export function within<T>(mode: Mode, body: () => T | Promise<T>): Promise<T> {
  const quick = (_kernel: string, shape: string) => !shape.startsWith("2x5x6x8x8x3x3x");
  return withChoices(gpu, { ...mode, quick, seed: 1 }, body);
}

/** The leaves as tensors. The caller disposes of them. */
export function leavesOf({ leaves }: Pick<Program, "leaves">, seed: number): Record<string, Tensor> {
  return Object.fromEntries(
    Object.entries(leaves).map(([name, shape]) => [
      name,
      gpu.tensor(leafData(name, shape, seed), shape, { requiresGrad: !isStatistic(name) }),
    ]),
  );
}

/** Puts the gradients of leaves next to each other; null where the mode wants them each by itself. */
function packed({ packed }: Mode, t: Record<string, Tensor>): Packed | null {
  const parameters = Object.values(t).filter(({ requiresGrad }) => requiresGrad);
  return packed && parameters.length > 0 ? new Packed("a test", parameters) : null;
}

/** Data of leaves that a program moves is put back. */
function rewind({ leaves }: Program, t: Record<string, Tensor>, seed: number): void {
  for (const [name, shape] of Object.entries(leaves)) {
    if (isStatistic(name)) t[name]!.write(leafData(name, shape, seed));
    t[name]!.zeroGrad();
  }
}

interface Tolerance {
  forward: number;
  backward: number;
}

/** Of a gradient that cancels to nothing (a bias before a batch-norm) against the numbers of about 1 that it is the sum of. */
function errorOf(got: ArrayLike<number>, values: Float64Array): number {
  const cancels = Math.hypot(...values) < 1e-9;
  return cancels ? Math.hypot(...Array.from(got)) : relativeError(got, values);
}

async function compare(
  label: string,
  out: Tensor,
  t: Record<string, Tensor>,
  expected: Expected,
  { forward, backward }: Tolerance,
): Promise<void> {
  expect(relativeError(await out.read(), expected.out), `${label}: output`).toBeLessThan(forward);
  for (const [name, values] of Object.entries(expected.leaves)) {
    const got = isStatistic(name) ? t[name]! : t[name]!.grad;
    expect(got === null, `${label}: whether ${name} has no gradient`).toBe(values === null);
    if (got && values) {
      const what = `${label}: ${isStatistic(name) ? "" : "d"}${name}`;
      expect(errorOf(await got.read(), values), what).toBeLessThan(backward);
    }
  }
}

/**
 * The output and every gradient against float64: folded in both families of kernels, also with gradients next to each other, with every
 * choice "separate", with `folds: false`, and captured and replayed. Buffers are back to where they were after each.
 */
export async function checkNumbers(
  label: string,
  program: Program,
  tolerance: Tolerance = { forward: 1e-5, backward: 1e-4 },
): Promise<void> {
  const seed = hash(label);
  const expected = reference(program, seed);
  const [software, hardware] = FOLDED as [Mode, Mode];
  for (const mode of [software, ...sampled([hardware, PACKED]), ...UNFOLDED]) {
    gpu.flush();
    const before = gpu.stats.liveBuffers;
    await within(mode, async () => {
      const t = leavesOf(program, seed);
      const pack = packed(mode, t);
      const upstream = gpu.tensor(expected.upstream, expected.shape);
      const step = () => {
        const out = program.run(packageOps(t, mode.folds), t);
        out.backward(upstream);
        return out;
      };
      const eager = gpu.scope(step);
      await compare(`${label}, ${mode.name}`, eager, t, expected, tolerance);
      eager.dispose();
      if (mode === software || pack) {
        rewind(program, t, seed);
        const plan = gpu.capture(step);
        await compare(`${label}, captured`, plan.result, t, expected, tolerance);
        // Gradients of a plan are its own: the replay starts from none.
        rewindStatistics(program, t, seed);
        plan.run();
        await compare(`${label}, replayed`, plan.result, t, expected, tolerance);
        for (const leaf of Object.values(t)) leaf.zeroGrad();
        plan.dispose();
      }
      pack?.dispose();
      for (const tensor of [upstream, ...Object.values(t)]) tensor.dispose();
    });
    expect(gpu.stats.liveBuffers, `${label}, ${mode.name}: live buffers`).toBe(before);
  }
}

function rewindStatistics({ leaves }: Program, t: Record<string, Tensor>, seed: number): void {
  for (const [name, shape] of Object.entries(leaves)) {
    if (isStatistic(name)) t[name]!.write(leafData(name, shape, seed));
  }
}

/** As they are called in a module's name. */
const activations = new Set(
  Object.values(shaders.activation.holes.activation!.parts).map(({ label }) => label),
);

/**
 * What a dispatch does, without what depends on sizes, on the family of kernels and on which activation there is:
 * `conv2d.forward +statistics`. The one place that knows how kernels are named. Null for what is none of fusion's business: fills, and sums of slices.
 */
export function lineOf({ op, kernel }: Pick<DispatchNote, "op" | "kernel">): string | null {
  const [module, entry = ""] = kernel.split(".") as [string, string?];
  const [file, ...parts] = module.split("+") as [string, ...string[]];
  if (kernel === "memory.fill" || /^(sum_partials|sum_rows)/.test(entry)) return null;
  const back = op.endsWith(" backward");
  if (file.startsWith("conv2d")) {
    const pass = entry.startsWith("grad_weight") ? "grad_weight" : back ? "grad_input" : "forward";
    const told = parts.filter((part) => !activations.has(part));
    return [`conv2d.${pass}`, ...told.map((part) => `+${part}`)].join(" ");
  }
  if (file === "batch_norm") {
    const variants = ["folded", "running", "workgroup", "counting", "residual", "inference"];
    return `batch_norm.${entry
      .split("_")
      .filter((word) => !variants.includes(word))
      .join("_")}`;
  }
  if (file === "memory" || file === "cast") return `${file}.${entry}`;
  if (["add", "mul", "scale", "relu"].includes(op.split(" ")[0]!)) return op;
  return `${op}: ${file}`;
}

/** How often each line occurs, in the order of the alphabet: the order of independent dispatches is nobody's business. */
export function tally(notes: readonly DispatchNote[]): string[] {
  const counts = new Map<string, number>();
  for (const note of notes) {
    const line = lineOf(note);
    if (line) counts.set(line, (counts.get(line) ?? 0) + 1);
  }
  return [...counts]
    .map(([line, n]) => (n === 1 ? line : `${n}× ${line}`))
    .sort((a, b) => bareLine(a).localeCompare(bareLine(b)));
}

/** A line of `tally` without how often it occurs, and how often. */
export const bareLine = (line: string) => line.replace(/^\d+× /, "");
export const timesOf = (line: string) => Number(line.match(/^(\d+)× /)?.[1] ?? 1);

export interface Dispatches {
  forward: string[];
  backward: string[];
}

/** The dispatches of forward (the output asked for in the end) and of backward, as `tally` lists them. */
export async function dispatchesOf(program: Program, mode: Mode): Promise<Dispatches> {
  return within(mode, () => {
    const seed = 1;
    const t = leavesOf(program, seed);
    const pack = packed(mode, t);
    const lists = { forward: [] as string[], backward: [] as string[] };
    gpu.scope(() => {
      let out: Tensor | undefined;
      lists.forward = tally(
        gpu.explain(() => {
          out = program.run(packageOps(t, mode.folds), t);
          out.buffer; // works it out
        }),
      );
      const upstream = gpu.full(out!.shape, 1, { dtype: out!.dtype });
      lists.backward = tally(gpu.explain(() => out!.backward(upstream)));
    });
    pack?.dispose();
    for (const tensor of Object.values(t)) tensor.dispose();
    return lists;
  });
}
