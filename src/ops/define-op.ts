// The contract every op follows: shapes checked in one place, forward with backward right beneath it.

import {
  type Around,
  type Contribution,
  type Ending,
  type EndingKind,
  isMarking,
  isRecording,
  record,
  watcher,
} from "../autograd/tape.ts";
import type { Bindings, NamedBindings } from "../device/bindings.ts";
import type { Grid } from "../device/commands.ts";
import type { EntryOf, KernelSpec, Shader } from "../device/kernels.ts";
import { FusenormError, OverwrittenTensorError } from "../errors.ts";
import type { GradientSink, Partials } from "../fusion/ports.ts";
import type { Gpu } from "../gpu.ts";
import type { DType } from "../tensor/dtype.ts";
import type { Shape } from "../tensor/shape.ts";
import { Tensor } from "../tensor/tensor.ts";
import { traceOps, tracer } from "../tensor/trace.ts";
import { checksOf, publicNameOf } from "./op-checks.ts";

/** Symbolic shapes by input: `"N H W C"`; `"..."` for any rank; a final `?` marks an input that may be null. */
export type InputShapes = Record<string, string>;

type TensorOf<S extends string> = S extends `${string}?` ? Tensor | null : Tensor;
export type Inputs<I extends InputShapes> = { [K in keyof I]: TensorOf<I[K]> };
type ShapeOf<S extends string> = S extends `${string}?` ? Shape | null : Shape;
export type ShapesOf<I extends InputShapes> = { [K in keyof I]: ShapeOf<I[K]> };
/** One gradient per input; null for inputs that need none. */
export type Gradients<I extends InputShapes> = { [K in keyof I]: Tensor | null };

/** What `forward` leaves for `backward`: tensors (inputs and the output included), lists of them, and plain values. */
export type Saved = Record<string, unknown>;

/** What an op's forward and backward work with. */
export interface OpContext<I extends InputShapes = InputShapes> {
  readonly gpu: Gpu;
  /** In forward: which inputs take part in the graph. In backward: which gradients to compute. */
  readonly needsGrad: { readonly [K in keyof I]: boolean };
  /**
   * In backward: where to write the gradient of input `name`, its content undefined. For a parameter that an optimiser has
   * packed, that is its place among the packed gradients; for anything else a new tensor of the input's shape.
   */
  grad(name: keyof I & string): Tensor;
  /**
   * Internal, in backward: what may be done at once with the gradient of input `name`, if this op makes the last
   * contribution to it; else null.
   */
  contribution(name: keyof I & string): Contribution | null;
  /** Internal, in backward: the sums of the op's gradient sink, if its gradient went through that. */
  readonly sums: Partials | null;
  /** Internal, in backward: what gradients of parameters leave to the end of the pass; null if that of input `name` may not. */
  ending<E extends Ending>(name: keyof I & string, kind: EndingKind<E>): E | null;
  /** An output or a saved tensor, its content undefined. */
  empty(shape: Shape, dtype?: DType): Tensor;
  /** Scratch, freed when this forward or backward returns. */
  temp(shape: Shape, dtype?: DType): Tensor;
  /** Dispatches a kernel; see `Gpu.run`. */
  run<S extends Shader, E extends EntryOf<S>>(
    kernel: KernelSpec<S, E>,
    bindings: Bindings<S, E>,
    grid: Grid,
  ): void;
}

/** What `customOp` takes: shapes, forward and backward of an op. */
export interface OpDefinition<I extends InputShapes, P, Plan extends { out: Shape }, S extends Saved> {
  /** snake_case; the same in shader, op, test and bench files. Kernels are listed under it. */
  name: string;
  inputs: I;
  /** Element type of each input: float32 unless named here. */
  dtypes?: { [K in keyof I]?: readonly DType[] };
  /**
   * Pure: checks parameters and shapes beyond what `inputs` says, and returns the output's shape with whatever forward
   * and backward want to know. The only place that checks shapes. `dims` holds the letters of `inputs`.
   */
  infer(shapes: ShapesOf<I>, params: P, dims: Record<string, number>): Plan;
  /** The output, and what `backward` wants of this pass. */
  forward(ctx: OpContext<I>, inputs: Inputs<I>, plan: Plan, params: P): { out: Tensor; saved: S };
  /** One gradient per input, `null` where `ctx.needsGrad` is false. Absent: the op is not differentiable. */
  backward?(ctx: OpContext<I>, grad: Tensor, saved: S, plan: Plan, params: P): Gradients<I>;
  /**
   * @internal what may be done with the gradient of the output by the kernel that makes the last contribution to it; of the
   * sink of an input among `passes`, if there are any.
   */
  sink?(gpu: Gpu, saved: S, plan: Plan, params: P, ofInput: GradientSink | null): GradientSink | null;
  /** @internal the inputs that get the gradient of the output as it is, once it went through the sink: that of one of them. */
  passes?: readonly (keyof I & string)[];
}

/** An op: called with its tensors and its parameters. */
export interface Op<I extends InputShapes, P> {
  /** Checks the inputs, runs the forward pass and records it for `backward`. */
  (inputs: Inputs<I>, params: P): Tensor;
  readonly definition: OpDefinition<I, P, { out: Shape }, Saved>;
}

/** How an op's kernels are dispatched: `run` where they may overwrite tensors that were there before. */
type Dispatcher = "run" | "dispatch";

/** Makes an op that checks its inputs, runs its kernels, and takes its place in the graph. */
export function defineOp<const I extends InputShapes, P, Plan extends { out: Shape }, S extends Saved>(
  definition: OpDefinition<I, P, Plan, S>,
): Op<I, P> {
  return makeOp(definition, "dispatch");
}

/**
 * The same contract for your own WGSL: `shader: { name, source }` in the kernels that `forward` and `backward` run. A kernel
 * that writes to an input counts as overwriting it.
 */
export function customOp<const I extends InputShapes, P, Plan extends { out: Shape }, S extends Saved>(
  definition: OpDefinition<I, P, Plan, S>,
): Op<I, P> {
  return makeOp(definition, "run");
}

function makeOp<const I extends InputShapes, P, Plan extends { out: Shape }, S extends Saved>(
  definition: OpDefinition<I, P, Plan, S>,
  how: Dispatcher,
): Op<I, P> {
  const checks = checksOf(definition);
  const publicName = publicNameOf(definition);
  const names = Object.keys(definition.inputs) as (keyof I & string)[];

  const op = (inputs: Inputs<I>, params: P): Tensor => {
    const first = checks.inputs(inputs);
    const { gpu } = first;
    const shapes = {} as Record<string, Shape | null> as ShapesOf<I>;
    for (const name of names) (shapes as Record<string, Shape | null>)[name] = inputs[name]?.shape ?? null;
    const dims = checks.dims(shapes);
    const plan = definition.infer(shapes, params, dims);
    checks.plan(plan, first);
    const graph = isRecording() && names.some((name) => inputs[name]?.requiresGrad);
    const needsGrad = {} as { [K in keyof I]: boolean };
    for (const name of names) needsGrad[name] = graph && inputs[name]?.requiresGrad === true;

    watcher()?.(publicName, inputs as Record<string, Tensor | null>);

    const forward = () =>
      inContext(gpu, definition.name, how, { needsGrad }, (ctx) =>
        checks.result(definition.forward(ctx, inputs, plan, params), plan, inputs, gpu),
      );
    const { result, made } = tracer() ? traceOps(null, forward) : forward();
    const { out, saved } = result;
    tracer()?.op({ op: publicName, inputs: inputs as Record<string, Tensor | null>, params, out });
    if (isMarking()) out.requiresGrad = names.some((name) => inputs[name]?.requiresGrad);
    if (graph) {
      const { own, tensors, changed } = holdSaved(saved);
      const { layer } = gpu;
      const targets = names.map((name) => ({
        name,
        shape: inputs[name]?.shape ?? [],
        leaf: leafOf(inputs[name]),
      }));
      const dtypes = names.map((name) => inputs[name]?.dtype);
      record(
        out,
        definition.name,
        names.map((name) => inputs[name]),
        (grad, around) => {
          if (!definition.backward) {
            throw new FusenormError(`${publicName}: this op has no backward; detach() its inputs`);
          }
          gpu.layer = layer;
          const label = `${definition.name} backward`;
          const overwritten = changed();
          if (overwritten !== null) throw overwrittenError(publicName, overwritten);
          const grads = inContext(gpu, label, how, { needsGrad, targets, around }, (ctx) =>
            checks.gradients(
              definition.backward!(ctx, grad, own, plan, params),
              [grad, ...tensors],
              shapes,
              dtypes,
              gpu,
            ),
          );
          const kept = new Set(Object.values(grads.result));
          for (const tensor of grads.made) if (!kept.has(tensor)) tensor.dispose();
          return names.map((name) => grads.result[name]);
        },
        () => {
          for (const tensor of tensors) tensor.dispose();
        },
        {
          passes: (definition.passes ?? []).map((name) => names.indexOf(name)),
          sink: (ofInput) => definition.sink?.(gpu, own, plan, params, ofInput) ?? null,
        },
      );
    }
    for (const tensor of made) if (tensor !== out) tensor.dispose();
    if (!out.isPending) gpu.checkFinite(out, publicName); // else when it is worked out, if it is
    return out;
  };
  return Object.assign(op, {
    definition: definition as unknown as OpDefinition<I, P, { out: Shape }, Saved>,
  });
}

/**
 * For kernels that run later than their op's forward or backward: under its name and layer. Tensors by `ctx.empty` belong to
 * the caller.
 */
export function inLayer<R>(
  gpu: Gpu,
  label: string,
  layer: string,
  body: (ctx: Pick<OpContext, "gpu" | "empty" | "temp" | "run">) => R,
): R {
  const outer = gpu.layer;
  gpu.layer = layer;
  try {
    const { result, made } = inContext(gpu, label, "dispatch", { needsGrad: {} }, body);
    for (const tensor of made) gpu.keep(tensor);
    return result;
  } finally {
    gpu.layer = outer;
  }
}

/** What a forward or a backward finds around it; a backward has the latter two. */
interface Place<I extends InputShapes> {
  needsGrad: { readonly [K in keyof I]: boolean };
  targets?: readonly { name: string; shape: Shape; leaf: Tensor | null }[];
  around?: Around;
}

/** Runs one forward or backward; frees its scratch. `made` are the other tensors that it created. */
function inContext<I extends InputShapes, R>(
  gpu: Gpu,
  label: string,
  how: Dispatcher,
  { needsGrad, targets, around }: Place<I>,
  body: (ctx: OpContext<I>) => R,
): { result: R; made: Tensor[] } {
  const made: Tensor[] = [];
  const temporary: Tensor[] = [];
  const indexOf = (name: string) => targets!.findIndex((target) => target.name === name);
  try {
    const result = body({
      gpu,
      needsGrad,
      grad(name) {
        const target = targets?.find((candidate) => candidate.name === name);
        if (!target) throw new FusenormError(`internal: ${label}: ${name} is no input that has a gradient`);
        const tensor = target.leaf?.takeGradSlot() ?? gpu.empty(target.shape);
        made.push(tensor);
        return tensor;
      },
      contribution(name) {
        return around?.contribution(indexOf(name)) ?? null;
      },
      sums: around?.sums ?? null,
      ending(name, kind) {
        return around?.ending(indexOf(name), kind) ?? null;
      },
      empty(shape, dtype) {
        const tensor = gpu.empty(shape, dtype);
        made.push(tensor);
        return tensor;
      },
      temp(shape, dtype) {
        const tensor = gpu.empty(shape, dtype);
        temporary.push(tensor);
        return tensor;
      },
      run(kernel, bindings, grid) {
        if (how === "run") gpu.run(kernel, bindings, grid, label);
        else gpu.dispatch(kernel as KernelSpec, bindings as NamedBindings, grid, label);
      },
    });
    return { result, made };
  } catch (error) {
    for (const tensor of made) tensor.dispose();
    throw error;
  } finally {
    for (const tensor of temporary) tensor.dispose();
  }
}

/** The input if a gradient ends there, for its slot. */
function leafOf(input: Tensor | null | undefined): Tensor | null {
  return input?.requiresGrad && !input.node ? input : null;
}

/**
 * The graph's own handles on the saved tensors, so that the user may dispose of theirs, and a function that names the first
 * one whose elements somebody has overwritten since, if any.
 */
function holdSaved<S extends Saved>(
  saved: S,
): { own: S; tensors: readonly Tensor[]; changed: () => string | null } {
  const watches: [name: string, overwritten: () => boolean][] = [];
  const tensors: Tensor[] = [];
  const hold = (name: string, value: unknown): unknown => {
    if (Array.isArray(value)) return value.map((item, i) => hold(`${name}[${i}]`, item));
    if (!(value instanceof Tensor)) return value;
    watches.push([name, value.watch()]);
    const handle = value.saved();
    tensors.push(handle);
    return handle;
  };
  const own: Saved = {};
  for (const [name, value] of Object.entries(saved)) own[name] = hold(name, value);
  const changed = () => watches.find(([, overwritten]) => overwritten())?.[0] ?? null;
  return { own: own as S, tensors, changed };
}

function overwrittenError(op: string, name: string): OverwrittenTensorError {
  return new OverwrittenTensorError(
    `${op} backward: ${name === "out" ? "the output" : name} was overwritten after the forward, and its gradient needs what was ` +
      `there: call backward() before write(), fill(), an optimizer's step, plan.run() or a kernel that changes it, or give ${op} ` +
      "a copy (scale(x, 1))",
  );
}
