import { inspect } from "node:util";
import { describe, expect, it, vi } from "vitest";
import { AdamW, BatchNorm2d, Conv2d, ReLU, Sequential } from "../../src/index.ts";
import { formatElements } from "../../src/tensor/print.ts";
import { testGpu } from "../helpers/gpu.ts";

describe("a tensor on the console", () => {
  it("is one line", async () => {
    const gpu = await testGpu();
    const x = gpu.tensor([1, 2, 3, 4, 5, 6], [2, 3], { requiresGrad: true });
    expect(inspect(x)).toBe("Tensor [2, 3] float32 (requires grad)");
    expect(inspect({ x })).toBe("{ x: Tensor [2, 3] float32 (requires grad) }");
    expect(`${x}`).toBe(inspect(x));
    x.dispose();
    expect(inspect(x)).toBe("Tensor [2, 3] float32 (requires grad, disposed)");
  });

  it("is no number, and no JSON: both would be wrong without a word", async () => {
    const gpu = await testGpu();
    const x = gpu.tensor([3], [1]);
    const wrong: (() => unknown)[] = [
      () => (x as never as number) * 2,
      () => (x as never as number) + 1,
      () => (x as never as number) < 0.5,
      () => +(x as never as number),
    ];
    for (const use of wrong) {
      expect(use).toThrow(
        /^Tensor \[1\] float32 was used as a number; expected ops, .* await tensor.item\(\)/,
      );
    }
    expect(() => JSON.stringify({ loss: x })).toThrow(
      /was written as JSON; expected numbers: await tensor.item/,
    );
    expect([String(x), [x].join()]).toEqual(Array(2).fill("Tensor [1] float32"));
    x.dispose();
  });

  it("is so of a device, and of an optimizer; a network is a tree of its layers", async () => {
    const gpu = await testGpu();
    const net = new Sequential(
      new Conv2d(gpu, 1, 16, 3, { bias: false }),
      new Sequential(new BatchNorm2d(gpu, 16), new ReLU()),
    );
    expect(inspect(net)).toBe(
      [
        "Sequential(",
        "  (layers.0): Conv2d(weight [16, 3, 3, 1])",
        "  (layers.1): Sequential(",
        "    (layers.0): BatchNorm2d(weight [16], bias [16])",
        "    (layers.1): ReLU()",
        "  )",
        ")",
      ].join("\n"),
    );
    expect(net.toString()).toBe(inspect(net));
    const [first, ...others] = net.parameters();
    const optimizer = new AdamW([{ params: [first!], lr: 0.5 }, { params: others }], { lr: 0.25 });
    expect(inspect(optimizer)).toBe("AdamW (1 parameter, lr 0.5; 2 parameters, lr 0.25)");
    expect(inspect(gpu)).toMatch(/^Gpu .+ \((software|hardware)\): [1-9]\d* buffers, \d+\.\d MB$/);
  });

  it("shows its numbers when they are asked for", async () => {
    const gpu = await testGpu();
    const x = gpu.tensor([1, -2.5, 3, 40.25, 5, 6], [2, 3]);
    const log = vi.spyOn(console, "log").mockImplementation(() => {});
    await x.print();
    const printed = log.mock.calls;
    log.mockRestore();
    x.dispose();
    expect(printed).toEqual([
      ["Tensor [2, 3] float32\n[[ 1.0000, -2.5000,  3.0000],\n [40.2500,  5.0000,  6.0000]]"],
    ]);
    await expect(x.print()).rejects.toThrow(/after dispose/);
  });

  it.each([
    [[1, 2, 30], [3], "[ 1,  2, 30]"],
    [[7], [], "7"],
    [[0, 0], [2], "[0, 0]"],
    [[1.5, Number.NaN, Number.NEGATIVE_INFINITY], [3], "[1.5000,    NaN,     −∞]"],
    [[1e-9, 2], [2], "[1.0000e-9, 2.0000e+0]"],
    [[1, 2, 3, 4], [2, 1, 2], "[[[1, 2]],\n\n [[3, 4]]]"],
  ] as [number[], number[], string][])("%j of shape %j", (data, shape, expected) => {
    expect(formatElements(data, shape)).toBe(expected);
  });

  it("shows the corners of large ones", () => {
    const data = Float32Array.from({ length: 40 * 50 }, (_, i) => i);
    const lines = formatElements(data, [40, 50]).split("\n");
    expect(lines).toHaveLength(7);
    expect(lines[0]).toBe("[[   0,    1,    2, …,   47,   48,   49],");
    expect(lines[3]).toBe(" …,");
    expect(lines[6]).toBe(" [1950, 1951, 1952, …, 1997, 1998, 1999]]");
  });
});
