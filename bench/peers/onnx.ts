// Just enough of ONNX's file format to write small graphs (https://onnx.ai, onnx.proto3; field numbers from there).
import protobuf from "protobufjs";

const root = protobuf.Root.fromJSON({
  nested: {
    Attribute: {
      fields: {
        name: { id: 1, type: "string" },
        f: { id: 2, type: "float" },
        i: { id: 3, type: "int64" },
        floats: { id: 7, type: "float", rule: "repeated" },
        ints: { id: 8, type: "int64", rule: "repeated" },
        type: { id: 20, type: "int32" },
      },
    },
    Node: {
      fields: {
        input: { id: 1, type: "string", rule: "repeated" },
        output: { id: 2, type: "string", rule: "repeated" },
        opType: { id: 4, type: "string" },
        attribute: { id: 5, type: "Attribute", rule: "repeated" },
      },
    },
    Tensor: {
      fields: {
        dims: { id: 1, type: "int64", rule: "repeated" },
        dataType: { id: 2, type: "int32" },
        name: { id: 8, type: "string" },
        rawData: { id: 9, type: "bytes" },
      },
    },
    Dimension: { fields: { dimValue: { id: 1, type: "int64" } } },
    Shape: { fields: { dim: { id: 1, type: "Dimension", rule: "repeated" } } },
    TensorType: { fields: { elemType: { id: 1, type: "int32" }, shape: { id: 2, type: "Shape" } } },
    Type: { fields: { tensorType: { id: 1, type: "TensorType" } } },
    Value: { fields: { name: { id: 1, type: "string" }, type: { id: 2, type: "Type" } } },
    Graph: {
      fields: {
        node: { id: 1, type: "Node", rule: "repeated" },
        name: { id: 2, type: "string" },
        initializer: { id: 5, type: "Tensor", rule: "repeated" },
        input: { id: 11, type: "Value", rule: "repeated" },
        output: { id: 12, type: "Value", rule: "repeated" },
      },
    },
    Opset: { fields: { domain: { id: 1, type: "string" }, version: { id: 2, type: "int64" } } },
    Model: {
      fields: {
        irVersion: { id: 1, type: "int64" },
        producerName: { id: 2, type: "string" },
        graph: { id: 7, type: "Graph" },
        opsetImport: { id: 8, type: "Opset", rule: "repeated" },
      },
    },
  },
});

const FLOAT = 1;
const INT64 = 7;
const ATTRIBUTE = { float: 1, int: 2, ints: 7 };

type Attributes = Record<string, number | readonly number[]>;

/** A graph of float tensors, built node by node; values are known by their names. */
export class OnnxGraph {
  private readonly nodes: object[] = [];
  private readonly initializers: object[] = [];
  private count = 0;

  constructor(
    private readonly inputs: Record<string, readonly number[]>,
    private readonly opset = 17,
  ) {}

  /** Adds a node; returns the name of its first output. Attributes that end in `!` are floats. */
  op(opType: string, input: readonly string[], attributes: Attributes = {}, outputs: string[] = []): string {
    const output = outputs.length > 0 ? outputs : [`${opType.toLowerCase()}_${this.count++}`];
    const attribute = Object.entries(attributes).map(([key, value]) => {
      const name = key.replace("!", "");
      if (key.endsWith("!")) return { name, f: value, type: ATTRIBUTE.float };
      return typeof value === "number"
        ? { name, i: value, type: ATTRIBUTE.int }
        : { name, ints: value, type: ATTRIBUTE.ints };
    });
    this.nodes.push({ input, output, opType, attribute });
    return output[0]!;
  }

  scalar(value: number): string {
    return this.initializer([], FLOAT, new Float32Array([value]));
  }

  vector(values: Float32Array): string {
    return this.initializer([values.length], FLOAT, values);
  }

  tensor(dims: readonly number[], values: Float32Array): string {
    return this.initializer(dims, FLOAT, values);
  }

  ints(values: readonly number[]): string {
    return this.initializer([values.length], INT64, BigInt64Array.from(values, BigInt));
  }

  private initializer(dims: readonly number[], dataType: number, data: ArrayBufferView): string {
    const name = `constant_${this.count++}`;
    const rawData = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    this.initializers.push({ name, dims, dataType, rawData });
    return name;
  }

  /** The model file's bytes. `outputs` names values with their shapes. */
  encode(outputs: Record<string, readonly number[]>): Uint8Array {
    const value = ([name, shape]: [string, readonly number[]]) => ({
      name,
      type: { tensorType: { elemType: FLOAT, shape: { dim: shape.map((dimValue) => ({ dimValue })) } } },
    });
    const model = {
      irVersion: 8,
      producerName: "fusenorm-bench",
      opsetImport: [{ domain: "", version: this.opset }],
      graph: {
        name: "work",
        node: this.nodes,
        initializer: this.initializers,
        input: Object.entries(this.inputs).map(value),
        output: Object.entries(outputs).map(value),
      },
    };
    const type = root.lookupType("Model");
    return type.encode(type.fromObject(model)).finish();
  }
}
