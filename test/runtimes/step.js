// One training step of conv2d → batchNorm → ReLU, checked against float64: what every runtime has to get right. Plain JavaScript
// and nothing imported, so that it runs wherever the package does.

/** N, H, W, C and K: one that every kernel has an edge case in, and one that takes the kernels for larger tensors. */
const SIZES = [
  [2, 5, 7, 3, 4],
  [3, 32, 32, 8, 16],
];
/** Weights whose gradient is compared. */
const COMPARED = 24;
const EPS = 1e-5;
const LR = 64;
/** Of the difference quotients. */
const STEP = 1e-6;

/** Numbers from −1 to 1, the same everywhere. */
function noise(count, seed) {
  let state = seed;
  return Float32Array.from({ length: count }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 31 - 1;
  });
}

/** The loss, in float64: Σ relu(batchNorm(conv2d(x, w))) · target / count. */
function loss64([N, H, W, C, K], x, w, gamma, beta, target) {
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

/** Takes the step at one size. @returns the larger of the two relative errors, of the loss and of the gradient */
async function stepOf({ conv2d, batchNorm, mean, mul, SGD }, gpu, size) {
  const [N, H, W, C, K] = size;
  const shapes = { x: [N, H, W, C], w: [K, 3, 3, C], gamma: [K], beta: [K], target: [N, H, W, K] };
  const data = Object.fromEntries(
    Object.entries(shapes).map(([name, shape], i) => [
      name,
      noise(
        shape.reduce((a, b) => a * b),
        i + 1,
      ),
    ]),
  );
  const { x, w, gamma, beta, target } = Object.fromEntries(
    Object.entries(shapes).map(([name, shape]) => [
      name,
      gpu.tensor(data[name], shape, { requiresGrad: ["w", "gamma", "beta"].includes(name) }),
    ]),
  );
  const optimizer = new SGD([w, gamma, beta], { lr: LR });
  const normalized = batchNorm(conv2d(x, w, { padding: 1 }), gamma, beta, {
    training: true,
    activation: "relu",
    eps: EPS,
  });
  const loss = mean(mul(normalized, target));
  loss.backward();
  optimizer.step();

  const at = (weights) => loss64(size, data.x, weights, data.gamma, data.beta, data.target);
  const after = await w.read();
  const weights = Float64Array.from(data.w);
  const [expected, actual] = [[], []];
  for (let i = 0; i < weights.length; i += Math.ceil(weights.length / COMPARED)) {
    const middle = weights[i];
    weights[i] = middle + STEP;
    const above = at(weights);
    weights[i] = middle - STEP;
    expected.push((above - at(weights)) / (2 * STEP));
    weights[i] = middle;
    // What the step changed, so that an error of the gradient is not lost in the weight.
    actual.push((middle - after[i]) / LR);
  }
  const lossError = Math.abs((await loss.item()) / at(weights) - 1);
  const gradientError = distance(actual, expected);
  if (!(lossError < 1e-4) || !(gradientError < 1e-4)) {
    throw new Error(`at ${size.join("×")} the loss is off by ${lossError}, the gradient by ${gradientError}`);
  }
  return Math.max(lossError, gradientError);
}

/** Takes the step on `gpu` with the functions of the package, and compares loss and weights. */
export async function trainingStep(fusenorm, gpu) {
  const errors = [];
  for (const size of SIZES) errors.push(await stepOf(fusenorm, gpu, size));
  return { adapter: gpu.info.name, error: Math.max(...errors) };
}

/** Those of hardware on a software adapter, and the other way round. */
function otherKernels(gpu) {
  gpu.info.class = gpu.info.class === "software" ? "hardware" : "software";
  return gpu;
}

async function compatible({ entry, Gpu }) {
  const adapter = await (await entry()).requestAdapter({ featureLevel: "compatibility" });
  return Gpu.fromDevice(await adapter.requestDevice());
}

/** The devices to take the step on. Each makes a `Gpu` of what `all` (a `Gpu` with everything) and `entry` (a `GPU`) offer. */
export const DEVICES = {
  everything: ({ all }) => all(),
  "the other kernels": async ({ all }) => otherKernels(await all()),
  "default limits": async ({ entry, Gpu }) => {
    const adapter = await (await entry()).requestAdapter();
    return Gpu.fromDevice(await adapter.requestDevice());
  },
  compatibility: compatible,
  "compatibility, the other kernels": async (offers) => otherKernels(await compatible(offers)),
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
