// One training step of conv2d → batchNorm → ReLU, checked against float64: what every runtime has to get right. Plain JavaScript
// and nothing imported, so that it runs wherever the package does.

const [N, H, W, C, K] = [2, 5, 7, 3, 4];
const EPS = 1e-5;
const LR = 8;

/** Numbers from −1 to 1, the same everywhere. */
function noise(count, seed) {
  let state = seed;
  return Float32Array.from({ length: count }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 31 - 1;
  });
}

/** The loss, in float64: Σ relu(batchNorm(conv2d(x, w))) · target / count. */
function loss64(x, w, gamma, beta, target) {
  const rows = N * H * W;
  const z = new Float64Array(rows * K);
  for (let n = 0; n < N; n++)
    for (let p = 0; p < H; p++)
      for (let q = 0; q < W; q++)
        for (let k = 0; k < K; k++) {
          let sum = 0;
          for (let r = 0; r < 3; r++)
            for (let s = 0; s < 3; s++) {
              const [h, v] = [p + r - 1, q + s - 1];
              if (h < 0 || h >= H || v < 0 || v >= W) continue;
              for (let c = 0; c < C; c++)
                sum += x[((n * H + h) * W + v) * C + c] * w[((k * 3 + r) * 3 + s) * C + c];
            }
          z[((n * H + p) * W + q) * K + k] = sum;
        }
  let total = 0;
  for (let k = 0; k < K; k++) {
    let mean = 0;
    let variance = 0;
    for (let i = k; i < z.length; i += K) mean += z[i] / rows;
    for (let i = k; i < z.length; i += K) variance += (z[i] - mean) ** 2 / rows;
    for (let i = k; i < z.length; i += K) {
      const y = ((z[i] - mean) / Math.sqrt(variance + EPS)) * gamma[k] + beta[k];
      total += Math.max(0, y) * target[i];
    }
  }
  return total / z.length;
}

const distance = (a, b) => {
  let [difference, size] = [0, 0];
  for (let i = 0; i < b.length; i++) {
    difference += (a[i] - b[i]) ** 2;
    size += b[i] ** 2;
  }
  return Math.sqrt(difference / size);
};

/**
 * Takes the step on `gpu` with the functions of the package, and compares loss and weights.
 * @returns the adapter's name and the larger of the two relative errors
 */
export async function trainingStep({ conv2d, batchNorm, mean, mul, SGD }, gpu) {
  const shapes = { x: [N, H, W, C], w: [K, 3, 3, C], gamma: [K], beta: [K], target: [N, H, W, K] };
  const data = Object.fromEntries(
    Object.entries(shapes).map(([name, shape], i) => [name, noise(shape.reduce((a, b) => a * b), i + 1)]),
  );
  const { x, w, gamma, beta, target } = Object.fromEntries(
    Object.entries(shapes).map(([name, shape]) => [
      name,
      gpu.tensor(data[name], shape, { requiresGrad: ["w", "gamma", "beta"].includes(name) }),
    ]),
  );
  const optimizer = new SGD([w, gamma, beta], { lr: LR });
  const y = batchNorm(conv2d(x, w, { padding: 1 }), gamma, beta, { training: true, activation: "relu", eps: EPS });
  const loss = mean(mul(y, target));
  loss.backward();
  optimizer.step();

  const at = (values) => loss64(data.x, values, data.gamma, data.beta, data.target);
  const expected = Float64Array.from(data.w);
  const varied = Float64Array.from(data.w);
  const STEP = 1e-4;
  for (let i = 0; i < varied.length; i++) {
    const middle = varied[i];
    varied[i] = middle + STEP;
    const above = at(varied);
    varied[i] = middle - STEP;
    const below = at(varied);
    varied[i] = middle;
    expected[i] = (above - below) / (2 * STEP);
  }
  const after = await w.read();
  // What the step changed, so that an error of the gradient is not lost in the weights.
  const gradient = Float64Array.from(after, (value, i) => (data.w[i] - value) / LR);
  const [lossError, gradientError] = [
    Math.abs((await loss.item()) / at(data.w) - 1),
    distance(gradient, expected),
  ];
  if (!(lossError < 1e-4) || !(gradientError < 1e-3)) {
    throw new Error(`the loss is off by ${lossError}, the gradient by ${gradientError}`);
  }
  return { adapter: gpu.info.name, error: Math.max(lossError, gradientError) };
}

/** The devices to take the step on. Each makes a `Gpu` of what `all` (a `Gpu` with everything) and `entry` (a `GPU`) offer. */
export const DEVICES = {
  everything: ({ all }) => all(),
  "the other kernels": async ({ all }) => {
    const gpu = await all();
    gpu.info.class = gpu.info.class === "software" ? "hardware" : "software";
    return gpu;
  },
  "default limits": async ({ entry, Gpu }) => {
    const adapter = await (await entry()).requestAdapter();
    return Gpu.fromDevice(await adapter.requestDevice());
  },
  compatibility: async ({ entry, Gpu }) => {
    const adapter = await (await entry()).requestAdapter({ featureLevel: "compatibility" });
    return Gpu.fromDevice(await adapter.requestDevice());
  },
};

/** Takes the step on each of `DEVICES`; of one that fails, why. */
export async function everyDevice(fusenorm, { all, entry }) {
  const outcomes = {};
  for (const [name, device] of Object.entries(DEVICES)) {
    try {
      const gpu = await device({ all, entry, Gpu: fusenorm.Gpu });
      outcomes[name] = await trainingStep(fusenorm, gpu);
      gpu.destroy();
    } catch (error) {
      outcomes[name] = { failure: `${error?.name}: ${error?.message}` };
    }
  }
  return outcomes;
}
