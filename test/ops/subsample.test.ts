import { describe, expect, it } from "vitest";
import { ShapeError } from "../../src/errors.ts";
import * as shaders from "../../src/generated/shaders.ts";
import { pad } from "../../src/ops/pad.ts";
import { slice } from "../../src/ops/slice.ts";
import { subsample } from "../../src/ops/subsample.ts";
import type { Tensor } from "../../src/tensor/tensor.ts";
import { checkOp } from "../helpers/check-op.ts";
import { testGpu } from "../helpers/gpu.ts";
import { normals } from "../helpers/numbers.ts";
import { moved } from "../reference/strided.ts";

type Shape4 = readonly [number, number, number, number];

const cases: [x: Shape4, stride: number, channels: number][] = [
  [[1, 1, 1, 1], 1, 1],
  [[2, 3, 5, 3], 1, 3],
  [[2, 3, 2, 8], 1, 8],
  [[2, 4, 6, 4], 2, 12],
  [[1, 4, 4, 16], 2, 32],
  [[2, 5, 7, 3], 2, 6],
  [[1, 5, 3, 4], 2, 8], // 2 channels before: no vec4s
  [[2, 5, 7, 4], 3, 20],
  [[1, 8, 7, 2], 3, 7],
  [[1, 2, 3, 5], 4, 9], // a stride past the map
  [[2, 1, 9, 8], 1, 24],
  [[3, 33, 35, 1], 2, 2],
  [[1, 3, 3, 68], 2, 340],
];

const reference = (x: Float64Array, shape: Shape4, stride: number, channels: number) => {
  const [n, h, w, c] = shape;
  const before = Math.floor((channels - c) / 2);
  const out = [n, Math.ceil(h / stride), Math.ceil(w / stride), channels];
  return moved(x, shape, out, ([image, i, j, k]) => {
    const channel = k! - before;
    return channel < 0 || channel >= c ? null : [image!, i! * stride, j! * stride, channel];
  });
};

/** The same of plain ops. */
function composed(x: Tensor, stride: number, channels: number): Tensor {
  const added = channels - x.shape[3]!;
  const before = Math.floor(added / 2);
  const strided = slice(x, [0, 0, 0, 0], x.shape, [1, stride, stride, 1]);
  return pad(strided, [
    [0, 0],
    [0, 0],
    [0, 0],
    [before, added - before],
  ]);
}

describe("subsample", () => {
  for (const [shape, stride, channels] of cases) {
    it(`[${shape}], stride ${stride}, ${channels} channels`, async () => {
      await checkOp({
        label: "subsample",
        inputs: { x: shape },
        run: (t) => subsample(t.x!, { stride, channels }),
        reference: ({ x }) => reference(x!, shape, stride, channels),
        composed: (t) => composed(t.x!, stride, channels),
        variants: { subsample: ["rows", "units"] },
        tolerance: { forward: 0 },
      });
    });
  }

  it("gives the bits of slice and pad, NaN included, both ways", async () => {
    const gpu = await testGpu();
    const data = normals(2 * 6 * 5 * 16, 1);
    data[0] = Number.NaN;
    data[7] = -0;
    const x = gpu.tensor(data, [2, 6, 5, 16], { requiresGrad: true });
    const upstream = gpu.tensor(normals(2 * 3 * 3 * 32, 2), [2, 3, 3, 32]);
    const outcome = async (run: () => Tensor) => {
      const y = gpu.scope(run);
      y.backward(upstream);
      const both = [await y.read(), await x.grad!.read()].map((values) => new Uint32Array(values.buffer));
      y.dispose();
      x.zeroGrad();
      return both;
    };
    expect(await outcome(() => subsample(x, { stride: 2, channels: 32 }))).toEqual(
      await outcome(() => composed(x, 2, 32)),
    );
    for (const tensor of [x, upstream]) tensor.dispose();
  });

  it("more rows than one grid has lanes", async () => {
    const gpu = await testGpu();
    const rows = 32 * 16384 + 5;
    const data = normals(rows, 3);
    const x = gpu.tensor(data, [1, rows, 1, 1], { requiresGrad: true });
    const y = subsample(x, { channels: 2 });
    const actual = await y.read();
    expect(data.every((value, i) => actual[2 * i] === value && actual[2 * i + 1] === 0)).toBe(true);
    const upstream = y.detach();
    y.backward(upstream);
    const dx = await x.grad!.read();
    expect(data.every((value, i) => dx[i] === value)).toBe(true);
    for (const tensor of [x, y, upstream]) tensor.dispose();
  });

  for (const suffix of ["", "_vec4"] as const) {
    it(`more rows than a small grid has lanes: forward${suffix}, grad${suffix}`, async () => {
      const gpu = await testGpu();
      const [n, h, w, c] = [5, 33, 3, suffix ? 4 : 2] as const; // 85 rows of y, 32 lanes
      const [p, q, k, unit] = [17, 2, 3 * c, suffix ? 4 : 1] as const;
      const shape = [n, h, w, c] as const;
      const data = Float64Array.from(normals(n * h * w * c, 5), Math.fround);
      const upstream = Float64Array.from(normals(n * p * q * k, 6), Math.fround);
      const [x, y, dx] = [
        gpu.tensor(data, shape),
        gpu.tensor(upstream, [n, p, q, k]),
        gpu.tensor(data, shape),
      ];
      const sizes = {
        ...{ rows: n * p, height: h, width: w, channels: c / unit, stride: 2 },
        ...{ out_height: p, out_width: q, out_channels: k / unit, before: c / unit },
      };
      const kernel = { shader: shaders.subsample, constants: { X: 1, Y: 1, Z: 32 } };
      gpu.run({ ...kernel, entry: `grad${suffix}` as const }, { out_word: dx, sizes, in_word: y }, [1]);
      gpu.run({ ...kernel, entry: `forward${suffix}` as const }, { out_word: y, sizes, in_word: x }, [1]);
      expect(Float64Array.from(await y.read())).toEqual(reference(data, shape, 2, k));
      const taken = moved(upstream, [n, p, q, k], shape, ([image, i, j, channel]) =>
        i! % 2 || j! % 2 ? null : [image!, i! / 2, j! / 2, channel! + c],
      );
      expect(Float64Array.from(await dx.read())).toEqual(taken);
      for (const tensor of [x, y, dx]) tensor.dispose();
    });
  }

  it("keeps every pixel and channel unless told otherwise", async () => {
    const gpu = await testGpu();
    gpu.scope(() => {
      const x = gpu.zeros([2, 5, 7, 3]);
      expect(subsample(x).shape).toEqual([2, 5, 7, 3]);
      expect(subsample(x, { stride: 2 }).shape).toEqual([2, 3, 4, 3]);
      expect(subsample(x, { channels: 8 }).shape).toEqual([2, 5, 7, 8]);
    });
  });

  it("says what is wrong with the input", async () => {
    const gpu = await testGpu();
    gpu.scope(() => {
      const x = gpu.zeros([1, 4, 6, 8]);
      expect(() => subsample(x, { channels: 4 })).toThrow(ShapeError);
      expect(() => subsample(x, { channels: 4 })).toThrow(
        "subsample: channels is 4, x [1, 4, 6, 8] has C = 8; expected an integer of at least 8",
      );
      expect(() => subsample(x, { channels: 8.5 })).toThrow("subsample: channels is 8.5");
      for (const stride of [0, -1, 1.5, Number.NaN]) {
        expect(() => subsample(x, { stride })).toThrow(
          `subsample: stride is ${stride}, x [1, 4, 6, 8]; expected an integer from 1 to 2147483647`,
        );
      }
      expect(() => subsample(gpu.zeros([4, 6, 2]))).toThrow("subsample: x has rank 3, got [4, 6, 2]");
    });
  });
});
