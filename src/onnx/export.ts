// A network in inference as an ONNX model: one run is watched, and each op becomes the nodes that compute the same in [N, C, H, W].

import { noGrad } from "../autograd/tape.ts";
import type { BufferRange } from "../device/buffers.ts";
import { ShapeError, UsageError } from "../errors.ts";
import { type Named, named, type TorchOptions } from "../formats/torch.ts";
import type { Gpu } from "../gpu.ts";
import { Dropout, Dropout2d, StochasticDepth } from "../nn/dropout.ts";
import { BatchNorm2d } from "../nn/layers.ts";
import { Module } from "../nn/module.ts";
import { checkInstance, checkOptions, checkText, optionNames, show } from "../options.ts";
import { checkTensor } from "../tensor/check.ts";
import { Random } from "../tensor/random.ts";
import { checkShape, formatShape, type Shape, sizeOf } from "../tensor/shape.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { type TracedOp, traceOps } from "../tensor/trace.ts";
import { Graph, liesIn } from "./graph.ts";
import { onnxLibrary } from "./library.ts";
import { WRITERS } from "./writers.ts";

/** Options of `exportOnnx`. */
export interface OnnxOptions extends TorchOptions {
  /** Of one image or row, without the batch: [H, W, C], or [C]. The model takes [N, C, H, W] of any N. */
  shape: Shape;
  /** Of the graph. Default "fusenorm". */
  name?: string;
  /** Default "input" and "output". */
  inputName?: string;
  outputName?: string;
  /** Text by key, that readers show. */
  metadata?: Record<string, string>;
}

const OPTIONS = optionNames<OnnxOptions>({
  shape: 0,
  name: 0,
  inputName: 0,
  outputName: 0,
  metadata: 0,
  flattened: 0,
});

/**
 * Images in the runs that are watched: other numbers than 1, which sizes of other axes are more often. The graphs of both runs are
 * one graph, unless the network makes something of the batch's size, of the input's values or of chance that no op has.
 */
const ROWS = [3, 2] as const;

/**
 * A network as an ONNX model (opset 15), for inference: float32 input [N, C, H, W], N any, normalised as in training. Batch-norms are
 * nodes of their own; those that `foldBatchNorm` has put into the weights are gone. What does not depend on the input, such as a
 * weight of `weightNorm`, is written as a constant. The network is run twice, and what it works out beside ops is refused. Needs the
 * package `onnx-proto`.
 *
 * Initialisers have the names and layouts that `torchStateDict` gives the model's tensors, with the same `flattened`: what
 * `decodeOnnx` and `fromTorch` make of the file goes back into a network like this one, or one that is folded like it. Counts of
 * batches are not in it.
 * @throws UsageError for a network in training mode, or one that runs an op which is not written here, kernels of its own by `gpu.run`,
 * or whose graph hangs on the batch's size, on the input's values or on chance
 */
export async function exportOnnx(model: Module, options: OnnxOptions): Promise<Uint8Array> {
  const op = "exportOnnx";
  checkInstance(op, "model", model, Module);
  checkOptions(op, options, OPTIONS);
  const {
    shape,
    name = "fusenorm",
    inputName = "input",
    outputName = "output",
    metadata = {},
    flattened,
  } = options;
  checkShape(op, shape);
  for (const [field, value] of Object.entries({ name, inputName, outputName })) checkText(op, field, value);
  if (shape.length !== 3 && shape.length !== 1) {
    throw new ShapeError(`${op}: shape is ${show(shape)}; expected [H, W, C] of images, or [C] of rows`);
  }
  for (const [path, module] of model.modules()) {
    const draws =
      module instanceof Dropout || module instanceof Dropout2d || module instanceof StochasticDepth;
    if (!module.training || !(draws || (module instanceof BatchNorm2d && !module.frozen))) continue;
    throw new UsageError(`${op}: ${path || "the model"} is in training mode; expected model.eval() first`);
  }
  const [first] = [...model.tensors()];
  if (!first) throw new UsageError(`${op}: the model has no tensors; expected a network`);
  const { gpu } = first[1];
  const { onnx } = await onnxLibrary(op);
  const names = { inputName, outputName, weights: [...named(op, model, flattened ? { flattened } : {})] };
  const { graph, outShape } = await watched(op, model, gpu, [ROWS[0], ...shape], names);
  const again = await watched(op, model, gpu, [ROWS[1], ...shape], names);
  const difference = graph.differenceTo(again.graph);
  if (difference !== null) {
    throw new UsageError(
      `${op}: ${difference} differs between two inputs, of ${ROWS.join(" and ")} rows; expected a forward that makes nothing of the ` +
        "batch's size, of the input's values, of chance or of earlier calls but by ops on the input",
    );
  }
  if (outShape[0] !== ROWS[0] || again.outShape[0] !== ROWS[1]) {
    throw new UsageError(
      `${op}: the output of ${ROWS[0]} rows is ${formatShape(outShape)}; expected as many rows in its first axis`,
    );
  }
  graph.prune(outputName);
  const sizes = (dims: Shape) => {
    const [, ...rest] = dims.length === 4 ? [dims[0]!, dims[3]!, dims[1]!, dims[2]!] : dims;
    return { dim: [{ dimParam: "N" }, ...rest.map((size) => ({ dimValue: size }))] };
  };
  const value = (label: string, dims: Shape) => ({
    name: label,
    type: { tensorType: { elemType: onnx.TensorProto.DataType.FLOAT, shape: sizes(dims) } },
  });
  return onnx.ModelProto.encode({
    irVersion: 8,
    producerName: "fusenorm",
    opsetImport: [{ domain: "", version: 15 }],
    metadataProps: Object.entries(metadata).map(([key, text]) => ({ key, value: text })),
    graph: {
      name,
      node: graph.nodes,
      initializer: graph.constants,
      input: [value(inputName, [ROWS[0], ...shape])],
      output: [value(outputName, outShape)],
    },
  }).finish();
}

/** The graph of one run, of an input of its own. */
async function watched(
  op: string,
  model: Module,
  gpu: Gpu,
  shape: Shape,
  { inputName, outputName, weights }: { inputName: string; outputName: string; weights: readonly Named[] },
): Promise<{ graph: Graph; outShape: Shape }> {
  const graph = new Graph(op, inputName, weights);
  const held: Tensor[] = [];
  try {
    const recorded: Recorded[] = [];
    let outName: string | undefined;
    const output = noGrad(() =>
      gpu.scope(() => {
        const random = new Random(shape[0]!);
        const input = gpu.tensor(
          Float32Array.from({ length: sizeOf(shape) }, () => random.normal()),
          shape,
        );
        graph.place(input, inputName);
        const tracer = {
          op(traced: TracedOp) {
            const found = record(graph, traced, held);
            if (found) recorded.push(found);
          },
          kernel(kernel: string, bound: readonly BufferRange[]) {
            if (!bound.some((range) => graph.has(range))) return;
            throw new UsageError(
              `${op}: the network's forward runs the kernel ${kernel} by gpu.run on what depends on the input; expected ops alone, ` +
                "for which there are ONNX nodes",
            );
          },
          write(range: BufferRange) {
            if (!graph.has(range) && !held.some((tensor) => liesIn(tensor, range))) return;
            throw new UsageError(
              `${op}: the network's forward overwrites what an op has taken or given; expected a new tensor for new elements`,
            );
          },
        };
        const y = traceOps(tracer, () => model.forward(input));
        checkTensor(op, "what the model gave", y);
        outName = graph.nameOf(y);
        y.materialize();
        return gpu.keep(y.alias());
      }),
    );
    held.push(output);
    // What the model returns, which need not be what it worked out last.
    if (outName === undefined || outName === inputName) {
      const what = outName === undefined ? "does not depend on" : "is";
      throw new UsageError(`${op}: the output ${what} the input; expected a network of ops on it`);
    }
    for (const one of recorded) await write(op, graph, one);
    graph.rename(outName, outputName);
    return { graph, outShape: output.shape };
  } finally {
    for (const tensor of held) tensor.dispose();
  }
}

/** An op whose output depends on the input: names where inputs do, too, and handles on the others' elements. */
export interface Recorded {
  op: string;
  inputs: Record<string, { name: string } | { constant: Tensor } | null>;
  /** Shapes here, with the batch of the run that was watched. */
  shapes: Record<string, Shape>;
  params: Record<string, unknown>;
  out: string;
  outShape: Shape;
}

function record(graph: Graph, { op, inputs, params, out }: TracedOp, held: Tensor[]): Recorded | null {
  const { x } = inputs;
  if (op === "alias" && x) {
    graph.placeAlias(out, x);
    return null;
  }
  const names = Object.fromEntries(
    Object.entries(inputs).map(([field, tensor]) => [field, tensor ? graph.nameOf(tensor) : undefined]),
  );
  for (const tensor of Object.values(inputs)) if (tensor) graph.refuseView(op, tensor);
  if (Object.values(names).every((name) => name === undefined)) return null;
  const hold = (tensor: Tensor) => {
    const own = graph.hold(tensor);
    held.push(own);
    return own;
  };
  const found: Recorded = {
    op,
    inputs: {},
    shapes: {},
    params: {},
    out: graph.place(out),
    outShape: out.shape,
  };
  for (const [field, tensor] of Object.entries(inputs)) {
    const name = names[field];
    found.inputs[field] = !tensor ? null : name !== undefined ? { name } : { constant: hold(tensor) };
    if (tensor) found.shapes[field] = tensor.shape;
  }
  for (const [field, value] of Object.entries((params ?? {}) as Record<string, unknown>)) {
    const isTensor = field === "runningMean" || field === "runningVar";
    found.params[field] = isTensor && value ? hold(value as Tensor) : value;
  }
  return found;
}

async function write(op: string, graph: Graph, recorded: Recorded): Promise<void> {
  const writer = Object.hasOwn(WRITERS, recorded.op) ? WRITERS[recorded.op] : undefined;
  if (!writer) {
    throw new UsageError(
      `${op}: the network runs ${recorded.op}, which has no ONNX nodes here; expected one of ${Object.keys(WRITERS).join(", ")}`,
    );
  }
  await writer(graph, recorded);
}
