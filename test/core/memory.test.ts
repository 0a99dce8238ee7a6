import { describe, expect, it } from "vitest";
import { requestGpu } from "../../src/node/request.ts";
import { testGpu } from "../helpers/gpu.ts";
import { normals } from "../helpers/numbers.ts";

/** Beyond what all invocations of a grid take in one round. */
const LARGE = 300_004;

describe("whole-buffer helpers", () => {
  it("fill, copy and add every element of a part, and no other", async () => {
    const gpu = await testGpu();
    const [offset, around] = [256, 512];
    const data = Float32Array.from(normals(LARGE, 1));
    const whole = gpu.tensor(new Float32Array(LARGE + around).fill(-3), [LARGE + around]);
    const part = whole.part(4 * offset, [LARGE]);
    const x = gpu.tensor(data, [LARGE]);
    const expectPart = async (expected: (i: number) => number) => {
      const values = await whole.read();
      const wrong = values.findIndex((value, i) => {
        const at = i - offset;
        return value !== (at >= 0 && at < LARGE ? Math.fround(expected(at)) : -3);
      });
      expect(wrong).toBe(-1);
    };
    part.fill(2.5);
    await expectPart(() => 2.5);
    gpu.copyRange(x.range, part.range);
    await expectPart((i) => data[i]!);
    gpu.accumulate(part, x);
    await expectPart((i) => 2 * data[i]!);
    for (const tensor of [x, part, whole]) tensor.dispose();
  });

  it("find what is not finite wherever it is", async () => {
    const gpu = await requestGpu({ debug: { checkFinite: true } });
    const clean = gpu.tensor(normals(LARGE, 1), [LARGE]);
    for (const at of [0, LARGE >> 1, LARGE - 1]) {
      for (const value of [Number.NaN, Infinity, -Infinity]) {
        const data = Float32Array.from(normals(LARGE, 1));
        data[at] = value;
        const x = gpu.tensor(data, [LARGE]);
        gpu.checkFinite(clean, "clean");
        gpu.checkFinite(x, "dirty");
        gpu.checkFinite(x, "dirty again");
        await expect(gpu.sync(), `${value} at ${at}`).rejects.toThrow(/^dirty \(output/);
        x.dispose();
      }
    }
    gpu.checkFinite(clean, "clean");
    await gpu.sync();
    gpu.destroy();
  });
});
