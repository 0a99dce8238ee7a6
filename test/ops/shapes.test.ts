import { describe, expect, it } from "vitest";
import { ShapeError } from "../../src/errors.ts";
import { concat, concatChannels } from "../../src/ops/concat.ts";
import { mul } from "../../src/ops/elementwise/elementwise.ts";
import {
  fromNCHW,
  toNCHW,
  weightFromHWIO,
  weightFromOIHW,
  weightToHWIO,
  weightToOIHW,
} from "../../src/ops/layout.ts";
import { pad, pad2d } from "../../src/ops/pad.ts";
import { permute, transpose } from "../../src/ops/permute.ts";
import { flatten, reshape } from "../../src/ops/reshape.ts";
import { slice } from "../../src/ops/slice.ts";
import type { Tensor } from "../../src/tensor/tensor.ts";
import { checkOp } from "../helpers/check-op.ts";
import { testGpu } from "../helpers/gpu.ts";
import { moved } from "../reference/strided.ts";

type Shape = readonly number[];

describe("integers", () => {
  it("are sliced, permuted and put together as they are, also those that are no floats", async () => {
    const gpu = await testGpu();
    // As floats, denormal numbers and signalling NaN.
    const shape = [3, 5, 4];
    const data = Uint32Array.from({ length: 60 }, (_, i) => [i, 0x7f800001 + i, 0xffffffff - i][i % 3]!);
    const x = gpu.tensor(data, shape, { dtype: "uint32" });
    const at = (i: number, j: number, k: number) => data[(i * 5 + j) * 4 + k]!;
    const all = <T>(n: number, f: (i: number) => T) => Array.from({ length: n }, (_, i) => f(i));
    const cases: [Tensor, Shape, number[]][] = [
      [
        slice(x, [1, 0, 1], [3, 5, 4], [1, 2, 2]),
        [2, 3, 2],
        all(2, (i) => all(3, (j) => all(2, (k) => at(i + 1, 2 * j, 2 * k + 1)))).flat(2),
      ],
      [slice(x, [1, 0, 0], [2, 5, 4]), [1, 5, 4], [...data.subarray(20, 40)]],
      [permute(x, [2, 0, 1]), [4, 3, 5], all(4, (k) => all(3, (i) => all(5, (j) => at(i, j, k)))).flat(2)],
      [transpose(x), [3, 4, 5], all(3, (i) => all(4, (k) => all(5, (j) => at(i, j, k)))).flat(2)],
      [concat([x, x], 0), [6, 5, 4], [...data, ...data]],
      [
        concat([x, slice(x, [0, 0, 0], [3, 5, 1])]),
        [3, 5, 5],
        all(3, (i) => all(5, (j) => [0, 1, 2, 3, 0].map((k) => at(i, j, k)))).flat(2),
      ],
    ];
    for (const [y, size, expected] of cases) {
      expect([y.dtype, y.shape]).toEqual(["uint32", size]);
      expect([...(await y.read())]).toEqual(expected);
      y.dispose();
    }
    gpu.scope(() => {
      expect(() => concat([x, gpu.zeros(shape)])).toThrow(
        /^concat: tensors\[1\] is float32; expected uint32/,
      );
      expect(() => concat([gpu.zeros(shape), x])).toThrow(
        /^concat: tensors\[1\] is uint32; expected float32/,
      );
    });
    x.dispose();
  });
});

describe("reshape", () => {
  it("looks at the same elements, also twice and through other ops", async () => {
    await checkOp([
      {
        label: "reshape",
        inputs: { x: [3, 4] },
        run: (t) => reshape(t.x!, [2, -1]),
        reference: ({ x }) => x!,
      },
      { label: "flatten", inputs: { x: [2, 3, 5] }, run: (t) => flatten(t.x!), reference: ({ x }) => x! },
      { label: "scalar", inputs: { x: [1] }, run: (t) => reshape(t.x!, []), reference: ({ x }) => x! },
      {
        label: "x · reshaped x",
        inputs: { x: [2, 6] },
        run: (t) => mul(t.x!, reshape(reshape(t.x!, [3, 4]), [2, 6])),
        reference: ({ x }) => x!.map((v) => v * v),
      },
    ]);
  });

  it("shares storage, takes any type, and belongs to its scope", async () => {
    const gpu = await testGpu();
    const before = gpu.stats.liveBuffers;
    gpu.scope(() => {
      const x = gpu.zeros([6], { dtype: "uint32" });
      const y = reshape(x, [2, 3]);
      expect(y.buffer).toBe(x.buffer);
      expect(y.dtype).toBe("uint32");
    });
    expect(gpu.stats.liveBuffers).toBe(before);
  });

  it("says what is wrong with the input", async () => {
    const gpu = await testGpu();
    gpu.scope(() => {
      const x = gpu.zeros([2, 3]);
      expect(() => reshape(x, [4, 2])).toThrow(ShapeError);
      expect(() => reshape(x, [4, 2])).toThrow("reshape: x is [2, 3] with 6 elements, the new shape [4, 2]");
      expect(() => reshape(x, [-1, 4])).toThrow("reshape");
      expect(() => reshape(x, [-1, -1])).toThrow("at most one size given as -1");
      expect(() => flatten(gpu.zeros([]))).toThrow("flatten: x is a scalar []");
    });
  });
});

describe("pad", () => {
  const cases: [Shape, [number, number][]][] = [
    [[1], [[0, 0]]],
    [[3], [[2, 1]]],
    [
      [2, 3, 4, 8],
      [
        [0, 0],
        [1, 2],
        [0, 1],
        [0, 0],
      ],
    ],
    [
      [2, 3, 4, 8],
      [
        [0, 0],
        [0, 0],
        [0, 0],
        [4, 8],
      ],
    ],
    [
      [2, 3, 3, 4],
      [
        [0, 0],
        [0, 0],
        [0, 0],
        [1, 3],
      ],
    ],
    [
      [2, 3, 1, 5],
      [
        [1, 0],
        [0, 2],
        [3, 0],
        [0, 1],
      ],
    ],
  ];
  it("along any axes", async () => {
    await checkOp(
      cases.flatMap(([shape, padding]) =>
        [0, -2.5].map((value) => ({
          label: `[${shape}] by ${JSON.stringify(padding)} of ${value}`,
          inputs: { x: shape },
          run: (t: Record<string, Tensor>) => pad(t.x!, padding, value),
          reference: ({ x }: Record<string, Float64Array>) =>
            moved(
              x!,
              shape,
              shape.map((size, axis) => size + padding[axis]![0] + padding[axis]![1]),
              (index) => {
                const from = index.map((i, axis) => i - padding[axis]![0]);
                return from.every((i, axis) => i >= 0 && i < shape[axis]!) ? from : null;
              },
              value,
            ),
        })),
      ),
    );
  });

  it("pad2d: top, bottom, left, right", async () => {
    await checkOp({
      label: "pad2d",
      inputs: { x: [2, 3, 2, 3] },
      run: (t) => pad2d(t.x!, [1, 0, 2, 3]),
      reference: ({ x }) =>
        moved(x!, [2, 3, 2, 3], [2, 4, 7, 3], ([n, h, w, c]) =>
          h! >= 1 && w! >= 2 && w! < 4 ? [n!, h! - 1, w! - 2, c!] : null,
        ),
    });
  });

  it("infinity as the value", async () => {
    const gpu = await testGpu();
    const out = gpu.scope(() => pad(gpu.full([1], 3), [[1, 0]], Number.NEGATIVE_INFINITY));
    expect([...(await out.read())]).toEqual([Number.NEGATIVE_INFINITY, 3]);
    out.dispose();
  });

  it("says what is wrong with the input", async () => {
    const gpu = await testGpu();
    gpu.scope(() => {
      const x = gpu.zeros([2, 3]);
      expect(() => pad(x, [[1, 1]])).toThrow(
        "pad: padding is [[1, 1]], x [2, 3]; expected one [before, after]",
      );
      expect(() =>
        pad(x, [
          [0, 0],
          [-1, 0],
        ]),
      ).toThrow("none negative");
      expect(() =>
        pad(
          x,
          [
            [0, 0],
            [1, 0],
          ],
          Number.NaN,
        ),
      ).toThrow("pad: value is NaN");
      expect(() => pad2d(x, [1, 1, 1, 1])).toThrow("pad2d: x has rank 2");
    });
  });
});

describe("slice", () => {
  const cases: [Shape, number[], number[], number[]?][] = [
    [[5], [1], [4]],
    [
      [1, 1],
      [0, 0],
      [1, 1],
    ],
    [
      [2, 6, 6, 8],
      [0, 0, 0, 0],
      [2, 6, 6, 8],
      [1, 2, 2, 1],
    ],
    [
      [2, 5, 7, 4],
      [0, 1, 0, 0],
      [2, 5, 7, 4],
      [1, 2, 3, 1],
    ],
    [
      [2, 3, 4, 8],
      [0, 0, 0, 4],
      [2, 3, 4, 8],
    ],
    [
      [2, 3, 4, 8],
      [1, 0, 1, 1],
      [2, 2, 4, 7],
    ],
    [
      [4, 9],
      [0, -8],
      [-1, 9],
      [3, 4],
    ],
    [
      [7, 5],
      [2, 0],
      [7, 5],
      [2, 1],
    ],
  ];
  it("ranges and steps along any axes", async () => {
    await checkOp(
      cases.map(([shape, starts, ends, steps]) => {
        const from = starts.map((start, axis) => (start < 0 ? start + shape[axis]! : start));
        const to = ends.map((end, axis) => (end < 0 ? end + shape[axis]! : end));
        const by = steps ?? shape.map(() => 1);
        const out: number[] = from.map((start, axis) => {
          let count = 0;
          for (let i = start; i < to[axis]!; i += by[axis]!) count += 1;
          return count;
        });
        return {
          label: `[${shape}] ${starts} to ${ends} by ${by}`,
          inputs: { x: shape },
          run: (t) => slice(t.x!, starts, ends, steps),
          reference: ({ x }) =>
            moved(x!, shape, out, (index) => index.map((i, axis) => from[axis]! + i * by[axis]!)),
        };
      }),
    );
  });

  it("says what is wrong with the input", async () => {
    const gpu = await testGpu();
    gpu.scope(() => {
      const x = gpu.zeros([4, 6]);
      expect(() => slice(x, [0], [4])).toThrow(
        "slice: starts is [0], x [4, 6]; expected one number for each axis",
      );
      expect(() => slice(x, [0, 2], [4, 2])).toThrow("slice: axis 1 of x [4, 6] from 2 to 2 in steps of 1");
      expect(() => slice(x, [0, 0], [5, 6])).toThrow("slice: axis 0 of x [4, 6] from 0 to 5");
      expect(() => slice(x, [0, 0], [4, 6], [1, 0])).toThrow("a step of at least 1");
    });
  });
});

describe("concat", () => {
  it("any number of tensors along any axis", async () => {
    const cases: [Shape[], number][] = [
      [[[3]], 0],
      [
        [
          [2, 3, 2, 4],
          [2, 3, 2, 8],
        ],
        3,
      ],
      [
        [
          [2, 3, 2, 4],
          [2, 3, 2, 3],
          [2, 3, 2, 1],
        ],
        -1,
      ],
      [
        [
          [2, 3],
          [4, 3],
        ],
        0,
      ],
      [
        [
          [2, 1, 5],
          [2, 3, 5],
          [2, 2, 5],
          [2, 1, 5],
        ],
        1,
      ],
    ];
    await checkOp(
      cases.map(([shapes, axis]) => {
        const along = axis < 0 ? axis + shapes[0]!.length : axis;
        const total = shapes.reduce((sum, shape) => sum + shape[along]!, 0);
        const out = shapes[0]!.map((size, i) => (i === along ? total : size));
        return {
          label: shapes.map((shape) => `[${shape}]`).join(" "),
          inputs: Object.fromEntries(shapes.map((shape, i) => [`t${i}`, shape])),
          run: (t) => concat(Object.values(t), axis),
          reference: (arrays) => {
            const result = new Float64Array(out.reduce((a, b) => a * b, 1));
            let first = 0;
            shapes.forEach((shape, i) => {
              const start = first;
              const part = moved(arrays[`t${i}`]!, shape, out, (index) => {
                const at = index[along]! - start;
                return at >= 0 && at < shape[along]! ? index.map((v, d) => (d === along ? at : v)) : null;
              });
              part.forEach((value, j) => {
                result[j]! += value;
              });
              first += shape[along]!;
            });
            return result;
          },
        };
      }),
    );
  });

  it("one tensor twice", async () => {
    await checkOp({
      label: "x beside x",
      inputs: { x: [2, 1, 1, 3] },
      run: (t) => concatChannels([t.x!, t.x!]),
      reference: ({ x }) => moved(x!, [2, 1, 1, 3], [2, 1, 1, 6], ([n, h, w, c]) => [n!, h!, w!, c! % 3]),
    });
  });

  it("says what is wrong with the input", async () => {
    const gpu = await testGpu();
    gpu.scope(() => {
      expect(() => concat([])).toThrow("concat: the list is empty");
      expect(() => concat([gpu.zeros([2, 3]), gpu.zeros([3, 3])])).toThrow(
        "concat: x1 is [3, 3], x0 [2, 3]; expected equal sizes but for axis 1",
      );
      expect(() => concat([gpu.zeros([2, 3]), gpu.zeros([3])], 0)).toThrow("concat: x1 is [3]");
      expect(() => concat([gpu.zeros([2])], 1)).toThrow("concat: axis 1 is outside");
      expect(() => concatChannels([gpu.zeros([2, 3])])).toThrow("concatChannels: tensors[0] has rank 2");
    });
  });
});

describe("permute and layouts", () => {
  it("any permutation", async () => {
    const cases: [Shape, number[]][] = [
      [[3], [0]],
      [
        [3, 4],
        [1, 0],
      ],
      [
        [2, 3, 4],
        [0, 1, 2],
      ],
      [
        [2, 3, 4],
        [1, 0, 2],
      ],
      [
        [2, 3, 5],
        [2, -3, 1],
      ],
      [
        [2, 1, 3, 2, 2],
        [4, 2, 0, 3, 1],
      ],
    ];
    await checkOp(
      cases.map(([shape, axes]) => {
        const from = axes.map((axis) => (axis < 0 ? axis + shape.length : axis));
        return {
          label: `[${shape}] by ${axes}`,
          inputs: { x: shape },
          run: (t) => permute(t.x!, axes),
          reference: ({ x }) =>
            moved(
              x!,
              shape,
              from.map((axis) => shape[axis]!),
              (index) => shape.map((_, axis) => index[from.indexOf(axis)]!),
            ),
        };
      }),
    );
  });

  it("transpose, and each layout there and back", async () => {
    const gpu = await testGpu();
    const x = gpu.tensor(
      Array.from({ length: 120 }, (_, i) => i),
      [2, 3, 4, 5],
    );
    const there: [(x: Tensor) => Tensor, (x: Tensor) => Tensor, Shape][] = [
      [fromNCHW, toNCHW, [2, 4, 5, 3]],
      [weightFromOIHW, weightToOIHW, [2, 4, 5, 3]],
      [weightFromHWIO, weightToHWIO, [5, 2, 3, 4]],
      [(t) => transpose(t), (t) => transpose(t, 3, 2), [2, 3, 5, 4]],
    ];
    for (const [to, back, shape] of there) {
      const out = gpu.scope(() => {
        const middle = to(x);
        expect(middle.shape).toEqual(shape);
        return back(middle);
      });
      expect(await out.read()).toEqual(await x.read());
      out.dispose();
    }
    // Element [n, c, h, w] = [1, 2, 3, 4] is the last one in each.
    const nhwc = gpu.scope(() => slice(fromNCHW(x), [1, 3, 4, 1], [2, 4, 5, 2]));
    expect(await nhwc.item()).toBe(((1 * 3 + 1) * 4 + 3) * 5 + 4);
    for (const tensor of [x, nhwc]) tensor.dispose();
  });

  it("says what is wrong with the input", async () => {
    const gpu = await testGpu();
    gpu.scope(() => {
      const x = gpu.zeros([2, 3]);
      expect(() => permute(x, [0])).toThrow(
        "permute: axes is [0], x [2, 3]; expected each of its 2 axes once",
      );
      expect(() => permute(x, [0, 0])).toThrow("permute: axis 0 is named twice");
      expect(() => transpose(x, 0, 2)).toThrow("transpose: axis 2 is outside");
      expect(() => toNCHW(x)).toThrow("toNCHW: x has rank 2, got [2, 3]; expected [N, H, W, C]");
    });
  });
});

describe("strided copies", () => {
  it("more elements than one grid dimension has workgroups", async () => {
    const gpu = await testGpu();
    const rows = 2 ** 16 + 3;
    const x = gpu.tensor(
      Float32Array.from({ length: rows * 3 }, (_, i) => i),
      [rows, 3],
    );
    const [turned, padded, part] = gpu.scope(() => [
      transpose(x),
      pad(x, [
        [0, 1],
        [1, 0],
      ]),
      slice(x, [1, 0], [rows, 3], [2, 2]),
    ]);
    const t = await turned!.read();
    const p = await padded!.read();
    const s = await part!.read();
    for (let row = 0; row < rows; row += 1) {
      if (t[2 * rows + row] !== row * 3 + 2) throw new Error(`transpose: row ${row}`);
      if (p[row * 4] !== 0 || p[row * 4 + 3] !== row * 3 + 2) throw new Error(`pad: row ${row}`);
      if (row % 2 === 1 && s[row] !== row * 3 + 2) throw new Error(`slice: row ${row}`);
    }
    expect(p.subarray(rows * 4).every((value) => value === 0)).toBe(true);
    for (const tensor of [x, turned!, padded!, part!]) tensor.dispose();
  });

  it("four elements at a time, and into parts, more often than there are invocations", async () => {
    const gpu = await testGpu();
    const rows = 2 ** 13 + 3;
    const x = gpu.tensor(
      Float32Array.from({ length: rows * 8 }, (_, i) => i + 1),
      [rows, 2, 4],
    );
    const odd = gpu.tensor(
      Float32Array.from({ length: rows * 3 }, (_, i) => i + 1),
      [rows, 3],
    );
    const made = gpu.scope(() => [
      permute(x, [1, 0, 2]),
      pad(x, [
        [1, 0],
        [0, 0],
        [4, 0],
      ]),
      concat([x, x], 2),
      concat([odd, odd], 1),
    ]);
    const [turned, padded, joined, oddly] = await Promise.all(made.map((tensor) => tensor.read()));
    for (let row = 0; row < rows; row += 1) {
      for (let i = 0; i < 8; i += 1) {
        const [half, at, value] = [Math.floor(i / 4), i % 4, row * 8 + i + 1];
        const where = `row ${row}, ${i}`;
        if (turned![(half * rows + row) * 4 + at] !== value) throw new Error(`permute: ${where}`);
        const from = ((row + 1) * 2 + half) * 8 + at;
        if (padded![from] !== 0 || padded![from + 4] !== value) throw new Error(`pad: ${where}`);
        const to = (row * 2 + half) * 8 + at;
        if (joined![to] !== value || joined![to + 4] !== value) throw new Error(`concat: ${where}`);
      }
      for (let i = 0; i < 6; i += 1) {
        if (oddly![row * 6 + i] !== row * 3 + (i % 3) + 1) throw new Error(`concat of 3: row ${row}, ${i}`);
      }
    }
    for (const tensor of [x, odd, ...made]) tensor.dispose();
  });
});
