import type { BufferRange } from "./buffers.ts";
import type { Kernel } from "./kernels.ts";
import type { Slot } from "./reflect.ts";
import { type UniformBuffer, type UniformSource, Uniforms } from "./uniforms.ts";
import { WordCache } from "./words.ts";

/** A bind group, with what a dispatch has to know of it. */
export interface BoundGroup {
  readonly bindGroup: GPUBindGroup;
  /** Its storage buffers: those that a later host write might touch. */
  readonly buffers: readonly GPUBuffer[];
}

/** Bytes of the ranges, each once: a buffer that is bound twice, in place of one that is not wanted, moves once. */
export function bytesOf(values: readonly (BufferRange | UniformSource)[]): number {
  let bytes = 0;
  for (let i = 0; i < values.length; i += 1) {
    const value = values[i]!;
    if (!isRange(value)) continue;
    let again = false;
    for (let j = 0; j < i && !again; j += 1) {
      const other = values[j]!;
      again = isRange(other) && other.storage === value.storage && other.byteOffset === value.byteOffset;
    }
    if (!again) bytes += value.byteLength;
  }
  return bytes;
}

/** More than WebGPU has binding numbers. */
const MOST_BINDINGS = 1024;
/**
 * Groups that are kept: more than an eager step of ResNet-110 makes (3,339 without any fusion). Each has memory of the driver's, on lavapipe
 * a mapping of its own, of which Linux gives a process 65,530.
 */
const MOST_GROUPS = 4096;

/** Makes bind groups, one for each kernel and what it binds. */
export class BindGroups {
  private readonly groups = new WordCache<BoundGroup>(MOST_GROUPS);
  /** Of the group that is looked for: the kernel, and of each binding its number, the buffer, offset and size. */
  private readonly key = new Uint32Array(1 + 4 * MOST_BINDINGS);
  private readonly uniforms: Uniforms;

  constructor(private readonly device: GPUDevice) {
    this.uniforms = new Uniforms(device);
  }

  /** `values`: ranges of buffers and uniforms, for each of the slots. */
  get(
    kernel: Kernel,
    slots: readonly Slot[],
    values: readonly (BufferRange | UniformSource)[],
    label: string,
  ): BoundGroup {
    const { key } = this;
    key[0] = kernel.id;
    const resources: (BufferRange | UniformBuffer)[] = [];
    let length = 1;
    for (let i = 0; i < slots.length; i += 1) {
      const value = values[i]!;
      let id: number;
      let offset = 0;
      let size: number;
      if (isRange(value)) {
        id = value.storage.id;
        offset = value.byteOffset;
        size = boundSize(value);
        resources.push(value);
      } else {
        const uniform = this.uniforms.get(kernel, slots[i]!, value);
        id = uniform.id;
        size = uniform.size;
        resources.push(uniform);
      }
      // Of an offset beyond 32 bits the rest goes beside the binding.
      key[length] = slots[i]!.binding + MOST_BINDINGS * Math.floor(offset / 2 ** 32);
      key[length + 1] = id;
      key[length + 2] = offset;
      key[length + 3] = size;
      length += 4;
    }
    let group = this.groups.get(key, length);
    if (!group) {
      group = this.make(kernel, slots, resources, label);
      this.groups.set(key, length, group);
    }
    return group;
  }

  private make(
    { layout }: Kernel,
    slots: readonly Slot[],
    resources: readonly (BufferRange | UniformBuffer)[],
    label: string,
  ): BoundGroup {
    const buffers: GPUBuffer[] = [];
    const entries = resources.map((resource, i): GPUBindGroupEntry => {
      const { binding } = slots[i]!;
      if (!isRange(resource)) {
        return { binding, resource: { buffer: resource.buffer, offset: 0, size: resource.size } };
      }
      const { buffer } = resource.storage;
      buffers.push(buffer);
      return { binding, resource: { buffer, offset: resource.byteOffset, size: boundSize(resource) } };
    });
    return { bindGroup: this.device.createBindGroup({ label, layout, entries }), buffers };
  }

  /** Forgets the groups, once buffers are gone that they may bind. */
  clear(): void {
    this.groups.clear();
  }

  destroy(): void {
    this.groups.clear();
    this.uniforms.destroy();
  }
}

export function isRange(value: BufferRange | UniformSource | UniformBuffer): value is BufferRange {
  return "storage" in value;
}

/** Bytes that are bound for a range: whole vec4s, up to the buffer's end. */
function boundSize({ storage, byteOffset, byteLength }: BufferRange): number {
  return Math.min(Math.ceil(byteLength / 16) * 16, storage.byteLength - byteOffset);
}
