// Reverse-mode automatic differentiation. Each op that touches a tensor with `requiresGrad` adds one
// node; `backward` walks the nodes that the loss can reach in the reverse order of their making.

import { FusenormError, UseAfterDisposeError } from "../errors.ts";
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
  backward: ((grad: Tensor, contributions: Contributions) => readonly (Tensor | null)[]) | null;
  /** For a batch-norm: what whoever makes the last contribution to its gradient needs, to mask it and sum it up. */
  norm: () => NormTail | null;
  /** A ReLU hands a gradient that is masked and summed up to the batch-norm before it. */
  passesNorm: boolean;
  /** Disposes what was saved. */
  release: () => void;
}

/** What a batch-norm's backward needs of its gradient: dz, masked by its ReLU, and the sums of dz and of dz * xhat. */
export interface NormTail {
  x: Tensor;
  /** [5, C] */
  numbers: Tensor;
  mask: Tensor | null;
  relu: boolean;
  /** Something is added behind the normalisation. */
  residual: boolean;
}

/** The last contribution to the gradient of a node's output, for the op that makes it. */
export interface Contribution {
  /** Set if the node would take its gradient masked and summed up, as `Tensor.partials`. */
  norm: NormTail | null;
  /**
   * The other contributions, if their sum is in a buffer that nobody else reads: the caller adds to it and returns it. Null
   * if there are none.
   */
  take(): Tensor | null;
}

/** What may be done at once with the gradient of input `i`; null if others contribute later, or to a leaf. */
export type Contributions = (i: number) => Contribution | null;

/** Told of every op that would have added a node, with its inputs. */
export type Watcher = (op: string, inputs: Readonly<Record<string, Tensor | null>>) => void;

let nextOrder = 0;
/** What an op does beside its forward: adds a node; nothing; or only tells the watcher, and marks what requires a gradient. */
let recording: boolean | Watcher = true;

/** True while ops add nodes. */
export function isRecording(): boolean {
  return recording === true;
}

/** Who is to be told of an op in place of a graph; null if nobody. */
export function watcher(): Watcher | null {
  return typeof recording === "function" ? recording : null;
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
  return withRecording("checkpoint", watch, fn);
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
  norm: GraphNode["norm"] = () => null,
  passesNorm = false,
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
    norm,
    passesNorm,
  };
}

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
  gpu.commands.settle();
  noGrad(() => {
    const nodes = root.node ? reachable(root.node) : [];
    const start = upstream ? upstream.alias() : gpu.keep(gpu.full(root.shape, 1, { dtype: root.dtype }));
    if (!root.node) return addToLeaf(root, start);
    const grads = new Map<GraphNode, Tensor>([[root.node, start]]);
    const uses = countUses(nodes);
    const { layer } = gpu;
    // Held until their turn: freeing a node lets go of the ones before it.
    for (const node of nodes) node.holders += 1;
    let held = 0; // nodes before this one have had their turn
    try {
      for (const node of nodes) {
        const grad = grads.get(node);
        grads.delete(node);
        if (grad) propagate(node, grad, grads, uses);
        for (const input of node.inputs) if (isNode(input)) uses.set(input, uses.get(input)! - 1);
        free(node);
        node.holders -= 1;
        held += 1;
      }
    } finally {
      gpu.layer = layer;
      for (const grad of grads.values()) grad.dispose();
      for (const node of nodes.slice(held)) drop(node);
    }
  });
}

function propagate(
  node: GraphNode,
  grad: Tensor,
  grads: Map<GraphNode, Tensor>,
  uses: ReadonlyMap<GraphNode, number>,
): void {
  const gpu = grad.gpu;
  const contributions: Contributions = (i) => {
    const target = node.inputs[i]!;
    if (target === null || !isNode(target) || uses.get(target) !== 1) return null;
    const sum = grads.get(target);
    if (sum?.isShared) return null;
    const take = () => {
      grads.delete(target);
      return sum ?? null;
    };
    return { norm: normOf(target, uses), take };
  };
  let inputGrads: readonly (Tensor | null)[];
  try {
    inputGrads = gpu.scope(() => node.backward!(grad, contributions));
  } finally {
    grad.dispose();
  }
  const own = inputGrads.map((inputGrad) => inputGrad && gpu.keep(inputGrad));
  try {
    node.inputs.forEach((target, i) => {
      const inputGrad = own[i];
      if (!inputGrad) return;
      own[i] = null; // somebody else's now
      if (!target) inputGrad.dispose();
      else if (!isNode(target)) addToLeaf(target, inputGrad);
      else {
        const sum = grads.get(target);
        grads.set(target, sum ? add(sum, inputGrad) : inputGrad);
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
  sum.gpu.accumulate(target, grad);
  grad.dispose();
  return target;
}

/** What the batch-norm that made this node's output wants, also with a ReLU in between if nothing else reads it. */
function normOf(node: GraphNode, uses: ReadonlyMap<GraphNode, number>): NormTail | null {
  if (!node.passesNorm) return node.norm();
  const input = node.inputs[0]!;
  if (input === null || !isNode(input) || uses.get(input) !== 1) return null;
  const norm = input.norm();
  return norm && !norm.residual ? { ...norm, relu: true } : null;
}

/** How often the outputs of `nodes` are read by others of them. */
function countUses(nodes: readonly GraphNode[]): Map<GraphNode, number> {
  const uses = new Map<GraphNode, number>(nodes.map((node) => [node, 0]));
  for (const node of nodes) {
    for (const input of node.inputs) if (isNode(input)) uses.set(input, uses.get(input)! + 1);
  }
  return uses;
}

/** Every node behind `root`, latest first. */
function reachable(root: GraphNode): GraphNode[] {
  const found = new Set<GraphNode>();
  const stack = [root];
  for (let node = stack.pop(); node; node = stack.pop()) {
    if (found.has(node)) continue;
    if (!node.backward) {
      throw new UseAfterDisposeError(
        `backward: the graph of ${node.op} was freed by an earlier backward(); run the forward again, or add the losses and call backward once`,
      );
    }
    found.add(node);
    for (const input of node.inputs) if (isNode(input)) stack.push(input);
  }
  return [...found].sort((a, b) => b.order - a.order);
}
