// Whole tensors as words: dispatches of shaders/memory.wgsl.

import type { BufferRange } from "../device/buffers.ts";
import type { Grid } from "../device/commands.ts";
import { NonFiniteError, ShapeError } from "../errors.ts";
import * as shaders from "../generated/shaders.ts";
import type { Gpu } from "../gpu.ts";
import { show } from "../options.ts";
import { checkTensor, FLOATS } from "./check.ts";
import type { Tensor } from "./tensor.ts";

function memoryGrid(items: number): Grid {
  return [Math.max(1, Math.min(1024, Math.ceil(items / 64)))];
}

/** Sets every 4-byte word of a range. */
export function fillRange(gpu: Gpu, range: BufferRange, word: number): void {
  const vec4s = Math.ceil(range.byteLength / 16);
  const bindings = { out: range, filling: { vec4s, word } };
  gpu.dispatch({ shader: shaders.memory, entry: "fill" }, bindings, memoryGrid(vec4s), "fill");
}

/** Copies a range, in whole vec4s. */
export function copyRange(gpu: Gpu, from: BufferRange, to: BufferRange): void {
  const vec4s = Math.ceil(from.byteLength / 16);
  gpu.willWrite(to);
  const bindings = { out: to, source: from, size: { vec4s } };
  gpu.dispatch({ shader: shaders.memory, entry: "copy" }, bindings, memoryGrid(vec4s), "copy");
}

/** `acc += x` for two tensors of one size and float type. */
export function accumulate(gpu: Gpu, acc: Tensor, x: Tensor): void {
  checkTensor("gpu.accumulate", "acc", acc, { dtypes: FLOATS });
  checkTensor("gpu.accumulate", "x", x, { dtypes: [acc.dtype], with: ["acc", acc] });
  if (acc.size !== x.size) {
    throw new ShapeError(
      `gpu.accumulate: x ${show(x.shape)} has ${x.size} elements, acc ${show(acc.shape)} has ${acc.size}; expected the same number`,
    );
  }
  const vec4s = Math.ceil(x.size / 4);
  const grid = memoryGrid(vec4s);
  const [into, size] = [acc.overwrite(), { vec4s }];
  if (acc.dtype === "float16") {
    const bindings = { halves: into, from_halves: x, size };
    gpu.dispatch({ shader: shaders.cast, entry: "accumulate" }, bindings, grid, "accumulate");
  } else {
    const bindings = { acc: into, x, size };
    gpu.dispatch({ shader: shaders.memory, entry: "accumulate" }, bindings, grid, "accumulate");
  }
}

const NONE = 0xffffffff;

/** The debug mode that looks for NaN and infinity: which of the outputs that were looked at holds the first. */
export class FiniteChecks {
  private flag: Tensor | null = null;
  private readonly labels: string[] = [];

  constructor(private readonly gpu: Gpu) {}

  /** Remembers whether `x`, float32, holds NaN or infinity, to be told by `report`. */
  add(x: Tensor, op: string): void {
    const { gpu } = this;
    if (!this.flag) {
      this.flag = gpu.keep(gpu.empty([1], "uint32"));
      this.flag.fill(NONE);
    }
    const ticket = this.labels.push(`${op} (output ${x.shape.join("×")})`) - 1;
    const bindings = { flag: this.flag, words: x, check: { words: x.size, ticket } };
    gpu.dispatch(
      { shader: shaders.memory, entry: "check_finite" },
      bindings,
      memoryGrid(x.size),
      "check_finite",
    );
  }

  /** @throws NonFiniteError that names the first op whose output was not finite since the last report */
  async report(): Promise<void> {
    if (!this.flag || this.labels.length === 0) return;
    const { storage, byteOffset } = this.flag.range;
    const labels = this.labels.splice(0);
    const [first] = new Uint32Array(await this.gpu.commands.read(storage.buffer, byteOffset, 4));
    if (first! >= labels.length) return;
    this.flag.fill(NONE);
    throw new NonFiniteError(
      `${labels[first!]}: the output holds NaN or infinity; it is the first such output since the last sync`,
    );
  }
}
