import { ShapeError, UsageError } from "../errors.ts";
import * as shaders from "../generated/shaders.ts";
import type { StateDict } from "../nn/module.ts";
import { checkFlag, checkOptions, isPlain, optionNames, show } from "../options.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { PackedOptimizer, type Parameters, type Update } from "./optimizer.ts";

/** Options of `Adam` and `AdamW`; names and defaults are PyTorch's. */
export interface AdamOptions {
  /** Learning rate; may be set anew at any time (`optimizer.lr = …`), also under a captured step. Default 0.001. */
  lr?: number;
  /** Decay of the averages of gradients and of their squares. Default [0.9, 0.999]. */
  betas?: readonly [number, number];
  /** Default 1e-8. */
  eps?: number;
  /** Default 0 for `Adam`, 0.01 for `AdamW`. */
  weightDecay?: number;
  /** Divide by the largest average of squares so far. Default false. */
  amsgrad?: boolean;
}

const OPTIONS = optionNames<AdamOptions>({ lr: 0, betas: 0, eps: 0, weightDecay: 0, amsgrad: 0 });

/** What Adam and AdamW have in common. */
abstract class AdamRule extends PackedOptimizer {
  private readonly ofAdvance: Record<"LOG_BETA1" | "LOG_BETA2" | "DECOUPLED", number>;
  private readonly ofStep: Record<"GAIN1" | "GAIN2" | "EPS" | "DECOUPLED", number>;
  private readonly first: Tensor;
  private readonly second: Tensor;
  private readonly largest: Tensor | null;
  private readonly steps: Tensor;
  private readonly coefficients: Tensor;

  protected constructor(
    name: string,
    parameters: Parameters,
    options: AdamOptions,
    rule: { weightDecay: number; decoupled: boolean },
  ) {
    checkAdam(name, options);
    const { lr = 1e-3, betas = [0.9, 0.999], eps = 1e-8, amsgrad = false } = options;
    const { weightDecay = rule.weightDecay } = options;
    super(name, parameters, { lr, weightDecay });
    const DECOUPLED = rule.decoupled ? 1 : 0;
    this.ofStep = { GAIN1: 1 - betas[0], GAIN2: 1 - betas[1], EPS: eps, DECOUPLED };
    // The logarithm of 0 is infinite, which a constant can't be; a power of e⁻¹⁰⁰ is as good as 0.
    const log = (beta: number) => Math.max(-100, Math.log(beta));
    this.ofAdvance = { LOG_BETA1: log(betas[0]), LOG_BETA2: log(betas[1]), DECOUPLED };
    const { gpu, packed } = this;
    const count = packed.slots.length;
    this.steps = gpu.keep(gpu.zeros([count], { dtype: "uint32" }));
    this.coefficients = gpu.keep(gpu.zeros([count, 4]));
    this.first = this.newState("exp_avg");
    this.second = this.newState("exp_avg_sq");
    this.largest = amsgrad ? this.newState("max_exp_avg_sq") : null;
  }

  protected override update({ slots, bindings, grid, range }: Update): void {
    const { gpu, ofAdvance, ofStep, steps, coefficients } = this;
    const { rates, ...rest } = bindings;
    const count = slots.length;
    const counted = {
      steps,
      new_coefficients: coefficients,
      rates,
      range: { first: slots[0]!.index, count },
    };
    const advance = { shader: shaders.adam, entry: "advance", constants: ofAdvance } as const;
    gpu.run(advance, counted, [Math.ceil(count / 64)], "adam");
    const all = { ...rest, coefficients, exp_avg: range(this.first), exp_avg_sq: range(this.second) };
    if (this.largest) {
      const spec = { shader: shaders.adam, entry: "step_amsgrad", constants: ofStep } as const;
      gpu.run(spec, { ...all, max_exp_avg_sq: range(this.largest) }, grid, "adam");
    } else gpu.run({ shader: shaders.adam, entry: "step", constants: ofStep }, all, grid, "adam");
  }

  override async stateDict(): Promise<StateDict> {
    const state = await super.stateDict();
    const steps = await this.steps.read();
    for (const name of Object.keys(state)) {
      if (steps[indexOf(name)] === 0) delete state[name];
    }
    for (const [i, step] of steps.entries()) {
      if (step > 0) state[`step.${i}`] = { shape: [], dtype: "float32", data: Float32Array.of(step) };
    }
    return state;
  }

  override loadStateDict(state: StateDict): void {
    super.loadStateDict(state);
    this.steps.write(this.packed.slots.map(({ index }) => state[`step.${index}`]?.data[0] ?? 0));
  }

  override checkStateDict(state: StateDict): void {
    super.checkStateDict(state);
    for (const { index } of this.packed.slots) {
      const [step, average] = [`step.${index}`, `exp_avg.${index}`];
      const has = [step, average].map((name) => Object.hasOwn(state, name));
      if (has[0] !== has[1]) {
        const [there, missing] = has[0] ? [step, average] : [average, step];
        throw new ShapeError(
          `${this.name}.loadStateDict: ${missing} is missing, ${there} is there; expected both, or none for a parameter without a step`,
        );
      }
    }
  }

  protected override isOtherState(name: string, theirs: unknown): boolean {
    if (!/^step\.(0|[1-9]\d*)$/.test(name) || indexOf(name) >= this.packed.slots.length) return false;
    const { data } = (isPlain(theirs) ? theirs : {}) as { data?: ArrayLike<unknown> };
    const [value] = ArrayBuffer.isView(data) || Array.isArray(data) ? [data[0]] : [];
    if (
      !Number.isInteger(value) ||
      (value as number) < 1 ||
      (value as number) > 2 ** 24 ||
      data?.length !== 1
    ) {
      throw new ShapeError(
        `${this.name}.loadStateDict: ${name} is ${show(value ?? theirs)} in the state; expected one whole number of steps from 1 to 2²⁴`,
      );
    }
    return true;
  }

  override dispose(): void {
    super.dispose();
    this.steps.dispose();
    this.coefficients.dispose();
  }
}

/**
 * Adam with PyTorch's update rule (`torch.optim.Adam`): g = grad + weightDecay·w; m and v the averages of g and g² by `betas`,
 * w −= lr/(1 − β1ᵗ) · m / (√v/√(1 − β2ᵗ) + eps).
 *
 * State: `step.0`, `exp_avg.0`, `exp_avg_sq.0` and, with `amsgrad`, `max_exp_avg_sq.0` and so on. A step is one dispatch for all
 * parameters, and a small one before it that counts; see `Optimizer`.
 * @throws UsageError for options out of range, or parameters that are no float32 leaves with requiresGrad on one Gpu
 */
export class Adam extends AdamRule {
  constructor(parameters: Parameters, options: AdamOptions = {}) {
    super("Adam", parameters, options, { weightDecay: 0, decoupled: false });
  }
}

/**
 * AdamW, with PyTorch's update rule (`torch.optim.AdamW`): as `Adam`, but the decay is no part of the gradient: w −= lr·weightDecay·w
 * before the step. Its `weightDecay` is 0.01 by default.
 */
export class AdamW extends AdamRule {
  constructor(parameters: Parameters, options: AdamOptions = {}) {
    super("AdamW", parameters, options, { weightDecay: 0.01, decoupled: true });
  }
}

function indexOf(name: string): number {
  return Number(name.slice(name.lastIndexOf(".") + 1));
}

function checkAdam(op: string, options: AdamOptions): void {
  checkOptions(op, options, OPTIONS);
  const { betas = [0.9, 0.999], eps = 1e-8, amsgrad = false } = options;
  checkFlag(op, "amsgrad", amsgrad);
  const isBeta = (value: unknown) => typeof value === "number" && value >= 0 && value < 1;
  if (!Array.isArray(betas) || betas.length !== 2 || !betas.every(isBeta)) {
    throw new UsageError(`${op}: betas is ${show(betas)}; expected two numbers from 0 to 1, 1 not included`);
  }
  if (!Number.isFinite(eps) || eps < 0) {
    throw new UsageError(`${op}: eps is ${show(eps)}; expected a finite number of at least 0`);
  }
}
