import { ShapeError } from "../errors.ts";
import type { Gpu } from "../gpu.ts";
import { showByToString } from "../inspect.ts";
import { checkFlag, checkFunction, checkOptions, isPlain, optionNames, show } from "../options.ts";
import { ANY, checkTensor } from "../tensor/check.ts";
import type { DType } from "../tensor/dtype.ts";
import { isGenerator } from "../tensor/generator.ts";
import { formatShape, type Shape, sameShape } from "../tensor/shape.ts";
import { Tensor, type TensorData } from "../tensor/tensor.ts";
import type { BatchNorm2d, Conv2d, ConvTranspose2d, Linear } from "./layers.ts";
import { type Forward, fieldsOf, setFrozen, wrapForward } from "./module-state.ts";
import { type Summary, summarize } from "./summary.ts";

/** Named tensors on the host: what checkpoints hold. */
export type StateDict = Record<string, { shape: Shape; dtype: DType; data: TensorData }>;

/** Options of `Module.loadStateDict`. */
export interface LoadOptions {
  /** Refuse a state whose names, shapes or types are not all those of this network. Default true. */
  strict?: boolean;
}

/** What `loadStateDict` left out; nothing if it was strict. */
export interface LoadReport {
  /** Tensors of the network that the state does not have. */
  missing: string[];
  /** Names in the state that the network does not have. */
  unexpected: string[];
  /** Tensors of another shape or type in the state, and what is wrong. */
  mismatched: { name: string; why: string }[];
  /** Where the state seems to be that of this network with its batch-norms folded, or not folded: what to do. */
  hint?: string;
}

const LOAD_OPTIONS = optionNames<LoadOptions>({ strict: 0 });

/** A layer whose output goes to a norm, and nowhere else. */
export interface NormedLayer {
  layer: Conv2d | ConvTranspose2d | Linear;
  norm: BatchNorm2d;
  /** Leaves the norm out of the module that has it. */
  remove(): void;
}

/** Gets a module, what its forward got and what it gave; see `Module.registerForwardHook`. */
export type ForwardHook = (module: Module, input: Tensor, output: Tensor) => Tensor | undefined;

/**
 * A layer, or a network of layers. Fields that are tensors are its parameters (those that require gradients) and
 * buffers (the others); fields that are modules are its children. Both may stand in arrays and plain objects, too. Names in
 * `stateDict` are the fields' names joined by dots, as in PyTorch: `blocks.0.weight`, `heads.left.bias`.
 */
export abstract class Module {
  /** Batch statistics in batch-norm when true; running statistics when false. See `train` and `eval`. */
  training = true;

  /**
   * Where this layer is in its network (`blocks.3.first.conv`), for profiles. Networks of this package set it when they are made, others
   * when they are asked for their parameters or get a mode.
   */
  path = "";

  constructor() {
    showByToString(this);
  }

  /** The output for an input; recorded for `backward` unless `noGrad` is around it. */
  abstract forward(x: Tensor): Tensor;

  /** Runs a forward whose kernels, and those of its backward, are listed under this layer's path. */
  protected under(x: Tensor, fn: () => Tensor): Tensor {
    checkTensor(this.constructor.name, "x", x, { dtypes: ANY });
    const { gpu } = x;
    const outer = gpu.layer;
    gpu.layer = this.path || outer;
    try {
      return fn();
    } finally {
      gpu.layer = outer;
    }
  }

  /** Gives every layer below this one its path. */
  protected namePaths(): void {
    for (const [path, module] of this.modules()) module.path = path;
  }

  /** Children by field name, in order of declaration. */
  *children(): Iterable<[string, Module]> {
    for (const [name, value] of fieldsOf(this)) if (value instanceof Module) yield [name, value];
  }

  /** This module and all below it, with their names (`""` for this one). */
  *modules(prefix = ""): Iterable<[string, Module]> {
    yield [prefix, this];
    for (const [name, child] of this.children()) yield* child.modules(prefix ? `${prefix}.${name}` : name);
  }

  /** Every tensor of this module and those below it: parameters and buffers. */
  *tensors(): Iterable<[string, Tensor]> {
    for (const [path, module] of this.modules()) {
      for (const [name, value] of fieldsOf(module)) {
        if (value instanceof Tensor) yield [path ? `${path}.${name}` : name, value];
      }
    }
  }

  /** The parameters that are not frozen, each with its name (`blocks.3.first.conv.weight`); one that is shared, with the first. */
  namedParameters(): [string, Tensor][] {
    nameNewPaths(this);
    const names = new Map<Tensor, string>();
    for (const [name, tensor] of this.tensors()) {
      if (tensor.requiresGrad && !names.has(tensor)) names.set(tensor, name);
    }
    return [...names].map(([tensor, name]) => [name, tensor]);
  }

  /** The parameters that are not frozen: what an optimizer takes. */
  parameters(): Tensor[] {
    return this.namedParameters().map(([, tensor]) => tensor);
  }

  /** Sets the mode of this module and all below it. */
  train(mode = true): this {
    checkFlag("train", "mode", mode);
    nameNewPaths(this);
    for (const [, module] of this.modules()) module.training = mode;
    return this;
  }

  /** Inference mode: batch-norm normalises by its running statistics. */
  eval(): this {
    return this.train(false);
  }

  /**
   * Freezes all parameters of this module and those below it: they get no gradients any more, and `parameters()` leaves them
   * out. Running statistics move on in training: `eval()` stops these. `freeze(false)` undoes it.
   */
  freeze(frozen = true): this {
    checkFlag("freeze", "frozen", frozen);
    for (const [, tensor] of this.tensors()) setFrozen(tensor, frozen);
    return this;
  }

  /** Calls `fn` with each module below this one, children before their parents, and last with this one; as PyTorch's `apply`. */
  apply(fn: (module: Module) => void): this {
    checkFunction("apply", "fn", fn);
    for (const [, child] of this.children()) child.apply(fn);
    fn(this);
    return this;
  }

  /**
   * Calls `hook(module, input, output)` each time that this module's forward has run, as in PyTorch. If the hook returns a
   * tensor, that takes the output's place, and the output is given back. Networks give intermediate results back as soon as they
   * can: `gpu.keep(output.alias())` holds on to one. A batch-norm's output is that with the residual and the activation that it does
   * in the same pass; in a `Sequential` a hooked layer runs by itself.
   * @returns a function that removes the hook
   */
  registerForwardHook(hook: ForwardHook): () => void {
    checkFunction("registerForwardHook", "hook", hook);
    const around = (forward: Forward) => {
      return (x: Tensor, ...rest: unknown[]) => {
        const output = forward(x, ...rest);
        const result = hook(this, x, output) as unknown;
        if (result === undefined || result === output) return output;
        checkTensor("registerForwardHook", "what the hook returned", result, { dtypes: ANY });
        if (output !== x) output.dispose();
        return result;
      };
    };
    return wrapForward(this, around, { hook: true });
  }

  /**
   * What this network does with inputs of a shape: a step is run, without trace in parameters and running statistics. In training
   * mode forward and backward, in inference forward alone. `String(summary)` and `summary.table(columns)` are tables.
   */
  summary(shape: Shape): Summary {
    return summarize(this, shape);
  }

  /** @internal multiplications and additions of a forward between these shapes, for `summary`: those of products alone. */
  flop(_input: Shape, _output: Shape): number {
    return 0;
  }

  /** @internal the layers of this module, not of those below it, that `foldBatchNorm` may fold a norm into. */
  normedLayers(): Iterable<NormedLayer> {
    return [];
  }

  /** The layers, each with its name and the shapes of its parameters, as a tree: what `console.log` shows in Node. `summary(shape)` tells more. */
  toString(): string {
    const own = [...fieldsOf(this)].filter(
      (field): field is [string, Tensor] => field[1] instanceof Tensor && field[1].requiresGrad,
    );
    const head = `${this.constructor.name}(${own.map(([name, { shape }]) => `${name} ${formatShape(shape)}`).join(", ")}`;
    const below = [...this.children()].map(([name, child]) =>
      `\n(${name}): ${child}`.replaceAll("\n", "\n  "),
    );
    return `${head}${below.join("")}${below.length > 0 ? "\n" : ""})`;
  }

  /** Drops the gradients of all parameters. */
  zeroGrad(): void {
    for (const [, tensor] of this.tensors()) if (tensor.requiresGrad) tensor.zeroGrad();
  }

  /** Parameters and buffers, read back to the host. */
  async stateDict(): Promise<StateDict> {
    const state: StateDict = {};
    for (const [name, tensor] of this.tensors()) {
      state[name] = { shape: tensor.shape, dtype: tensor.dtype, data: await tensor.read() };
    }
    return state;
  }

  /**
   * Overwrites parameters and buffers. Generators of random numbers that the state does not have, as PyTorch's have none, go on as
   * they are. With `strict: false` those that the state has and that fit, and it tells what was left out.
   * @throws ShapeError before anything is written, if names, shapes or types differ and it is strict
   */
  loadStateDict(state: StateDict, options: LoadOptions = {}): LoadReport {
    checkOptions("loadStateDict", options, LOAD_OPTIONS);
    const { strict = true } = options;
    checkFlag("loadStateDict", "strict", strict);
    if (strict) this.checkStateDict(state);
    else checkIsState(state);
    const report: LoadReport = { missing: [], unexpected: [], mismatched: [] };
    const own = new Map(this.tensors());
    for (const name of Object.keys(state)) if (!own.has(name)) report.unexpected.push(name);
    for (const [name, tensor] of own) {
      if (!Object.hasOwn(state, name)) {
        if (!isGenerator(tensor)) report.missing.push(name);
        continue;
      }
      try {
        checkState("loadStateDict", name, state[name], tensor);
      } catch (error) {
        if (!(error instanceof ShapeError)) throw error;
        report.mismatched.push({ name, why: error.message });
        continue;
      }
      tensor.write(state[name]!.data);
    }
    const hint = foldingHint(this, report.missing, report.unexpected);
    return hint === null ? report : { ...report, hint };
  }

  /** What `loadStateDict` checks. @throws ShapeError */
  checkStateDict(state: StateDict): void {
    checkIsState(state);
    const own = new Map(this.tensors());
    for (const [name, tensor] of own)
      if (isGenerator(tensor) && !Object.hasOwn(state, name)) own.delete(name);
    const missing = [...own.keys()].filter((name) => !Object.hasOwn(state, name));
    const unknown = Object.keys(state).filter((name) => !own.has(name));
    if (missing.length > 0 || unknown.length > 0) {
      // Names of PyTorch's buffers are in snake case, ours in camel case; a Sequential's layers are bare numbers there.
      const theirs = unknown.some((name) => /running_|num_batches_|^\d+\.|weight_g$/.test(name));
      throw new ShapeError(
        `loadStateDict: missing ${list(missing)}, unexpected ${list(unknown)}; expected the state of the same network` +
          (theirs
            ? ", by names of its own: fromTorch(model, state) makes them of PyTorch's"
            : printed(this, missing, unknown)),
      );
    }
    for (const [name, tensor] of own) {
      checkState("loadStateDict", name, state[name], tensor);
    }
  }

  /** Frees parameters, their gradients, and buffers. */
  dispose(): void {
    for (const [, tensor] of this.tensors()) tensor.dispose();
  }
}

/** As `namePaths`, for networks whose constructors don't; a layer that a larger network has named keeps that name. */
function nameNewPaths(network: Module): void {
  for (const [path, module] of network.modules()) {
    if (path.length > module.path.length) module.path = path;
  }
}

function checkIsState(state: unknown): void {
  if (!isPlain(state)) {
    throw new ShapeError(
      `loadStateDict: state is ${show(state)}; expected an object of { shape, dtype, data } by name, as stateDict() gives it`,
    );
  }
  refuseDecoded("loadStateDict", state);
}

/** @throws ShapeError for all that a file holds, of which the state is a part */
export function refuseDecoded(op: string, state: object): void {
  const { tensors } = state as { tensors?: unknown };
  if (!isPlain(tensors) || "data" in tensors) return;
  throw new ShapeError(
    `${op}: state is { tensors, … }, all that a file holds; expected its tensors alone: state.tensors`,
  );
}

/** @throws ShapeError unless the state can be written to `tensor`. */
export function checkState(op: string, name: string, state: unknown, tensor: Tensor): void {
  const { shape, dtype, data } = (isPlain(state) ? state : {}) as Partial<StateDict[string]>;
  if (!Array.isArray(shape) || dtype === undefined || data === undefined) {
    throw new ShapeError(`${op}: ${name} is ${show(state)} in the state; expected { shape, dtype, data }`);
  }
  if (!sameShape(tensor.shape, shape)) {
    throw new ShapeError(
      `${op}: ${name} is ${formatShape(shape)} in the state, ${formatShape(tensor.shape)} here; expected equal shapes` +
        (isOihw(shape, tensor.shape) ? ": fromTorch(model, state) turns PyTorch's [K, C, R, S]" : ""),
    );
  }
  if (dtype !== tensor.dtype) {
    throw new ShapeError(
      `${op}: ${name} is ${show(dtype)} in the state, ${tensor.dtype} here; expected the same type`,
    );
  }
  tensor.checkData(op, data, `${name}'s data`);
}

/** Whether a filter's shape is that of another program, whose axes are in another order. */
function isOihw(theirs: Shape, [k, r, s, c, ...rest]: Shape): boolean {
  return rest.length === 0 && theirs.length === 4 && sameShape(theirs, [k!, c!, r!, s!]);
}

/** A tensor that a module owns: outside of every scope. */
export function parameter(gpu: Gpu, data: Float32Array, shape: Shape): Tensor {
  return gpu.keep(gpu.tensor(data, shape, { requiresGrad: true }));
}

/**
 * What to do with a state that has a layer's weight and bias, but nothing of the batch-norm after it, or the other way round; null
 * for others.
 */
export function foldingHint(
  model: Module,
  missing: readonly string[],
  unexpected: readonly string[],
): string | null {
  const [lacking, more] = [new Set(missing), new Set(unexpected)];
  const names = new Map([...model.modules()].map(([name, module]) => [module, name]));
  for (const [, module] of model.modules()) {
    for (const { layer, norm } of module.normedLayers()) {
      const [before, at] = [names.get(layer)!, names.get(norm)!];
      const own = [...norm.tensors()].map(([name]) => `${at}.${name}`);
      const isThere =
        !lacking.has(`${before}.weight`) &&
        (!layer.bias ? more.has(`${before}.bias`) : !lacking.has(`${before}.bias`));
      if (!isThere || own.length === 0 || !own.every((name) => lacking.has(name))) continue;
      return (
        `the batch-norm ${at} is folded into ${before} there, or was never there: write the network without folding it (no --fold, no foldBatchNorm), ` +
        "or fold this one first, foldBatchNorm(model.eval()), which is for inference"
      );
    }
  }
  const norm = unexpected.find((name) => /\.running(Var|_var)$/.test(name));
  if (norm === undefined) return null;
  // What folding leaves: a bias that the layer did not have, or an empty place in a Sequential.
  const bare = (name: string) => name.replaceAll(/(^|\.)layers\./g, "$1");
  const place = bare(norm).replace(/\.[^.]+$/, "");
  const isFolded =
    missing.some((name) => name.endsWith(".bias")) ||
    [...names.values()].some((name) => bare(name) === place);
  return isFolded
    ? `this network's batch-norms seem to be folded, the state has ${norm}: load the state before foldBatchNorm(model)`
    : null;
}

const printed = (...of: Parameters<typeof foldingHint>) => {
  const hint = foldingHint(...of);
  return hint === null ? "" : `: ${hint}`;
};

function list(names: readonly string[]): string {
  if (names.length === 0) return "nothing";
  return names.length > 4 ? `${names.slice(0, 4).join(", ")} and ${names.length - 4} more` : names.join(", ");
}
