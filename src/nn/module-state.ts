// What modules and parameters have beside their fields: functions around a forward, and whether a parameter is frozen.

import { isPlain } from "../options.ts";
import { isTensor } from "../tensor/brand.ts";
import type { Tensor } from "../tensor/tensor.ts";
import type { Module } from "./module.ts";

export type Forward = (x: Tensor, ...rest: unknown[]) => Tensor;

interface Wrapper {
  around: (forward: Forward) => Forward;
  /** The user's: the module has to run by itself. */
  hook: boolean;
}

const wrappers = new WeakMap<Module, Wrapper[]>();

/** Runs `around(forward)` in place of a module's forward, the latest one outermost, until the function that it returns is called. */
export function wrapForward(module: Module, around: Wrapper["around"], { hook = false } = {}): () => void {
  const wrapper = { around, hook };
  let list = wrappers.get(module);
  if (list) list.push(wrapper);
  else {
    const all = [wrapper];
    list = all;
    wrappers.set(module, all);
    const own = Object.getOwnPropertyDescriptor(module, "forward");
    const forward = module.forward.bind(module) as Forward;
    // An own property hides the class's method until it is deleted.
    Object.defineProperty(module, "forward", {
      value: (...args: Parameters<Forward>) =>
        all.reduce((inner, { around: outer }) => outer(inner), forward)(...args),
      configurable: true,
      enumerable: false,
    });
    restores.set(all, () => {
      delete (module as { forward?: unknown }).forward;
      if (own) Object.defineProperty(module, "forward", own);
    });
  }
  const present = list;
  return () => {
    const at = present.indexOf(wrapper);
    if (at < 0) return;
    present.splice(at, 1);
    if (present.length > 0) return;
    restores.get(present)!();
    wrappers.delete(module);
  };
}

/** Puts the module's own forward back. */
const restores = new WeakMap<Wrapper[], () => void>();

/** Whether the user wants to see this module run. */
export function isHooked(module: Module): boolean {
  return wrappers.get(module)?.some(({ hook }) => hook) ?? false;
}

/**
 * Fields of a module that are objects, by name; in place of arrays and plain objects what is in them, by names joined by dots
 * (`blocks.0`, `heads.left`), as PyTorch's `ModuleList`, `ModuleDict` and `ParameterList` have it.
 */
export function fieldsOf(module: object): readonly (readonly [string, object])[] {
  const fields: [string, object][] = [];
  // Every step looks for parameters, so this is no generator.
  gather(fields, "", module, null);
  return fields;
}

function gather(fields: [string, object][], prefix: string, holder: object, seen: Set<object> | null): void {
  for (const key of Object.keys(holder)) {
    const value: unknown = (holder as Record<string, unknown>)[key];
    if (typeof value !== "object" || value === null) continue;
    const name = prefix + key;
    if (!(Array.isArray(value) || isPlain(value))) fields.push([name, value]);
    else if (!seen?.has(value)) gather(fields, `${name}.`, value, (seen ?? new Set()).add(value));
  }
}

/** What decides which kernels a step of a model dispatches, to be compared one by one: modes, settings, tensors, who is frozen, hooks. */
export function stepSettings(model: Module): unknown[] {
  const settings: unknown[] = [];
  for (const [, module] of model.modules()) {
    settings.push(module, ...(wrappers.get(module) ?? []));
    for (const value of Object.values(module)) if (typeof value !== "object") settings.push(value);
    for (const [, value] of fieldsOf(module)) if (isTensor(value)) settings.push(value, value.requiresGrad);
  }
  return settings;
}

const frozen = new WeakSet<Tensor>();

/** See `Module.freeze`. */
export function setFrozen(tensor: Tensor, freeze: boolean): void {
  if (freeze && tensor.requiresGrad) {
    frozen.add(tensor);
    tensor.requiresGrad = false;
    tensor.zeroGrad();
  } else if (!freeze && frozen.delete(tensor)) tensor.requiresGrad = true;
}

/** Whether a module's tensor is a parameter, frozen or not; else it is a buffer. */
export function isParameter(tensor: Tensor): boolean {
  return tensor.requiresGrad || frozen.has(tensor);
}
