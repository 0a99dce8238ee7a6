// jax-js on WebGPU: everything inside one `jit`, gradients by its own autodiff, NCHW as its convolution has it.
// Its arrays are consumed where they are used; `.ref` keeps one for a further use.
import type * as Jax from "@jax-js/jax";
import { blocksOf, folded, type Unit } from "../lib/networks.ts";
import {
  COMPARED_STEPS,
  type Contender,
  EPSILON,
  MOMENTUM,
  type NetworkWork,
  type PeerWork,
  type Prepared,
  type ResNetWork,
  rateOf,
  TO_NCHW,
  TO_NHWC,
  transpose,
  type WorkData,
} from "../lib/work.ts";

type Array = Jax.numpy.Array;

/** `navigator.gpu` must be set, and `navigator.userAgent`, which it reads. */
export async function jax(adapterName: string): Promise<Contender> {
  const library = await import("@jax-js/jax");
  const devices = await library.init("webgpu");
  if (!devices.includes("webgpu")) throw new Error("jax-js: its WebGPU backend did not start");
  library.defaultDevice("webgpu");
  return new JaxContender(library, adapterName);
}

class JaxContender implements Contender {
  readonly name = "jax-js WebGPU";

  constructor(
    private readonly jax: typeof Jax,
    readonly device: string,
  ) {}

  refuses(work: PeerWork): string | null {
    return work.op === "batch_norm" && work.tail && work.tail !== "relu" ? "not written for it" : null;
  }

  private array(data: Float32Array, shape: readonly number[]): Array {
    return this.jax.numpy.array(data as Float32Array<ArrayBuffer>, { shape: [...shape] });
  }

  async prepare(work: PeerWork, data: WorkData): Promise<Prepared> {
    if (work.op === "network" && work.pass === "inference") return this.prepareInference(work, data);
    if (work.op === "network" || work.op === "resnet_step") return this.prepareStep(work, data);
    const { jax } = this;
    const { arrays } = data;
    const [n, h, w, c] = work.shape;
    const inputs: Record<string, Array> = {};
    let forward: (...inputs: Array[]) => Array;
    if (work.op === "batch_norm") {
      // Element-wise work and reductions: the layout is free, and NHWC is the faster one here.
      inputs.x = this.array(arrays.x!, work.shape);
      inputs.gamma = this.array(arrays.gamma!, [c]);
      inputs.beta = this.array(arrays.beta!, [c]);
      if (work.pass === "forward+backward") inputs.dy = this.array(arrays.dy!, work.shape);
      // The faster spelling of each: `var_` saves a pass, but its backward is slower than the composition's.
      const normalize = work.pass === "forward" ? batchNormByVar : batchNorm;
      forward = (x, gamma, beta) => jax.nn.relu(normalize(jax, x!, gamma!, beta!, [0, 1, 2], [1, 1, 1, c]));
    } else {
      const k = work.outChannels;
      inputs.x = this.array(transpose(arrays.x!, work.shape, TO_NCHW), [n, c, h, w]);
      inputs.w = this.array(transpose(arrays.w!, [k, 3, 3, c], TO_NCHW), [k, c, 3, 3]);
      if (work.pass === "forward+backward") {
        inputs.dy = this.array(transpose(arrays.dy!, [n, h, w, k], TO_NCHW), [n, k, h, w]);
      }
      forward = (x, w) =>
        jax.lax.conv(
          x!,
          w!,
          [1, 1],
          [
            [1, 1],
            [1, 1],
          ],
        );
    }
    const compute = jax.jit((...args: Array[]): Array[] => {
      if (work.pass === "forward") return [forward(...args)];
      const dy = args.pop()!;
      const [y, pullback] = jax.vjp(forward, args);
      return [y, ...(pullback(dy) as Array[])];
    });
    const call = () => compute(...Object.values(inputs).map((input) => input.ref)) as Array[];
    return {
      run: async (iterations) => {
        // All outputs are kept to the end: work whose result is disposed of before it was submitted is never done.
        const outputs: Array[] = [];
        for (let i = 0; i < iterations; i += 1) outputs.push(...call());
        await jax.blockUntilReady(outputs);
        for (const out of outputs) out.dispose();
      },
      result: async () => {
        const out: Float32Array[] = await Promise.all(
          call().map(async (array) => Float32Array.from(await array.data())),
        );
        if (work.op === "conv2d") {
          const k = work.outChannels;
          out[0] = transpose(out[0]!, [n, k, h, w], TO_NHWC);
          if (out[1]) out[1] = transpose(out[1], [n, c, h, w], TO_NHWC);
          if (out[2]) out[2] = transpose(out[2], [k, c, 3, 3], TO_NHWC);
        }
        return out;
      },
      dispose: () => {
        for (const input of Object.values(inputs)) input.dispose();
        compute.dispose();
      },
    };
  }

  private images({ batch, size }: NetworkWork | ResNetWork, { arrays }: WorkData): Array {
    return this.array(transpose(arrays.x!, [batch, size, size, 3], TO_NCHW), [batch, 3, size, size]);
  }

  private prepareInference(work: NetworkWork, data: WorkData): Prepared {
    const { jax } = this;
    const x = this.images(work, data);
    const weights = folded(work.network, data.parameters, data.running).flatMap(({ weight, bias }) => {
      const { kind, shape, data: values } = weight;
      const filter =
        kind === "conv"
          ? this.array(
              transpose(values, shape, TO_NCHW),
              TO_NCHW.map((axis) => shape[axis]!),
            )
          : this.array(values, shape);
      return [filter, this.array(bias, [bias.length])];
    });
    const compute = jax.jit((images: Array, parameters: Array[]): Array => {
      let next = 0;
      const take = () => parameters[next++]!;
      return network(jax, work, images, take, (y, unit) => {
        const z = convolution(jax, y, take(), unit);
        return activated(jax, z.add(take().reshape([1, unit.to, 1, 1])), unit.activation);
      });
    });
    const call = () =>
      compute(
        x.ref,
        weights.map((weight) => weight.ref),
      ) as Array;
    return {
      run: async (iterations) => {
        const outputs: Array[] = [];
        for (let i = 0; i < iterations; i += 1) outputs.push(call());
        await jax.blockUntilReady(outputs);
        for (const out of outputs) out.dispose();
      },
      result: async () => [Float32Array.from(await call().data())],
      dispose: () => {
        for (const array of [x, ...weights]) array.dispose();
        compute.dispose();
      },
    };
  }

  private prepareStep(work: ResNetWork | NetworkWork, data: WorkData): Prepared {
    const { jax } = this;
    const np = jax.numpy;
    const { batch, classes } = work;
    const x = this.images(work, data);
    const oneHot = new Float32Array(batch * classes);
    data.labels.forEach((label, i) => {
      oneHot[i * classes + label] = 1;
    });
    const labels = this.array(oneHot, [batch, classes]);
    const initial = data.parameters.map(({ kind, shape, data: values }) =>
      kind === "conv"
        ? { values: transpose(values, shape, TO_NCHW), shape: TO_NCHW.map((axis) => shape[axis]!) }
        : { values, shape },
    );
    const start = () => ({
      parameters: initial.map(({ values, shape }) => this.array(values, shape)),
      velocity: initial.map(({ shape }) => np.zeros([...shape])),
    });
    type State = ReturnType<typeof start>;
    const loss = (parameters: Array[], images: Array, targets: Array) => {
      const logits =
        work.op === "network"
          ? trained(jax, work, images, parameters)
          : resnet(jax, work.depth, images, parameters);
      return jax.nn
        .logSoftmax(logits, -1)
        .mul(targets)
        .sum()
        .mul(-1 / batch);
    };
    const gradient = jax.valueAndGrad(loss);
    const update = jax.jit((parameters: Array[], velocity: Array[], images: Array, targets: Array) => {
      const [value, grads] = gradient(
        parameters.map((parameter) => parameter.ref),
        images,
        targets,
      ) as unknown as [Array, Array[]];
      const nextVelocity = velocity.map((v, i) => v.mul(MOMENTUM).add(grads[i]!));
      const nextParameters = parameters.map((p, i) => p.sub(nextVelocity[i]!.ref.mul(rateOf(work))));
      return [value, nextParameters, nextVelocity] as [Array, Array[], Array[]];
    });
    let state: State = start();
    const step = (): Array => {
      const [value, parameters, velocity] = update(state.parameters, state.velocity, x.ref, labels.ref) as [
        Array,
        Array[],
        Array[],
      ];
      state = { parameters, velocity };
      return value;
    };
    const drop = () => {
      for (const array of [...state.parameters, ...state.velocity]) array.dispose();
    };
    return {
      run: async (iterations) => {
        for (let i = 0; i < iterations; i += 1) step().dispose();
        await jax.blockUntilReady([...state.parameters, ...state.velocity]);
      },
      result: async () => {
        drop();
        state = start();
        const losses: Float32Array[] = [];
        for (let i = 0; i < COMPARED_STEPS; i += 1) losses.push(Float32Array.from(await step().data()));
        return losses;
      },
      dispose: () => {
        drop();
        x.dispose();
        labels.dispose();
        update.dispose();
      },
    };
  }

  async close(): Promise<void> {}
}

function batchNorm(
  jax: typeof Jax,
  x: Array,
  gamma: Array,
  beta: Array,
  axes: number[],
  vector: number[],
): Array {
  const np = jax.numpy;
  const centred = x.ref.sub(np.mean(x, axes, { keepdims: true }));
  const variance = np.mean(np.square(centred.ref), axes, { keepdims: true });
  const scale = np.reciprocal(np.sqrt(variance.add(EPSILON))).mul(gamma.reshape(vector));
  return centred.mul(scale).add(beta.reshape(vector));
}

function batchNormByVar(
  jax: typeof Jax,
  x: Array,
  gamma: Array,
  beta: Array,
  axes: number[],
  vector: number[],
): Array {
  const np = jax.numpy;
  const mean = np.mean(x.ref, axes, { keepdims: true });
  const scale = np.reciprocal(np.sqrt(np.var_(x.ref, axes, { keepdims: true }).add(EPSILON)));
  return x
    .sub(mean)
    .mul(scale.mul(gamma.reshape(vector)))
    .add(beta.reshape(vector));
}

function convolution(jax: typeof Jax, x: Array, filter: Array, { kernel, stride, depthwise, from }: Unit) {
  const pad = (kernel - 1) / 2;
  const sides: [number, number][] = [
    [pad, pad],
    [pad, pad],
  ];
  return jax.lax.convGeneralDilated(x, filter, [stride, stride], sides, {
    featureGroupCount: depthwise ? from : 1,
  });
}

function activated(jax: typeof Jax, x: Array, activation: Unit["activation"]): Array {
  if (activation === "none") return x;
  return activation === "relu" ? jax.nn.relu(x) : jax.nn.relu6(x);
}

/** The blocks, their units made by `unit`, the mean over all pixels and the linear layer, whose arrays `take` gives last. */
function network(
  jax: typeof Jax,
  { network: name }: NetworkWork,
  images: Array,
  take: () => Array,
  unit: (x: Array, unit: Unit) => Array,
): Array {
  const np = jax.numpy;
  let y = images;
  for (const { branch, shortcut, activation } of blocksOf(name)) {
    const x = shortcut === "none" ? null : y.ref;
    y = branch.reduce(unit, y);
    if (x) y = y.add(shortcut === "identity" ? x : unit(x, shortcut as Unit));
    y = activated(jax, y, activation);
  }
  const pooled = np.mean(y, [2, 3]);
  return np.matmul(pooled, np.transpose(take())).add(take());
}

/** In training mode, of parameters in the order of the network. */
function trained(jax: typeof Jax, work: NetworkWork, images: Array, parameters: Array[]): Array {
  let next = 0;
  const take = () => parameters[next++]!;
  return network(jax, work, images, take, (x, unit) => {
    const y = convolution(jax, x, take(), unit);
    const normed = batchNorm(jax, y, take(), take(), [0, 2, 3], [1, unit.to, 1, 1]);
    return activated(jax, normed, unit.activation);
  });
}

function resnet(jax: typeof Jax, depth: number, images: Array, parameters: Array[]): Array {
  const np = jax.numpy;
  let next = 0;
  const take = () => parameters[next++]!;
  const convNorm = (x: Array, stride: number) => {
    const y = jax.lax.conv(
      x,
      take(),
      [stride, stride],
      [
        [1, 1],
        [1, 1],
      ],
    );
    const channels = y.shape[1]!;
    return batchNorm(jax, y, take(), take(), [0, 2, 3], [1, channels, 1, 1]);
  };
  let y = jax.nn.relu(convNorm(images, 1));
  for (const stage of [0, 1, 2]) {
    for (let block = 0; block < (depth - 2) / 6; block += 1) {
      const stride = stage > 0 && block === 0 ? 2 : 1;
      let shortcut = y.ref;
      if (stride === 2) {
        const [n, c, h, w] = shortcut.shape as [number, number, number, number];
        // Every second pixel, without a gather: split each axis into pairs and take the first of each.
        const pairs = shortcut.reshape([n, c, h / 2, 2, w / 2, 2]);
        const half = pairs.slice([], [], [], 0, [], 0);
        shortcut = np.pad(half, [
          [0, 0],
          [c / 2, c / 2],
          [0, 0],
          [0, 0],
        ]);
      }
      const middle = jax.nn.relu(convNorm(y, stride));
      y = jax.nn.relu(convNorm(middle, 1).add(shortcut));
    }
  }
  const pooled = np.mean(y, [2, 3]);
  return np.matmul(pooled, np.transpose(take())).add(take());
}
