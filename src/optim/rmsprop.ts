import { UsageError } from "../errors.ts";
import * as shaders from "../generated/shaders.ts";
import { checkFlag, checkOptions, optionNames, show } from "../options.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { PackedOptimizer, type Parameters, type Update } from "./optimizer.ts";

/** Options of `RMSprop`; names and defaults are PyTorch's. */
export interface RMSpropOptions {
  /** Learning rate; may be set anew at any time (`optimizer.lr = …`), also under a captured step. Default 0.01. */
  lr?: number;
  /** Decay of the average of squares. Default 0.99. */
  alpha?: number;
  /** Default 1e-8. */
  eps?: number;
  /** Default 0. */
  weightDecay?: number;
  /** Default 0. */
  momentum?: number;
  /** Divide by an estimate of the standard deviation in place of the root mean square. Default false. */
  centered?: boolean;
}

const OPTIONS = optionNames<RMSpropOptions>({
  ...{ lr: 0, alpha: 0, eps: 0, weightDecay: 0, momentum: 0, centered: 0 },
});

/**
 * RMSprop with PyTorch's update rule (`torch.optim.RMSprop`): g = grad + weightDecay·w; s the average of g² by `alpha`;
 * w −= lr·g/(√s + eps), through a buffer b = momentum·b + g/(√s + eps) with `momentum`; s − (average of g)² for s if `centered`.
 *
 * State: `square_avg.0`, `momentum_buffer.0` with momentum, `grad_avg.0` if centered, and so on. See `Optimizer`.
 * @throws UsageError for options out of range, or parameters that are no float32 leaves with requiresGrad on one Gpu
 */
export class RMSprop extends PackedOptimizer {
  private readonly constants: { GAIN: number; EPS: number };
  private readonly momentum: number;
  private readonly squares: Tensor;
  private readonly buffer: Tensor | null;
  private readonly mean: Tensor | null;

  constructor(parameters: Parameters, options: RMSpropOptions = {}) {
    checkOptions("RMSprop", options, OPTIONS);
    const { lr = 0.01, alpha = 0.99, eps = 1e-8, weightDecay = 0, momentum = 0, centered = false } = options;
    checkFlag("RMSprop", "centered", centered);
    const rule = (name: string, value: number, most: number) => {
      if (!Number.isFinite(value) || value < 0 || value > most) {
        const expected = most === 1 ? "a number from 0 to 1" : "a finite number of at least 0";
        throw new UsageError(`RMSprop: ${name} is ${show(value)}; expected ${expected}`);
      }
    };
    rule("alpha", alpha, 1);
    rule("eps", eps, Number.POSITIVE_INFINITY);
    rule("momentum", momentum, Number.POSITIVE_INFINITY);
    super("RMSprop", parameters, { lr, weightDecay });
    this.constants = { GAIN: 1 - alpha, EPS: eps };
    this.momentum = momentum;
    this.squares = this.newState("square_avg");
    this.buffer = momentum > 0 ? this.newState("momentum_buffer") : null;
    this.mean = centered ? this.newState("grad_avg") : null;
  }

  protected override update({ bindings, grid, range }: Update): void {
    const { gpu, constants, buffer, mean } = this;
    const all = { ...bindings, square_avg: range(this.squares) };
    const shader = shaders.rmsprop;
    const withMomentum = { ...constants, MOMENTUM: this.momentum };
    if (buffer && mean) {
      const spec = { shader, entry: "step_centered_momentum", constants: withMomentum } as const;
      gpu.run(spec, { ...all, momentum_buffer: range(buffer), grad_avg: range(mean) }, grid, "rmsprop");
    } else if (buffer) {
      const spec = { shader, entry: "step_momentum", constants: withMomentum } as const;
      gpu.run(spec, { ...all, momentum_buffer: range(buffer) }, grid, "rmsprop");
    } else if (mean) {
      const spec = { shader, entry: "step_centered", constants } as const;
      gpu.run(spec, { ...all, grad_avg: range(mean) }, grid, "rmsprop");
    } else gpu.run({ shader, entry: "step", constants }, all, grid, "rmsprop");
  }
}
