import { describe, expect, it } from "vitest";
import { add } from "../../src/ops/elementwise/elementwise.ts";
import { logSoftmax, softmax } from "../../src/ops/softmax/softmax.ts";
import { checkOp, type OpCase } from "../helpers/check-op.ts";
import { testGpu } from "../helpers/gpu.ts";
import { normals, relativeError } from "../helpers/numbers.ts";
import { rowsOf, softmaxRow } from "../reference/softmax.ts";

const sixteenths = (count: number) => normals(count, 5, 0, 3).map((value) => Math.round(16 * value) / 16);
const variants = { softmax: ["lanes", "tree"] };

describe("softmax", () => {
  it("over the last axis, of any length", async () => {
    const shapes = [[1], [7], [3, 10], [2, 3, 5], [1, 1], [5, 131], [2, 300]];
    await checkOp(
      shapes.map((shape) => ({
        label: `[${shape}]`,
        inputs: { x: shape },
        run: (t) => softmax(t.x!),
        reference: ({ x }) => Float64Array.from(rowsOf(x!, shape.at(-1)!).flatMap(softmaxRow)),
        variants,
      })),
    );
  });

  it("over any axis", async () => {
    const shape = [3, 5, 2, 7];
    const along = (x: ArrayLike<number>, axis: number, f: (row: number[]) => number[]) => {
      const inner = shape.slice(axis + 1).reduce((a, b) => a * b, 1);
      const size = shape[axis]!;
      const out = new Float64Array(x.length);
      for (let at = 0; at < x.length; at += 1) {
        if (Math.floor(at / inner) % size !== 0) continue; // the first of each row
        const places = Array.from({ length: size }, (_, i) => at + i * inner);
        for (const [i, value] of f(places.map((place) => x[place]!)).entries()) out[places[i]!] = value;
      }
      return out;
    };
    await checkOp(
      [0, 1, -2, 3, -1].map((axis) => ({
        label: `axis ${axis}`,
        inputs: { x: shape },
        run: (t) => (axis === 1 ? logSoftmax : softmax)(t.x!, axis),
        reference: ({ x }) =>
          along(x!, (axis + 4) % 4, (row) => (axis === 1 ? softmaxRow(row).map(Math.log) : softmaxRow(row))),
      })),
    );
    const gpu = await testGpu();
    const before = gpu.stats.liveBuffers;
    gpu.scope(() => {
      const x = gpu.zeros([2, 3]);
      expect(() => softmax(x, 2)).toThrow("softmax: axis 2 is outside a tensor of rank 2; expected -2 to 1");
      expect(() => logSoftmax(x, { dim: 1 } as never)).toThrow("logSoftmax: axis { dim } is outside");
    });
    expect(gpu.stats.liveBuffers).toBe(before);
  });

  it("logits far from zero, and more rows than one grid dimension has workgroups", async () => {
    const rows = 2 ** 16 + 3;
    await checkOp({
      label: "large",
      inputs: { x: { shape: [rows, 3], data: sixteenths(rows * 3) } },
      // Exact in float32, and softmax does not see it.
      run: (t) => softmax(add(t.x!, t.x!.gpu.full([1], 8192))),
      reference: ({ x }) => Float64Array.from(rowsOf(x!, 3).flatMap(softmaxRow)),
      referenceGrad: ({ x }, dy) => {
        const dx = rowsOf(x!, 3).flatMap((row, n) => {
          const y = softmaxRow(row);
          const product = y.reduce((sum, value, k) => sum + value * dy[n * 3 + k]!, 0);
          return y.map((value, k) => value * (dy[n * 3 + k]! - product));
        });
        return { x: Float64Array.from(dx) };
      },
      variants,
    });
  });

  it("does not look at the next row for the largest logit", async () => {
    const gpu = await testGpu();
    for (const variant of variants.softmax) {
      for (const classes of [3, 70]) {
        const rows = [0, 1, 2].map((row) => normals(classes, row).map((value) => value + 1000 * row));
        const x = gpu.tensor(Float32Array.from(rows.flatMap((row) => [...row])), [3, classes]);
        gpu.variants.force("softmax", variant);
        const y = softmax(x);
        gpu.variants.force("softmax", null);
        const values = await y.read();
        const expected = rows.flatMap((row) => softmaxRow([...Float32Array.from(row)]));
        expect(relativeError(values, expected), `${variant}, ${classes}`).toBeLessThan(1e-5);
        for (const tensor of [x, y]) tensor.dispose();
      }
    }
  });

  it("finds the largest logit of a row wherever it is", async () => {
    const gpu = await testGpu();
    const classes = 201;
    // One row for each place. Any other reference than the largest overflows.
    const data = normals(classes * classes, 6);
    for (let row = 0; row < classes; row += 1) data[row * classes + row] = 1000 + row;
    const x = gpu.tensor(data, [classes, classes]);
    for (const variant of variants.softmax) {
      gpu.variants.force("softmax", variant);
      const y = softmax(x);
      gpu.variants.force("softmax", null);
      const values = await y.read();
      const wrong = values.findIndex((value, i) => value !== (i % (classes + 1) === 0 ? 1 : 0));
      expect(wrong, variant).toBe(-1);
      y.dispose();
    }
    x.dispose();
  });

  it("a NaN makes its own row NaN, and no other", async () => {
    const gpu = await testGpu();
    for (const variant of variants.softmax) {
      const out = gpu.scope(() => {
        gpu.variants.force("softmax", variant);
        const y = softmax(gpu.tensor([1, Number.NaN, 2, 0, 1, 2], [2, 3]));
        gpu.variants.force("softmax", null);
        return y;
      });
      expect([...(await out.read())].map(Number.isNaN)).toEqual([true, true, true, false, false, false]);
      out.dispose();
    }
  });

  it("says what is wrong with the input", async () => {
    const gpu = await testGpu();
    gpu.scope(() =>
      expect(() => softmax(gpu.zeros([]))).toThrow("softmax: x is a scalar []; expected [..., K]"),
    );
  });
});

describe("logSoftmax", () => {
  const forced = { log_softmax: ["lanes", "tree"] };
  const logSoftmaxRow = (row: readonly number[]) => {
    const m = Math.max(...row);
    const log = Math.log(row.reduce((sum, v) => sum + Math.exp(v - m), 0));
    return row.map((v) => v - m - log);
  };

  it("over the last axis, of any length, also where softmax has no digits", async () => {
    const shapes = [[1], [3, 10], [2, 3, 5], [5, 131], [2, 300]];
    await checkOp(
      shapes.flatMap((shape) =>
        [1, 60].map(
          (spread): OpCase => ({
            label: `[${shape}], spread ${spread}`,
            inputs: {
              x: { shape, data: sixteenths(shape.reduce((a, b) => a * b, 1)).map((v) => spread * v) },
            },
            run: (t) => logSoftmax(t.x!),
            reference: ({ x }) => Float64Array.from(rowsOf(x!, shape.at(-1)!).flatMap(logSoftmaxRow)),
            referenceGrad: ({ x }, dy) => ({
              x: Float64Array.from(
                rowsOf(x!, shape.at(-1)!).flatMap((row, n) => {
                  const up = dy.subarray(n * row.length, (n + 1) * row.length);
                  const sum = up.reduce((a, b) => a + b, 0);
                  return softmaxRow(row).map((p, k) => up[k]! - p * sum);
                }),
              ),
            }),
            variants: forced,
          }),
        ),
      ),
    );
  });

  it("NaN, infinity and masked classes as in PyTorch, each in its own row", async () => {
    const gpu = await testGpu();
    const { NaN: nan, POSITIVE_INFINITY: inf } = Number;
    const rows = [
      [1, nan, 2],
      [inf, 0, 1],
      [-inf, -inf, -inf],
      [-inf, 3e38, -3e38],
    ];
    for (const variant of forced.log_softmax) {
      gpu.variants.force("log_softmax", variant);
      const x = gpu.tensor(rows.flat(), [4, 3], { requiresGrad: true });
      const dy = gpu.tensor([1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2, 3], [4, 3]);
      const y = logSoftmax(x);
      expect([...(await y.read())], variant).toEqual([...Array(9).fill(nan), -inf, 0, -inf]);
      y.backward(dy);
      const dx = await x.grad!.read();
      expect([...dx].map(Number.isNaN), variant).toEqual([...Array(9).fill(true), false, false, false]);
      expect([...dx.subarray(9)], variant).toEqual([1, -4, 3]);
      gpu.variants.force("log_softmax", null);
      for (const tensor of [x, dy, y]) tensor.dispose();
    }
  });

  it("says what is wrong with the input", async () => {
    const gpu = await testGpu();
    gpu.scope(() =>
      expect(() => logSoftmax(gpu.zeros([]))).toThrow("logSoftmax: x is a scalar []; expected [..., K]"),
    );
  });
});
