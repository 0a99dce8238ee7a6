// Activations in float64, each with its derivative, and the places where it has a kink.

export interface Activation {
  f(x: number): number;
  df(x: number): number;
  /** Where the derivative jumps: near these numbers rounding decides. */
  kinks: readonly number[];
}

/** √(2/π), for the tanh form of GELU. */
const ROOT = Math.sqrt(2 / Math.PI);

const sigmoid = (x: number) => 1 / (1 + Math.exp(-x));
const tanhOf = (x: number) => Math.tanh(ROOT * (x + 0.044715 * x ** 3));
const density = (x: number) => Math.exp((-x * x) / 2) / Math.sqrt(2 * Math.PI);
const distribution = (x: number) => (1 + erf(x / Math.SQRT2)) / 2;

/** By the names of `activation`, in PyTorch's definitions and with its defaults. */
export const activations = {
  none: { f: (x) => x, df: () => 1, kinks: [] },
  relu: { f: (x) => Math.max(x, 0), df: (x) => (x > 0 ? 1 : 0), kinks: [0] },
  relu6: { f: (x) => Math.min(Math.max(x, 0), 6), df: (x) => (x > 0 && x < 6 ? 1 : 0), kinks: [0, 6] },
  leakyRelu: { f: (x) => (x > 0 ? x : 0.01 * x), df: (x) => (x > 0 ? 1 : 0.01), kinks: [0] },
  silu: {
    f: (x) => x * sigmoid(x),
    df: (x) => sigmoid(x) * (1 + x * (1 - sigmoid(x))),
    kinks: [],
  },
  gelu: { f: (x) => x * distribution(x), df: (x) => distribution(x) + x * density(x), kinks: [] },
  geluTanh: {
    f: (x) => (x * (1 + tanhOf(x))) / 2,
    df: (x) => (1 + tanhOf(x)) / 2 + (x * (1 - tanhOf(x) ** 2) * ROOT * (1 + 3 * 0.044715 * x * x)) / 2,
    kinks: [],
  },
  hardSwish: {
    f: (x) => (x * Math.min(Math.max(x + 3, 0), 6)) / 6,
    df: (x) => (x <= -3 ? 0 : x >= 3 ? 1 : (2 * x + 3) / 6),
    kinks: [-3, 3],
  },
} as const satisfies Record<string, Activation>;

export type ActivationName = keyof typeof activations;

/** The error function: its series at 0 where that converges fast, else the continued fraction of its complement. */
function erf(x: number): number {
  const a = Math.abs(x);
  if (a > 6) return Math.sign(x);
  if (a < 2.5) {
    let term = x;
    let sum = x;
    for (let n = 1; n < 60; n += 1) {
      term *= (-x * x) / n;
      sum += term / (2 * n + 1);
    }
    return (2 / Math.sqrt(Math.PI)) * sum;
  }
  let fraction = 0;
  for (let n = 60; n > 0; n -= 1) fraction = n / 2 / (a + fraction);
  return Math.sign(x) * (1 - Math.exp(-a * a) / (Math.sqrt(Math.PI) * (a + fraction)));
}
