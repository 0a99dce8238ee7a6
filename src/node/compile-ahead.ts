// Kernels compiled side by side, on adapters that compile a kernel no sooner than its first dispatch.
//
// lavapipe does: one kernel after the other, on the thread of the device's queue, while the other cores wait. What it compiled it
// keeps in Mesa's cache on disk, and looks there first. So further devices take the kernels that are due last and dispatch them with
// no workgroup; when the device that asked comes to them, they are there. docs/design/0004 has the measurements.

import { availableParallelism } from "node:os";
import { requestDevice } from "../device/adapter.ts";
import { KernelCache, type KernelSpec, moduleOf, type NewKernels, slotsOf } from "../device/kernels.ts";
import { isDeno } from "./native.ts";

/** More than these would wait for memory and for Mesa's cache. */
const MOST_COMPILERS = 3;

/** A device that only compiles. */
export interface Compiler {
  /** Resolves when the driver has compiled it, and rejects when there will be no more. */
  compile(spec: KernelSpec): Promise<void>;
  close(): void;
}

/** Shares what is new on a device among `count` compilers, each opened when there is work for it. */
export class CompileAhead implements NewKernels {
  private readonly waiting: KernelSpec[] = [];
  private readonly compilers: (Compiler | null)[];
  private readonly working = new Set<number>();
  isDue = false;
  private taken = 0;
  private closed = false;

  constructor(
    private readonly open: () => Promise<Compiler>,
    count = Math.min(availableParallelism() - 1, MOST_COMPILERS),
  ) {
    this.compilers = Array<null>(count).fill(null);
  }

  add(spec: KernelSpec): void {
    // What users' WGSL binds is not known well enough to bind something else.
    if (this.closed || !moduleOf(spec).isLinked) return;
    this.waiting.push(spec);
    if (this.isDue) return;
    this.isDue = true;
    // After what is encoded now: then it is known which are due last.
    setImmediate(() => {
      this.isDue = false;
      for (let at = 0; at < this.compilers.length; at += 1) if (!this.working.has(at)) void this.work(at);
    });
  }

  /** A compiler that is at work is closed when it has done its kernel: a device can't be destroyed sooner. */
  close(): void {
    this.closed = true;
    this.waiting.length = 0;
    for (let at = 0; at < this.compilers.length; at += 1)
      if (!this.working.has(at)) this.compilers[at]?.close();
  }

  private async work(at: number): Promise<void> {
    this.working.add(at);
    try {
      for (let spec = this.take(); spec; spec = this.take()) {
        this.compilers[at] ??= await this.open();
        await this.compilers[at].compile(spec);
      }
    } catch {
      // The device that asked compiles by itself, and says what is wrong if it is a kernel.
      this.close();
    }
    this.working.delete(at);
    if (this.closed) this.compilers[at]?.close();
  }

  /** The last one that is due. The device itself is taken to compile the first one, for each round of the compilers. */
  private take(): KernelSpec | undefined {
    if (this.taken % this.compilers.length === 0) this.waiting.shift();
    this.taken += 1;
    return this.waiting.pop();
  }
}

/** Of one buffer of nothing: no array or uniform of the package's kernels has a fixed size above it. */
const NOTHING_BYTES = 65_536;

/** A compiler on a device of `adapter`. */
export async function compilerOn(adapter: GPUAdapter): Promise<Compiler> {
  const device = await requestDevice(adapter);
  let isLost = false;
  void device.lost.then(() => {
    isLost = true;
  });
  const kernels = new KernelCache(device, () => {});
  const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.UNIFORM;
  // No buffer stands at two places, where a kernel might write both.
  const nothing: GPUBuffer[] = [];
  const noWorkgroups = device.createBuffer({ size: 12, usage: GPUBufferUsage.INDIRECT });
  return {
    async compile(spec) {
      if (isLost) throw new Error("the device that compiles ahead was lost");
      device.pushErrorScope("validation");
      await kernels.warmup([spec]);
      const kernel = kernels.get(spec);
      const numbers = [...new Set(slotsOf(kernel).map(({ binding }) => binding))];
      const entries = numbers.map((binding, at) => {
        nothing[at] ??= device.createBuffer({ size: NOTHING_BYTES, usage });
        return { binding, resource: { buffer: nothing[at] } };
      });
      const encoder = device.createCommandEncoder();
      const pass = encoder.beginComputePass();
      pass.setPipeline(kernel.pipeline);
      pass.setBindGroup(0, device.createBindGroup({ layout: kernel.layout, entries }));
      pass.dispatchWorkgroupsIndirect(noWorkgroups, 0);
      pass.end();
      device.queue.submit([encoder.finish()]);
      const error = device.popErrorScope();
      await device.queue.onSubmittedWorkDone();
      const found = await error;
      if (found) throw new Error(found.message);
    },
    close: () => device.destroy(),
  };
}

/**
 * Does this adapter compile at the first dispatch, and keep what it compiled where other devices find it? `FUSENORM_COMPILE_AHEAD=off`
 * says no: for programs that keep every core busy themselves.
 */
export function compilesLate(name: string, env: NodeJS.ProcessEnv = process.env): boolean {
  const isOff = (value = "") => /^(1|true|y|yes)$/i.test(value);
  return (
    /llvmpipe/i.test(name) &&
    env.FUSENORM_COMPILE_AHEAD !== "off" &&
    !isOff(env.MESA_SHADER_CACHE_DISABLE) &&
    !isOff(env.MESA_GLSL_CACHE_DISABLE) &&
    availableParallelism() > 1 &&
    !isDeno
  );
}
