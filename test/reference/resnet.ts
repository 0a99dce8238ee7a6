// Training of resnetCifar in float64: forward, backward and SGD by naive loops, parameter by parameter.

import { batchNormReference, batchNormReferenceGrad } from "./batch-norm.ts";
import { conv2dReference, conv2dReferenceGrad, outputShape } from "./conv2d.ts";

type Shape4 = [number, number, number, number];
interface Value {
  data: Float64Array;
  grad: Float64Array;
  shape: Shape4;
}

export interface ReferenceNetOptions {
  blocks: number; // n of 6n + 2
  norm: "batch" | "none" | "last";
  eps: number;
}

export type Parameters = Record<string, { data: Float64Array; shape: readonly number[] }>;

/** Loss and the gradient of every parameter. Names are those of `Module.namedParameters`. */
export function lossAndGradients(
  options: ReferenceNetOptions,
  parameters: Parameters,
  images: Float64Array,
  shape: Shape4,
  labels: ArrayLike<number>,
): { loss: number; grads: Record<string, Float64Array> } {
  const grads: Record<string, Float64Array> = {};
  for (const [name, { data }] of Object.entries(parameters)) grads[name] = new Float64Array(data.length);
  const backward: (() => void)[] = [];
  const value = (data: Float64Array, of: Shape4): Value => ({
    data,
    grad: new Float64Array(data.length),
    shape: of,
  });
  const addTo = (target: Float64Array, part: Float64Array) => {
    part.forEach((v, i) => {
      target[i]! += v;
    });
  };

  const conv = (x: Value, name: string, stride: number): Value => {
    const weight = parameters[`${name}.weight`]!;
    const bias = parameters[`${name}.bias`];
    const c = {
      x: x.shape,
      weight: weight.shape as Shape4,
      stride: [stride, stride],
      padding: [1, 1, 1, 1],
      dilation: [1, 1],
      groups: 1,
    } as const;
    const arrays = { x: x.data, weight: weight.data, ...(bias ? { bias: bias.data } : {}) };
    const y = value(conv2dReference(c, arrays), outputShape(c));
    backward.push(() => {
      const g = conv2dReferenceGrad(c, arrays, y.grad);
      addTo(x.grad, g.x);
      addTo(grads[`${name}.weight`]!, g.weight);
      if (bias) addTo(grads[`${name}.bias`]!, g.bias);
    });
    return y;
  };

  /** relu(norm(x) + residual), the norm left out where the network has none. */
  const normAddRelu = (x: Value, name: string | null, residual: Value | null, relu: boolean): Value => {
    const channels = x.shape[3];
    const b = { count: x.data.length / channels, channels, eps: options.eps, relu };
    if (name) {
      const gamma = parameters[`${name}.weight`]!.data;
      const beta = parameters[`${name}.bias`]!.data;
      const arrays = { x: x.data, gamma, beta, ...(residual ? { residual: residual.data } : {}) };
      const y = value(batchNormReference(b, arrays), x.shape);
      backward.push(() => {
        const g = batchNormReferenceGrad(b, arrays, y.grad);
        addTo(x.grad, g.x);
        addTo(grads[`${name}.weight`]!, g.gamma);
        addTo(grads[`${name}.bias`]!, g.beta);
        if (residual) addTo(residual.grad, g.residual);
      });
      return y;
    }
    const y = value(
      x.data.map((v, i) => Math.max(v + (residual?.data[i] ?? 0), relu ? 0 : Number.NEGATIVE_INFINITY)),
      x.shape,
    );
    backward.push(() => {
      const dz = y.grad.map((v, i) => (!relu || y.data[i]! > 0 ? v : 0));
      addTo(x.grad, dz);
      if (residual) addTo(residual.grad, dz);
    });
    return y;
  };

  /** Every second pixel; new channels of zeros on both sides. */
  const shortcut = (x: Value, stride: number, to: number): Value => {
    const [n, h, w, c] = x.shape;
    if (stride === 1 && c === to) return x;
    const [p, q] = [Math.ceil(h / stride), Math.ceil(w / stride)];
    const before = Math.floor((to - c) / 2);
    const y = value(new Float64Array(n * p * q * to), [n, p, q, to]);
    const each = (visit: (from: number, at: number) => void) => {
      for (let in_ = 0; in_ < n; in_ += 1)
        for (let ip = 0; ip < p; ip += 1)
          for (let iq = 0; iq < q; iq += 1)
            for (let ic = 0; ic < c; ic += 1)
              visit(
                ((in_ * h + ip * stride) * w + iq * stride) * c + ic,
                ((in_ * p + ip) * q + iq) * to + before + ic,
              );
    };
    each((from, at) => {
      y.data[at] = x.data[from]!;
    });
    backward.push(() =>
      each((from, at) => {
        x.grad[from]! += y.grad[at]!;
      }),
    );
    return y;
  };

  const normName = (name: string) => (options.norm === "batch" ? `${name}.norm` : null);
  let y = normAddRelu(conv(value(images, shape), "stem.conv", 1), normName("stem"), null, true);
  for (let i = 0; i < 3 * options.blocks; i += 1) {
    const stride = i > 0 && i % options.blocks === 0 ? 2 : 1;
    const to = parameters[`blocks.${i}.first.conv.weight`]!.shape[0]!;
    const skip = shortcut(y, stride, to);
    const first = `blocks.${i}.first`;
    const second = `blocks.${i}.second`;
    const middle = normAddRelu(conv(y, `${first}.conv`, stride), normName(first), null, true);
    y = normAddRelu(conv(middle, `${second}.conv`, 1), normName(second), skip, true);
  }
  if (options.norm === "last") y = normAddRelu(y, "lastNorm", null, false);

  // Global average, classifier, cross-entropy.
  const [n, h, w, c] = y.shape;
  const pooled = new Float64Array(n * c);
  y.data.forEach((v, i) => {
    pooled[Math.floor(i / (h * w * c)) * c + (i % c)]! += v / (h * w);
  });
  const weight = parameters["classifier.weight"]!.data;
  const bias = parameters["classifier.bias"]!.data;
  let loss = 0;
  const dPooled = new Float64Array(pooled.length);
  for (let i = 0; i < n; i += 1) {
    const logits = Float64Array.from(bias, (b, k) => {
      let sum = b;
      for (let j = 0; j < c; j += 1) sum += pooled[i * c + j]! * weight[k * c + j]!;
      return sum;
    });
    const top = Math.max(...logits);
    const lse = top + Math.log(logits.reduce((sum, v) => sum + Math.exp(v - top), 0));
    loss += (lse - logits[labels[i]!]!) / n;
    logits.forEach((v, k) => {
      const d = (Math.exp(v - lse) - (labels[i] === k ? 1 : 0)) / n;
      grads["classifier.bias"]![k]! += d;
      for (let j = 0; j < c; j += 1) {
        grads["classifier.weight"]![k * c + j]! += d * pooled[i * c + j]!;
        dPooled[i * c + j]! += d * weight[k * c + j]!;
      }
    });
  }
  const last = y;
  last.data.forEach((_, i) => {
    last.grad[i]! += dPooled[Math.floor(i / (h * w * c)) * c + (i % c)]! / (h * w);
  });
  for (const step of backward.reverse()) step();
  return { loss, grads };
}

/** PyTorch's SGD with momentum and weight decay, in place. */
export function sgdStep(
  parameters: Parameters,
  grads: Record<string, Float64Array>,
  velocity: Record<string, Float64Array>,
  { lr, momentum, weightDecay }: { lr: number; momentum: number; weightDecay: number },
): void {
  for (const [name, { data }] of Object.entries(parameters)) {
    velocity[name] ??= new Float64Array(data.length);
    const v = velocity[name]!;
    for (let i = 0; i < data.length; i += 1) {
      v[i] = momentum * v[i]! + grads[name]![i]! + weightDecay * data[i]!;
      data[i]! -= lr * v[i]!;
    }
  }
}
