// Parameters and their gradients side by side, so that one dispatch goes over all of them; docs/design/0001-core.md says why.

import { BINDING_ALIGNMENT, type BufferRange } from "../device/buffers.ts";
import { UsageError } from "../errors.ts";
import type { Gpu } from "../gpu.ts";
import { show } from "../options.ts";
import { formatShape, sameShape } from "../tensor/shape.ts";
import { Tensor } from "../tensor/tensor.ts";

/** Parameters start where a binding may. Between two such places lies a block. */
export const BLOCK_BYTES = BINDING_ALIGNMENT;
const BLOCK_ELEMENTS = BLOCK_BYTES / 4;
/** In the table of blocks, the lower bits of a word are the number of elements, the others that of the parameter. */
const COUNT_BITS = 7;

/** One parameter's place in the packed buffers. */
export interface Slot {
  readonly packed: Packed;
  readonly index: number;
  readonly parameter: Tensor;
  readonly gradient: Tensor;
  readonly byteOffset: number;
  readonly byteEnd: number;
}

/** Where the gradients of some parameters lie: of neighbours, in their slots; or of one parameter anywhere. */
export interface GradientRun {
  /** Empty for a parameter that is not packed. */
  readonly slots: Slot[];
  /** The gradient of the only parameter, if it is not in its slot. */
  readonly grad: Tensor | null;
}

const slotOf = new WeakMap<Tensor, Slot>();

/** The place of a parameter, if it is packed. */
export function placeOf(parameter: Tensor): Slot | null {
  return slotOf.get(parameter) ?? null;
}

/** Parameters in one buffer, the tensors stay the same handles; and their gradients in another of the same layout. */
export class Packed {
  readonly gpu: Gpu;
  readonly values: Tensor;
  readonly gradients: Tensor;
  /** By block: which parameter it belongs to, and how many of its elements are that parameter's; see shaders/lib/blocks.wgsl. */
  readonly blocks: Tensor;
  readonly slots: readonly Slot[];

  constructor(
    private readonly op: string,
    parameters: readonly Tensor[],
  ) {
    const { gpu } = parameters[0]!;
    this.gpu = gpu;
    const counts = parameters.map(({ byteLength }) => Math.ceil(byteLength / BLOCK_BYTES));
    const total = counts.reduce((sum, count) => sum + count, 0);
    this.values = this.newBuffer(total);
    this.gradients = this.newBuffer(total);
    const table = new Uint32Array(total);
    let block = 0;
    this.slots = parameters.map((parameter, index) => {
      const byteOffset = block * BLOCK_BYTES;
      for (let i = 0; i < counts[index]!; i += 1) {
        const count = Math.min(BLOCK_ELEMENTS, parameter.size - i * BLOCK_ELEMENTS);
        table[block + i] = (index << COUNT_BITS) | count;
      }
      block += counts[index]!;
      parameter.moveTo(this.values, byteOffset);
      parameter.gradSlot?.dispose();
      parameter.gradSlot = this.gradients.part(byteOffset, parameter.shape);
      const byteEnd = block * BLOCK_BYTES;
      const slot: Slot = {
        ...{ packed: this, index, parameter, gradient: parameter.gradSlot },
        ...{ byteOffset, byteEnd },
      };
      slotOf.set(parameter, slot);
      return slot;
    });
    this.blocks = gpu.keep(gpu.tensor(table, [total], { dtype: "uint32" }));
  }

  /** A buffer of the same layout, of zeros. */
  newState(): Tensor {
    return this.newBuffer(this.blocks.size);
  }

  private newBuffer(blocks: number): Tensor {
    return this.gpu.keep(this.gpu.zeros([blocks * BLOCK_ELEMENTS]));
  }

  /** @throws UsageError if a parameter has gone to another optimizer, which has it in a buffer of its own. */
  check(): void {
    const { storage } = this.values.range;
    for (const { parameter } of this.slots) {
      if (parameter.range.storage !== storage) {
        throw new UsageError(
          `${this.op}: a parameter of shape ${formatShape(parameter.shape)} was taken over by another optimizer; give each parameter to one`,
        );
      }
    }
  }

  /** Gives the gradients back; the parameters live on. */
  dispose(): void {
    for (const slot of this.slots) {
      const { parameter, gradient } = slot;
      parameter.zeroGrad();
      if (parameter.gradSlot === gradient) parameter.gradSlot = null;
      if (slotOf.get(parameter) === slot) slotOf.delete(parameter);
      gradient.dispose();
    }
    for (const tensor of [this.values, this.gradients, this.blocks]) tensor.dispose();
  }
}

/** The part of a packed buffer that belongs to neighbours. */
export function rangeOf(packed: Tensor, slots: readonly Slot[]): BufferRange {
  const [byteOffset, byteEnd] = [slots[0]!.byteOffset, slots.at(-1)!.byteEnd];
  return { ...packed.range, byteOffset, byteLength: byteEnd - byteOffset };
}

/**
 * The gradients of those parameters that have one, in as few runs as can be.
 * @throws UsageError for a gradient of another type or shape than its parameter's
 */
export function gradientRuns(op: string, parameters: Iterable<Tensor>): GradientRun[] {
  const runs: GradientRun[] = [];
  const packed: Slot[] = [];
  for (const parameter of parameters) {
    const { grad } = parameter;
    if (!grad) continue;
    if (grad.dtype !== "float32" || !sameShape(grad.shape, parameter.shape)) {
      throw new UsageError(
        `${op}: a gradient is ${formatShape(grad.shape)} of ${grad.dtype}, its parameter ${formatShape(parameter.shape)} of ${parameter.dtype}; ` +
          "expected the same shape, and float32",
      );
    }
    const slot = placeOf(parameter);
    if (slot) packed.push(slot);
    else runs.push({ slots: [], grad });
  }
  for (const slot of inOrder(packed)) {
    const { gradient, parameter } = slot;
    const grad = parameter.grad!;
    const inSlot =
      grad.range.storage === gradient.range.storage && grad.range.byteOffset === gradient.range.byteOffset;
    const last = runs.at(-1);
    if (inSlot && last && !last.grad && areNeighbours(last.slots.at(-1), slot)) last.slots.push(slot);
    else runs.push({ slots: [slot], grad: inSlot ? null : grad });
  }
  return runs;
}

/** By the order in the packed buffer; those of one optimizer together. */
export function inOrder(slots: readonly Slot[]): Slot[] {
  const all = [...new Set(slots.map(({ packed }) => packed))];
  return [...slots].sort((a, b) => all.indexOf(a.packed) - all.indexOf(b.packed) || a.index - b.index);
}

export function areNeighbours(a: Slot | undefined, b: Slot): boolean {
  return a?.packed === b.packed && a.index + 1 === b.index;
}

/** `Size` of shaders/lib/blocks.wgsl, for `gridOf` so many vec4s. */
export function walkOf(gpu: Gpu, vec4s: number, first_block: number) {
  // A processor's SIMD lanes load from memory one after the other: a run of neighbours for each is three times as fast there.
  const run = gpu.isSoftware ? Math.ceil(vec4s / (64 * gridOf(gpu, vec4s)[0])) : 0;
  return { vec4s, first_block, run };
}

/** Workgroups of 64 for a loop over so many vec4s. */
export function gridOf(gpu: Gpu, vec4s: number): readonly [number] {
  return [Math.max(1, Math.min(gpu.isSoftware ? 16 : 2048, Math.ceil(vec4s / 64)))];
}

/** @throws UsageError unless `parameters` is a list */
export function checkIterable(op: string, parameters: unknown): asserts parameters is Iterable<unknown> {
  if (typeof parameters !== "object" || typeof (parameters as never)?.[Symbol.iterator] !== "function") {
    throw new UsageError(
      `${op}: parameters is ${show(parameters)}; expected a list of tensors, as module.parameters() gives`,
    );
  }
}

/** @throws UsageError unless a float32 leaf with requiresGrad, on the Gpu of `first` */
export function checkParameter(
  op: string,
  i: number,
  parameter: unknown,
  first: unknown,
): asserts parameter is Tensor {
  const refuse = (is: string): never => {
    throw new UsageError(
      `${op}: parameter ${i} ${is}; expected float32 leaves with requiresGrad, all on one Gpu`,
    );
  };
  if (!(parameter instanceof Tensor)) return refuse(`is ${show(parameter)}, no Tensor`);
  const what = `of shape ${formatShape(parameter.shape)}`;
  if (parameter.isDisposed) refuse(`${what} was disposed`);
  if (parameter.node) refuse(`${what} is the result of an op`);
  if (!parameter.requiresGrad) refuse(`${what} is without requiresGrad`);
  if (parameter.dtype !== "float32") refuse(`${what} is ${parameter.dtype}`);
  if (parameter.gpu !== (first as Tensor).gpu) refuse(`${what} is on another Gpu than parameter 0`);
}
