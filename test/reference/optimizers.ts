// PyTorch's update rules in float64, for one vector of parameters.

/** One step with gradient `g` at rate `lr`, in place. `weightDecay` may differ from the options' own. */
export interface Rule {
  step(w: Float64Array, g: Float64Array, lr: number): void;
}

export interface RuleOptions {
  betas?: readonly [number, number];
  eps?: number;
  weightDecay?: number;
  amsgrad?: boolean;
  alpha?: number;
  momentum?: number;
  centered?: boolean;
}

export function adamRule(size: number, options: RuleOptions, decoupled: boolean): Rule {
  const { betas = [0.9, 0.999], eps = 1e-8, weightDecay = decoupled ? 0.01 : 0, amsgrad = false } = options;
  const [b1, b2] = betas;
  const [m, v, most] = [new Float64Array(size), new Float64Array(size), new Float64Array(size)];
  let t = 0;
  return {
    step(w, grad, lr) {
      t += 1;
      for (let i = 0; i < size; i += 1) {
        if (decoupled) w[i]! -= lr * weightDecay * w[i]!;
        const g = grad[i]! + (decoupled ? 0 : weightDecay * w[i]!);
        m[i] = b1 * m[i]! + (1 - b1) * g;
        v[i] = b2 * v[i]! + (1 - b2) * g * g;
        most[i] = Math.max(most[i]!, v[i]!);
        const second = Math.sqrt(amsgrad ? most[i]! : v[i]!) / Math.sqrt(1 - b2 ** t);
        w[i]! -= ((lr / (1 - b1 ** t)) * m[i]!) / (second + eps);
      }
    },
  };
}

export function rmspropRule(size: number, options: RuleOptions): Rule {
  const { alpha = 0.99, eps = 1e-8, weightDecay = 0, momentum = 0, centered = false } = options;
  const [s, mean, buffer] = [new Float64Array(size), new Float64Array(size), new Float64Array(size)];
  return {
    step(w, grad, lr) {
      for (let i = 0; i < size; i += 1) {
        const g = grad[i]! + weightDecay * w[i]!;
        s[i] = alpha * s[i]! + (1 - alpha) * g * g;
        mean[i] = alpha * mean[i]! + (1 - alpha) * g;
        const d = g / (Math.sqrt(s[i]! - (centered ? mean[i]! ** 2 : 0)) + eps);
        buffer[i] = momentum * buffer[i]! + d;
        w[i]! -= lr * (momentum > 0 ? buffer[i]! : d);
      }
    },
  };
}
