// The parts of an ONNX graph on the way to a file.

import type { BufferRange } from "../device/buffers.ts";
import { UsageError } from "../errors.ts";
import { dataThere, type Named } from "../formats/torch.ts";
import { formatShape, type Shape, sameShape, sizeOf } from "../tensor/shape.ts";
import type { Tensor } from "../tensor/tensor.ts";

/** Numbers of the format's enumerations. */
const FLOAT = 1;
const INT64 = 7;
const KINDS = { FLOAT: 1, INT: 2, STRING: 3, INTS: 7 } as const;

export interface OnnxNode {
  opType: string;
  name: string;
  input: string[];
  output: string[];
  attribute: object[];
}

export interface OnnxConstant {
  name: string;
  dims: number[];
  dataType: number;
  rawData: Uint8Array;
}

/** Whether elements of a tensor are in memory at a range of bytes. */
export function liesIn(tensor: Tensor, { storage, byteOffset, byteLength }: BufferRange): boolean {
  if (tensor.isDisposed || tensor.isPending) return false;
  const own = tensor.range;
  return (
    own.storage === storage &&
    own.byteOffset < byteOffset + byteLength &&
    byteOffset < own.byteOffset + own.byteLength
  );
}

/** Whether two handles are of the same elements, seen alike. */
function areSame(a: Tensor, b: Tensor): boolean {
  if (a === b) return true;
  if (!sameShape(a.shape, b.shape) || a.isDisposed || a.isPending || b.isDisposed || b.isPending)
    return false;
  const [one, other] = [a.range, b.range];
  return one.storage === other.storage && one.byteOffset === other.byteOffset;
}

export class Graph {
  nodes: OnnxNode[] = [];
  constants: OnnxConstant[] = [];
  /** Of the model's tensors that an op has taken, by the handle that is held. */
  private readonly weights = new Map<Tensor, Named>();
  private readonly flattened = new Map<string, { map: string; shape: Shape }>();
  private readonly names = new Map<Tensor, string>();
  private readonly views = new Set<Tensor>();
  private count = 0;

  constructor(
    private readonly op: string,
    private readonly inputName: string,
    private readonly model: readonly Named[],
  ) {
    this.refuseName("inputName", inputName);
  }

  private refuseName(option: string, name: string): void {
    if (!this.model.some(({ theirs }) => theirs === name)) return;
    throw new UsageError(
      `${this.op}: ${option} is "${name}", which is the name of one of the model's tensors; expected another name`,
    );
  }

  /** Another handle on what does not depend on the input, which has the model's name for it. */
  hold(tensor: Tensor): Tensor {
    const own = tensor.gpu.keep(tensor.alias());
    const weight = this.model.find((one) => areSame(one.tensor, tensor));
    if (weight) this.weights.set(own, weight);
    return own;
  }

  /** Of maps that became rows, in the order of the elements here. */
  placeFlattened(rows: string, map: string, shape: Shape): void {
    this.flattened.set(rows, { map, shape });
  }

  /** Rows that have a linear layer's columns in its order there: those of the maps themselves, if the layer is one of `flattened`. */
  rowsFor(weight: Tensor, rows: string): string {
    const { theirs, there } = this.weights.get(weight) ?? {};
    if (!there) return rows;
    const [, channels, height, width] = there.shape;
    const { map, shape = [] } = this.flattened.get(rows) ?? {};
    if (map !== undefined && sameShape(shape.slice(1), [height!, width!, channels!])) {
      return this.node("Flatten", [map], { ints: { axis: 1 } });
    }
    throw new UsageError(
      `${this.op}: flattened says that ${theirs} takes maps of ${height}×${width}, but its input is ` +
        `${map === undefined ? "not what flatten gave" : `of maps ${formatShape(shape.slice(1))}`}; expected the sizes of the maps that are flattened`,
    );
  }

  /** A name for what an op gave. */
  place(tensor: Tensor, name = this.fresh("value")): string {
    this.names.set(tensor, name);
    return name;
  }

  /** Another handle on the elements of `tensor` goes by the same name, if it has its shape. */
  placeAlias(handle: Tensor, tensor: Tensor): void {
    const name = this.names.get(tensor);
    if (name === undefined) return;
    if (sameShape(handle.shape, tensor.shape)) this.names.set(handle, name);
    else this.views.add(handle);
  }

  /** @throws UsageError for a handle of another shape on what depends on the input, that no op has made */
  refuseView(by: string, tensor: Tensor): void {
    if (this.names.has(tensor) || !this.views.has(tensor)) return;
    throw new UsageError(
      `${this.op}: ${by} takes an alias of another shape, ${formatShape(tensor.shape)}; expected the result of reshape or flatten`,
    );
  }

  /** Undefined for what does not depend on the input. */
  nameOf(tensor: Tensor): string | undefined {
    return this.names.get(tensor);
  }

  /** Whether bytes are those of something that depends on the input. */
  has(range: BufferRange): boolean {
    return [...this.names.keys(), ...this.views].some((tensor) => liesIn(tensor, range));
  }

  /** What is not the same in another graph, in words; null if all is. */
  differenceTo(other: Graph): string | null {
    const described = ({ opType, ...rest }: OnnxNode) => `${opType} ${JSON.stringify(rest)}`;
    const most = Math.max(this.nodes.length, other.nodes.length);
    for (let i = 0; i < most; i += 1) {
      const [a, b] = [this.nodes[i], other.nodes[i]];
      if (!a || !b || described(a) !== described(b)) return `node ${i}, ${(a ?? b)!.opType},`;
    }
    for (const [i, { name, dims, rawData }] of this.constants.entries()) {
      const there = other.constants[i]!; // as many, since nodes name them
      const isEqual = sameShape(dims, there.dims) && rawData.every((byte, at) => byte === there.rawData[at]);
      if (isEqual) continue;
      const user = this.nodes.find(({ input }) => input.includes(name));
      return `a constant ${formatShape(dims)} of ${user?.opType ?? "no node"}`;
    }
    return null;
  }

  private fresh(what: string): string {
    this.count += 1;
    const name = `${what}_${this.count}`;
    return this.model.some(({ theirs }) => theirs === name) ? this.fresh(what) : name;
  }

  /** Whether a tensor is one of the model's own. */
  isWeight(tensor: Tensor): boolean {
    return this.weights.has(tensor);
  }

  /**
   * An initialiser of what does not depend on the input: of the model's tensors one each, by PyTorch's name and in its layout. Of
   * others filters are in that layout, too.
   */
  async stored(tensor: Tensor): Promise<string> {
    const weight = this.weights.get(tensor);
    if (weight && this.constants.some(({ name }) => name === weight.theirs)) return weight.theirs;
    const data = (await tensor.read()) as Float32Array;
    if (weight) {
      const { theirs, there } = weight;
      return this.floats(
        dataThere(data, there),
        there && tensor.rank === 4 ? there.shape : tensor.shape,
        theirs,
      );
    }
    if (tensor.rank !== 4) return this.floats(data, tensor.shape);
    const shape = CHANNELS_SECOND.map((axis) => tensor.shape[axis]!);
    return this.floats(permute(data, tensor.shape, CHANNELS_SECOND), shape);
  }

  /** Adds a node of one output, and returns that: `out`, or a name of its own. Attributes are integers but for `floats` and `strings`. */
  node(
    opType: string,
    input: readonly string[],
    {
      out = this.fresh("value"),
      ints = {},
      floats = {},
      strings = {},
    }: {
      out?: string;
      ints?: Record<string, number | readonly number[]>;
      floats?: Record<string, number>;
      strings?: Record<string, string>;
    } = {},
  ): string {
    const attribute = [
      ...Object.entries(ints).map(([name, value]) =>
        typeof value === "number"
          ? { name, type: KINDS.INT, i: value }
          : { name, type: KINDS.INTS, ints: [...value] },
      ),
      ...Object.entries(floats).map(([name, f]) => ({ name, type: KINDS.FLOAT, f })),
      ...Object.entries(strings).map(([name, text]) => ({
        ...{ name, type: KINDS.STRING, s: new TextEncoder().encode(text) },
      })),
    ];
    this.nodes.push({ opType, name: this.fresh(opType), input: [...input], output: [out], attribute });
    return out;
  }

  floats(values: Float32Array, dims: Shape, name?: string): string {
    const rawData = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
    return this.constant(rawData, dims, FLOAT, name);
  }

  integers(values: readonly number[]): string {
    const data = BigInt64Array.from(values, BigInt);
    return this.constant(new Uint8Array(data.buffer), [values.length], INT64);
  }

  /** How many images a value has, as a list of one integer. */
  batchOf(value: string): string {
    return this.node("Shape", [value], { ints: { start: 0, end: 1 } });
  }

  private constant(
    rawData: Uint8Array,
    dims: Shape,
    dataType: number,
    name = this.fresh("constant"),
  ): string {
    this.constants.push({ name, dims: [...dims], dataType, rawData });
    return name;
  }

  /** Leaves out nodes and initialisers that a value does not depend on. */
  prune(output: string): void {
    const needed = new Set([output]);
    for (const node of [...this.nodes].reverse()) {
      if (node.output.some((name) => needed.has(name))) for (const name of node.input) needed.add(name);
    }
    this.nodes = this.nodes.filter((node) => node.output.some((name) => needed.has(name)));
    this.constants = this.constants.filter(({ name }) => needed.has(name));
  }

  /** Gives the graph's last value another name. */
  rename(from: string, to: string): void {
    this.refuseName("outputName", to);
    if (to === this.inputName || this.nodes.some(({ output }) => output.includes(to))) {
      throw new UsageError(`${this.op}: outputName is "${to}", which the graph has; expected another name`);
    }
    for (const node of this.nodes) {
      node.output = node.output.map((name) => (name === from ? to : name));
      node.input = node.input.map((name) => (name === from ? to : name));
    }
  }
}

/** The order that makes [N, C, H, W] of [N, H, W, C], and [K, C, R, S] of [K, R, S, C]. */
export const CHANNELS_SECOND = [0, 3, 1, 2];

/** Elements with axes in another order: axis i of the result is axis `order[i]` of what is given. */
export function permute(data: Float32Array, shape: Shape, order: readonly number[]): Float32Array {
  const strides = shape.map((_, axis) => sizeOf(shape.slice(axis + 1)));
  const sizes = order.map((axis) => shape[axis]!);
  const index = sizes.map(() => 0);
  const out = new Float32Array(data.length);
  for (let at = 0; at < out.length; at += 1) {
    out[at] = data[index.reduce((sum, i, axis) => sum + i * strides[order[axis]!]!, 0)]!;
    for (let axis = sizes.length - 1; axis >= 0; axis -= 1) {
      index[axis]! += 1;
      if (index[axis]! < sizes[axis]!) break;
      index[axis] = 0;
    }
  }
  return out;
}
