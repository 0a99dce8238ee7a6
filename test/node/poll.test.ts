import { promisify } from "node:util";
import { describe, expect, it } from "vitest";
import { installHybridPoll, isNativeTick, pauseAfter } from "../../src/node/poll.ts";
import { requestGpu } from "../../src/node/request.ts";

/** Functions handed to `globalThis.setImmediate` while `fn` runs. */
async function watch<T>(fn: () => Promise<T>): Promise<{ result: T; callbacks: unknown[] }> {
  const callbacks: unknown[] = [];
  const former = globalThis.setImmediate;
  globalThis.setImmediate = ((callback: () => void, ...args: unknown[]) => {
    callbacks.push(callback);
    return (former as (...args: unknown[]) => NodeJS.Immediate)(callback, ...args);
  }) as typeof setImmediate;
  try {
    return { result: await fn(), callbacks };
  } finally {
    globalThis.setImmediate = former;
  }
}

describe("hybrid poll", () => {
  it("spins first, then waits an eighth of the time waited, a millisecond at most", () => {
    expect(pauseAfter(0)).toBe(0);
    expect(pauseAfter(0.09)).toBe(0);
    expect(pauseAfter(0.1)).toBe(0.05);
    expect(pauseAfter(4)).toBe(0.5);
    expect(pauseAfter(1000)).toBe(1);
  });

  it("takes nobody else's function for Dawn's", async () => {
    const others: unknown[] = [
      () => {},
      () => {},
      (() => {}).bind(null),
      Date.now,
      "text",
      Math.max,
      class {},
    ];
    await new Promise((resolve) => {
      others.push(resolve);
      resolve(null);
    });
    expect(others.map(isNativeTick)).toEqual(others.map(() => false));
  });

  it("hands other calls through, with arguments, clearImmediate and promisify", async () => {
    installHybridPoll();
    const said = await new Promise((resolve) => setImmediate((...args: string[]) => resolve(args), "a", "b"));
    expect(said).toEqual(["a", "b"]);
    let ran = false;
    const handle = setImmediate(() => {
      ran = true;
    });
    clearImmediate(handle);
    expect(await promisify(setImmediate)("value")).toBe("value");
    expect(ran).toBe(false);
  });

  it("leaves at most a few looks per millisecond of a wait", async () => {
    const gpu = await requestGpu();
    const { device } = gpu;
    const module = device.createShaderModule({
      code: `@group(0) @binding(0) var<storage, read_write> x: array<f32>;
        @compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) {
          var v = x[id.x];
          for (var i = 0u; i < 10000u; i++) { v = v * 1.0001 + 0.5; }
          x[id.x] = v;
        }`,
    });
    const pipeline = device.createComputePipeline({ layout: "auto", compute: { module } });
    const buffer = device.createBuffer({ size: 64 * 256 * 4, usage: GPUBufferUsage.STORAGE });
    const layout = pipeline.getBindGroupLayout(0);
    const bindGroup = device.createBindGroup({ layout, entries: [{ binding: 0, resource: { buffer } }] });
    const wait = async () => {
      const encoder = device.createCommandEncoder();
      const pass = encoder.beginComputePass();
      pass.setPipeline(pipeline);
      pass.setBindGroup(0, bindGroup);
      for (let i = 0; i < 4; i += 1) pass.dispatchWorkgroups(256);
      pass.end();
      const start = performance.now();
      device.queue.submit([encoder.finish()]);
      await device.queue.onSubmittedWorkDone();
      return performance.now() - start;
    };
    await wait(); // compiles
    const { result: ms, callbacks } = await watch(wait);
    gpu.destroy();
    const ticks = callbacks.filter(isNativeTick).length;
    // Dawn is still recognised, and looks rarely: the stock loop looks hundreds of times per millisecond.
    expect(ticks).toBeGreaterThan(0);
    expect(ticks).toBeLessThan(150 + 3 * ms);
  });
});
