// What the encode functions share: kernels of this package in a program that has a device, an encoder and buffers of its own.
//
// Each device has one `Gpu` here, which nobody sees: its caches of pipelines, bind groups and uniforms, its choice of kernels, and
// its scratch. Scratch lives within one call: a later call may take the same buffers, since the commands of one call stand
// together in an encoder, and a queue carries out one command buffer after the other.

import { alive } from "../../alive.ts";
import type { Dispatch } from "../../device/commands.ts";
import { DeviceError, DeviceLostError, ShapeError } from "../../errors.ts";
import { Gpu } from "../../gpu.ts";
import { checkInteger, isPlain, show } from "../../options.ts";
import { bytesPerElement, type DType } from "../../tensor/dtype.ts";
import { formatShape, type Shape, sizeOf } from "../../tensor/shape.ts";
import { Tensor } from "../../tensor/tensor.ts";
import { inLayer, type OpContext } from "../define-op.ts";

/**
 * A buffer with usage STORAGE, or part of one: `offset` a multiple of 256, and `size` no more than there is. Kernels take whole
 * groups of 16 bytes, and may write to the rest of an output's last one.
 */
export type EncodeBuffer = GPUBuffer | { buffer: GPUBuffer; offset?: number; size?: number };

/** Where commands go: into a compute pass of their own, or into yours, between your own dispatches. */
export type EncodeTarget = GPUCommandEncoder | GPUComputePassEncoder;

/** What every encode function wants to know. */
export interface EncodeOptions {
  /** Whose encoder and buffers they are. */
  device: GPUDevice;
}

const hosts = new WeakMap<GPUDevice, Gpu>();

/** @internal what is kept for `device`. */
export function hostOf(op: string, device: unknown): Gpu {
  if (typeof (device as GPUDevice | undefined)?.createComputePipeline !== "function") {
    throw new ShapeError(
      `${op}: device is ${show(device)}; expected the GPUDevice of the encoder and the buffers`,
    );
  }
  let host = hosts.get(device as GPUDevice);
  if (!host) {
    host = Gpu.fromDevice(device as GPUDevice);
    alive.delete(host); // it is no `Gpu` that a call without one could mean
    hosts.set(device as GPUDevice, host);
  }
  return host;
}

/**
 * Gives back what the encode functions keep for a device: pipelines, bind groups and scratch. Submit what they encoded before. The
 * device and your buffers stay as they are, and a later call begins anew.
 */
export function releaseEncoders(device: GPUDevice): void {
  const host = hostOf("releaseEncoders", device);
  hosts.delete(device);
  host.destroy();
}

/** Bytes that a buffer for `shape` has at least: whole groups of 16. */
export function encodedBytes(shape: Shape, dtype: DType = "float32"): number {
  return Math.ceil((sizeOf(shape) * bytesPerElement(dtype)) / 16) * 16;
}

/** A call's buffers, as its kernels take them. */
export class Buffers<Name extends string> {
  private readonly read = new Map<GPUBuffer, string>();
  private readonly written: { name: string; buffer: GPUBuffer; start: number; end: number }[] = [];

  constructor(
    private readonly op: string,
    private readonly gpu: Gpu,
    private readonly given: Readonly<Partial<Record<Name, EncodeBuffer | null>>>,
  ) {}

  input(name: Name, shape: Shape, dtype: DType = "float32"): Tensor {
    const tensor = this.take(name, this.given[name], shape, dtype);
    this.read.set(tensor.range.storage.buffer, name);
    return tensor;
  }

  /** Null where it is not given. */
  inputOrNull(name: Name, shape: Shape, dtype?: DType): Tensor | null {
    return (this.given[name] ?? null) === null ? null : this.input(name, shape, dtype);
  }

  output(name: Name, shape: Shape, dtype: DType = "float32"): Tensor {
    const tensor = this.take(name, this.given[name], shape, dtype);
    const { storage, byteOffset: start } = tensor.range;
    this.written.push({ name, buffer: storage.buffer, start, end: start + encodedBytes(shape, dtype) });
    return tensor;
  }

  outputOrNull(name: Name, shape: Shape, dtype?: DType): Tensor | null {
    return (this.given[name] ?? null) === null ? null : this.output(name, shape, dtype);
  }

  /** @throws ShapeError where an output lies over another, or in a buffer that is read: WebGPU has no such dispatch. */
  checkApart(): void {
    for (const [i, { name, buffer, start, end }] of this.written.entries()) {
      const reader = this.read.get(buffer);
      if (reader !== undefined) {
        throw new ShapeError(
          `${this.op}: ${name} and ${reader} are in one buffer; expected what is written in a buffer that nothing is read from`,
        );
      }
      const other = this.written
        .slice(0, i)
        .find((one) => one.buffer === buffer && one.start < end && start < one.end);
      if (other) throw new ShapeError(`${this.op}: ${name} and ${other.name} overlap; expected ranges apart`);
    }
  }

  private take(name: Name, value: unknown, shape: Shape, dtype: DType): Tensor {
    const { op, gpu } = this;
    gpu.checkSize(op, shape, dtype, name);
    const part = isPlain(value) ? value : { buffer: value };
    const { buffer, offset = 0 } = part as { buffer: GPUBuffer | undefined; offset?: number };
    if (typeof buffer?.size !== "number" || typeof buffer.usage !== "number") {
      throw new ShapeError(
        `${op}: ${name} is ${show(value)}; expected a GPUBuffer, or { buffer, offset, size }, for ${formatShape(shape)}`,
      );
    }
    checkInteger(op, `${name}.offset`, offset, 0);
    if (offset % 256 !== 0) {
      throw new ShapeError(`${op}: ${name}.offset is ${offset}; expected a multiple of 256`);
    }
    const { size = Math.max(0, buffer.size - offset) } = part as { size?: number };
    checkInteger(op, `${name}.size`, size, 0);
    const bytes = encodedBytes(shape, dtype);
    if (size < bytes || offset + bytes > buffer.size) {
      throw new ShapeError(
        `${op}: ${name} has ${Math.min(size, Math.max(0, buffer.size - offset))} bytes at offset ${offset}; expected ${bytes} ` +
          `for ${formatShape(shape)} of ${dtype}, in whole groups of 16`,
      );
    }
    if ((buffer.usage & GPUBufferUsage.STORAGE) === 0) {
      throw new ShapeError(
        `${op}: ${name} has usage ${buffer.usage}; expected STORAGE (${GPUBufferUsage.STORAGE})`,
      );
    }
    return Tensor.over(gpu, gpu.adopt(buffer), offset, shape, dtype);
  }
}

/** What a kernel's host code works with. */
export type EncodeContext = Pick<OpContext, "gpu" | "empty" | "temp" | "run">;

/**
 * Encodes what `body` dispatches, all or nothing.
 * @throws ShaderError for a kernel of an earlier call that did not compile, DeviceLostError
 */
export function encodeInto(
  op: string,
  target: EncodeTarget,
  gpu: Gpu,
  body: (ctx: EncodeContext) => void,
): void {
  const isPass = typeof (target as GPUComputePassEncoder | null)?.dispatchWorkgroups === "function";
  if (!isPass && typeof (target as GPUCommandEncoder | null)?.beginComputePass !== "function") {
    throw new ShapeError(
      `${op}: encoder is ${show(target)}; expected a GPUCommandEncoder, or a GPUComputePassEncoder`,
    );
  }
  try {
    gpu.check();
  } catch (error) {
    // What the device reports to nobody in particular may be about anything that its owner does.
    if (!(error instanceof DeviceError) || error instanceof DeviceLostError) throw error;
  }
  const dispatches: Dispatch[] = [];
  gpu.commands.observe(
    (dispatch) => void dispatches.push(dispatch),
    () => gpu.scope(() => inLayer(gpu, op, "", body)),
    { execute: false },
  );
  const pass = isPass
    ? (target as GPUComputePassEncoder)
    : (target as GPUCommandEncoder).beginComputePass({ label: op });
  for (const { kernel, bindGroup, grid } of dispatches) {
    pass.setPipeline(kernel.pipeline);
    pass.setBindGroup(0, bindGroup);
    pass.dispatchWorkgroups(grid[0], grid[1] ?? 1, grid[2] ?? 1);
  }
  if (!isPass) pass.end();
}
