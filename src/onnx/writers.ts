// The ONNX nodes of each op. Maps are [N, C, H, W] there, [N, H, W, C] here; everything else lies alike.

import { ShapeError, UsageError } from "../errors.ts";
import { show } from "../options.ts";
import type { Shape } from "../tensor/shape.ts";
import type { Tensor } from "../tensor/tensor.ts";
import type { Recorded } from "./export.ts";
import { CHANNELS_SECOND, type Graph, permute } from "./graph.ts";

type Writer = (graph: Graph, recorded: Recorded) => void | Promise<void>;

/** The order that makes [N, H, W, C] of [N, C, H, W]. */
const CHANNELS_LAST = [0, 2, 3, 1];

const both = (value: unknown, fallback: number): [number, number] =>
  Array.isArray(value)
    ? [value[0], value[1]]
    : [(value ?? fallback) as number, (value ?? fallback) as number];

const read = async (tensor: Tensor) => (await tensor.read()) as Float32Array;

/** The name of an input that has to depend on the network's. */
function dynamic({ op, inputs }: Recorded, field = "x"): string {
  const input = inputs[field];
  if (input && "name" in input) return input.name;
  throw new UsageError(
    `exportOnnx: ${field} of ${op} does not depend on the input; expected a network in which it does`,
  );
}

/** An input that must not depend on the network's, or null. */
function constant({ op, inputs }: Recorded, field: string): Tensor | null {
  const input = inputs[field] ?? null;
  if (!input) return null;
  if ("constant" in input) return input.constant;
  throw new UsageError(`exportOnnx: ${field} of ${op} depends on the input; expected fixed weights`);
}

/** [top, left, bottom, right] */
function pads(padding: unknown, reach: readonly [number, number]): number[] {
  if (padding === "same") {
    const before = reach.map((total) => Math.floor(total / 2));
    return [...before, ...reach.map((total, axis) => total - before[axis]!)];
  }
  if (padding === "valid" || padding === undefined) return [0, 0, 0, 0];
  if (!Array.isArray(padding)) return new Array(4).fill(padding);
  const [a, b, c, d] = padding as number[];
  return padding.length === 2 ? [a!, b!, a!, b!] : [a!, c!, b!, d!];
}

const conv2d: Writer = async (graph, recorded) => {
  const { stride, padding, dilation, groups = 1 } = recorded.params as Record<string, unknown>;
  const weight = constant(recorded, "weight")!;
  const [, R, S] = weight.shape as [number, number, number, number];
  const dilations = both(dilation, 1);
  const input = [dynamic(recorded), await graph.stored(weight)];
  const bias = constant(recorded, "bias");
  if (bias) input.push(await graph.stored(bias));
  const reach = [(R - 1) * dilations[0], (S - 1) * dilations[1]] as const;
  graph.node("Conv", input, {
    out: recorded.out,
    ints: {
      kernel_shape: [R, S],
      ...{ strides: both(stride, 1), dilations, pads: pads(padding, reach), group: groups as number },
    },
  });
};

/** Of PyTorch's arithmetic: padding is what is cut off. */
const convTranspose2d: Writer = async (graph, recorded) => {
  const { stride, padding, outputPadding, dilation, groups = 1 } = recorded.params;
  const weight = constant(recorded, "weight")!;
  const [, R, S] = weight.shape as [number, number, number, number];
  const strides = both(stride, 1);
  const more = both(outputPadding, 0);
  const [top, left, ...ends] = pads(padding, [0, 0]) as [number, number, number, number];
  // Readers take no more than the stride. Less cut off the end is the same, and what lies beyond it is 0.
  const isTaken = more.map((rows, i) => rows < strides[i]!);
  const cut = ends.map((end, i) => (isTaken[i] ? end : Math.max(0, end - more[i]!)));
  const beyond = ends.map((end, i) => (isTaken[i] ? 0 : Math.max(0, more[i]! - end)));
  const goesOn = beyond.some((rows) => rows > 0);
  const y = graph.node("ConvTranspose", [dynamic(recorded), await graph.stored(weight)], {
    ...(goesOn ? {} : { out: recorded.out }),
    ints: {
      ...{ kernel_shape: [R, S], strides, dilations: both(dilation, 1), pads: [top, left, ...cut] },
      ...{ output_padding: more.map((rows, i) => (isTaken[i] ? rows : 0)), group: groups as number },
    },
  });
  if (!goesOn) return;
  const around = graph.integers([0, 0, 0, 0, 0, 0, ...beyond]);
  graph.node("Pad", [y, around], { out: recorded.out });
};

/** Of sizes that are given the scale is their ratio, of factors the factor itself: as in PyTorch. */
const interpolate: Writer = (graph, recorded) => {
  const { scaleFactor, mode = "nearest", alignCorners = false } = recorded.params;
  const x = dynamic(recorded);
  const [, P, Q, C] = recorded.outShape as [number, number, number, number];
  const how =
    scaleFactor === undefined
      ? ["", graph.node("Concat", [graph.batchOf(x), graph.integers([C, P, Q])], { ints: { axis: 0 } })]
      : [graph.floats(Float32Array.of(1, 1, ...both(scaleFactor, 1)), [4])];
  graph.node("Resize", [x, "", ...how], {
    out: recorded.out,
    strings:
      mode === "nearest"
        ? { mode: "nearest", coordinate_transformation_mode: "asymmetric", nearest_mode: "floor" }
        : {
            mode: "linear",
            coordinate_transformation_mode: alignCorners ? "align_corners" : "half_pixel",
          },
  });
};

/** Numbers in the order of the axes here, in that of the axes there. */
const axesThere = <T>(values: readonly T[]): T[] =>
  values.length === 4 ? CHANNELS_SECOND.map((axis) => values[axis]!) : [...values];

const concat: Writer = async (graph, recorded) => {
  const { axis } = recorded.params as { axis: number };
  const rank = recorded.outShape.length;
  const operands: string[] = [];
  for (const field of Object.keys(recorded.inputs)) operands.push(await operand(graph, recorded, field));
  const along = axesThere(recorded.outShape.map((_, i) => i)).indexOf(axis < 0 ? axis + rank : axis);
  graph.node("Concat", operands, { out: recorded.out, ints: { axis: along } });
};

const pad: Writer = (graph, recorded) => {
  const { padding, value } = recorded.params as { padding: [number, number][]; value: number };
  const sides = axesThere(padding);
  const amounts = graph.integers([...sides.map(([before]) => before), ...sides.map(([, after]) => after)]);
  const input = [dynamic(recorded), amounts, graph.floats(Float32Array.of(value), [])];
  graph.node("Pad", input, { out: recorded.out });
};

/** A node of one input and no attributes. */
const plain =
  (opType: string): Writer =>
  (graph, recorded) => {
    graph.node(opType, [dynamic(recorded)], { out: recorded.out });
  };

/** Where float32 gives log(1 + exp(x)) = x. */
const SOFTPLUS_IS_X = 17;

/** log(1 + exp(beta · x)) / beta, but x where beta · x is above the threshold. */
const softplus: Writer = (graph, recorded) => {
  const { BETA, THRESHOLD } = recorded.params as { BETA: number; THRESHOLD: number };
  const x = dynamic(recorded);
  const isWhole = THRESHOLD >= SOFTPLUS_IS_X;
  const out = isWhole ? { out: recorded.out } : {};
  const number = (value: number) => graph.floats(Float32Array.of(value), []);
  const beta = BETA === 1 ? null : number(BETA);
  const z = beta === null ? x : graph.node("Mul", [x, beta]);
  const soft =
    beta === null
      ? graph.node("Softplus", [z], out)
      : graph.node("Div", [graph.node("Softplus", [z]), beta], out);
  if (isWhole) return;
  const above = graph.node("Greater", [z, number(THRESHOLD)]);
  graph.node("Where", [above, x, soft], { out: recorded.out });
};

const clamp: Writer = (graph, recorded) => {
  const { LOW, HIGH, HAS_LOW, HAS_HIGH } = recorded.params as Record<string, number>;
  const bound = (value: number) => graph.floats(Float32Array.of(value), []);
  const bounds = [HAS_LOW ? bound(LOW!) : "", ...(HAS_HIGH ? [bound(HIGH!)] : [])];
  graph.node("Clip", [dynamic(recorded), ...bounds], { out: recorded.out });
};

const batchNorm: Writer = async (graph, recorded) => {
  const { training, eps, runningMean, runningVar, activation } = recorded.params as Record<string, unknown>;
  if (training) {
    throw new UsageError(
      "exportOnnx: a batch-norm uses the batch's statistics; expected running statistics (trackRunningStats) and model.eval()",
    );
  }
  const [mean, variance] = [runningMean as Tensor, runningVar as Tensor];
  const channels = mean.size;
  const filled = async (field: string, value: number) => {
    const tensor = constant(recorded, field);
    return tensor
      ? await graph.stored(tensor)
      : graph.floats(new Float32Array(channels).fill(value), [channels]);
  };
  const input = [
    ...[dynamic(recorded), await filled("gamma", 1), await filled("beta", 0)],
    ...[await graph.stored(mean), await graph.stored(variance)],
  ];
  const { residual } = recorded.inputs;
  const isLast = !residual && activation === "none";
  let y = graph.node("BatchNormalization", input, {
    ...(isLast ? { out: recorded.out } : {}),
    floats: { epsilon: eps as number },
  });
  if (residual) {
    const out = activation === "none" ? { out: recorded.out } : {};
    y = graph.node("Add", [y, await operand(graph, recorded, "residual")], out);
  }
  if (activation === "none") return;
  const name = typeof activation === "string" ? activation : "leakyRelu";
  const slope = (activation as { negativeSlope?: number }).negativeSlope ?? 0.01;
  activate(graph, name, y, recorded.out, slope);
};

function activate(graph: Graph, name: string, x: string, out: string, slope = 0.01): void {
  const scalar = (value: number) => graph.floats(Float32Array.of(value), []);
  const times = (a: string, b: string, end?: string) => graph.node("Mul", [a, b], end ? { out: end } : {});
  /** 0.5 · x · (1 + inner) */
  const gated = (inner: string) => times(times(x, scalar(0.5)), graph.node("Add", [inner, scalar(1)]), out);
  if (name === "relu") graph.node("Relu", [x], { out });
  else if (name === "relu6") graph.node("Clip", [x, scalar(0), scalar(6)], { out });
  else if (name === "leakyRelu") graph.node("LeakyRelu", [x], { out, floats: { alpha: slope } });
  else if (name === "hardSwish") graph.node("HardSwish", [x], { out });
  else if (name === "silu") times(x, graph.node("Sigmoid", [x]), out);
  else if (name === "gelu") gated(graph.node("Erf", [times(x, scalar(Math.SQRT1_2))]));
  else if (name === "geluTanh") {
    const cube = times(times(times(x, x), x), scalar(0.044715));
    const inner = times(graph.node("Add", [x, cube]), scalar(Math.sqrt(2 / Math.PI)));
    gated(graph.node("Tanh", [inner]));
  } else
    throw new UsageError(`exportOnnx: the activation ${show(name)} has no ONNX nodes here; expected another`);
}

const activation =
  (name: string): Writer =>
  (graph, recorded) => {
    const { constants } = recorded.params as { constants?: { NEGATIVE_SLOPE?: number } };
    activate(graph, name, dynamic(recorded), recorded.out, constants?.NEGATIVE_SLOPE);
  };

/**
 * Windows that reach past the padding, of `ceilMode`, are more padding at the end: ONNX's own `ceil_mode` also has windows that begin
 * there, PyTorch has not.
 */
const pool =
  (opType: "MaxPool" | "AveragePool"): Writer =>
  (graph, recorded) => {
    const { kernelSize, stride, padding, dilation, ceilMode, countIncludePad = true } = recorded.params;
    const kernel = both(kernelSize, 1);
    const strides = stride === undefined ? kernel : both(stride, 1);
    const dilations = both(dilation, 1);
    const sides = pads(padding, [0, 0]) as [number, number, number, number];
    const past = ([0, 1] as const).map((axis) => {
      const [from, to] = [recorded.shapes.x![axis + 1]!, recorded.outShape[axis + 1]!];
      const reach = (to - 1) * strides[axis] + dilations[axis] * (kernel[axis] - 1) + 1;
      return ceilMode ? Math.max(0, reach - from - sides[axis] - sides[axis + 2]!) : 0;
    });
    let x = dynamic(recorded);
    const around = (value: number) => {
      const amounts = graph.integers([0, 0, sides[0], sides[1], 0, 0, sides[2], sides[3]]);
      x = graph.node("Pad", [x, amounts, graph.floats(Float32Array.of(value), [])]);
      sides.fill(0);
    };
    let counts = opType === "AveragePool" && countIncludePad === true;
    if (counts && past.some((more) => more > 0)) {
      around(0); // the padding counts, what is past it does not: it becomes part of the map
      counts = false;
    }
    sides[2] += past[0]!;
    sides[3] += past[1]!;
    // Of filters that are dilated. A node's own padding has to be less than its kernel.
    if (sides.some((more, side) => more >= kernel[side % 2]!)) around(Number.NEGATIVE_INFINITY);
    graph.node(opType, [x], {
      out: recorded.out,
      ints: {
        kernel_shape: kernel,
        strides,
        pads: sides,
        ...(opType === "AveragePool" ? { count_include_pad: counts ? 1 : 0 } : { dilations }),
      },
    });
  };

const mean: Writer = (graph, recorded) => {
  const { axes, keepDims = false } = recorded.params;
  const { x } = recorded.shapes;
  if (x!.length !== 4 || String(axes) !== "1,2") {
    throw new ShapeError(
      `exportOnnx: mean of ${show(x)} over axes ${show(axes)}; expected that of a map over its pixels, as globalAvgPool2d`,
    );
  }
  const out = { out: recorded.out };
  const pooled = graph.node("GlobalAveragePool", [dynamic(recorded)], keepDims ? out : {});
  if (!keepDims) graph.node("Flatten", [pooled], { ...out, ints: { axis: 1 } });
};

const linear: Writer = async (graph, recorded) => {
  const weight = constant(recorded, "weight")!;
  const bias = constant(recorded, "bias");
  const input = [graph.rowsFor(weight, dynamic(recorded)), await graph.stored(weight)];
  if (bias) input.push(await graph.stored(bias));
  graph.node("Gemm", input, { out: recorded.out, ints: { transB: 1 } });
};

const reshape: Writer = (graph, recorded) => {
  const x = recorded.shapes.x!;
  const out = recorded.outShape;
  if (out.length !== 2 || out[0] !== x[0]) {
    throw new ShapeError(
      `exportOnnx: reshape of ${show(x)} to ${show(out)}; expected that of each image to a row, as flatten`,
    );
  }
  const isMap = x.length === 4 && x[1]! * x[2]! > 1;
  const rows = isMap
    ? graph.node("Transpose", [dynamic(recorded)], { ints: { perm: CHANNELS_LAST } })
    : dynamic(recorded);
  graph.node("Flatten", [rows], { out: recorded.out, ints: { axis: 1 } });
  if (x.length === 4) graph.placeFlattened(recorded.out, dynamic(recorded), x);
};

/** One of two operands: by name, or its elements laid out as the result is. */
async function operand(graph: Graph, recorded: Recorded, field: string): Promise<string> {
  const input = recorded.inputs[field];
  if (input && "name" in input) {
    if (recorded.shapes[field]!.length === recorded.outShape.length) return input.name;
    throw new ShapeError(
      `exportOnnx: ${recorded.op} of ${show(recorded.shapes[field])} to ${show(recorded.outShape)}; expected operands of one rank`,
    );
  }
  return laidOut(graph, (input as { constant: Tensor }).constant, recorded.outShape.length);
}

/** Elements that are the same in each run, for what has `rank` axes: laid out as maps are there, if it is one of these. */
async function laidOut(graph: Graph, tensor: Tensor, rank: number): Promise<string> {
  if (rank !== 4 || tensor.size === 1 || tensor.rank === 4) return graph.stored(tensor);
  const shape: Shape = [...new Array(4 - tensor.rank).fill(1), ...tensor.shape];
  const there = CHANNELS_SECOND.map((axis) => shape[axis]!);
  if (!graph.isWeight(tensor))
    return graph.floats(permute(await read(tensor), shape, CHANNELS_SECOND), there);
  const stored = await graph.stored(tensor);
  if (tensor.rank === 1) return graph.node("Reshape", [stored, graph.integers(there)]);
  const whole = graph.node("Reshape", [stored, graph.integers(shape)]);
  return graph.node("Transpose", [whole], { ints: { perm: CHANNELS_SECOND } });
}

/** γ and β of a norm whose elements are laid out by `laidOut`; the last node gives the op's output. */
async function affine(graph: Graph, recorded: Recorded, normalized: (end: { out?: string }) => string) {
  const rank = recorded.outShape.length;
  const steps = (["gamma", "beta"] as const).flatMap((field) => {
    const tensor = constant(recorded, field);
    return tensor ? [{ opType: field === "gamma" ? "Mul" : "Add", tensor }] : [];
  });
  const end = (isLast: boolean) => (isLast ? { out: recorded.out } : {});
  let y = normalized(end(steps.length === 0));
  for (const [i, { opType, tensor }] of steps.entries()) {
    y = graph.node(opType, [y, await laidOut(graph, tensor, rank)], end(i === steps.length - 1));
  }
}

/** As PyTorch writes it: the channels of a group are one channel to an instance norm. */
const groupNorm: Writer = async (graph, recorded) => {
  const { groups, eps } = recorded.params as { groups: number; eps: number };
  const { outShape: shape } = recorded;
  if (shape.length !== 4 && shape.length !== 2) {
    throw new ShapeError(`exportOnnx: groupNorm of ${show(shape)}; expected [N, H, W, C] or [N, C]`);
  }
  await affine(graph, recorded, (end) => {
    const units = graph.node("Reshape", [dynamic(recorded), graph.integers([0, groups, -1])]);
    const factors = [1, 0].map((value) => graph.floats(new Float32Array(groups).fill(value), [groups]));
    const even = graph.node("InstanceNormalization", [units, ...factors], { floats: { epsilon: eps } });
    const [, ...sizes] = axesThere(shape);
    return graph.node("Reshape", [even, graph.integers([0, ...sizes])], end);
  });
};

/** (x − mean) / √(variance + eps) over the last axes; the format has a node for it from opset 17 on. */
const layerNorm: Writer = async (graph, recorded) => {
  const { shape, eps } = recorded.params as { shape: Shape; eps: number };
  const rank = recorded.outShape.length;
  const order = axesThere(recorded.outShape.map((_, axis) => axis));
  const axes = order.flatMap((axis, there) => (axis >= rank - shape.length ? [there] : []));
  await affine(graph, recorded, (end) => {
    const x = dynamic(recorded);
    const mean = (of: string) => graph.node("ReduceMean", [of], { ints: { axes, keepdims: 1 } });
    const centred = graph.node("Sub", [x, mean(x)]);
    const variance = mean(graph.node("Mul", [centred, centred]));
    const above = graph.node("Add", [variance, graph.floats(Float32Array.of(eps), [])]);
    return graph.node("Div", [centred, graph.node("Sqrt", [above])], end);
  });
};

const binary =
  (opType: string): Writer =>
  async (graph, recorded) => {
    const { number, reversed } = recorded.params as { number?: number; reversed?: boolean };
    if (number !== undefined) {
      const [x, value] = [dynamic(recorded, "a"), graph.floats(Float32Array.of(number), [])];
      graph.node(opType, reversed ? [value, x] : [x, value], { out: recorded.out });
      return;
    }
    // The op's kernels take the larger one first, wherever it stands.
    const fields = reversed ? ["b", "a"] : ["a", "b"];
    const operands: string[] = [];
    for (const field of fields) operands.push(await operand(graph, recorded, field));
    graph.node(opType, operands, { out: recorded.out });
  };

const scale: Writer = (graph, recorded) => {
  const { factor } = recorded.params as { factor: number };
  const value = graph.floats(Float32Array.of(factor), []);
  graph.node("Mul", [dynamic(recorded), value], { out: recorded.out });
};

/** Every `stride`-th pixel, and as many channels of zeros on either side as are asked for. */
const subsample: Writer = (graph, recorded) => {
  const { stride = 1 } = recorded.params as { stride?: number };
  const from = recorded.shapes.x![3]!;
  const more = recorded.outShape[3]! - from;
  const before = Math.floor(more / 2);
  const integers = (...values: number[]) => graph.integers(values);
  const limit = 2 ** 31 - 1;
  const kept = graph.node(
    "Slice",
    [
      ...[dynamic(recorded), integers(0, 0), integers(limit, limit), integers(2, 3)],
      integers(stride, stride),
    ],
    more === 0 ? { out: recorded.out } : {},
  );
  if (more === 0) return;
  const around = integers(0, before, 0, 0, 0, more - before, 0, 0);
  graph.node("Pad", [kept, around], { out: recorded.out });
};

const softmax =
  (opType: string): Writer =>
  (graph, recorded) => {
    const field = Object.keys(recorded.inputs)[0]!;
    const axis = recorded.outShape.length === 4 ? 1 : recorded.outShape.length - 1;
    graph.node(opType, [dynamic(recorded, field)], { out: recorded.out, ints: { axis } });
  };

/** By the op's name. */
export const WRITERS: Record<string, Writer> = {
  ...{ conv2d, convTranspose2d, batchNorm, groupNorm, layerNorm, linear, mean, reshape, scale, subsample },
  ...{ interpolate, concat, pad, clamp, softplus },
  ...{ exp: plain("Exp"), log: plain("Log"), sqrt: plain("Sqrt"), abs: plain("Abs") },
  ...{ sigmoid: plain("Sigmoid"), tanh: plain("Tanh") },
  ...{ maximum: binary("Max"), minimum: binary("Min") },
  ...{ maxPool2d: pool("MaxPool"), avgPool2d: pool("AveragePool") },
  ...{ relu: activation("relu"), relu6: activation("relu6"), leakyRelu: activation("leakyRelu") },
  ...{ silu: activation("silu"), hardSwish: activation("hardSwish") },
  ...{ gelu: activation("gelu"), geluTanh: activation("geluTanh") },
  ...{ add: binary("Add"), sub: binary("Sub"), mul: binary("Mul"), div: binary("Div") },
  ...{ softmax: softmax("Softmax"), logSoftmax: softmax("LogSoftmax") },
};
