// Reverse-mode automatic differentiation. Each op that touches a tensor with `requiresGrad` adds one
// node; `backward` walks the nodes that the loss can reach in the reverse order of their making.

import { FusenormError, UseAfterDisposeError } from "../errors.ts";
import type { GradientSink, Partials } from "../fusion/ports.ts";
import type { Gpu } from "../gpu.ts";
import { checkFunction, synchronous } from "../options.ts";
import { formatShape, sameShape } from "../tensor/shape.ts";
import type { Tensor } from "../tensor/tensor.ts";

/**
 * One op's place in the graph. Holds its own references to saved tensors until `backward` has passed, or until
 * neither its output nor a later node needs it any more.
 */
export interface GraphNode {
  readonly op: string;
  /** The output tensor and the nodes that read it: at none, the node is freed. */
  holders: number;
  readonly order: number;
  /** One entry per input: the node that made it, the leaf itself, or null where no gradient is wanted. */
  readonly inputs: readonly (GraphNode | Tensor | null)[];
  /** One gradient per input, or null; null itself once freed. The caller owns the gradients. */
  backward: ((grad: Tensor, around: Around) => readonly (Tensor | null)[]) | null;
  /** What may be done with the gradient of the output by whoever makes the last contribution to it; see `Sinks`. */
  sinks: Sinks;
  /** Disposes what was saved. */
  release: () => void;
}

/**
 * A node's gradient sink: its own; or, where the node hands the gradient of its output on to the inputs `passes`, what it
 * makes of the sink of one of them.
 */
export interface Sinks {
  passes: readonly number[];
  sink(ofInput: GradientSink | null): GradientSink | null;
}

/** The sums of a gradient sink, and the nodes that hand the gradient on before the one whose sink it is. */
interface Delivered {
  partials: Partials;
  route: readonly GraphNode[];
}

/** The last contribution to the gradient of a node's output, for the op that makes it. */
export interface Contribution {
  /** What the node would have done with its gradient; null if nothing. */
  sink: GradientSink | null;
  /** Hands over the sums of `sink`, where the gradient that the op returns went through it. */
  deliver(partials: Partials): void;
  /**
   * The other contributions, if their sum is in a buffer that nobody else reads: the caller adds to it and returns it. Null
   * if there are none.
   */
  take(): Tensor | null;
}

/** What a node's backward knows beside its gradient. */
export interface Around {
  /** The sums of the node's gradient sink, if its gradient went through that. Not the node's to dispose. */
  sums: Partials | null;
  /** What may be done at once with the gradient of input `i`; null if others contribute later, or to a leaf. */
  contribution(i: number): Contribution | null;
  /** The pass's ending of this kind, for the gradient of input `i`; null unless that is the first of a leaf. */
  ending<E extends Ending>(i: number, kind: EndingKind<E>): E | null;
}

/** What gradients of leaves leave to the end of a backward pass, so that it is done for many of them at once. */
export interface Ending {
  /** Does what was left, but for gradients that are disposed. */
  run(): void;
  /** Gives back what it held on to. */
  dispose(): void;
}

/** An ending's class: a pass makes one of each that it is asked for. */
export type EndingKind<E extends Ending = Ending> = new (gpu: Gpu) => E;

/** Told of every op that would have added a node, with its inputs. */
export type Watcher = (op: string, inputs: Readonly<Record<string, Tensor | null>>) => void;

let nextOrder = 0;

/** The place that the next node gets. */
export function nextPlace(): number {
  return nextOrder;
}

/** What an op does beside its forward: adds a node; nothing; or only tells the watcher, and marks what requires a gradient. */
let recording: boolean | Watcher = true;
/** Told of ops also where `noGrad` and `enableGrad` within its function say what else they do. */
let watching: Watcher | null = null;

/** True while ops add nodes. */
export function isRecording(): boolean {
  return recording === true;
}

/** Who is to be told of an op; null if nobody. */
export function watcher(): Watcher | null {
  return watching;
}

/** Whether ops mark what requires a gradient, and add no nodes. */
export function isMarking(): boolean {
  return typeof recording === "function";
}

/** Runs `fn` without building a graph: for inference and updates of parameters. @throws UsageError for an async function */
export function noGrad<T>(fn: () => T): T {
  checkFunction("noGrad", "fn", fn);
  return withRecording("noGrad", false, fn);
}

/** Runs `fn` with the graph on, also inside `noGrad`. @throws UsageError for an async function */
export function enableGrad<T>(fn: () => T): T {
  checkFunction("enableGrad", "fn", fn);
  return withRecording("enableGrad", true, fn);
}

/** Runs `fn` without a graph; outputs still tell whether they require a gradient, and `watch` hears of each op. */
export function watchGrad<T>(watch: Watcher, fn: () => T): T {
  const outer = watching;
  const both: Watcher = (op, inputs) => {
    outer?.(op, inputs);
    watch(op, inputs);
  };
  watching = both;
  try {
    return withRecording("checkpoint", both, fn);
  } finally {
    watching = outer;
  }
}

function withRecording<T>(op: string, value: typeof recording, fn: () => T): T {
  const outer = recording;
  recording = value;
  try {
    return synchronous(op, fn());
  } finally {
    recording = outer;
  }
}

/** Adds a node for `out`, which then requires a gradient. */
export function record(
  out: Tensor,
  op: string,
  inputs: readonly (Tensor | null)[],
  run: NonNullable<GraphNode["backward"]>,
  release: () => void,
  sinks: Sinks = NO_SINKS,
): void {
  const targets = inputs.map((input) => (input?.requiresGrad ? (input.node ?? input) : null));
  for (const target of targets) if (isNode(target)) target.holders += 1;
  out.requiresGrad = true;
  out.node = {
    op,
    holders: 1,
    order: nextOrder++,
    inputs: targets,
    backward: run,
    release,
    sinks,
  };
}

const NO_SINKS: Sinks = { passes: [], sink: () => null };

/** One holder fewer; frees the nodes that nobody holds. */
export function drop(node: GraphNode): void {
  node.holders -= 1;
  if (node.holders === 0) free(node);
}

/** Disposes what `node` saved and lets go of the nodes before it. */
function free(node: GraphNode): void {
  const stack = [node];
  for (let next = stack.pop(); next; next = stack.pop()) {
    if (!next.backward) continue;
    next.backward = null;
    next.release();
    for (const input of next.inputs) {
      if (!isNode(input)) continue;
      input.holders -= 1;
      if (input.holders === 0) stack.push(input);
    }
  }
}

function isNode(target: GraphNode | Tensor | null): target is GraphNode {
  return target !== null && "order" in target;
}

/** See `Tensor.backward`. */
export function backward(root: Tensor, upstream: Tensor | null): void {
  if (!root.requiresGrad) {
    throw new FusenormError(
      "backward: the tensor does not depend on any tensor with requiresGrad; set it on the parameters, and call outside of noGrad",
    );
  }
  const gpu = root.gpu;
  noGrad(() => {
    // This pass may be part of others, a checkpoint's say, and add to what leaves got there.
    for (const outer of passes) end(outer);
    const reached = root.node && reachable(root.node);
    const start = upstream ? upstream.alias() : gpu.keep(gpu.full(root.shape, 1, { dtype: root.dtype }));
    if (!root.node || !reached) return addToLeaf(root, start);
    const { nodes, uses } = reached;
    const grads = new Map<GraphNode, Tensor>([[root.node, start]]);
    const sums = new Map<GraphNode, Delivered>();
    const pass: Pass = { grads, sums, uses, endings: new Map() };
    const { layer } = gpu;
    passes.push(pass);
    // Held until their turn: freeing a node lets go of the ones before it.
    for (const node of nodes) node.holders += 1;
    let held = 0; // nodes before this one have had their turn
    try {
      for (const node of nodes) {
        const grad = grads.get(node);
        grads.delete(node);
        if (grad) propagate(node, grad, pass);
        for (const input of node.inputs) if (isNode(input)) uses.set(input, uses.get(input)! - 1);
        free(node);
        node.holders -= 1;
        held += 1;
      }
      gpu.layer = layer;
      end(pass);
    } catch (error) {
      try {
        end(pass); // what leaves have got so far is whole
      } catch {
        // The first error says more.
      }
      throw error;
    } finally {
      passes.pop();
      gpu.layer = layer;
      for (const ending of pass.endings.values()) ending.dispose();
      for (const grad of grads.values()) grad.dispose();
      for (const { partials } of sums.values()) partials.values.dispose();
      for (const node of nodes.slice(held)) drop(node);
    }
  });
}

/** How far a backward pass has come. */
interface Pass {
  /** What has been contributed to the gradients of nodes whose turn comes yet. */
  grads: Map<GraphNode, Tensor>;
  /** The sums of those whose gradient went through their sink. */
  sums: Map<GraphNode, Delivered>;
  /** How many contributions are yet to come. */
  uses: ReadonlyMap<GraphNode, number>;
  endings: Map<EndingKind, Ending>;
}

/** The passes that are under way, each a part of the one before it. */
const passes: Pass[] = [];

/** Does what gradients of leaves have left to the end. */
function end(pass: Pass): void {
  for (const ending of pass.endings.values()) ending.run();
}

function propagate(node: GraphNode, whole: Tensor, pass: Pass): void {
  const { gpu } = whole;
  const { grads, uses } = pass;
  let grad = whole;
  let delivered = pass.sums.get(node);
  pass.sums.delete(node);
  if (!delivered) gpu.riders.leave(); // it is those sums that ride along
  if (!delivered && node.sinks.passes.length > 0) {
    const found = sinkOf(node, pass);
    const applied = found?.sink.apply(grad);
    if (found && applied) {
      grad.dispose();
      grad = applied.grad;
      delivered = { partials: applied.partials, route: found.route };
    }
  }
  const sums = delivered?.partials ?? null;
  const contribution = (i: number): Contribution | null => {
    const target = node.inputs[i]!;
    if (target === null || !isNode(target) || uses.get(target) !== 1) return null;
    const sum = grads.get(target);
    if (sum?.isShared) return null;
    const found = sinkOf(target, pass);
    return {
      sink: found?.sink ?? null,
      deliver: (partials) => void pass.sums.set(target, { partials, route: found!.route }),
      take() {
        grads.delete(target);
        return sum ?? null;
      },
    };
  };
  const ending = <E extends Ending>(i: number, kind: EndingKind<E>): E | null => {
    const target = node.inputs[i]!;
    if (target === null || isNode(target) || target.grad) return null;
    const own = (pass.endings.get(kind) as E | undefined) ?? new kind(gpu);
    pass.endings.set(kind, own);
    return own;
  };
  let inputGrads: readonly (Tensor | null)[];
  try {
    inputGrads = gpu.scope(() => node.backward!(grad, { sums, contribution, ending }));
  } catch (error) {
    sums?.values.dispose();
    throw error;
  } finally {
    grad.dispose();
  }
  const [next, ...route] = delivered?.route ?? [];
  if (next) pass.sums.set(next, { partials: sums!, route });
  else sums?.values.dispose();
  const own = inputGrads.map((inputGrad) => inputGrad && gpu.keep(inputGrad));
  try {
    node.inputs.forEach((target, i) => {
      const inputGrad = own[i];
      if (!inputGrad) return;
      own[i] = null; // somebody else's now
      if (!target) inputGrad.dispose();
      else if (!isNode(target)) {
        // A gradient that is read or given up here has to be whole.
        if (target.isDisposed || target.grad || inputGrad.isShared) end(pass);
        addToLeaf(target, inputGrad);
      } else {
        const sum = grads.get(target);
        grads.set(target, sum ? (together(sum, inputGrad) ?? add(sum, inputGrad)) : inputGrad);
      }
    });
  } finally {
    for (const inputGrad of own) inputGrad?.dispose();
  }
}

/** Adds `grad`, which it takes over, to what the leaf has. */
function addToLeaf(leaf: Tensor, grad: Tensor): void {
  if (leaf.isDisposed) {
    grad.dispose();
    return;
  }
  if (!sameShape(leaf.shape, grad.shape)) {
    throw new FusenormError(
      `internal: gradient ${formatShape(grad.shape)} for a tensor of shape ${formatShape(leaf.shape)}`,
    );
  }
  leaf.gpu.receivers?.adds(leaf);
  if (leaf.grad) leaf.grad = add(leaf.grad, grad);
  else {
    // A gradient is its leaf's alone: the upstream one, or the other summand's, may have the same elements.
    leaf.grad = grad.isShared ? copied(grad) : grad;
    leaf.grad.range; // in memory, since a captured step has to work it out each time
  }
}

/** The same elements in a buffer of their own, in place of `grad`. */
function copied(grad: Tensor): Tensor {
  const { gpu } = grad;
  const copy = gpu.keep(gpu.empty(grad.shape, grad.dtype));
  gpu.copyRange(grad.range, copy.range);
  grad.dispose();
  return copy;
}

/** The sum, in a buffer that nobody else reads: gradients that share storage (views) are copied first. */
function add(sum: Tensor, grad: Tensor): Tensor {
  const target = sum.isShared ? copied(sum) : sum;
  target.gpu.accumulate(target, grad);
  grad.dispose();
  return target;
}

/** The sum, worked out when it is needed, if one of them is not in memory and can be added to on the way. */
function together(sum: Tensor, grad: Tensor): Tensor | null {
  const both = grad.plus(sum, false) ?? sum.plus(grad, false);
  if (!both) return null;
  sum.dispose();
  grad.dispose();
  return sum.gpu.keep(both);
}

/** What the ops that made a node's output would have done with its gradient, if they get no other. */
function sinkOf({ sinks, inputs }: GraphNode, pass: Pass): { sink: GradientSink; route: GraphNode[] } | null {
  if (sinks.passes.length === 0) {
    const sink = sinks.sink(null);
    return sink && { sink, route: [] };
  }
  for (const i of sinks.passes) {
    const input = inputs[i]!;
    if (input === null || !isNode(input) || pass.uses.get(input) !== 1 || pass.grads.has(input)) continue;
    const found = sinkOf(input, pass);
    const sink = found && sinks.sink(found.sink);
    if (sink) return { sink, route: [input, ...found.route] };
  }
  return null;
}

/** Every node behind `root`, latest first, and how often the outputs of each are read by others of them. */
function reachable(root: GraphNode): { nodes: GraphNode[]; uses: Map<GraphNode, number> } {
  const uses = new Map([[root, 0]]);
  const stack = [root];
  for (let node = stack.pop(); node; node = stack.pop()) {
    if (!node.backward) {
      throw new UseAfterDisposeError(
        `backward: the graph of ${node.op} was freed by an earlier backward(); run the forward again, or add the losses and call backward once`,
      );
    }
    for (const input of node.inputs) {
      if (!isNode(input)) continue;
      const known = uses.get(input);
      if (known === undefined) stack.push(input);
      uses.set(input, (known ?? 0) + 1);
    }
  }
  return { nodes: [...uses.keys()].sort((a, b) => b.order - a.order), uses };
}
