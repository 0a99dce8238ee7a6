import { nextSerial } from "../device/buffers.ts";
import { OverwrittenTensorError, ShapeError } from "../errors.ts";
import { checkFunction, show, synchronous } from "../options.ts";
import { checkTensor, FLOATS } from "../tensor/check.ts";
import { Tensor } from "../tensor/tensor.ts";
import { enableGrad, isRecording, nextPlace, record, watchGrad } from "./tape.ts";

let recomputing = 0;

/** True while `checkpoint` runs its function again, and in `withoutTracking`: running statistics must not move. */
export function isRecomputing(): boolean {
  return recomputing > 0;
}

/** @internal runs `fn` such that batch-norm in training uses batch statistics, and leaves running ones alone. */
export function withoutTracking<T>(fn: () => T): T {
  recomputing += 1;
  try {
    return fn();
  } finally {
    recomputing -= 1;
  }
}

/** What the function of a checkpoint drew by chance in its first run, for the second one to find. */
interface Draws {
  readonly kept: Tensor[];
  /** Which the second run comes to next; null in the first run. */
  next: number | null;
}

/** Of the functions that run now, the innermost last. */
const drawing: Draws[] = [];

/** Runs the function of a checkpoint, whose draws are those. */
function drawingInto<T>(draws: Draws, fn: () => T): T {
  drawing.push(draws);
  try {
    return fn();
  } finally {
    drawing.pop();
  }
}

/**
 * @internal what `draw` gives; in the second run of a checkpoint's function, what it gave at this place of the first. `draw` makes a
 * tensor outside of every scope, and the handle that this returns is the caller's.
 */
export function drawn(draw: () => Tensor): Tensor {
  const first: Draws[] = [];
  let value: Tensor | undefined;
  for (const draws of drawing.toReversed()) {
    if (draws.next === null) first.push(draws);
    else {
      value = draws.kept[draws.next]?.alias();
      draws.next += 1;
      break;
    }
  }
  value ??= draw();
  for (const { kept } of first) kept.push(value.alias());
  return value;
}

/**
 * `fn(x)`, keeping only x for backward: the intermediate results are computed a second time there (Chen et al. 2016,
 * "Training deep nets with sublinear memory cost"). The same numbers as `fn(x)` (gradients up to rounding), at the price of
 * a second forward; running statistics are updated once, and `dropout` drops the same elements.
 *
 * `fn` must be a pure function of x and of tensors that live until backward: called twice, it must do the same.
 * @throws ShapeError if x or what `fn` returns is not a tensor
 * @throws OverwrittenTensorError in backward, if x or a tensor that `fn` used was overwritten since
 */
export function checkpoint(fn: (x: Tensor) => Tensor, x: Tensor): Tensor {
  checkFunction("checkpoint", "fn", fn);
  checkTensor("checkpoint", "x", x, { dtypes: FLOATS });
  // What is made on the way goes here as well.
  if (!isRecording()) return x.gpu.scope(() => checkResult(fn(x)));
  const { gpu, requiresGrad } = x;
  // The second forward needs what this one found: x, and every tensor that was there before.
  const firstInside = nextSerial();
  const found = new Map<Tensor, { what: string; overwritten: () => boolean }>();
  /** Results of ops that `fn` used without getting them: these get gradients from here as x does. */
  const outside = new Set<Tensor>();
  const firstNode = nextPlace();
  const note = (tensor: Tensor) => {
    if (tensor.requiresGrad && tensor.node && tensor.node.order < firstNode) outside.add(tensor);
  };
  const watch = (op: string, inputs: Readonly<Record<string, Tensor | null>>) => {
    for (const [name, input] of Object.entries(inputs)) {
      if (!input || found.has(input) || input.serial >= firstInside) continue;
      found.set(input, { what: `${name} of ${op}`, overwritten: input.watch() });
      note(input);
    }
  };
  let depends = false;
  const draws: Draws = { kept: [], next: null };
  const release = () => {
    for (const tensor of draws.kept) tensor.dispose();
  };
  let out: Tensor;
  try {
    out = watchGrad(watch, () =>
      gpu.scope(() => {
        const own = x.detach(); // told from an x that `fn` has from elsewhere
        own.requiresGrad = requiresGrad;
        const result = checkResult(drawingInto(draws, () => fn(own)));
        depends = result.requiresGrad;
        note(result); // which no op may have read
        return result.alias(); // a handle of its own, also where `fn` returns a tensor that was there before
      }),
    );
  } catch (error) {
    release();
    throw error;
  }
  gpu.track(out);
  if (!depends) {
    release();
    return out;
  }
  const kept = x.alias();
  record(
    out,
    "checkpoint",
    [x, ...outside],
    (grad) => {
      for (const { what, overwritten } of found.values()) {
        if (!overwritten()) continue;
        throw new OverwrittenTensorError(
          `checkpoint backward: ${what} was overwritten after the forward, which has to run again on the same values; call ` +
            "backward() before write(), fill(), an optimizer's step or a kernel that changes it",
        );
      }
      const input = kept.detach();
      input.requiresGrad = requiresGrad;
      draws.next = 0;
      const gradients = asLeaves([...outside], () =>
        withoutTracking(() => enableGrad(() => drawingInto(draws, () => fn(input))).backward(grad)),
      );
      const dx = input.grad;
      input.grad = null; // the caller's now
      return [dx, ...gradients];
    },
    () => {
      kept.dispose();
      release();
    },
  );
  return out;
}

/** Runs `fn` while gradients of these results of ops end at them, and gives those gradients. */
function asLeaves(tensors: readonly Tensor[], fn: () => void): (Tensor | null)[] {
  const before = tensors.map((tensor) => {
    const { node, grad } = tensor;
    Object.assign(tensor, { node: null, grad: null });
    return { tensor, node, grad };
  });
  const restore = (give: boolean) =>
    before.map(({ tensor, node, grad }) => {
      const own = tensor.grad;
      if (!give) own?.dispose();
      if (!tensor.isDisposed) Object.assign(tensor, { node, grad });
      return give ? own : null;
    });
  try {
    fn();
  } catch (error) {
    restore(false);
    throw error;
  }
  return restore(true);
}

function checkResult(result: Tensor): Tensor {
  if (synchronous("checkpoint", result) instanceof Tensor) return result;
  throw new ShapeError(
    `checkpoint: what the function returned is ${show(result)}; expected a Tensor: checkpoint((x) => …, x)`,
  );
}
