import { describe, expect, it } from "vitest";
import * as shaders from "../../src/generated/shaders.ts";
import { testGpu } from "../helpers/gpu.ts";
import { normals } from "../helpers/numbers.ts";

describe("the copy that bandwidth is measured with", () => {
  it.each([
    { workgroups: 1, size: 64 },
    { workgroups: 3, size: 64 }, // goes on past the first stride, and ends inside of one
    { workgroups: 3, size: 256 },
  ])("copies so many vec4s and no more: $workgroups workgroups of $size", async ({ workgroups, size }) => {
    const gpu = await testGpu();
    const [length, vec4s] = [4 * 500, 461];
    const data = Float32Array.from(normals(length, 1));
    const x = gpu.tensor(data, [length]);
    const y = gpu.full([length], -7);
    const constants = { WORKGROUP_SIZE: size, VEC4S: vec4s };
    gpu.run({ shader: shaders.copy, entry: "forward", constants }, [x, y], [workgroups]);
    expect([...(await y.read())]).toEqual([
      ...data.subarray(0, 4 * vec4s),
      ...Array(length - 4 * vec4s).fill(-7),
    ]);
    x.dispose();
    y.dispose();
  });
});
