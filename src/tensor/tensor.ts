import { defaultGpu } from "../alive.ts";
import { backward, drop, type GraphNode } from "../autograd/tape.ts";
import { BINDABLE, type Bindable } from "../device/bindings.ts";
import type { BufferRange, Storage } from "../device/buffers.ts";
import { ShapeError, UsageError, UseAfterDisposeError } from "../errors.ts";
import type { ActivationPart, Load, Partials, Store } from "../fusion/ports.ts";
import type { Gpu } from "../gpu.ts";
import { checkFlag, checkInteger, checkOptions, optionNames, show } from "../options.ts";
import { TENSOR } from "./brand.ts";
import { checkGpu, checkTensor, FLOATS } from "./check.ts";
import { bytesPerElement, checkDType, type DType } from "./dtype.ts";
import { type Activated, Lazy, type NewMask, type Work } from "./lazy.ts";
import { checkShape, formatShape, type Shape, sameShape, sizeOf } from "./shape.ts";
import { tracer } from "./trace.ts";

/** Options of the functions that make a tensor. */
export interface TensorOptions {
  dtype?: DType;
  /** Gather a gradient for this tensor in `backward`. Default false. */
  requiresGrad?: boolean;
}

const TENSOR_OPTIONS = optionNames<TensorOptions>({ dtype: 0, requiresGrad: 0 });
const BUFFER_OPTIONS = optionNames<{ gpu?: Gpu; dtype?: DType; byteOffset?: number }>({
  gpu: 0,
  dtype: 0,
  byteOffset: 0,
});

/** The options with their defaults. @throws UsageError */
function tensorOptions(op: string, options: TensorOptions): Required<TensorOptions> {
  checkOptions(op, options, TENSOR_OPTIONS);
  const { dtype = "float32", requiresGrad = false } = options;
  checkDType(op, dtype);
  checkFlag(op, "requiresGrad", requiresGrad);
  if (requiresGrad && !FLOATS.includes(dtype)) {
    throw new UsageError(
      `${op}: requiresGrad is true, dtype is ${dtype}; expected ${FLOATS.join(" or ")} for a tensor with a gradient`,
    );
  }
  return { dtype, requiresGrad };
}

/** Elements on the host, as a typed array of the tensor's type. */
export type TensorData = Float32Array | Uint32Array | Uint8Array | Uint16Array;

/** Row-major numbers on the GPU. A handle: several tensors may share one buffer (`detach`, `reshape`). */
export class Tensor implements Bindable {
  /** Set by the user on leaves; ops set it on their outputs. */
  requiresGrad = false;
  /** dLoss/dThis after `backward`, on leaves that require it. Kept until `zeroGrad` or `dispose`. */
  grad: Tensor | null = null;
  /** @internal where an optimiser wants this leaf's gradient; see `Packed`. */
  gradSlot: Tensor | null = null;
  /** @internal the graph node that made this tensor, or null on leaves. */
  node: GraphNode | null = null;
  /** Number of elements. */
  readonly size: number;
  private disposed = false;
  private isRange = false;
  private isSaved = false;
  /** Of handles on a gradient's slot, that itself not counted: how many there are. */
  private onSlot: { handles: number } | null = null;

  private constructor(
    readonly gpu: Gpu,
    readonly shape: Shape,
    readonly dtype: DType,
    private storage: Storage | Lazy,
    private byteOffset: number,
  ) {
    this.size = sizeOf(shape);
  }

  /** @internal see `gpu.empty`. */
  static empty(gpu: Gpu, shape: Shape, dtype: DType = "float32", op = "gpu.empty"): Tensor {
    checkDType(op, dtype);
    gpu.checkSize(op, shape, dtype);
    // Beyond what a buffer holds was refused.
    const storage = gpu.allocate(sizeOf(shape) * bytesPerElement(dtype), "a tensor");
    return Tensor.over(gpu, storage, 0, [...shape], dtype);
  }

  /** @internal see `gpu.tensor`. */
  static from(
    gpu: Gpu,
    data: ArrayLike<number> | ArrayBufferView,
    shape: Shape,
    options: TensorOptions,
  ): Tensor {
    const { dtype, requiresGrad } = tensorOptions("gpu.tensor", options);
    if (shape === undefined) {
      throw new ShapeError(
        `gpu.tensor: shape is undefined; expected an array of positive integers${callWithShape(data)}`,
      );
    }
    checkShape("gpu.tensor", shape);
    const elements = encode("gpu.tensor", data, dtype, shape);
    const tensor = Tensor.empty(gpu, shape, dtype, "gpu.tensor");
    try {
      tensor.write(elements);
    } catch (error) {
      tensor.dispose();
      throw error;
    }
    tensor.requiresGrad = requiresGrad;
    return tensor;
  }

  /** @internal see `gpu.full`. */
  static full(gpu: Gpu, shape: Shape, value: number, options: TensorOptions, op: string): Tensor {
    const { dtype, requiresGrad } = tensorOptions(op, options);
    checkValue(op, "value", value, dtype);
    const tensor = Tensor.empty(gpu, shape, dtype, op);
    try {
      tensor.fill(value);
    } catch (error) {
      tensor.dispose();
      throw error;
    }
    tensor.requiresGrad = requiresGrad;
    return tensor;
  }

  /**
   * Looks at a buffer that the caller made (usage STORAGE, COPY_SRC, COPY_DST) and keeps; `dispose` leaves it alone.
   * `byteOffset` must be a multiple of 256. `gpu` may be left out where there is only one.
   */
  static fromBuffer(
    buffer: GPUBuffer,
    shape: Shape,
    options: { gpu?: Gpu; dtype?: DType; byteOffset?: number } = {},
  ): Tensor {
    checkOptions("Tensor.fromBuffer", options, BUFFER_OPTIONS);
    const { gpu = defaultGpu("Tensor.fromBuffer"), dtype = "float32", byteOffset = 0 } = options;
    checkGpu("Tensor.fromBuffer", gpu);
    checkDType("Tensor.fromBuffer", dtype);
    checkShape("Tensor.fromBuffer", shape);
    checkInteger("Tensor.fromBuffer", "byteOffset", byteOffset, 0);
    if (typeof buffer?.size !== "number" || typeof buffer.usage !== "number") {
      throw new ShapeError(
        `Tensor.fromBuffer: buffer is ${show(buffer)}; expected a GPUBuffer of gpu.device`,
      );
    }
    const end = byteOffset + Math.ceil((sizeOf(shape) * bytesPerElement(dtype)) / 16) * 16;
    if (end > buffer.size) {
      throw new ShapeError(
        `Tensor.fromBuffer: ${formatShape(shape)} of ${dtype} at byte ${byteOffset} ends at ${end} (whole 16-byte ` +
          `groups), the buffer has ${buffer.size} bytes; expected a buffer of at least ${end}`,
      );
    }
    if (byteOffset % 256 !== 0) {
      throw new ShapeError(`Tensor.fromBuffer: byteOffset is ${byteOffset}; expected a multiple of 256`);
    }
    const wanted = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST;
    if ((buffer.usage & wanted) !== wanted) {
      throw new ShapeError(
        `Tensor.fromBuffer: the buffer's usage is ${buffer.usage}; expected STORAGE | COPY_SRC | COPY_DST (${wanted})`,
      );
    }
    return Tensor.over(gpu, gpu.adopt(buffer), byteOffset, shape, dtype);
  }

  /** @internal a handle on a range of `storage`, whose reference it takes over. */
  static over(gpu: Gpu, storage: Storage, byteOffset: number, shape: Shape, dtype: DType): Tensor {
    const tensor = new Tensor(gpu, shape, dtype, storage, byteOffset);
    gpu.track(tensor);
    return tensor;
  }

  /**
   * @internal a float32 tensor whose elements `work` gives when somebody needs them. Takes over the work's sources; `op` is who
   * is named where the elements turn out not to be finite.
   */
  static lazy(gpu: Gpu, shape: Shape, work: Work, op: string): Tensor {
    const compute = ({ run }: Work, store: Store | null) => {
      const storage = gpu.allocate(4 * sizeOf(shape), "a tensor");
      try {
        const target = new Tensor(gpu, shape, "float32", storage, 0);
        const partials = run(target, store);
        gpu.checkFinite(target, op);
        return { storage, partials };
      } catch (error) {
        storage.release();
        throw error;
      }
    };
    const tensor = new Tensor(gpu, shape, "float32", new Lazy(work, shape, compute, gpu.pending), 0);
    gpu.track(tensor);
    return tensor;
  }

  get [BINDABLE](): true {
    return true;
  }

  get [TENSOR](): true {
    return true;
  }

  get rank(): number {
    return this.shape.length;
  }

  get byteLength(): number {
    return this.size * bytesPerElement(this.dtype);
  }

  /** The bytes of this tensor, for binding. @throws UseAfterDisposeError */
  get range(): BufferRange {
    this.checkLive("used");
    const { byteOffset, byteLength } = this;
    const storage = this.storage instanceof Lazy ? this.storage.resolve() : this.storage;
    return { storage, byteOffset, byteLength };
  }

  /** @internal whether the elements lie in a caller's own buffer. */
  get isBorrowed(): boolean {
    return !(this.storage instanceof Lazy) && this.storage.pool === null;
  }

  /** @internal whether somebody has overwritten the elements since they were computed. */
  get wasOverwritten(): boolean {
    return this.storage.versionOf(this.byteOffset, this.byteLength) > 0;
  }

  /** @internal whether the elements are not in memory. */
  get isPending(): boolean {
    return this.storage instanceof Lazy && this.storage.waiting !== null;
  }

  /**
   * What waits to give the elements. Ports count by channel: null for a handle with other channels, which a reshape made;
   * who asks then has the elements in memory.
   */
  private get waiting(): Work | null {
    this.checkLive("used");
    if (!(this.storage instanceof Lazy)) return null;
    return this.storage.shape.at(-1) === this.shape.at(-1) ? this.storage.waiting : null;
  }

  /** @internal how to work the elements out while they are loaded, if they are not in memory. */
  get load(): Load | null {
    return this.waiting?.load ?? null;
  }

  /**
   * @internal if the kernel that is to give the elements has not run, and can do what the part of `store` does, runs it so, and
   * gives the sums.
   */
  store(store: Store): Partials | null {
    const accepts = this.waiting?.accepts?.(store.part) === true;
    return accepts && this.storage instanceof Lazy ? this.storage.store(store) : null;
  }

  /** @internal an activation of elements that are not in memory, not worked out either; see `Work`. */
  activated(activation: ActivationPart, newMask: NewMask | null): Activated | null {
    return this.waitingInShape?.activated?.(activation, newMask) ?? null;
  }

  /** @internal the sum with a tensor of the same shape, likewise. */
  plus(other: Tensor, graph: boolean): Tensor | null {
    return this.waitingInShape?.plus?.(other, this, graph) ?? null;
  }

  /** What is made of the elements has the shape in which they wait. */
  private get waitingInShape(): Work | null {
    const { waiting } = this;
    return waiting && this.storage instanceof Lazy && sameShape(this.storage.shape, this.shape)
      ? waiting
      : null;
  }

  /** @internal calls `read` before somebody overwrites the elements, until the function that it returns is called. */
  beforeWrite(read: () => void): () => void {
    return this.storage.beforeWrite(read);
  }

  /** @internal tells whether the elements are older than something else's. */
  get serial(): number {
    return this.storage.serial;
  }

  /** @internal a function that tells whether somebody has overwritten the elements since. */
  watch(): () => boolean {
    const { storage, byteOffset, byteLength } = this;
    const version = storage.versionOf(byteOffset, byteLength);
    return () => storage.versionOf(byteOffset, byteLength) !== version;
  }

  /** @internal whether the elements may be given back, and worked out once more. */
  get recomputes(): boolean {
    return this.storage instanceof Lazy && this.storage.recomputes;
  }

  /** @internal the bytes of this tensor, to be overwritten at once: whoever depends on the old ones has them by now. */
  overwrite(): BufferRange {
    this.checkLive("written");
    if (this.storage instanceof Lazy) this.storage.settle();
    const { range } = this;
    this.gpu.willWrite(range);
    return range;
  }

  /**
   * The GPU buffer that holds the elements, for pipelines of your own; they start at `range.byteOffset`. Submits what is
   * encoded so far, so that your own submit finds them there, and what depends on the elements, so that you may overwrite
   * them. Work of this package that comes later is not in it: ask again.
   */
  get buffer(): GPUBuffer {
    const { storage } = this.range;
    storage.callReaders();
    this.gpu.flush();
    return storage.buffer;
  }

  /**
   * Works the elements out now, if they are not in memory: what nobody asks for is not computed, which a benchmark of a single
   * op, say, has to ask for. Returns the tensor.
   */
  materialize(): this {
    this.range;
    return this;
  }

  get isDisposed(): boolean {
    return this.disposed;
  }

  /** @internal whether other handles look at the same elements. */
  get isShared(): boolean {
    return this.storage.isShared && !this.isRange;
  }

  /** @internal a handle on part of this tensor's buffer that nothing else looks at, `byteOffset` from its start. */
  part(byteOffset: number, shape: Shape): Tensor {
    const { storage } = this.range;
    const tensor = new Tensor(this.gpu, shape, this.dtype, storage.retain(), this.byteOffset + byteOffset);
    tensor.isRange = true;
    return tensor;
  }

  /** @internal moves the elements into part of `target`'s buffer. Other handles keep the old ones. */
  moveTo(target: Tensor, byteOffset: number): void {
    const { storage } = target.range;
    if (this.storage instanceof Lazy) this.storage.settle();
    const own = this.range;
    const place = { storage, byteOffset: target.byteOffset + byteOffset, byteLength: this.byteLength };
    this.gpu.copyRange(own, place);
    own.storage.movedTo = "an optimizer's packed buffer";
    this.storage.release(this.isSaved);
    this.storage = storage.retain();
    this.byteOffset = place.byteOffset;
    this.isRange = true;
  }

  /** @internal a handle on the slot for this leaf's first gradient since `zeroGrad`; null when it has one already. */
  takeGradSlot(): Tensor | null {
    const { gradSlot } = this;
    if (!gradSlot || this.grad) return null;
    gradSlot.onSlot ??= { handles: 0 };
    // Somebody may still look at a gradient that the leaf has given up: in a handle, a graph, or work that waits.
    if (gradSlot.onSlot.handles > 0) return null;
    // A replay takes nothing, and writes all the same.
    if (this.gpu.commands.recording) this.gpu.willWrite(gradSlot.range);
    const grad = gradSlot.part(0, this.shape);
    grad.joinSlot(gradSlot);
    return grad;
  }

  /** @internal makes what lies there this leaf's gradient. */
  placeGrad(range: BufferRange, dtype: DType): void {
    this.zeroGrad();
    const { gpu, gradSlot: slot, shape } = this;
    const isSlot = slot?.range.storage === range.storage && slot.range.byteOffset === range.byteOffset;
    const { storage, byteOffset } = range;
    if (isSlot) {
      slot.onSlot ??= { handles: 0 };
      this.grad = slot.part(0, shape);
      this.grad.joinSlot(slot);
    } else this.grad = gpu.keep(Tensor.over(gpu, storage.retain(), byteOffset, shape, dtype));
  }

  /** Counts this handle, if that on the same elements is on a slot. */
  private joinSlot({ onSlot }: Tensor): void {
    if (!onSlot) return;
    this.onSlot = onSlot;
    onSlot.handles += 1;
  }

  /** Another handle on the same elements, outside of the graph and of every scope. */
  alias(shape: Shape = this.shape): Tensor {
    this.checkLive("used");
    if (shape !== this.shape) checkShape("tensor.alias", shape);
    if (sizeOf(shape) !== this.size) {
      throw new ShapeError(
        `tensor.alias: ${formatShape(shape)} has ${sizeOf(shape)} elements, ${formatShape(this.shape)} has ${this.size}; expected the same number`,
      );
    }
    const out = new Tensor(this.gpu, shape, this.dtype, this.storage.retain(false), this.byteOffset);
    out.joinSlot(this);
    tracer()?.op({ op: "alias", inputs: { x: this }, params: null, out });
    return out;
  }

  /** @internal a handle for the graph, which can do without elements that may be worked out again. */
  saved(): Tensor {
    this.checkLive("used");
    const tensor = new Tensor(this.gpu, this.shape, this.dtype, this.storage.retain(true), this.byteOffset);
    tensor.isSaved = true;
    tensor.joinSlot(this);
    return tensor;
  }

  /** The same elements, cut off from the graph. */
  detach(): Tensor {
    const tensor = this.alias();
    this.gpu.track(tensor);
    return tensor;
  }

  /**
   * Overwrites the elements from the host, or by those of another tensor of the same shape and type, on the GPU: PyTorch's `copy_`
   * without a gradient. A float16 tensor takes raw 16-bit patterns or numbers.
   */
  write(data: ArrayLike<number> | ArrayBufferView | Tensor): void {
    this.checkLive("written");
    this.gpu.check();
    if (data instanceof Tensor) {
      writeFrom(this, data);
      return;
    }
    this.gpu.commands.refuseHostWrite();
    const elements = encode("tensor.write", data, this.dtype, this.shape);
    const { storage, byteOffset } = this.overwrite();
    this.gpu.commands.write(storage.buffer, byteOffset, elements);
  }

  /** JavaScript has no operators for tensors, and a comparison of elements that are on the GPU has to wait for them. */
  [Symbol.toPrimitive](hint: string): string {
    if (hint === "string") return this.toString();
    throw new UsageError(
      `${this} was used as a number; expected ops, such as add(a, b), mul(a, b) and gt(a, b), or numbers: await tensor.item(), await tensor.read()`,
    );
  }

  /** @throws UsageError: elements are on the GPU, and JSON waits for nothing */
  toJSON(): never {
    throw new UsageError(
      `${this} was written as JSON; expected numbers: await tensor.item(), Array.from(await tensor.read())`,
    );
  }

  /** @internal refuses what `write` would. @throws ShapeError */
  checkData(op: string, data: unknown, name: string): void {
    encode(op, data, this.dtype, this.shape, name);
  }

  /** Sets every element, on the GPU. */
  fill(value: number): void {
    this.checkLive("written");
    checkValue("tensor.fill", "value", value, this.dtype);
    const bits = new Uint32Array(
      convert([value, value, value, value], this.dtype).slice().buffer.slice(0, 4),
    );
    this.gpu.fillRange(this.overwrite(), bits[0]!);
  }

  /** The elements on the host. float16 is widened to a Float32Array. Waits for the GPU. */
  async read(): Promise<TensorData> {
    const bytes = await this.gpu.readRange(this.range);
    if (this.dtype === "uint32") return new Uint32Array(bytes);
    if (this.dtype === "uint8") return new Uint8Array(bytes);
    if (this.dtype === "float16") return Float32Array.from(new Uint16Array(bytes), halfToNumber);
    return new Float32Array(bytes);
  }

  /** The only element of a one-element tensor. */
  async item(): Promise<number> {
    if (this.size !== 1)
      throw new ShapeError(`item: shape ${formatShape(this.shape)} has ${this.size} elements; expected 1`);
    return (await this.read())[0]!;
  }

  /** One line, without the elements: those are on the GPU. */
  toString(): string {
    const facts = [
      this.requiresGrad && "requires grad",
      this.grad && "has grad",
      this.disposed && "disposed",
    ].filter(Boolean);
    return `Tensor ${formatShape(this.shape)} ${this.dtype}${facts.length > 0 ? ` (${facts.join(", ")})` : ""}`;
  }

  /** What `console.log` shows in Node, Bun and Deno. */
  [Symbol.for("nodejs.util.inspect.custom")](): string {
    return this.toString();
  }

  /** Writes shape, type and numbers to the console; of large tensors, the corners. Waits for the GPU. */
  async print(): Promise<void> {
    // Not part of bundles that never print.
    const [data, { formatElements }] = await Promise.all([this.read(), import("./print.ts")]);
    console.log(`${this}\n${formatElements(data, this.shape)}`);
  }

  /**
   * Back-propagates from this tensor and frees the graph behind it. `grad` (dLoss/dThis, the same shape) may be left
   * out for one-element tensors, where it is 1. Gradients are added to what leaves already have.
   * @throws UseAfterDisposeError when the graph was freed by an earlier `backward`.
   */
  backward(grad?: Tensor | null): void {
    this.checkLive("used");
    if (grad !== undefined && grad !== null) this.checkUpstream(grad);
    if (!grad && this.size !== 1) {
      throw new ShapeError(
        `backward: a tensor of shape ${formatShape(this.shape)} needs an upstream gradient; reduce it to a scalar, or pass grad`,
      );
    }
    backward(this, grad ?? null);
  }

  private checkUpstream(grad: Tensor): void {
    checkTensor("backward", "grad", grad, { dtypes: [this.dtype], with: ["the tensor", this] });
    if (!sameShape(grad.shape, this.shape)) {
      throw new ShapeError(
        `backward: grad is ${formatShape(grad.shape)}, the tensor ${formatShape(this.shape)}; expected the same shape`,
      );
    }
  }

  /** Drops the gradient; the next `backward` starts from nothing. */
  zeroGrad(): void {
    this.gpu.receivers?.zeroes(this);
    this.grad?.dispose();
    this.grad = null;
  }

  /** Gives this handle (and its gradient) back. Calling it again does nothing. */
  dispose(): void {
    if (this.disposed) return;
    this.disposed = true;
    this.zeroGrad();
    this.gradSlot = null;
    if (this.node) drop(this.node);
    this.node = null;
    if (this.onSlot) this.onSlot.handles -= 1;
    this.storage.release(this.isSaved);
    this.gpu.keep(this);
  }

  private checkLive(how: string): void {
    if (this.disposed) {
      throw new UseAfterDisposeError(
        `tensor ${formatShape(this.shape)} was ${how} after dispose(); keep it with gpu.keep, return it from the scope, or dispose it later`,
      );
    }
  }
}

/** The largest whole number of each integer type. */
const LARGEST: Partial<Record<DType, number>> = { uint32: 0xffffffff, uint8: 0xff };

/** @throws ShapeError unless `dtype` holds `value`: any number for floats, which round it. */
function checkValue(op: string, name: string, value: unknown, dtype: DType): void {
  const most = LARGEST[dtype];
  if (typeof value !== "number") {
    throw new ShapeError(
      `${op}: ${name} is ${show(value)}; expected a number${Array.isArray(value) ? ": flatten nested arrays, the shape is given apart (data.flat(Infinity))" : ""}`,
    );
  }
  if (most !== undefined && !(Number.isInteger(value) && value >= 0 && value <= most)) {
    throw new ShapeError(
      `${op}: ${name} is ${show(value)}; ${dtype} holds integers from 0 to ${most}: expected one of these, or another dtype`,
    );
  }
}

/** Typed arrays whose every value each integer type holds. */
const WITHIN: Partial<Record<DType, readonly string[]>> = {
  uint32: ["Uint32Array", "Uint16Array", "Uint8Array", "Uint8ClampedArray"],
  uint8: ["Uint8Array", "Uint8ClampedArray"],
};

/**
 * `data` as the elements of a tensor. Looks at each value only where its array might hold one that the type does not.
 * @throws ShapeError for anything but as many numbers as `shape` wants, or a value that `dtype` can't hold
 */
function encode(op: string, data: unknown, dtype: DType, shape: Shape, name = "data"): TensorData {
  const { length } = (data ?? {}) as { length?: unknown };
  // By its tag: Node's Buffer is a Uint8Array of another name.
  const kind: string | null = ArrayBuffer.isView(data)
    ? (data as unknown as Uint8Array)[Symbol.toStringTag]
    : null;
  if (typeof data !== "object" || typeof length !== "number" || kind?.startsWith("Big")) {
    throw new ShapeError(
      `${op}: ${name} is ${show(data)}; expected an array of numbers or a typed array` +
        `${data instanceof ArrayBuffer || kind === "DataView" ? ", such as new Float32Array(buffer)" : ""}`,
    );
  }
  const array = data as ArrayLike<number>;
  if (length !== sizeOf(shape)) {
    const nested = Array.isArray(array[0]) ? ", and flat: data.flat(Infinity)" : "";
    throw new ShapeError(
      `${op}: ${name} has ${length} elements, shape ${formatShape(shape)} has ${sizeOf(shape)}; expected the same number${nested}`,
    );
  }
  if (kind === null || (LARGEST[dtype] !== undefined && !WITHIN[dtype]!.includes(kind))) {
    for (let i = 0; i < length; i += 1) {
      const value: unknown = array[i];
      if (typeof value !== "number" || LARGEST[dtype] !== undefined)
        checkValue(op, `${name}[${i}]`, value, dtype);
    }
  }
  return convert(array, dtype);
}

/** For a message to who left the shape out: the call with that of the data, which may be lists of lists. */
function callWithShape(data: unknown): string {
  const shape: number[] = [];
  for (let at = data; Array.isArray(at) || ArrayBuffer.isView(at); [at] = at as unknown as unknown[]) {
    const { length } = at as { length?: number };
    if (!length) return "";
    shape.push(length);
    if (!Array.isArray(at)) break;
  }
  if (shape.length === 0) return "";
  return `, such as gpu.tensor(${shape.length > 1 ? "data.flat(Infinity)" : "data"}, ${formatShape(shape)})`;
}

function convert(data: ArrayLike<number>, dtype: DType): TensorData {
  if (dtype === "float32") return data instanceof Float32Array ? data : new Float32Array(data);
  if (dtype === "uint32") return data instanceof Uint32Array ? data : new Uint32Array(data);
  if (dtype === "uint8") return data instanceof Uint8Array ? data : new Uint8Array(data);
  return data instanceof Uint16Array ? data : Uint16Array.from(data, numberToHalf);
}

const f32 = new Float32Array(1);
const u32 = new Uint32Array(f32.buffer);

/** Nearest float16, ties to even; beyond 65,504 (rounded) infinity, as the format has it. */
export function numberToHalf(value: number): number {
  f32[0] = value;
  const bits = u32[0]!;
  const sign = (bits >>> 16) & 0x8000;
  const magnitude = bits & 0x7fffffff;
  if (magnitude >= 0x7f800000) return sign | (magnitude > 0x7f800000 ? 0x7e00 : 0x7c00);
  if (magnitude >= 0x477ff000) return sign | 0x7c00;
  if (magnitude < 0x38800000) {
    // Subnormal: in units of 2^-24, rounded by the addition of 0.5 in float32 arithmetic.
    f32[0] = Math.abs(value) + 0.5;
    return sign | (u32[0]! - 0x3f000000);
  }
  const odd = (magnitude >>> 13) & 1;
  return sign | ((magnitude - 0x38000000 + 0xfff + odd) >>> 13);
}

export function halfToNumber(half: number): number {
  const sign = half & 0x8000 ? -1 : 1;
  const exponent = (half >>> 10) & 31;
  const fraction = half & 0x3ff;
  if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  return exponent === 0 ? sign * fraction * 2 ** -24 : sign * (1024 + fraction) * 2 ** (exponent - 25);
}

/** Overwrites elements by others that are on the GPU. */
function writeFrom(to: Tensor, from: Tensor): void {
  checkTensor("tensor.write", "data", from, { dtypes: [to.dtype], with: ["the tensor", to] });
  if (!sameShape(from.shape, to.shape)) {
    throw new ShapeError(
      `tensor.write: data is ${formatShape(from.shape)}, the tensor ${formatShape(to.shape)}; expected equal shapes`,
    );
  }
  const { range } = from; // worked out before what it may depend on is overwritten
  const own = to.overwrite();
  if (own.storage !== range.storage || own.byteOffset !== range.byteOffset) to.gpu.copyRange(range, own);
}
