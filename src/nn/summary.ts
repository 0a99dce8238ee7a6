// What a network does with inputs of a shape, layer by layer, from a step of it.

import { withoutTracking } from "../autograd/checkpoint.ts";
import { noGrad } from "../autograd/tape.ts";
import { ShapeError } from "../errors.ts";
import * as shaders from "../generated/shaders.ts";
import type { DispatchNote, Gpu } from "../gpu.ts";
import { checkInteger } from "../options.ts";
import { checkShape, type Shape } from "../tensor/shape.ts";
import { Tensor } from "../tensor/tensor.ts";
import type { Module } from "./module.ts";
import { fieldsOf, isParameter, wrapForward } from "./module-state.ts";

/** One layer of a network: a module that runs no other, or has parameters of its own. */
export interface LayerSummary {
  /** `blocks.3.first.conv` */
  name: string;
  /** `Conv2d` */
  kind: string;
  output: Shape;
  /** Numbers that are learned, frozen ones included. */
  parameters: number;
  /** Of convolutions and linear layers, in the forward pass: a multiplication and an addition are two. */
  flop: number;
  /**
   * Bytes that are held after this layer and were not before it, for backward or for layers that come: negative where more is
   * given back. What a layer computes only when the next one asks for it counts there.
   */
  bytes: number;
  /** Other layers' work that this one's kernels do, by the names of the parts that `gpu.explain` shows; or who does this one's. */
  folded: string[];
  /** Of each dispatch for this layer, forward and backward. */
  kernels: string[];
}

interface Call {
  name: string;
  module: Module;
  output: Shape;
  flop: number;
  live: number;
  leaf: boolean;
}

/** A network as `Module.summary` saw it. */
export class Summary {
  constructor(
    readonly input: Shape,
    readonly layers: readonly LayerSummary[],
    /** Numbers that are learned, those of no layer included. */
    readonly parameters: number,
    /** Those that are not frozen. */
    readonly trainable: number,
    /** Of all layers. */
    readonly flop: number,
    /** Bytes that are held between forward and backward, beyond parameters and the input; in inference those of the output. */
    readonly bytes: number,
  ) {}

  /** The table, as wide as it is. */
  toString(): string {
    return this.table();
  }

  /** As text of lines no longer than `columns`, but for names that leave no room. */
  table(columns = 100): string {
    checkInteger("summary.table", "columns", columns, 40);
    const rows = this.layers.map(({ name, kind, output, parameters, flop, bytes, folded }) => ({
      cells: [
        name || "(all)",
        kind,
        output.join("×"),
        parameters === 0 ? "" : thousands(parameters),
        flop === 0 ? "" : units(flop),
        bytes === 0 ? "" : units(bytes),
      ],
      folded: folded.join(", "),
    }));
    const head = ["layer", "", "output", "parameters", "FLOP", "bytes held"];
    const total = ["total", "", "", thousands(this.parameters), units(this.flop), units(this.bytes)];
    const every = [head, ...rows.map(({ cells }) => cells), total];
    const widths = head.map((_, i) => Math.max(...every.map((cells) => cells[i]!.length)));
    const last = Math.max("folded".length, ...rows.map((row) => row.folded.length));
    const numbers = widths.slice(2).reduce((sum, width) => sum + GAP + width, 0);
    // Kinds are left out first, then what is folded goes below its layer, then names are cut.
    const all = widths[0]! + GAP + widths[1]! + numbers;
    const kinds = all <= columns;
    const beside = all + GAP + last <= columns;
    const used = numbers + (kinds ? GAP + widths[1]! : 0);
    const first = Math.max(8, Math.min(widths[0]!, columns - used));
    const line = (cells: readonly string[], folded: string) =>
      [
        shortened(cells[0]!, first).padEnd(first),
        ...(kinds ? [cells[1]!.padEnd(widths[1]!)] : []),
        ...cells.slice(2).map((cell, i) => cell.padStart(widths[i + 2]!)),
        ...(beside ? [folded] : []),
      ]
        .join(" ".repeat(GAP))
        .trimEnd();
    const below = (text: string) =>
      beside || text === "" ? [] : wrapped(text, columns - INDENT.length).map((part) => INDENT + part);
    const rule = "─".repeat(first + used + (beside ? GAP + last : 0));
    const frozen = this.parameters - this.trainable;
    return [
      line(head, "folded"),
      rule,
      ...rows.flatMap((row) => [line(row.cells, row.folded), ...below(row.folded)]),
      rule,
      line(total, ""),
      ...(frozen > 0 ? [`${thousands(frozen)} parameters are frozen`] : []),
    ].join("\n");
  }
}

/** Spaces between two columns. */
const GAP = 2;
const INDENT = "    + ";

/** The end of `text`, which tells more than its start. */
function shortened(text: string, width: number): string {
  return text.length <= width ? text : `…${text.slice(text.length - width + 1)}`;
}

/** Lines of words, no longer than `width` where the words are not. */
function wrapped(text: string, width: number): string[] {
  const lines: string[] = [];
  for (const word of text.split(" ")) {
    const last = lines.at(-1);
    if (last !== undefined && last.length + 1 + word.length <= width)
      lines[lines.length - 1] = `${last} ${word}`;
    else lines.push(word);
  }
  return lines;
}

/** `75,500` */
function thousands(value: number): string {
  return value.toLocaleString("en");
}

/** `75.5 M` */
function units(value: number): string {
  const names = ["", " k", " M", " G", " T", " P"];
  const size = Math.abs(value);
  const power = size < 1000 ? 0 : Math.min(names.length - 1, Math.floor(Math.log10(size) / 3));
  const scaled = value / 1000 ** power;
  return `${power === 0 ? scaled : scaled.toPrecision(3)}${names[power]}`;
}

/** See `Module.summary`. */
export function summarize(model: Module, shape: Shape): Summary {
  checkShape("summary", shape);
  const tensors = [...new Set([...model.tensors()].map(([, tensor]) => tensor))];
  const [first] = tensors;
  if (!first) {
    throw new ShapeError("summary: the module has no parameters and no buffers; expected at least one");
  }
  const { gpu } = first;
  gpu.checkSize("summary", shape, "float32", "input");
  const names = new Map([...model.modules()].map(([name, module]) => [module, name]));
  const parameters = tensors.filter(isParameter);
  const { calls, notes, bytes, start } = observe(gpu, model, shape, names);

  const seen = new Set<Module>();
  let live = start;
  const layers: LayerSummary[] = [];
  for (const call of calls) {
    const { module, name, output, flop, leaf } = call;
    const own = leaf ? [...module.tensors()].map(([, tensor]) => tensor) : tensorsOf(module);
    const learned = own.filter(isParameter);
    if (!leaf && learned.length === 0) continue;
    const kernels = notes.filter(({ layer }) => layer === name).map(({ kernel }) => kernel);
    layers.push({
      ...{ name, kind: module.constructor.name, output, flop, kernels },
      parameters: seen.has(module) ? 0 : count(learned),
      bytes: call.live - live,
      folded: [...new Set(kernels.flatMap(partsOf))],
    });
    live = call.live;
    seen.add(module);
  }
  // An activation that a batch-norm does.
  const called = new Set(calls.map(({ module }) => module));
  let before = 0;
  for (const [module, name] of names) {
    const at = layers.findIndex((layer) => layer.name === name);
    if (at >= 0) before = at;
    const layer = layers[before];
    if (called.has(module) || !layer || tensorsOf(module).length > 0 || [...module.children()].length > 0)
      continue;
    before += 1;
    layers.splice(before, 0, {
      ...{ name, kind: module.constructor.name, output: layer.output, parameters: 0, flop: 0, bytes: 0 },
      ...{ folded: ["not run by itself"], kernels: [] },
    });
  }
  return new Summary(
    [...shape],
    layers,
    count(parameters),
    count(parameters.filter(({ requiresGrad }) => requiresGrad)),
    layers.reduce((sum, { flop }) => sum + flop, 0),
    bytes,
  );
}

const activations = new Set(
  Object.values(shaders.activation.holes.activation!.parts).map(({ label }) => label),
);

/** `conv2d_tile+x_affine+statistics+relu.conv_8x8` → x_affine, statistics */
function partsOf(kernel: string): string[] {
  const [, ...parts] = kernel.slice(0, kernel.lastIndexOf(".")).split("+");
  // The other parts call the activation.
  return parts.filter((part) => !activations.has(part));
}

function count(tensors: readonly Tensor[]): number {
  return tensors.reduce((sum, { size }) => sum + size, 0);
}

function tensorsOf(module: Module): Tensor[] {
  return Array.from(fieldsOf(module), ([, value]) => value).filter((value) => value instanceof Tensor);
}

/** Runs a step, and leaves the network as it was. */
function observe(gpu: Gpu, model: Module, shape: Shape, names: ReadonlyMap<Module, string>) {
  const calls: Call[] = [];
  let deepest = 0;
  let depth = 0;
  let backward = false;
  const undo: (() => void)[] = [];
  const gradients = [...model.tensors()].map(([, tensor]) => ({ tensor, grad: tensor.grad }));
  const paths = [...names.keys()].map((module) => ({ module, path: module.path }));
  let bytes = 0;
  let start = 0;
  let notes: DispatchNote[] = [];
  try {
    for (const { tensor } of gradients) tensor.grad = null;
    for (const [module, name] of names) {
      module.path = name;
      undo.push(
        wrapForward(module, (forward) => (x, ...rest) => {
          // In backward `checkpoint` runs layers again.
          if (backward) return forward(x, ...rest);
          depth += 1;
          deepest = depth;
          const own = depth;
          const input = x.shape;
          const y = forward(x, ...rest);
          depth -= 1;
          const leaf = deepest === own;
          calls.push({
            ...{ name, module, output: y.shape, leaf, live: gpu.stats.liveBytes },
            flop: module.flop(input, y.shape),
          });
          return y;
        }),
      );
    }
    notes = gpu.explain(() =>
      withoutTracking(() =>
        gpu.scope(() => {
          const x = gpu.zeros(shape);
          start = gpu.stats.liveBytes;
          const run = () => model.forward(x);
          const y = model.training ? run() : noGrad(run);
          y.materialize();
          bytes = gpu.stats.liveBytes - start;
          backward = model.training && y.requiresGrad;
          if (backward) y.backward(gpu.full(y.shape, 1));
        }),
      ),
    );
  } finally {
    for (const restore of undo) restore();
    for (const { module, path } of paths) module.path = path;
    for (const { tensor, grad } of gradients) {
      if (!grad) tensor.zeroGrad();
      else {
        tensor.grad?.dispose();
        tensor.grad = grad;
      }
    }
  }
  return { calls, notes, bytes, start };
}
