import { describe, expect, it } from "vitest";
import { DataError } from "../../src/errors.ts";
import type { StoredType } from "../../src/formats/elements.ts";
import { decodeSafetensors, encodeSafetensors } from "../../src/formats/safetensors.ts";
import type { StateDict } from "../../src/nn/module.ts";
import { decodeCheckpoint, encodeCheckpoint } from "../../src/train/checkpoint.ts";
import { generator } from "../helpers/numbers.ts";

/** A file as other programs write them. */
function foreign(header: object | string, data: Uint8Array = new Uint8Array(64)): Uint8Array {
  const json = Buffer.from(typeof header === "string" ? header : JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(json.length));
  return Uint8Array.from(Buffer.concat([length, json, data]));
}

const one = (dtype: string, shape: number[], view: ArrayBufferView) => {
  const data = new Uint8Array(view.buffer);
  return foreign({ a: { dtype, shape, data_offsets: [0, data.length] } }, data);
};

const read = (file: Uint8Array) => decodeSafetensors(file, "f").tensors.a!;

function refusal(file: unknown): string {
  try {
    decodeSafetensors(file as Uint8Array, "f");
  } catch (error) {
    expect(error).toBeInstanceOf(DataError);
    return (error as Error).message;
  }
  return "read";
}

const floats = (...values: number[]) => ({ dtype: "float32" as const, data: Float32Array.from(values) });
const words = (...values: number[]) => ({ dtype: "uint32" as const, data: Uint32Array.from(values) });
const bytes = (...values: number[]) => ({ dtype: "uint8" as const, data: Uint8Array.from(values) });

describe("safetensors", () => {
  const { NaN: nan, POSITIVE_INFINITY: infinity } = Number;
  const cases: [StoredType, ArrayBufferView, ReturnType<typeof floats | typeof words | typeof bytes>][] = [
    ["F64", Float64Array.of(0.1, -3, 1e300), floats(Math.fround(0.1), -3, infinity)],
    ["F32", Float32Array.of(0.1, -3, 1e30), floats(0.1, -3, 1e30)],
    [
      "F16",
      Uint16Array.of(0x3c00, 0xc100, 0x7bff, 0x0001, 0xfc00, 0x7e01),
      floats(1, -2.5, 65504, 2 ** -24, -infinity, nan),
    ],
    [
      "BF16",
      Uint16Array.of(0x3f80, 0xc020, 0x7f80, 0x7fc0, 0x0001),
      floats(1, -2.5, infinity, nan, 2 ** -133),
    ],
    ["I64", BigInt64Array.of(0n, 4294967295n), words(0, 4294967295)],
    ["I64", BigInt64Array.of(-16777216n, 16777216n), floats(-16777216, 16777216)],
    ["I32", Int32Array.of(7, 0x7fffffff), words(7, 0x7fffffff)],
    ["I32", Int32Array.of(-1, 5), floats(-1, 5)],
    ["I16", Int16Array.of(-300, 2), floats(-300, 2)],
    ["I8", Int8Array.of(-128, 127), floats(-128, 127)],
    ["U64", BigUint64Array.of(1n, 2n), words(1, 2)],
    ["U32", Uint32Array.of(1, 4294967295), words(1, 4294967295)],
    ["U16", Uint16Array.of(1, 65535), words(1, 65535)],
    ["U8", Uint8Array.of(0, 255), bytes(0, 255)],
    ["BOOL", Uint8Array.of(0, 1, 7), bytes(0, 1, 1)],
  ];
  it.each(cases)("reads %s %s", (type, view, expected) => {
    const shape = [(expected.data as Uint8Array).length];
    expect(read(one(type, shape, view))).toEqual({ shape, ...expected, stored: type });
  });

  it("refuses integers that neither type holds, and types that it does not know", () => {
    expect(refusal(one("I64", [2], BigInt64Array.of(-1n, 16777217n)))).toMatch(
      /f: a is I64 with values from -1 to 16777217; expected integers from 0 to 4294967295/,
    );
    expect(refusal(one("I64", [1], BigInt64Array.of(2n ** 40n)))).toMatch(/values from 0 to 1099511627776/);
    expect(refusal(one("F8_E4M3", [1], Uint8Array.of(1)))).toMatch(
      /a has dtype F8_E4M3; expected F64, F32, F16/,
    );
  });

  it("come back as they were, whatever type they are stored as that holds them", () => {
    const flags = { shape: [3], ...bytes(0, 1, 1) };
    const tensors: StateDict = {
      "conv.weight": { shape: [2, 2], dtype: "float32", data: Float32Array.of(1, -2.5, 0, 96) },
      "0": { shape: [], dtype: "uint32", data: Uint32Array.of(9) },
      constructor: flags,
      none: { shape: [0, 3], dtype: "float32", data: new Float32Array(0) },
    };
    for (const type of ["F64", "F32", "F16", "BF16"] as const) {
      const storeAs = (_: string, { dtype }: StateDict[string]) => (dtype === "float32" ? type : undefined);
      const back = decodeSafetensors(
        encodeSafetensors(tensors, { storeAs, metadata: { format: "pt" } }),
        "f",
      );
      expect(back.metadata).toEqual({ format: "pt" });
      for (const [name, tensor] of Object.entries(tensors)) {
        const stored = { float32: type, float16: "F16", uint32: "U32", uint8: "U8" }[tensor.dtype];
        expect(back.tensors[name]).toEqual({ ...tensor, stored });
      }
    }
    for (const type of ["I64", "I32", "I16", "I8", "U64", "U32", "U16", "F32", "F64"] as const) {
      const back = read(encodeSafetensors({ a: tensors["0"]! }, { storeAs: () => type }));
      expect(Array.from(back.data)).toEqual([9]);
      expect(back.stored).toBe(type);
    }
    expect(read(encodeSafetensors({ a: flags }, { storeAs: () => "BOOL" })).data).toEqual(
      Uint8Array.of(0, 1, 1),
    );
    // A checkpoint is such a file, and such a file is a checkpoint.
    expect(decodeSafetensors(encodeCheckpoint({ tensors, metadata: {} }), "f").tensors["0"]!.data).toEqual(
      Uint32Array.of(9),
    );
    expect(decodeCheckpoint(encodeSafetensors(tensors), "f").tensors).toEqual(tensors);
  });

  it("rounds to the nearest, ties to even, and to infinity beyond the range", () => {
    const store = (type: StoredType, ...values: number[]) => [
      ...read(
        encodeSafetensors(
          { a: { shape: [values.length], dtype: "float32", data: Float32Array.from(values) } },
          { storeAs: () => type },
        ),
      ).data,
    ];
    // A bfloat16 has 8 bits: 257 and 259 are ties, to 256 and 260.
    expect(store("BF16", 257, 259, 257.01, -3.4e38, nan, infinity)).toEqual([
      256,
      260,
      258,
      -infinity,
      nan,
      infinity,
    ]);
    expect(store("F16", 2049, 2051, 1e6)).toEqual([2048, 2052, infinity]);
    // float16 tensors are given as numbers, as they are read, or as bits.
    for (const data of [Float32Array.of(1.5), Uint16Array.of(0x3e00)]) {
      for (const type of ["F16", "F32", "BF16"] as const) {
        expect(
          read(encodeSafetensors({ a: { shape: [1], dtype: "float16", data } }, { storeAs: () => type }))
            .data[0],
        ).toBe(1.5);
      }
    }
  });

  it("refuses to write what a type does not hold, and what is no tensor", () => {
    const write = (tensor: unknown, storeAs?: StoredType) => () =>
      encodeSafetensors({ a: tensor as StateDict[string] }, storeAs ? { storeAs: () => storeAs } : {});
    const tensor = { shape: [2], dtype: "float32", data: Float32Array.of(1, 1.5) };
    expect(write(tensor, "I32")).toThrow(/encodeSafetensors: a has 1.5 at 1; I32 holds integers/);
    expect(write({ ...tensor, data: Float32Array.of(1, 300) }, "U8")).toThrow(/a has 300 at 1/);
    expect(write(tensor, "F8" as StoredType)).toThrow(/storeAs gave "F8" for a; expected one of F64/);
    expect(write({ ...tensor, shape: [3] })).toThrow(/a has 2 values for shape \[3\]/);
    expect(write({ ...tensor, dtype: "int8" })).toThrow(/a is "int8"; expected float32/);
    expect(write({ ...tensor, dtype: "uint8" })).toThrow(/expected a Uint8Array for uint8/);
    expect(() => encodeSafetensors({ __metadata__: tensor } as never)).toThrow(/no name for a tensor/);
  });

  const entry = (from: number, to: number, count: number) => ({
    dtype: "F32",
    shape: [count],
    data_offsets: [from, to],
  });
  const hugeHeader = new Uint8Array(100_000_010);
  hugeHeader.set([1, 0xe1, 0xf5, 5]);
  it.each<[string, unknown, RegExp]>([
    ["no bytes", "text", /f: is "text"; expected a Uint8Array/],
    ["too short", new Uint8Array(5), /has 5 bytes, less than its header/],
    [
      "a header past the end",
      foreign("{}", new Uint8Array(0)).fill(255, 0, 6),
      /its header wants 281474976710655 bytes/,
    ],
    ["a huge header", hugeHeader, /its header has 100000001 bytes; expected at most/],
    ["no JSON", foreign("{"), /its header is not JSON/],
    ["a list", foreign("[]"), /its header is \[\]/],
    ["a name twice", foreign('{"a":1,"a":2}'), /the key a twice/],
    ["data past the end", foreign({ a: entry(0, 128, 32) }), /a reaches to byte/],
    ["a wrong length", foreign({ a: entry(0, 8, 3) }), /a has 8 bytes for shape \[3\] of F32; expected 12/],
    ["offsets in the wrong order", foreign({ a: entry(8, 0, 2) }), /a has data_offsets \[8, 0\]/],
    [
      "overlapping offsets",
      foreign({ a: entry(0, 8, 2), b: entry(4, 12, 2) }),
      /b begins at byte 4 of the data, a ends at 8/,
    ],
    ["a negative shape", foreign({ a: { ...entry(0, 8, 2), shape: [-2] } }), /a has shape \[-2\]/],
    [
      "a shape past all numbers",
      foreign({ a: { ...entry(0, 8, 2), shape: [2 ** 40, 2 ** 40] } }),
      /a has shape/,
    ],
    ["metadata that is no text", foreign({ __metadata__: { a: 1 } }), /its __metadata__ is not text/],
  ])("refuses %s", (_, file, message) => {
    expect(refusal(file)).toMatch(message);
  });

  it("refuses or reads anything else, with no other error, whatever bytes change or are lost", () => {
    const file = encodeSafetensors({
      a: { shape: [2, 3], dtype: "float32", data: new Float32Array(6).fill(1) },
      b: { shape: [], dtype: "uint32", data: Uint32Array.of(1) },
    });
    for (let length = 0; length < file.length; length += 1) {
      expect(refusal(file.subarray(0, length))).not.toBe("read");
    }
    const next = generator(7);
    for (let i = 0; i < 2000; i += 1) {
      const changed = file.slice();
      for (let j = 0; j < 1 + (i % 3); j += 1)
        changed[Math.floor(next() * file.length)] = Math.floor(next() * 256);
      refusal(changed);
    }
  });
});
