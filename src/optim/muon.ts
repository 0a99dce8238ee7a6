import { noGrad } from "../autograd/tape.ts";
import { UsageError } from "../errors.ts";
import * as shaders from "../generated/shaders.ts";
import { add, mul, normalize, scale } from "../ops/elementwise/elementwise.ts";
import { matmul } from "../ops/matmul/matmul.ts";
import { sum } from "../ops/reduce/reduce.ts";
import { checkChoice, checkFlag, checkInteger, checkOptions, optionNames, show } from "../options.ts";
import { formatShape } from "../tensor/shape.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { PackedOptimizer, type Parameters, type Update } from "./optimizer.ts";
import type { Slot } from "./packed.ts";

/** Options of `Muon`. */
export interface MuonOptions {
  /** Learning rate; may be set anew at any time (`optimizer.lr = …`), also under a captured step. Default 0.001. */
  lr?: number;
  /** Default 0.1. */
  weightDecay?: number;
  /** Default 0.95. */
  momentum?: number;
  /** Default true. */
  nesterov?: boolean;
  /** Steps of the Newton–Schulz iteration. Default 5. */
  nsSteps?: number;
  /**
   * What the rate is multiplied by for a matrix of K rows and N columns: √max(1, K/N), or 0.2·√max(K, N), so that rates of AdamW fit.
   * Default "original".
   */
  adjustLr?: "original" | "match_rms_adamw";
}

const OPTIONS = optionNames<MuonOptions>({
  ...{ lr: 0, weightDecay: 0, momentum: 0, nesterov: 0, nsSteps: 0, adjustLr: 0 },
});

/** Of the polynomial a·x + b·x³ + c·x⁵, which takes singular values from above 0 to near 1; Jordan et al. */
const [A, B, C] = [3.4445, -4.775, 2.0315];
const EPS = 1e-7;

/**
 * Muon with PyTorch's update rule (`torch.optim.Muon`), in float32, for matrices and filters, these as [K, R·S·C]: the average of
 * gradients, made near orthogonal by a Newton–Schulz iteration of matrix products, is the step. The rest of a network (biases,
 * norms) goes to another optimizer:
 *
 * ```ts
 * const [weights, rest] = decayGroups(model);
 * const optimizer = new JointOptimizer([new Muon(weights.params, { lr: 0.02 }), new AdamW(rest.params)]);
 * ```
 *
 * State: `momentum_buffer.0` and so on. Two dispatches for all parameters, and some twenty for each; see `Optimizer`.
 * @throws UsageError for options out of range, or parameters that are no float32 leaves with requiresGrad on one Gpu, of two axes or four
 */
export class Muon extends PackedOptimizer {
  private readonly constants: { GAIN: number; MOMENTUM: number; NESTEROV: number };
  private readonly nsSteps: number;
  private readonly adjustLr: NonNullable<MuonOptions["adjustLr"]>;
  private readonly buffer: Tensor;
  private readonly directions: Tensor;

  constructor(parameters: Parameters, options: MuonOptions = {}) {
    checkOptions("Muon", options, OPTIONS);
    const { lr = 1e-3, weightDecay = 0.1, momentum = 0.95, nesterov = true } = options;
    const { nsSteps = 5, adjustLr = "original" } = options;
    checkFlag("Muon", "nesterov", nesterov);
    checkInteger("Muon", "nsSteps", nsSteps, 1, 99);
    checkChoice("Muon", "adjustLr", adjustLr, ["original", "match_rms_adamw"]);
    if (typeof momentum !== "number" || !(momentum >= 0 && momentum < 1)) {
      throw new UsageError(
        `Muon: momentum is ${show(momentum)}; expected a number from 0 to 1, 1 not included`,
      );
    }
    super("Muon", parameters, { lr, weightDecay }, checkMatrix);
    this.constants = { GAIN: 1 - momentum, MOMENTUM: momentum, NESTEROV: nesterov ? 1 : 0 };
    this.nsSteps = nsSteps;
    this.adjustLr = adjustLr;
    this.buffer = this.newState("momentum_buffer");
    this.directions = this.packed.newState();
  }

  protected override update({ slots, bindings, grid, range }: Update): void {
    const { gpu, constants, buffer, directions } = this;
    const { w, grad, rates, blocks, size } = bindings;
    const direction = range(directions);
    const direct = { shader: shaders.muon, entry: "direct", constants } as const;
    gpu.run(direct, { grad, size, momentum_buffer: range(buffer), new_direction: direction }, grid, "muon");
    noGrad(() => {
      for (const slot of slots) this.orthogonalize(slot);
    });
    const apply = { shader: shaders.muon, entry: "apply" } as const;
    gpu.run(apply, { w, rates, blocks, size, direction }, grid, "muon");
  }

  /** The direction of one parameter, in place: near orthogonal, times what the shape asks of the rate. */
  private orthogonalize({ parameter, byteOffset }: Slot): void {
    const { gpu, directions, nsSteps, adjustLr } = this;
    const [rows, columns] = [parameter.shape[0]!, parameter.size / parameter.shape[0]!];
    const factor =
      adjustLr === "original"
        ? Math.sqrt(Math.max(1, rows / columns))
        : 0.2 * Math.sqrt(Math.max(rows, columns));
    gpu.scope(() => {
      const direction = directions.part(byteOffset, [rows, columns]);
      const squares = sum(mul(direction, direction), undefined, { keepDims: true });
      let x = normalize(direction, gpu.zeros([1, 1]), squares, EPS ** 2);
      // The smaller of the two matrices of products: x·xᵀ, or xᵀ·x.
      const tall = rows > columns;
      for (let step = 0; step < nsSteps; step += 1) {
        const gram = matmul(x, x, tall ? { transposeA: true } : { transposeB: true });
        const mix = add(scale(gram, B), scale(matmul(gram, gram), C));
        x = add(scale(x, A), tall ? matmul(x, mix) : matmul(mix, x));
      }
      const result = scale(x, factor);
      gpu.copyRange(result.range, direction.range);
      direction.dispose();
    });
  }

  /** Gives state and gradients back; the parameters live on. */
  override dispose(): void {
    super.dispose();
    this.directions.dispose();
  }
}

function checkMatrix(i: number, { shape }: Tensor): void {
  if (shape.length === 2 || shape.length === 4) return;
  throw new UsageError(
    `Muon: parameter ${i} is of shape ${formatShape(shape)}; expected matrices and filters: give the others to AdamW, see decayGroups`,
  );
}
