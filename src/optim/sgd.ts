import { UsageError } from "../errors.ts";
import * as shaders from "../generated/shaders.ts";
import { checkFlag, checkOptions, isPlain, optionNames, show } from "../options.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { PackedOptimizer, type Parameters, type Update } from "./optimizer.ts";

/** Options of `SGD`; names and defaults are PyTorch's. */
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

const OPTIONS = optionNames<SGDOptions>({ lr: 0, momentum: 0, dampening: 0, weightDecay: 0, nesterov: 0 });

/** The bits of the velocity of a parameter that has had no step; see shaders/sgd.wgsl. */
const UNSTEPPED = 0x7fc5eed0;

/**
 * Stochastic gradient descent with PyTorch's update rule (`torch.optim.SGD`): g = grad + weightDecay·w;
 * v = momentum·v + (1 − dampening)·g, but v = g in a parameter's first step; w −= lr·v, or lr·(g + momentum·v) with Nesterov.
 *
 * State: `velocity.0` and so on, with momentum. See `Optimizer`.
 * @throws UsageError for options out of range, or parameters that are no float32 leaves with requiresGrad on one Gpu
 */
export class SGD extends PackedOptimizer {
  private readonly constants: { MOMENTUM: number; DAMPENING: number; NESTEROV: number };
  private readonly velocities: Tensor | null;

  constructor(parameters: Parameters, options: SGDOptions) {
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
      "nesterov",
      nesterov,
      !nesterov || (momentum > 0 && dampening === 0),
      "false, or a momentum above 0 without dampening",
    );
    super("SGD", parameters, { lr, weightDecay });
    this.constants = { MOMENTUM: momentum, DAMPENING: dampening, NESTEROV: nesterov ? 1 : 0 };
    this.velocities = momentum > 0 ? this.newState("velocity", UNSTEPPED) : null;
  }

  protected override update({ bindings, grid, range }: Update): void {
    const { constants, velocities } = this;
    if (velocities) {
      const spec = { shader: shaders.sgd, entry: "step", constants } as const;
      this.gpu.run(spec, { ...bindings, v: range(velocities) }, grid, "sgd");
    } else this.gpu.run({ shader: shaders.sgd, entry: "plain" }, bindings, grid, "sgd");
  }

  protected override isOtherState(name: string): boolean {
    return name === "steps"; // written by version 0.1.0
  }
}
