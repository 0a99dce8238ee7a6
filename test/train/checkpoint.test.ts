import { crc32 } from "node:zlib";
import { describe, expect, it } from "vitest";
import { DataError } from "../../src/errors.ts";
import type { StateDict } from "../../src/nn/module.ts";
import { Random } from "../../src/tensor/random.ts";
import { decodeCheckpoint, encodeCheckpoint } from "../../src/train/checkpoint.ts";

const random = new Random(3);
const tensors: StateDict = {
  "conv.weight": {
    shape: [3, 5],
    dtype: "float32",
    data: Float32Array.from({ length: 15 }, () => random.normal()),
  },
  "0": { shape: [], dtype: "uint32", data: Uint32Array.of(4_000_000_000) },
  constructor: { shape: [7], dtype: "uint8" as const, data: Uint8Array.of(0, 1, 2, 3, 250, 254, 255) },
  "nul\u0000 \u{1f600}": { shape: [0, 3], dtype: "float32", data: new Float32Array(0) },
};
const metadata = { "7": "an index", step: "12", history: '{"log":["a \\"quoted\\" text"]}', toString: "x" };
const ours = encodeCheckpoint({ tensors, metadata });

/** A file as other programs write them. */
function foreign(header: object | string, data = new Uint8Array(64)): Uint8Array {
  const json = Buffer.from(typeof header === "string" ? header : JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(json.length));
  return Uint8Array.from(Buffer.concat([length, json, data]));
}
const hugeHeader = new Uint8Array(100_000_010);
hugeHeader.set([1, 0xe1, 0xf5, 5]);
const one = (entry: unknown) => foreign({ a: entry });

function refusal(bytes: unknown): string {
  try {
    decodeCheckpoint(bytes as Uint8Array, "f");
  } catch (error) {
    expect(error).toBeInstanceOf(DataError);
    return (error as Error).message;
  }
  return "read";
}

describe("checkpoints", () => {
  it("come back as they were", () => {
    expect(decodeCheckpoint(ours, "f")).toEqual({ tensors, metadata });
    expect(Object.keys(decodeCheckpoint(ours, "f").tensors)).toContain("constructor");
    expect(decodeCheckpoint(encodeCheckpoint({ tensors: {}, metadata: {} }), "f")).toEqual({
      tensors: {},
      metadata: {},
    });
    // From an odd offset in a larger buffer, too.
    const shifted = new Uint8Array(ours.length + 3);
    shifted.set(ours, 3);
    expect(decodeCheckpoint(shifted.subarray(3), "f")).toEqual({ tensors, metadata });
  });

  it("carry the CRC-32 of the file with zeros in its place", () => {
    const text = Buffer.from(ours).toString("latin1");
    const digits = /"fusenorm\.checksum":"crc32:([0-9a-f]{8})"/.exec(text)!;
    const blank = Buffer.from(text.replace(digits[1]!, "00000000"), "latin1");
    expect(Number.parseInt(digits[1]!, 16)).toBe(crc32(blank));
  });

  it("are refused with any bit flipped, any byte lost or added", () => {
    for (let bit = 0; bit < 8 * ours.length; bit++) {
      const flipped = ours.slice();
      flipped[bit >> 3]! ^= 1 << (bit & 7);
      expect(refusal(flipped), `bit ${bit}`).not.toBe("read");
    }
    for (let length = 0; length < ours.length; length++) {
      expect(refusal(ours.subarray(0, length)), `length ${length}`).not.toBe("read");
    }
    expect(refusal(Uint8Array.of(...ours, 0))).toContain("the file is damaged");
    const last = ours.slice();
    last[last.length - 1]! ^= 64;
    expect(refusal(last)).toMatch(
      /^checkpoint f: its bytes have changed: the file is damaged, its checksum is crc32:\w{8}, its bytes come to crc32:\w{8};/,
    );
  });

  it("are refused where the checksum alone, or the mark of it alone, is left", () => {
    const without = (...keys: string[]) => {
      const header = JSON.parse(
        Buffer.from(ours)
          .subarray(8, 8 + Number(Buffer.from(ours).readBigUInt64LE()))
          .toString(),
      );
      for (const key of keys) delete header.__metadata__[key];
      return foreign(header, ours.subarray(8 + Number(Buffer.from(ours).readBigUInt64LE())));
    };
    expect(refusal(without("fusenorm.checksum"))).toContain("the file is damaged, its checksum is undefined");
    expect(refusal(without("fusenorm.checked"))).toContain("the file is damaged");
    expect(decodeCheckpoint(without("fusenorm.checksum", "fusenorm.checked"), "f")).toEqual({
      tensors,
      metadata,
    });
  });
});

describe("files of other programs", () => {
  it("are read with tensors in any order, gaps, and bytes after the last", () => {
    const data = Uint8Array.from({ length: 40 }, (_, i) => i);
    const { tensors: read, metadata: text } = decodeCheckpoint(
      foreign(
        {
          b: { dtype: "U8", shape: [2, 1], data_offsets: [31, 33] },
          a: { dtype: "U32", shape: [2], data_offsets: [5, 13] },
          none: { dtype: "F32", shape: [0], data_offsets: [6, 6] },
        },
        data,
      ),
      "f",
    );
    expect([...read.b!.data]).toEqual([31, 32]);
    expect([...read.a!.data]).toEqual([0x08070605, 0x0c0b0a09]);
    expect(read.none!.data.length).toBe(0);
    expect(text).toEqual({});
  });

  const F32 = (shape: unknown, offsets: unknown) => one({ dtype: "F32", shape, data_offsets: offsets });
  it.each<[string, unknown, RegExp]>([
    ["nothing", undefined, /is undefined; expected a Uint8Array/],
    ["a text", "text", /is "text"; expected a Uint8Array/],
    ["seven bytes", new Uint8Array(7), /has 7 bytes, less than its header/],
    ["a header past the file", Uint8Array.of(255, 255, 255, 255, 255, 255, 255, 255), /its header wants/],
    ["a header past the limit", hugeHeader, /its header has 100000001 bytes; expected at most 100000000/],
    ["no header", foreign(""), /is not JSON/],
    ["a header of other bytes", foreign("\u0000\u0001"), /is not JSON/],
    [
      "a header that is not UTF-8",
      Uint8Array.of(4, 0, 0, 0, 0, 0, 0, 0, 0x22, 0xff, 0xfe, 0x22),
      /is not JSON/,
    ],
    ["a list", foreign("[]"), /its header is \[\]; expected an object/],
    ["a number", foreign("5"), /its header is 5/],
    ["null", foreign("null"), /its header is null/],
    ["metadata that is a list", foreign({ __metadata__: ["a"] }), /__metadata__ is not text by name/],
    ["metadata that is a text", foreign({ __metadata__: "a" }), /__metadata__ is not text by name/],
    ["metadata that is null", foreign({ __metadata__: null }), /__metadata__ is not text by name/],
    ["metadata of numbers", foreign({ __metadata__: { a: 1 } }), /__metadata__ is not text by name/],
    [
      "a name twice",
      foreign(
        '{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"\\u0061":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}',
      ),
      /the key a twice/,
    ],
    [
      "a field twice",
      foreign('{"a":{"dtype":"U8","shape":[1],"shape":[1],"data_offsets":[0,1]}}'),
      /the key shape twice/,
    ],
    ["metadata twice", foreign('{"__metadata__":{"a":"1","a":"2"}}'), /the key a twice/],
    [
      "__proto__",
      foreign('{"__proto__":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'),
      /the key __proto__/,
    ],
    ["an entry that is null", one(null), /a is null; expected \{ dtype, shape, data_offsets \}/],
    ["an entry that is a list", one(["F32", [1], [0, 4]]), /a is \["F32", \[1\], \[0, 4\]\]/],
    ["an entry that is a text", one("F32"), /a is "F32"/],
    ["no dtype", one({ shape: [1], data_offsets: [0, 4] }), /a has dtype undefined/],
    [
      "a dtype of objects",
      one({ dtype: "constructor", shape: [1], data_offsets: [0, 4] }),
      /a has dtype constructor; expected F32, U32, U8/,
    ],
    ["a dtype that is a list", one({ dtype: ["F32"], shape: [1], data_offsets: [0, 4] }), /a has dtype F32/],
    ...["F16", "BF16", "F64", "I8", "I16", "I32", "I64", "U16", "U64", "BOOL", "F8_E4M3", "f32"].map(
      (dtype): [string, unknown, RegExp] => [
        dtype,
        one({ dtype, shape: [1], data_offsets: [0, 8] }),
        new RegExp(`a has dtype ${dtype}; expected F32, U32, U8: convert`),
      ],
    ),
    ["no shape", one({ dtype: "F32", data_offsets: [0, 4] }), /a has shape undefined/],
    ["a shape that is a number", F32(1, [0, 4]), /a has shape 1/],
    ["a shape of texts", F32(["1"], [0, 4]), /a has shape \["1"\]; expected a list of integers/],
    ["a negative size", F32([-1], [4, 0]), /a has shape \[-1\]/],
    ["two negative sizes", F32([-1, -1], [0, 4]), /a has shape \[-1, -1\]/],
    ["half a size", F32([0.5, 2], [0, 4]), /a has shape \[0\.5, 2\]/],
    ["null in a shape", F32([null], [0, 0]), /a has shape/],
    ["a product past 2^53", F32([2 ** 40, 2 ** 40], [0, 4]), /a has shape/],
    ["a product of infinity", F32([1e308, 1e308], [0, 4]), /a has shape/],
    ["a large shape", F32([2 ** 26, 2 ** 26], [0, 4]), /a has 4 bytes for shape \[67108864, 67108864\]/],
    ["no offsets", one({ dtype: "F32", shape: [1] }), /a has data_offsets undefined/],
    ["one offset", F32([1], [4]), /a has data_offsets \[4\]/],
    ["three offsets", F32([1], [0, 4, 8]), /a has data_offsets \[0, 4, 8\]/],
    ["an offset that is a text", F32([1], [0, "4"]), /a has data_offsets \[0, "4"\]/],
    ["null offsets", F32([0], [null, null]), /a has data_offsets/],
    ["a negative offset", F32([1], [-4, 0]), /a has data_offsets \[-4, 0\]/],
    ["half an offset", F32([1], [0.5, 4.5]), /a has data_offsets \[0\.5, 4\.5\]/],
    ["offsets in the other order", F32([1], [4, 0]), /a has data_offsets \[4, 0\]/],
    ["a huge offset", F32([1], [1e300, 1e300]), /a has data_offsets/],
    ["an offset past the file", F32([1], [2 ** 52, 2 ** 52 + 4]), /a reaches to byte/],
    ["an offset one past the file", F32([16], [1, 65]), /it ends at byte \d+, a reaches to byte/],
    ["fewer bytes than the shape has", F32([3], [0, 8]), /a has 8 bytes for shape \[3\] of F32; expected 12/],
    [
      "shared bytes",
      foreign({
        a: { dtype: "F32", shape: [2], data_offsets: [0, 8] },
        b: { dtype: "F32", shape: [2], data_offsets: [4, 12] },
      }),
      /b begins at byte 4 of the data, a ends at 8/,
    ],
    [
      "the same bytes",
      foreign({
        a: { dtype: "U8", shape: [2], data_offsets: [0, 2] },
        b: { dtype: "U8", shape: [2], data_offsets: [0, 2] },
      }),
      /begins at byte 0 of the data/,
    ],
    ["control characters in a name", foreign({ "\u001b[2Jx\n": null }), /: \\u001b\[2Jx\\u000a is null/],
  ])("are refused with %s", (_, bytes, message) => {
    expect(refusal(bytes)).toMatch(message);
  });

  it("are refused before anything is copied where many tensors share the same bytes", () => {
    const data = new Uint8Array(1 << 20);
    const entry = { dtype: "U8", shape: [data.length], data_offsets: [0, data.length] };
    const many = foreign(Object.fromEntries(Array.from({ length: 5000 }, (_, i) => [`t${i}`, entry])), data);
    const before = process.memoryUsage().arrayBuffers;
    expect(refusal(many)).toContain("tensors that share no bytes");
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(3e6);
  });
});

describe("encodeCheckpoint", () => {
  const a = { shape: [2], dtype: "float32", data: Float32Array.of(1, 2) };
  // biome-ignore lint/suspicious/noExplicitAny: this is about calls that the types forbid
  const encode = (value: any) => () => encodeCheckpoint(value);
  it.each<[string, () => unknown, RegExp]>([
    ["nothing", encode(undefined), /tensors is undefined/],
    ["no metadata", encode({ tensors: { a } }), /metadata is undefined/],
    ["a list of tensors", encode({ tensors: [a], metadata: {} }), /tensors is \[\{ shape/],
    [
      "a number in metadata",
      encode({ tensors: {}, metadata: { step: 5 } }),
      /metadata step is 5; expected text/,
    ],
    [
      "metadata of its own",
      encode({ tensors: {}, metadata: { "fusenorm.checksum": "x" } }),
      /under another name/,
    ],
    [
      "a tensor named as metadata",
      encode({ tensors: { __metadata__: a }, metadata: {} }),
      /__metadata__ is no name/,
    ],
    [
      "a tensor named __proto__",
      encode({ tensors: JSON.parse('{"__proto__":{}}'), metadata: {} }),
      /__proto__ is no name/,
    ],
    ["a tensor that is null", encode({ tensors: { a: null }, metadata: {} }), /a is null/],
    [
      "another length",
      encode({ tensors: { a: { ...a, shape: [3] } }, metadata: {} }),
      /a has 2 values for shape \[3\]; expected 3/,
    ],
    [
      "a negative shape",
      encode({ tensors: { a: { ...a, shape: [-1, -2] } }, metadata: {} }),
      /a has shape \[-1, -2\]/,
    ],
    [
      "another class",
      encode({ tensors: { a: { ...a, data: Uint32Array.of(1, 2) } }, metadata: {} }),
      /a has data a Uint32Array of 2; expected a Float32Array/,
    ],
    [
      "a list of data",
      encode({ tensors: { a: { ...a, data: [1, 2] } }, metadata: {} }),
      /a has data \[1, 2\]/,
    ],
    [
      "float16",
      encode({ tensors: { a: { shape: [2], dtype: "float16", data: Uint16Array.of(1, 2) } }, metadata: {} }),
      /a is float16; expected float32, uint32, uint8/,
    ],
  ])("refuses %s", (_, call, message) => {
    expect(call).toThrow(DataError);
    expect(call).toThrow(message);
  });
});
