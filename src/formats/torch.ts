// A model's tensors by the names and in the layouts of PyTorch.

import { ShapeError } from "../errors.ts";
import { Sequential } from "../nn/layers.ts";
import { Module, refuseDecoded, type StateDict } from "../nn/module.ts";
import { fieldsOf } from "../nn/module-state.ts";
import { checkInstance, checkOptions, isPlain, optionNames, show } from "../options.ts";
import { isTensor } from "../tensor/brand.ts";
import { isGenerator } from "../tensor/generator.ts";
import { type Shape, sizeOf } from "../tensor/shape.ts";
import type { Tensor } from "../tensor/tensor.ts";

/** Options of `fromTorch` and `torchStateDict`. */
export interface TorchOptions {
  /**
   * Linear layers whose input is flattened maps, by PyTorch's name, with the [height, width] of these: their columns are in the order
   * C, H, W there, and H, W, C here. `{ "classifier.0": [7, 7] }` for `vgg16`. Default {}.
   */
  flattened?: Record<string, readonly [number, number]>;
}

const OPTIONS = optionNames<TorchOptions>({ flattened: 0 });

/** One tensor of a model: its name here, its name there, and how its axes are there. */
export interface Named {
  ours: string;
  theirs: string;
  tensor: Tensor;
  /** Sizes of the axes there, and which axis of those each of ours is; null where the orders are equal. */
  there: { shape: Shape; order: readonly number[] } | null;
}

/** A model's tensors and what PyTorch makes of them. */
export function named(op: string, model: Module, options: TorchOptions): Iterable<Named> {
  return namedBy(model, checked(op, model, options));
}

function* namedBy(model: Module, flattened: Record<string, readonly [number, number]>): Iterable<Named> {
  function* walk(module: Module, ours: string, theirs: string): Iterable<Named> {
    for (const [field, tensor] of fieldsOf(module)) {
      if (!isTensor(tensor)) continue;
      const snake = field.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
      const [height, width] = field === "weight" ? (flattened[theirs] ?? []) : [];
      yield {
        ...{ ours: joined(ours, field), theirs: joined(theirs, snake), tensor },
        there: axesThere(joined(theirs, snake), tensor.shape, height, width),
      };
    }
    for (const [name, child] of module.children()) {
      const number = module instanceof Sequential ? name.replace(/^layers\./, "") : name;
      yield* walk(child, joined(ours, name), joined(theirs, number));
    }
  }
  yield* walk(model, "", "");
}

const joined = (prefix: string, name: string) => (prefix ? `${prefix}.${name}` : name);

/** Filters are [K, R, S, C] here, [K, C, R, S] there. */
function axesThere(name: string, shape: Shape, height?: number, width?: number): Named["there"] {
  if (shape.length === 4) {
    const [k, r, s, c] = shape as [number, number, number, number];
    return { shape: [k, c, r, s], order: [0, 2, 3, 1] };
  }
  if (height === undefined || width === undefined) return null;
  const [out, columns] = shape;
  if (shape.length !== 2 || columns! % (height * width) !== 0) {
    throw new ShapeError(
      `torch: ${name} is ${show(shape)}, flattened says maps of ${height}×${width}; expected a linear layer whose inputs are a multiple of ${height * width}`,
    );
  }
  return { shape: [out!, columns! / (height * width), height, width], order: [0, 2, 3, 1] };
}

/** The elements with axes in another order: axis i of the result is axis `order[i]` of `data`. */
function permuted<T extends StateDict[string]["data"]>(data: T, shape: Shape, order: readonly number[]): T {
  const strides = shape.map((_, axis) => sizeOf(shape.slice(axis + 1)));
  const sizes = order.map((axis) => shape[axis]!);
  const steps = order.map((axis) => strides[axis]!);
  const out = data.slice() as T;
  const [a, b, c, d] = sizes as [number, number, number, number];
  let at = 0;
  for (let i = 0; i < a; i += 1) {
    for (let j = 0; j < b; j += 1) {
      for (let k = 0; k < c; k += 1) {
        const from = i * steps[0]! + j * steps[1]! + k * steps[2]!;
        for (let l = 0; l < d; l += 1) out[at++] = data[from + l * steps[3]!]!;
      }
    }
  }
  return out;
}

/** The order that undoes `order`. */
const inverse = (order: readonly number[]) => order.map((_, axis) => order.indexOf(axis));

/** Elements of a tensor here in the order that they have there. */
export function dataThere<T extends StateDict[string]["data"]>(data: T, there: Named["there"]): T {
  if (!there) return data;
  const here = there.order.map((axis) => there.shape[axis]!);
  return permuted(data, here, inverse(there.order));
}

function checked(
  op: string,
  model: Module,
  options: TorchOptions,
): Record<string, readonly [number, number]> {
  checkInstance(op, "model", model, Module);
  checkOptions(op, options, OPTIONS);
  const { flattened = {} } = options;
  const isSize = (value: unknown) => Number.isSafeInteger(value) && (value as number) >= 1;
  const isPair = (value: unknown) => Array.isArray(value) && value.length === 2 && value.every(isSize);
  if (!isPlain(flattened) || !Object.values(flattened).every(isPair)) {
    throw new ShapeError(
      `${op}: flattened is ${show(flattened)}; expected [height, width] by the name of a linear layer`,
    );
  }
  return flattened;
}

/**
 * A state dictionary of PyTorch as one of `model`: names (`running_mean` → `runningMean`, `0.weight` → `layers.0.weight` in a
 * `Sequential`), filters from [K, C, R, S] to [K, R, S, C], scalars and integers as the model has them. What the model has no
 * place for stays as it is, for `loadStateDict` to report:
 *
 * ```ts
 * const { tensors } = decodeSafetensors(bytes, "resnet18.safetensors");
 * const report = model.loadStateDict(fromTorch(model, tensors), { strict: false });
 * ```
 */
export function fromTorch(model: Module, state: StateDict, options: TorchOptions = {}): StateDict {
  const tensors = named("fromTorch", model, options);
  if (!isPlain(state)) {
    throw new ShapeError(`fromTorch: state is ${show(state)}; expected { shape, dtype, data } by name`);
  }
  refuseDecoded("fromTorch", state);
  const { ...rest } = state;
  const result: StateDict = {};
  for (const { ours, theirs, tensor, there } of tensors) {
    if (!Object.hasOwn(state, theirs)) continue;
    delete rest[theirs];
    result[ours] = converted(state[theirs]!, tensor, there);
  }
  return { ...rest, ...result };
}

function converted(state: StateDict[string], tensor: Tensor, there: Named["there"]): StateDict[string] {
  let { shape, dtype, data } = state;
  if (!Array.isArray(shape) || !ArrayBuffer.isView(data)) return state; // for loadStateDict to refuse
  const isFilter = there && shape.length === 4;
  if (there && sizeOf(shape) === data.length && (isFilter || sizeOf(shape) === tensor.size)) {
    data = permuted(data, isFilter ? shape : there.shape, there.order);
    shape = isFilter ? there.order.map((axis) => shape[axis]!) : tensor.shape;
  }
  if (sizeOf(shape) === 1 && tensor.size === 1) shape = tensor.shape;
  if (tensor.dtype === "float32" && (dtype === "uint32" || dtype === "uint8")) {
    [dtype, data] = ["float32", Float32Array.from(data)];
  }
  return { shape, dtype, data };
}

/**
 * A model's tensors by PyTorch's names, in its layouts: what `fromTorch` makes of it is `model.stateDict()`. To be loaded by
 * `load_state_dict`, save it with `encodeSafetensors`. Counts of batches are floats, which PyTorch takes. Dropout's generators, of
 * which it has none, are left out.
 */
export async function torchStateDict(model: Module, options: TorchOptions = {}): Promise<StateDict> {
  const state: StateDict = {};
  for (const { theirs, tensor, there } of named("torchStateDict", model, options)) {
    if (isGenerator(tensor)) continue;
    const data = await tensor.read();
    const isCount = theirs.endsWith("num_batches_tracked");
    state[theirs] = {
      shape: isCount ? [] : there && tensor.rank === 4 ? there.shape : tensor.shape,
      dtype: tensor.dtype,
      data: dataThere(data, there),
    };
  }
  return state;
}
