import type { Grid } from "../device/commands.ts";
import { ShapeError, UsageError } from "../errors.ts";
import * as shaders from "../generated/shaders.ts";
import type { Gpu } from "../gpu.ts";
import { checkState, type StateDict } from "../nn/module.ts";
import { checkFlag, checkOptions, isPlain, optionNames, show } from "../options.ts";
import { formatShape, sameShape } from "../tensor/shape.ts";
import { Tensor } from "../tensor/tensor.ts";

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

const OPTIONS = optionNames<SGDOptions>({ lr: 0, momentum: 0, dampening: 0, weightDecay: 0, nesterov: 0 });

/** Offsets at which every adapter lets a binding start. */
const ALIGNMENT = 256;

/** The bits of the velocity of a parameter that has had no step; see shaders/sgd.wgsl. */
const UNSTEPPED = 0x7fc5eed0;

/**
 * Stochastic gradient descent with PyTorch's update rule (`torch.optim.SGD`): g = grad + weightDecay·w;
 * v = momentum·v + (1 − dampening)·g, but v = g in a parameter's first step; w −= lr·v, or lr·(g + momentum·v) with Nesterov.
 *
 * Moves the parameters into one packed buffer (the tensors stay the same handles), and their gradients and velocities
 * into two more, so that a step is one dispatch. Parameters without a gradient are left alone, as in PyTorch.
 * @throws UsageError for options out of range, or parameters that are no float32 leaves with requiresGrad on one Gpu
 */
export class SGD {
  private readonly gpu: Gpu;
  private readonly options: Required<Omit<SGDOptions, "lr">>;
  private readonly slots: Slot[] = [];
  private readonly packed: Tensor[];
  private readonly state: Tensor;
  private rate: number;

  constructor(parameters: Iterable<Tensor>, options: SGDOptions) {
    if (!isPlain(options)) {
      throw new UsageError(
        `SGD: options is ${show(options)}; expected at least a learning rate: new SGD(parameters, { lr: 0.1 })`,
      );
    }
    checkOptions("SGD", options, OPTIONS);
    const { lr, momentum = 0, dampening = 0, weightDecay = 0, nesterov = false } = options;
    const rule = (name: string, value: number | boolean, ok: boolean, expected: string) => {
      if (!ok) throw new UsageError(`SGD: ${name} is ${show(value)}; expected ${expected}`);
    };
    checkFlag("SGD", "nesterov", nesterov);
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
    if (typeof parameters !== "object" || typeof parameters?.[Symbol.iterator] !== "function") {
      throw new UsageError(
        `SGD: parameters is ${show(parameters)}; expected a list of tensors, as module.parameters() gives`,
      );
    }
    const list = [...new Set(parameters)];
    if (list.length === 0)
      throw new UsageError("SGD: got no parameters; expected at least one tensor with requiresGrad");
    for (const [i, parameter] of list.entries()) checkParameter(i, parameter, list[0]!);
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
    if (velocities) gpu.fillWords(velocities.range, UNSTEPPED);
    this.packed = [values, gradients, ...(velocities ? [velocities] : [])];
    this.state = gpu.keep(gpu.tensor([lr], [1]));
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
    this.state.write([value]);
    this.rate = value;
  }

  /** Updates every parameter that has a gradient. */
  step(): void {
    const { momentum, dampening, weightDecay, nesterov } = this.options;
    const [values, gradients, velocities] = this.packed;
    const WEIGHT_DECAY = weightDecay;
    const constants = { MOMENTUM: momentum, DAMPENING: dampening, WEIGHT_DECAY, NESTEROV: nesterov ? 1 : 0 };
    for (const { grad, byteOffset, byteEnd } of this.runs()) {
      const at = (packed: Tensor) => ({ ...packed.range, byteOffset, byteLength: byteEnd - byteOffset });
      const vec4s = Math.ceil((grad?.byteLength ?? byteEnd - byteOffset) / 16);
      const bindings = { w: at(values!), grad: grad ?? at(gradients!), state: this.state, size: { vec4s } };
      const grid: Grid = [Math.max(1, Math.min(this.gpu.isSoftware ? 16 : 2048, Math.ceil(vec4s / 64)))];
      if (velocities) {
        const spec = { shader: shaders.sgd, entry: "step", constants } as const;
        this.gpu.run(spec, { ...bindings, v: at(velocities) }, grid, "sgd");
      } else {
        this.gpu.run(
          { shader: shaders.sgd, entry: "plain", constants: { WEIGHT_DECAY } },
          bindings,
          grid,
          "sgd",
        );
      }
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
      if (grad.dtype !== "float32" || !sameShape(grad.shape, parameter.shape)) {
        throw new UsageError(
          `SGD: a gradient is ${formatShape(grad.shape)} of ${grad.dtype}, its parameter ${formatShape(parameter.shape)} of float32; expected the same`,
        );
      }
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

  /** Velocities of the parameters that have had a step, for `loadStateDict`. The learning rate is the caller's to keep. */
  async stateDict(): Promise<StateDict> {
    const state: StateDict = {};
    for (const [i, { velocity }] of this.slots.entries()) {
      if (!velocity) continue;
      const data = (await velocity.read()) as Float32Array;
      const [bits] = new Uint32Array(data.buffer, data.byteOffset, 1);
      if (bits !== UNSTEPPED) state[`velocity.${i}`] = { shape: velocity.shape, dtype: "float32", data };
    }
    return state;
  }

  /**
   * Goes on from `stateDict()` of an optimizer of the same parameters; one without a velocity has had no step there.
   * @throws ShapeError before anything is written
   */
  loadStateDict(state: StateDict): void {
    this.checkStateDict(state);
    for (const [i, { velocity }] of this.slots.entries()) {
      const theirs = state[`velocity.${i}`];
      if (theirs) velocity!.write(theirs.data);
      else if (velocity) this.gpu.fillWords(velocity.overwrite(), UNSTEPPED);
    }
  }

  /** What `loadStateDict` checks. @throws ShapeError */
  checkStateDict(state: StateDict): void {
    const known = new Set(this.slots.map((_, i) => `velocity.${i}`));
    if (!isPlain(state)) {
      throw new ShapeError(`SGD.loadStateDict: state is ${show(state)}; expected what stateDict() gave`);
    }
    for (const [name, theirs] of Object.entries(state)) {
      if (name === "steps") continue; // written by version 0.1.0
      const velocity = known.has(name) ? this.slots[Number(name.slice("velocity.".length))]!.velocity : null;
      if (!velocity) {
        throw new ShapeError(
          `SGD.loadStateDict: ${name} is unexpected; ${
            this.slots[0]!.velocity
              ? `expected velocity.0 to velocity.${this.slots.length - 1}, of an optimizer of the same parameters`
              : "this optimizer has no momentum, and so no state"
          }`,
        );
      }
      checkState("SGD.loadStateDict", name, theirs, velocity);
    }
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
    throw new UsageError(`SGD: lr is ${show(lr)}; expected a finite number of at least 0`);
}

function checkParameter(i: number, parameter: Tensor, first: Tensor): void {
  const refuse = (is: string): never => {
    throw new UsageError(
      `SGD: parameter ${i} ${is}; expected float32 leaves with requiresGrad, all on one Gpu`,
    );
  };
  if (!(parameter instanceof Tensor)) refuse(`is ${show(parameter)}, no Tensor`);
  const what = `of shape ${formatShape(parameter.shape)}`;
  if (parameter.isDisposed) refuse(`${what} was disposed`);
  if (parameter.node) refuse(`${what} is the result of an op`);
  if (!parameter.requiresGrad) refuse(`${what} is without requiresGrad`);
  if (parameter.dtype !== "float32") refuse(`${what} is ${parameter.dtype}`);
  if (parameter.gpu !== first.gpu) refuse(`${what} is on another Gpu than parameter 0`);
}
