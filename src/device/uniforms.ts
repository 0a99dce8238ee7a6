import { UsageError } from "../errors.ts";
import { nearest, show } from "../options.ts";
import { bufferId } from "./buffers.ts";
import type { Kernel } from "./kernels.ts";
import type { Field, Layout, Slot } from "./reflect.ts";
import { WordCache } from "./words.ts";

/** A uniform struct's fields by name; of vectors and arrays the numbers in a row. */
export type UniformFields = Readonly<Record<string, number | ArrayLike<number>>>;

/** A uniform's content. */
export type UniformSource = ArrayBuffer | ArrayBufferView | UniformFields;

/** Constants in a buffer. */
export class UniformBuffer {
  readonly id: number;
  constructor(
    readonly buffer: GPUBuffer,
    /** In bytes: the buffer's own is a call into the browser or the native module. */
    readonly size: number,
  ) {
    this.id = bufferId(buffer);
  }
}

const MOST_UNIFORMS = 4096;

/** Constants in buffers, one for each content. What is dropped is not destroyed, since captured plans may still bind it. */
export class Uniforms {
  private readonly buffers = new WordCache<UniformBuffer>(MOST_UNIFORMS);

  constructor(private readonly device: GPUDevice) {}

  /** The buffer that holds the given bytes, or fields. */
  get({ name }: Kernel, slot: Slot, value: UniformSource): UniformBuffer {
    let words: Uint32Array;
    let count: number;
    if (value instanceof ArrayBuffer || ArrayBuffer.isView(value)) {
      const bytes = ArrayBuffer.isView(value)
        ? new Uint8Array(value.buffer, value.byteOffset, value.byteLength)
        : new Uint8Array(value);
      count = Math.max(4, Math.ceil(bytes.byteLength / 16) * 4);
      words = new Uint32Array(count);
      new Uint8Array(words.buffer).set(bytes);
    } else {
      const what = `${name}: binding ${slot.name}`;
      if (!slot.layout)
        throw new UsageError(`${what} is ${show(value)}; expected an ArrayBuffer or view of its bytes`);
      words = pack(what, slot.layout, value, false);
      count = slot.layout.words;
    }
    let uniform = this.buffers.get(words, count);
    if (!uniform) {
      // Filled at creation, so that it needs no place in the queue and may be made inside a capture.
      const size = 4 * count;
      const buffer = this.device.createBuffer({
        size,
        usage: GPUBufferUsage.UNIFORM,
        mappedAtCreation: true,
      });
      new Uint32Array(buffer.getMappedRange()).set(words.subarray(0, count));
      buffer.unmap();
      uniform = new UniformBuffer(buffer, size);
      this.buffers.set(words, count, uniform);
    }
    return uniform;
  }

  destroy(): void {
    for (const { buffer } of this.buffers.values()) buffer.destroy();
    this.buffers.clear();
  }
}

/** Words of the largest uniform that is packed: what WebGPU lets every device bind. */
const MOST_WORDS = 65536 / 4;

const words = new Uint32Array(MOST_WORDS);
const signed = new Int32Array(words.buffer);
const floats = new Float32Array(words.buffer);
const views = { u32: words, i32: signed, f32: floats };

/**
 * Writes `fields` as `layout` has them into words that the next call overwrites, and returns those.
 * @param strict refuse what is no field, and what is no number
 * @throws UsageError for a field that is missing or too long
 */
export function pack(what: string, layout: Layout, fields: UniformFields, strict: boolean): Uint32Array {
  words.fill(0, 0, layout.words);
  for (const field of layout.fields) {
    const value = fields[field.name];
    const view = views[field.type];
    if (typeof value === "number" && field.components * field.count === 1) {
      view[field.offset] = value;
      continue;
    }
    if (value === undefined || value === null || typeof value !== "object")
      refuse(what, layout, field, value);
    const { offset, components, count, stride } = field;
    const { length } = value;
    if (!(length <= components * count)) refuse(what, layout, field, value);
    // Without gaps between vectors, all but arrays of vec3.
    if (stride === components) for (let i = 0; i < length; i += 1) view[offset + i] = value[i]!;
    else {
      for (let i = 0; i < length; i += 1)
        view[offset + Math.floor(i / components) * stride + (i % components)] = value[i]!;
    }
  }
  if (strict) checkFields(what, layout, fields);
  return words;
}

function refuse(what: string, layout: Layout, field: Field, value: unknown): never {
  const size = field.components * field.count;
  throw new UsageError(
    `${what}: field ${field.name} is ${show(value)}; expected ${size === 1 ? "a number" : `${size} numbers at most`} ` +
      `(${field.type}) among ${namesOf(layout).join(", ")}`,
  );
}

function checkFields(what: string, layout: Layout, fields: UniformFields): void {
  const known = namesOf(layout);
  for (const name in fields) {
    const value = fields[name]!;
    if (!known.includes(name)) {
      const near = nearest(name, known);
      throw new UsageError(
        `${what}: there is no field ${name}${near ? `; did you mean ${near}?` : ""}; expected ${known.join(", ")}`,
      );
    }
    const numbers = typeof value === "number" ? [value] : value;
    for (let i = 0; i < numbers.length; i += 1) {
      if (typeof numbers[i] !== "number") {
        throw new UsageError(`${what}: field ${name} is ${show(value)}; expected numbers`);
      }
    }
  }
}

function namesOf(layout: Layout): string[] {
  return layout.fields.map((field) => field.name);
}
