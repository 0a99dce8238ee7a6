import { describe, expect, it } from "vitest";
import { ShapeError, UsageError } from "../../src/errors.ts";
import {
  BatchNorm2d,
  GELU,
  Hardswish,
  LeakyReLU,
  type Module,
  ReLU,
  ReLU6,
  Sequential,
  SiLU,
} from "../../src/index.ts";
import {
  ACTIVATION_NAMES,
  type Activation,
  activate,
  activationPart,
  gelu,
  hardSwish,
  leakyRelu,
  relu,
  relu6,
  silu,
} from "../../src/ops/activations.ts";
import { sizeOf } from "../../src/tensor/shape.ts";
import type { Tensor } from "../../src/tensor/tensor.ts";
import { checkOp } from "../helpers/check-op.ts";
import { testGpu } from "../helpers/gpu.ts";
import { normals } from "../helpers/numbers.ts";
import { type ActivationName, activations } from "../reference/activations.ts";

const ops: Record<ActivationName, (x: Tensor) => Tensor> = {
  none: (x) => activate("test", x, "none"),
  relu,
  relu6,
  leakyRelu,
  silu,
  gelu,
  geluTanh: (x) => gelu(x, { approximate: "tanh" }),
  hardSwish,
};
const names = (Object.keys(ops) as ActivationName[]).filter((name) => name !== "none");

/** y and dx of `op` for dy = 1. */
async function both(op: (x: Tensor) => Tensor, values: ArrayLike<number>) {
  const gpu = await testGpu();
  const x = gpu.tensor(Float32Array.from(values), [values.length], { requiresGrad: true });
  const y = gpu.scope(() => op(x));
  const ones = gpu.full([values.length], 1);
  y.backward(ones);
  const result = { y: await y.read(), dx: await x.grad!.read() };
  for (const tensor of [x, y, ones]) tensor.dispose();
  return result;
}

describe("activations", () => {
  for (const name of names) {
    it(name, async () => {
      await checkOp(
        [[], [1], [3, 5, 7], [2, 3, 3, 8], [70, 300]].map((shape, i) => ({
          label: `${name} [${shape}]`,
          inputs: { x: { shape, data: normals(sizeOf(shape), 40 + i, 0, 3) } },
          run: (t) => ops[name](t.x!),
          composed: (t) => activate("test", t.x!, name),
          reference: ({ x }) => x!.map(activations[name].f),
        })),
      );
    });
  }

  it("leaky ReLU with other slopes", async () => {
    await checkOp(
      [0.2, 0, -0.5, 3].flatMap((negativeSlope) =>
        [
          (x: Tensor) => leakyRelu(x, { negativeSlope }),
          (x: Tensor) => activate("test", x, { name: "leakyRelu", negativeSlope }),
        ].map((run) => ({
          label: `leakyRelu ${negativeSlope}`,
          inputs: { x: [3, 5, 7] },
          run: (t: Record<string, Tensor>) => run(t.x!),
          reference: ({ x }: Record<string, Float64Array>) => x!.map((v) => (v > 0 ? v : negativeSlope * v)),
        })),
      ),
    );
  });

  it("passes what is not finite as PyTorch does, and has no NaN for what is finite", async () => {
    const { NaN: nan, POSITIVE_INFINITY: inf } = Number;
    const x = [nan, inf, -inf, 0, -0, 3e38, -3e38, 1e20, -1e20, 1e4, -1e4, 200, -200, 90, -90, 6, -6, 3, -3];
    const edge: Record<string, { y: [inf: number, minusInf: number]; dx: [number, number, zero: number] }> = {
      relu: { y: [inf, 0], dx: [1, 0, 0] },
      relu6: { y: [6, 0], dx: [0, 0, 0] },
      leakyRelu: { y: [inf, -inf], dx: [1, Math.fround(0.01), Math.fround(0.01)] },
      silu: { y: [inf, nan], dx: [nan, nan, 0.5] },
      gelu: { y: [inf, nan], dx: [nan, nan, 0.5] },
      geluTanh: { y: [inf, nan], dx: [nan, nan, 0.5] },
      hardSwish: { y: [inf, nan], dx: [1, 0, 0.5] },
    };
    for (const name of names) {
      const { y, dx } = await both(ops[name], x);
      const { f, df } = activations[name];
      const expected = edge[name]!;
      expect(
        [...y.slice(0, 3)].map((v) => v + 0),
        name,
      ).toEqual([nan, ...expected.y]);
      expect(
        [...dx.slice(1, 5)].map((v) => v + 0),
        `${name}: gradient`,
      ).toEqual([...expected.dx, expected.dx[2]]);
      for (const [i, v] of x.entries()) {
        if (!Number.isFinite(v)) continue;
        const reference = v <= -90 && name !== "leakyRelu" ? 0 : f(Math.fround(v));
        expect(Math.abs(y[i]! - reference), `${name}(${v})`).toBeLessThanOrEqual(2e-6 * Math.abs(reference));
        const slope = v === 0 ? expected.dx[2] : Math.abs(v) >= 90 ? df(Math.sign(v) * 20) : df(v);
        expect(Math.abs(dx[i]! - slope), `${name}'(${v})`).toBeLessThanOrEqual(1e-6);
      }
    }
    // Where x is NaN, a gradient that rectifies gets through, and no other stays finite. The bounds of the comparisons by
    // bits: the least positive number, infinity, and the NaN and the -NaN that are next to it.
    const bits = new Float32Array(new Uint32Array([1, 0x7f800000, 0x7f800001, 0xff800001]).buffer);
    const low = Math.fround(0.01);
    expect([...(await both(relu, bits)).dx]).toEqual([1, 1, 1, 1]);
    expect([...(await both(relu6, bits)).dx]).toEqual([1, 0, 1, 1]);
    expect([...(await both(leakyRelu, bits)).dx]).toEqual([1, 1, low, low]);
    for (const name of ["silu", "gelu", "geluTanh"] as const) {
      expect((await both(ops[name], [nan])).dx[0]).toBeNaN();
    }
  });

  it("has NaN with its sign bit set for NaN", async () => {
    const gpu = await testGpu();
    const x = gpu.tensor(new Float32Array(new Uint32Array([0xffc00000, 0xffffffff, 0x7fffffff]).buffer), [3]);
    for (const name of names) expect([...(await ops[name](x).read())], name).toEqual([NaN, NaN, NaN]);
  });

  // Relative errors, also where the function is almost 0. exp may be off by 3 + 2 |x| units in its last place.
  const bounds: Partial<Record<ActivationName, { from: number; relative: (x: number) => number }>> = {
    relu6: { from: -20, relative: () => 0 },
    leakyRelu: { from: -20, relative: () => 2e-7 },
    silu: { from: -80, relative: (x) => 1e-6 + 2.4e-7 * Math.abs(x) },
    gelu: { from: -12.5, relative: () => 1e-6 },
    geluTanh: { from: -9, relative: (x) => 1e-6 + 4e-7 * Math.abs(x + 0.044715 * x ** 3) },
    hardSwish: { from: -20, relative: () => 4e-7 },
  };
  for (const [name, { from, relative }] of Object.entries(bounds)) {
    it(`${name} is accurate everywhere`, async () => {
      const count = 200_003;
      const x = Float32Array.from({ length: count }, (_, i) => from + ((20 - from) * i) / count + 1e-6);
      const { y, dx } = await both(ops[name as ActivationName], x);
      const { f, df } = precise(name as ActivationName);
      let worst = { x: 0, error: 0 };
      let steepest = { x: 0, error: 0 };
      for (let i = 0; i < count; i += 1) {
        const v = x[i]!;
        const expected = f(v);
        const slope = df(v);
        const error = Math.abs(y[i]! - expected) / (relative(v) * Math.abs(expected) + 1e-37);
        if (error > worst.error) worst = { x: v, error };
        // The slope crosses 0 near -1: there only its absolute error is small.
        const size = v > -2 ? Math.max(Math.abs(slope), 0.5) : Math.abs(slope);
        const off = Math.abs(dx[i]! - slope) / ((relative(v) + 2e-7) * size + 1e-37);
        if (off > steepest.error) steepest = { x: v, error: off };
      }
      expect(worst.error, `at ${worst.x}, in units of the bound`).toBeLessThanOrEqual(1);
      expect(steepest.error, `slope at ${steepest.x}, in units of the bound`).toBeLessThanOrEqual(1);
    });
  }

  it("names every activation that there is, and what is none", () => {
    expect([...ACTIVATION_NAMES].sort()).toEqual(Object.keys(activations).sort());
    for (const name of ACTIVATION_NAMES) expect(activationPart("f", name).part).toMatch(/^activation_/);
    expect(activationPart("f", { name: "leakyRelu", negativeSlope: 0.2 })).toEqual({
      part: "activation_leaky_relu",
      constants: { NEGATIVE_SLOPE: 0.2 },
    });
    const wrong: [RegExp, unknown, typeof ShapeError | typeof UsageError][] = [
      [/^f: activation is "swish"; expected .*"hardSwish" \(did you mean "silu"\?\)/, "swish", ShapeError],
      [/did you mean "leakyRelu"/, "leaky_relu", ShapeError],
      [/^f: activation is null/, null, ShapeError],
      [/^f: activation.name is "relu"/, { name: "relu", negativeSlope: 1 }, UsageError],
      [/activation.negativeSlope is undefined/, { name: "leakyRelu" }, ShapeError],
      [/activation.negativeSlope is 1e\+39/, { name: "leakyRelu", negativeSlope: 1e39 }, ShapeError],
      [/there is no option "slope"/, { name: "leakyRelu", slope: 1 }, UsageError],
    ];
    for (const [message, activation, kind] of wrong) {
      const call = () => activationPart("f", activation as Activation);
      expect(call).toThrow(kind);
      expect(call).toThrow(message);
    }
  });

  it("are layers, which a batch-norm before them takes into its own pass", async () => {
    const gpu = await testGpu();
    const layers: [Module, (x: Tensor) => Tensor, Activation][] = [
      [new ReLU(), relu, "relu"],
      [new ReLU6(), relu6, "relu6"],
      [new LeakyReLU(), leakyRelu, "leakyRelu"],
      [
        new LeakyReLU({ negativeSlope: 0.3 }),
        (x) => leakyRelu(x, { negativeSlope: 0.3 }),
        { name: "leakyRelu", negativeSlope: 0.3 },
      ],
      [new SiLU(), silu, "silu"],
      [new GELU(), gelu, "gelu"],
      [new GELU({ approximate: "tanh" }), ops.geluTanh, "geluTanh"],
      [new Hardswish(), hardSwish, "hardSwish"],
    ];
    const x = gpu.tensor(normals(6 * 8, 3, 0, 3), [6, 8]);
    for (const [layer, op, activation] of layers) {
      expect(await layer.forward(x).read()).toEqual(await op(x).read());
      const norm = new BatchNorm2d(gpu, 8);
      const fused = await norm.forward(x, { activation }).read();
      expect(await new Sequential(norm, layer).forward(x).read()).toEqual(fused);
      const apart = await op(norm.forward(x)).read();
      for (const [i, v] of apart.entries()) expect(fused[i]).toBeCloseTo(v, 5);
    }
  });
});

/** The reference, but for what cancels in the far negative tail. */
function precise(name: ActivationName): { f(x: number): number; df(x: number): number } {
  const { f, df } = activations[name];
  const sigmoid = (x: number) => 1 / (1 + Math.exp(-x));
  if (name === "gelu") {
    // Of the continued fraction of the tail, over the density.
    const ratio = (a: number) => {
      let rest = 0;
      for (let n = 100; n > 0; n -= 1) rest = n / (a + rest);
      return 1 / (a + rest);
    };
    const density = (x: number) => Math.exp((-x * x) / 2) / Math.sqrt(2 * Math.PI);
    return {
      f: (x) => (x < -3 ? x * density(x) * ratio(-x) : f(x)),
      df: (x) => (x < -3 ? density(x) * (ratio(-x) + x) : df(x)),
    };
  }
  if (name === "geluTanh") {
    const u = (x: number) => Math.sqrt(8 / Math.PI) * (x + 0.044715 * x ** 3);
    const du = (x: number) => Math.sqrt(8 / Math.PI) * (1 + 0.134145 * x * x);
    return {
      f: (x) => x * sigmoid(u(x)),
      df: (x) => sigmoid(u(x)) * (1 + x * sigmoid(-u(x)) * du(x)),
    };
  }
  if (name === "silu") return { f, df: (x) => sigmoid(x) * (1 + x * sigmoid(-x)) };
  return { f, df };
}
