import { ShapeError, UsageError } from "../errors.ts";
import type { Gpu } from "../gpu/device.ts";
import type { StateDict } from "../nn/module.ts";
import { formatShape, sameShape } from "../tensor/shape.ts";
import type { Tensor } from "../tensor/tensor.ts";

export interface SGDOptions {
  /** Learning rate; may be set anew at any time (`optimizer.lr = …`), also under a captured step. */
  lr: number;
  /** Default 0. */
  momentum?: number;
  /** Default 0. */
  dampening?: number;
  /** Default 0. */
  weightDecay?: number;
  /** Default false; needs a momentum above 0 and no dampening. */
  nesterov?: boolean;
}

/** One parameter's place in the packed buffers. */
interface Slot {
  parameter: Tensor;
  gradient: Tensor;
  velocity: Tensor | null;
  byteOffset: number;
  byteEnd: number;
}

/** Offsets at which every adapter lets a binding start. */
const ALIGNMENT = 256;

/**
 * Stochastic gradient descent with PyTorch's update rule (`torch.optim.SGD`): g = grad + weightDecay·w;
 * v = momentum·v + (1 − dampening)·g, but v = g in the first step; w −= lr·v, or lr·(g + momentum·v) with Nesterov.
 *
 * Moves the parameters into one packed buffer (the tensors stay the same handles), and their gradients and velocities
 * into two more, so that a step is one dispatch. Parameters without a gradient are left alone, as in PyTorch.
 * @throws UsageError for options out of range
 */
export class SGD {
  private readonly gpu: Gpu;
  private readonly options: Required<Omit<SGDOptions, "lr">>;
  private readonly slots: Slot[] = [];
  private readonly packed: Tensor[];
  private readonly state: Tensor;
  private rate: number;

  constructor(parameters: Iterable<Tensor>, options: SGDOptions) {
    const { lr, momentum = 0, dampening = 0, weightDecay = 0, nesterov = false } = options;
    const rule = (name: string, value: number | boolean, ok: boolean, expected: string) => {
      if (!ok) throw new UsageError(`SGD: ${name} is ${value}; expected ${expected}`);
    };
    rule("momentum", momentum, Number.isFinite(momentum) && momentum >= 0, "a number of at least 0");
    rule("dampening", dampening, Number.isFinite(dampening), "a finite number");
    rule(
      "weightDecay",
      weightDecay,
      Number.isFinite(weightDecay) && weightDecay >= 0,
      "a number of at least 0",
    );
    rule(
      "nesterov",
      nesterov,
      !nesterov || (momentum > 0 && dampening === 0),
      "false, or a momentum above 0 without dampening",
    );
    checkRate(lr);
    this.options = { momentum, dampening, weightDecay, nesterov };
    this.rate = lr;
    const list = [...new Set(parameters)];
    if (list.length === 0)
      throw new UsageError("SGD: got no parameters; expected at least one tensor with requiresGrad");
    for (const [i, parameter] of list.entries()) {
      if (!parameter.requiresGrad || parameter.node) {
        throw new UsageError(
          `SGD: parameter ${i} of shape ${formatShape(parameter.shape)} is ${parameter.node ? "the result of an op" : "without requiresGrad"}; ` +
            "expected leaves with requiresGrad",
        );
      }
    }
    const gpu = list[0]!.gpu;
    this.gpu = gpu;

    let words = 0;
    const offsets = list.map((parameter) => {
      const at = words * 4;
      words += Math.ceil(parameter.byteLength / ALIGNMENT) * (ALIGNMENT / 4);
      return at;
    });
    const buffer = () => gpu.keep(gpu.zeros([words]));
    const values = buffer();
    const gradients = buffer();
    const velocities = momentum > 0 ? buffer() : null;
    this.packed = [values, gradients, ...(velocities ? [velocities] : [])];
    this.state = gpu.keep(gpu.tensor([lr, 0], [2]));
    for (const [i, parameter] of list.entries()) {
      const byteOffset = offsets[i]!;
      parameter.moveTo(values, byteOffset);
      parameter.gradSlot?.dispose();
      parameter.gradSlot = gradients.part(byteOffset, parameter.shape);
      this.slots.push({
        parameter,
        gradient: parameter.gradSlot,
        velocity: velocities?.part(byteOffset, parameter.shape) ?? null,
        byteOffset,
        byteEnd: byteOffset + Math.ceil(parameter.byteLength / ALIGNMENT) * ALIGNMENT,
      });
    }
  }

  get lr(): number {
    return this.rate;
  }

  set lr(value: number) {
    checkRate(value);
    if (value === this.rate) return;
    this.rate = value;
    this.gpu.commands.write(this.state.buffer, this.state.range.byteOffset, new Float32Array([value]));
  }

  /** Updates every parameter that has a gradient. */
  step(): void {
    const { momentum, dampening, weightDecay, nesterov } = this.options;
    const [values, gradients, velocities] = this.packed;
    const constants: Record<string, number> =
      momentum > 0
        ? { MOMENTUM: momentum, DAMPENING: dampening, WEIGHT_DECAY: weightDecay, NESTEROV: nesterov ? 1 : 0 }
        : { WEIGHT_DECAY: weightDecay };
    const entry = momentum > 0 ? "step" : "plain";
    for (const { grad, byteOffset, byteEnd } of this.runs()) {
      const at = (packed: Tensor) => ({ ...packed.range, byteOffset, byteLength: byteEnd - byteOffset });
      const vec4s = Math.ceil((grad?.byteLength ?? byteEnd - byteOffset) / 16);
      this.gpu.run(
        { shader: "sgd", entry, constants },
        [
          at(values!),
          grad ?? at(gradients!),
          this.state,
          new Uint32Array([vec4s]),
          ...(velocities ? [at(velocities)] : []),
        ],
        [Math.max(1, Math.min(this.gpu.isSoftware ? 16 : 2048, Math.ceil(vec4s / 64)))],
        "sgd",
      );
    }
    if (momentum > 0 && dampening !== 0) {
      this.gpu.run(
        { shader: "sgd", entry: "advance" },
        [null, null, null, null, null, this.state],
        [1],
        "sgd",
      );
    }
  }

  /** Neighbours whose gradients are all in their slots, as one range; others alone, with their gradient. */
  private runs(): { grad: Tensor | null; byteOffset: number; byteEnd: number }[] {
    const runs: { grad: Tensor | null; byteOffset: number; byteEnd: number }[] = [];
    const values = this.packed[0]!.range.storage;
    for (const { parameter, gradient, byteOffset, byteEnd } of this.slots) {
      if (parameter.range.storage !== values) {
        throw new UsageError(
          `SGD: a parameter of shape ${formatShape(parameter.shape)} was taken over by another optimizer; give each parameter to one`,
        );
      }
      const { grad } = parameter;
      if (!grad) continue;
      const { storage, byteOffset: at } = grad.range;
      const inSlot = storage === gradient.range.storage && at === gradient.range.byteOffset;
      const last = runs.at(-1);
      if (inSlot && last && !last.grad && last.byteEnd === byteOffset) last.byteEnd = byteEnd;
      else runs.push({ grad: inSlot ? null : grad, byteOffset, byteEnd });
    }
    return runs;
  }

  /** Drops the gradients; the next `backward` starts from nothing. */
  zeroGrad(): void {
    for (const { parameter } of this.slots) parameter.zeroGrad();
  }

  /** Velocities and the number of steps, for `loadStateDict`. The learning rate is the caller's to keep. */
  async stateDict(): Promise<StateDict> {
    const state: StateDict = {};
    for (const [i, { velocity }] of this.slots.entries()) {
      if (velocity)
        state[`velocity.${i}`] = { shape: velocity.shape, dtype: "float32", data: await velocity.read() };
    }
    state.steps = { shape: [1], dtype: "float32", data: (await this.state.read()).slice(1) };
    return state;
  }

  /** Goes on from `stateDict()` of an optimizer of the same parameters. @throws ShapeError before anything is written. */
  loadStateDict(state: StateDict): void {
    for (const [i, { velocity }] of this.slots.entries()) {
      const theirs = state[`velocity.${i}`];
      if (velocity && !(theirs && sameShape(theirs.shape, velocity.shape))) {
        throw new ShapeError(
          `SGD.loadStateDict: velocity ${i} is ${theirs ? formatShape(theirs.shape) : "missing"}; expected ${formatShape(velocity.shape)}`,
        );
      }
    }
    if (!state.steps)
      throw new ShapeError("SGD.loadStateDict: steps is missing; expected the state of an SGD");
    for (const [i, { velocity }] of this.slots.entries()) velocity?.write(state[`velocity.${i}`]!.data);
    this.state.write([this.rate, state.steps.data[0]!]);
  }

  /** Gives velocities and gradients back; the parameters live on. */
  dispose(): void {
    for (const { parameter, gradient, velocity } of this.slots) {
      parameter.zeroGrad();
      if (parameter.gradSlot === gradient) parameter.gradSlot = null;
      gradient.dispose();
      velocity?.dispose();
    }
    for (const tensor of [...this.packed, this.state]) tensor.dispose();
  }
}

function checkRate(lr: number): void {
  if (!Number.isFinite(lr) || lr < 0)
    throw new UsageError(`SGD: lr is ${lr}; expected a finite number of at least 0`);
}
