import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { Gpu } from "../../src/gpu.ts";
import { requestGpu } from "../../src/node/request.ts";
import { Tensor } from "../../src/tensor/tensor.ts";
import { square } from "../helpers/square.ts";

describe("Gpu", () => {
  let gpu: Gpu;
  beforeEach(async () => {
    gpu = await requestGpu({ debug: { poison: true } });
  });
  afterEach(() => gpu.destroy());

  it("keeps its counters flat over steps, and at zero after destroy", async () => {
    const x = gpu.tensor([1, 2, 3], [3], { requiresGrad: true });
    const seen: number[] = [];
    for (let i = 0; i < 5; i += 1) {
      gpu.scope(() => {
        x.zeroGrad();
        square(square(x)).backward(gpu.full([3], 1));
      });
      await gpu.sync();
      const { liveBuffers, liveBytes, pooledBytes, pipelines } = gpu.stats;
      seen.push(liveBuffers, liveBytes, pooledBytes, pipelines);
    }
    expect(seen.slice(-4)).toEqual(seen.slice(4, 8));
    x.dispose();
    expect(gpu.stats.liveBuffers).toBe(0);
    gpu.destroy();
    expect(gpu.stats).toMatchObject({ liveBuffers: 0, liveBytes: 0, pooledBuffers: 0, pooledBytes: 0 });
    expect(() => gpu.zeros([1])).toThrow(/used after destroy/);
  });

  it("runs a kernel as its spec is now, not as it was at an earlier call", async () => {
    const source =
      "override FACTOR: f32; @group(0) @binding(0) var<storage, read_write> out: array<f32>;" +
      "@compute @workgroup_size(1) fn main() { out[0] = FACTOR; }";
    const spec = { shader: { name: "factor", source }, entry: "main", constants: { FACTOR: 7 } };
    const out = gpu.zeros([1]);
    gpu.run(spec, [out], [1]);
    expect(await out.item()).toBe(7);
    spec.constants.FACTOR = 11;
    gpu.run(spec, [out], [1]);
    expect(await out.item()).toBe(11);
    out.dispose();
  });

  it("binds ranges of its own buffers that are in use, and says so of others before anything is dispatched", async () => {
    const source =
      "@group(0) @binding(0) var<storage, read_write> out: array<f32>; @group(0) @binding(1) var<storage, read> x: array<f32>;" +
      "@compute @workgroup_size(1) fn main() { out[0] = 2 * x[1]; }";
    const spec = { shader: { name: "double", source }, entry: "main" };
    const other = await requestGpu();
    const elsewhere = other.tensor([3, 4], [2]);
    const x = gpu.tensor([5, 6], [2]);
    const out = gpu.tensor([-1], [1]);
    const run = (range: Tensor["range"]) => gpu.run(spec, [out, range], [1]);
    run(x.range);
    expect(await out.item()).toBe(12);
    const before = gpu.stats.dispatches;
    const { range } = x;
    const far = { ...range, byteOffset: range.storage.byteLength };
    expect(() => run(elsewhere.range)).toThrow(
      /^gpu\.run: binding 1 is a range of another Gpu; expected one of this Gpu$/,
    );
    expect(() => run(far)).toThrow(
      /^gpu\.run: binding 1 is the range of 8 bytes from \d+ on; expected one within its buffer/,
    );
    expect(() => run({ ...range, byteLength: 0.5 })).toThrow(/the range of 0.5 bytes from 0 on/);
    x.dispose();
    expect(() => run(range)).toThrow(/^gpu\.run: binding 1 is a range of a tensor that was disposed; take/);
    expect(gpu.stats.dispatches).toBe(before);
    out.dispose();
    other.destroy();
  });

  it("returns scoped tensors to the caller, alone or in objects, and disposes the others", async () => {
    const kept: Tensor[] = [];
    const { pair, lone } = gpu.scope(() => {
      kept.push(gpu.zeros([2]));
      return { pair: [gpu.full([1], 4), gpu.full([1], 5)], lone: gpu.full([1], 6) };
    });
    expect(kept[0]!.isDisposed).toBe(true);
    expect(await Promise.all([...pair, lone].map((t) => t.item()))).toEqual([4, 5, 6]);
    expect(() => square(kept[0]!)).toThrow(/used after dispose/);
    expect(() => gpu.scope(async () => {})).toThrow(/returned a promise/);
  });

  it("orders host writes after unsubmitted work that reads the same buffer", async () => {
    const x = gpu.tensor([3], [1]);
    const y = square(x);
    x.write([5]);
    const z = square(x);
    expect([await y.item(), await z.item()]).toEqual([9, 25]);
  });

  it("stores every element type, at lengths that are no whole words", async () => {
    const bytes = Uint8Array.from({ length: 7 }, (_, i) => 37 * i);
    expect(await gpu.tensor(bytes, [7], { dtype: "uint8" }).read()).toEqual(bytes);
    const words = Uint32Array.from([1, 2 ** 32 - 1, 7]);
    expect(await gpu.tensor(words, [3], { dtype: "uint32" }).read()).toEqual(words);
    const halves = [0, -0, 1, -2.5, 65504, 1e6, 6e-8, 2 ** -14, 1 / 3];
    const read = await gpu.tensor(halves, [9], { dtype: "float16" }).read();
    expect([...read]).toEqual([0, -0, 1, -2.5, 65504, Infinity, 2 ** -24, 2 ** -14, 0.333251953125]);
  });

  it("works on a device and on buffers that the caller brings", async () => {
    const own = gpu.device;
    const borrowed = Gpu.fromDevice(own);
    const buffer = own.createBuffer({
      size: 512,
      usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST,
    });
    own.queue.writeBuffer(buffer, 256, new Float32Array([2, 3]));
    const x = Tensor.fromBuffer(buffer, [2], { gpu: borrowed, byteOffset: 256 });
    expect([...(await square(x).read())]).toEqual([4, 9]);
    expect(() => Tensor.fromBuffer(buffer, [2])).toThrow(/\d live Gpus/);
    expect(() => Tensor.fromBuffer(buffer, [200], { gpu: borrowed })).toThrow(/ends at 800.*has 512 bytes/);
    expect(() => Tensor.fromBuffer(buffer, [2], { gpu: borrowed, byteOffset: 8 })).toThrow(/multiple of 256/);
    x.dispose();
    own.queue.writeBuffer(buffer, 0, new Float32Array([1])); // still alive
  });

  it("names the op whose output is not finite", async () => {
    gpu.debug.checkFinite = true;
    const x = gpu.tensor([1e30, 1], [2]);
    gpu.scope(() => void square(x));
    await expect(gpu.sync()).rejects.toThrow(/square \(output 2\).*NaN or infinity/);
    gpu.scope(() => void square(gpu.tensor([2], [1])));
    await gpu.sync();
  });

  it("reports a shader that does not compile with file, entry point, constants and place", async () => {
    const shader = { name: "broken", source: "@compute @workgroup_size(1) fn main() { let x: f32 = 1u; }" };
    gpu.run({ shader, entry: "main", constants: {} }, [], [1]);
    await expect(gpu.sync()).rejects.toThrow(/broken\.wgsl, entry point main, constants \{\}[\s\S]*f32/);
  });

  it("refuses shapes and buffers that can't be", () => {
    expect(() => gpu.zeros([2, 0])).toThrow(/dimension 0; every dimension must be a positive integer/);
    expect(() => gpu.zeros([1.5])).toThrow(/dimension 1.5/);
    expect(() => gpu.tensor([1, 2], [3])).toThrow(/data has 2 elements, shape \[3\] has 3/);
    const tooMany = gpu.limits.maxStorageBufferBindingSize / 4 + 4;
    expect(() => gpu.empty([tooMany])).toThrow(/this adapter binds at most/);
    expect(() => square(7 as unknown as Tensor)).toThrow(/square: x is 7; expected a Tensor/);
  });

  describe("capture", () => {
    it("replays a step on new inputs with the same bits as running it", async () => {
      const x = gpu.tensor([1, 2, 3], [3], { requiresGrad: true });
      const step = () => {
        x.zeroGrad();
        const y = square(square(x));
        y.backward(y.detach());
        return y;
      };
      const plan = gpu.capture(step);
      expect([...(await plan.result.read())]).toEqual([1, 16, 81]);
      x.write([0.1, -0.7, 1.3]);
      const buffers = gpu.stats.liveBuffers + gpu.stats.pooledBuffers;
      for (let i = 0; i < 3; i += 1) plan.run();
      const replayed = [await plan.result.read(), await x.grad!.read()];
      expect(gpu.stats.liveBuffers + gpu.stats.pooledBuffers).toBe(buffers);
      const eager = gpu.scope(step);
      expect(replayed).toEqual([await eager.read(), await x.grad!.read()]);
      plan.dispose();
    });

    it("shares buffers between results that do not live at the same time", () => {
      const x = gpu.full([1024], 2);
      const plan = gpu.capture(() => {
        let y = square(x);
        for (let i = 0; i < 10; i += 1) {
          const z = square(y);
          y.dispose();
          y = z;
        }
        return y;
      });
      expect(plan.byteLength).toBeLessThanOrEqual(2 * 4096);
      plan.dispose();
      x.dispose();
      expect(gpu.stats.liveBuffers).toBe(0);
    });

    it("refuses host writes, reads and nesting inside", () => {
      const x = gpu.full([1], 2);
      expect(() => gpu.capture(() => x.write([1]))).toThrow(
        /written from the host inside a captured function/,
      );
      expect(() => gpu.capture(() => gpu.capture(() => square(x)))).toThrow(/inside a captured function/);
      expect([...gpu.capture(() => square(x)).result.shape]).toEqual([1]);
    });
  });
});
