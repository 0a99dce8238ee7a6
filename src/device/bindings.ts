// What a kernel binds: given by name, or as a list in the order of the shader's `@binding`s.

import { ShapeError, UsageError, UseAfterDisposeError } from "../errors.ts";
import { isPlain, nearest, show } from "../options.ts";
import { type BufferRange, Storage } from "./buffers.ts";
import { type BindingsByName, type Kernel, type Shader, slotsOf } from "./kernels.ts";
import type { Slot } from "./reflect.ts";
import { pack, type UniformFields } from "./uniforms.ts";

/** Stands on the prototype of what is `Bindable`. */
export const BINDABLE = Symbol("fusenorm.Bindable");

/** Whose buffers a kernel may bind. */
interface DeviceOwner {
  readonly device: GPUDevice;
}

/** Elements on a GPU, as far as a dispatch has to know them. */
export interface Bindable {
  readonly [BINDABLE]: true;
  /** Whose device they are on. */
  readonly gpu: unknown;
  /** Where they are in memory; those that are not yet are worked out for it. */
  readonly range: BufferRange;
  /** @internal To be called before a kernel overwrites them. */
  overwrite(): unknown;
}

export function isBindable(value: unknown): value is Bindable {
  return (value as Partial<Bindable> | null | undefined)?.[BINDABLE] === true;
}

/** What stands at one `@binding` in a list of them: null leaves its number out. */
export type Binding = Bindable | BufferRange | ArrayBuffer | ArrayBufferView | null;

/** What a shader's binding of some name takes: a buffer, or a uniform by its fields or its bytes. */
export type NamedBinding = Bindable | BufferRange | ArrayBuffer | ArrayBufferView | UniformFields;

/** What a kernel binds, whatever it is. */
export type NamedBindings = Readonly<Record<string, NamedBinding>>;

/** By name, typed by what the entry point of a module of the package declares. */
export type BindingsOf<S extends Shader, E extends string> = BindingsByName<
  S,
  E,
  Bindable | BufferRange,
  NamedBinding
>;

/** What a kernel binds: by name, or as a list in the order of the shader's `@binding`s. */
export type Bindings<S extends Shader = Shader, E extends string = string> =
  | BindingsOf<S, E>
  | readonly Binding[];

type KernelSource = Pick<Kernel, "module" | "entry">;

/** What a kernel's slots are bound to, in their order. */
export interface Bound {
  readonly slots: readonly Slot[];
  readonly values: readonly NamedBinding[];
}

/** What is bound by name; names that the kernel does not bind are left alone. @throws UsageError for one that is missing */
export function bound(source: KernelSource, bindings: NamedBindings): Bound {
  const slots = slotsOf(source);
  const values: NamedBinding[] = [];
  for (const slot of slots) values.push(boundTo(source, slot, bindings));
  return { slots, values };
}

/** What `bindings` has for `slot`, perhaps under another name of the same binding. */
function boundTo({ module, entry }: KernelSource, slot: Slot, bindings: NamedBindings): NamedBinding {
  const value = bindings[slot.name];
  if (value !== undefined && value !== null) return value;
  const alias = slot.aliases.find((name) => bindings[name] !== undefined);
  if (alias !== undefined) return bindings[alias]!;
  const names = module.slotsOf(entry)!.map(({ name }) => name);
  throw new UsageError(
    `gpu.run: ${module.name}.${entry}: binding ${slot.name} is ${value}, among ${Object.keys(bindings).join(", ")}; expected ` +
      `${names.join(", ")}`,
  );
}

/** The same of what a user gave. @throws UsageError, ShapeError for what can't be bound, is missing or not known */
export function checkedNames(gpu: DeviceOwner, source: KernelSource, bindings: NamedBindings): Bound {
  if (!isPlain(bindings)) {
    throw new UsageError(
      `gpu.run: bindings is ${show(bindings)}; expected an object of tensors and constants by name, or a list of them`,
    );
  }
  const all = bound(source, bindings);
  all.slots.forEach((slot, i) => void checkValue(gpu, slot, all.values[i]));
  for (const name in bindings) {
    if (all.slots.some((slot) => slot.name === name || slot.aliases.includes(name))) continue;
    const names = all.slots.map((slot) => slot.name);
    const near = nearest(name, names);
    throw new UsageError(
      `gpu.run: ${source.module.name}.${source.entry} has no binding ${name}${near ? `; did you mean ${near}?` : ""}; ` +
        `expected ${names.join(", ")}`,
    );
  }
  return all;
}

function checkValue(gpu: DeviceOwner, { name, access, layout }: Slot, value: unknown): void {
  const what = `binding ${name}`;
  if (access !== "uniform") checkBuffer(gpu, what, value, "a Tensor or a range");
  else if (value instanceof ArrayBuffer || ArrayBuffer.isView(value)) return;
  else if (!layout) {
    throw new UsageError(`gpu.run: ${what} is ${show(value)}; expected an ArrayBuffer or view of its bytes`);
  } else if (!isPlain(value)) {
    throw new UsageError(
      `gpu.run: ${what} is ${show(value)}; expected an object of numbers by field, or bytes`,
    );
  } else pack(`gpu.run: ${what}`, layout, value as UniformFields, true);
}

/** What a user's list binds. @throws ShapeError for what can't be bound */
export function checkedList(gpu: DeviceOwner, source: KernelSource, bindings: readonly Binding[]): Bound {
  const known = source.module.slotsOf(source.entry) ?? [];
  const slots: Slot[] = [];
  const values: NamedBinding[] = [];
  bindings.forEach((value, binding) => {
    if (value === null) return;
    if (!(value instanceof ArrayBuffer || ArrayBuffer.isView(value))) {
      const expected = "a Tensor, a range, an ArrayBuffer or view of constants, or null";
      checkBuffer(gpu, `binding ${binding}`, value, expected);
    }
    const slot = known.find((one) => one.binding === binding);
    slots.push(slot ?? { name: `${binding}`, aliases: [], binding, access: "read", layout: null });
    values.push(value);
  });
  return { slots, values };
}

function checkBuffer(gpu: DeviceOwner, name: string, value: unknown, expected: string): void {
  if (isBindable(value)) {
    if (value.gpu === gpu) return;
    throw new ShapeError(`gpu.run: ${name} is a Tensor of another Gpu; expected one of this Gpu`);
  }
  const { storage, byteOffset, byteLength } = (value ?? {}) as Partial<BufferRange>;
  if (!(storage instanceof Storage)) {
    throw new ShapeError(`gpu.run: ${name} is ${show(value)}; expected ${expected}`);
  }
  if (storage.pool && storage.pool.device !== gpu.device) {
    throw new ShapeError(`gpu.run: ${name} is a range of another Gpu; expected one of this Gpu`);
  }
  if (!storage.live) {
    throw new UseAfterDisposeError(
      `gpu.run: ${name} is a range of a tensor that was disposed; take \`tensor.range\` while it is in use`,
    );
  }
  const isWithin = (at: unknown, end: number) => Number.isInteger(at) && Number(at) >= 0 && Number(at) <= end;
  if (!isWithin(byteOffset, storage.byteLength) || !isWithin(byteLength, storage.byteLength - byteOffset!)) {
    throw new ShapeError(
      `gpu.run: ${name} is the range of ${show(byteLength)} bytes from ${show(byteOffset)} on; expected one within its buffer of ` +
        `${storage.byteLength} bytes`,
    );
  }
}
