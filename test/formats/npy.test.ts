import { describe, expect, it } from "vitest";
import { DataError } from "../../src/errors.ts";
import { decodeNpy, decodeNpz, encodeNpy, encodeNpz } from "../../src/formats/npy.ts";
import type { StateDict } from "../../src/nn/module.ts";
import { generator } from "../helpers/numbers.ts";
import * as numpy from "./numpy-files.ts";

const file = (base64: string) => new Uint8Array(Buffer.from(base64, "base64"));
const read = (base64: string) => decodeNpy(file(base64), "f.npy");

function refusal(fn: () => unknown): string {
  try {
    fn();
  } catch (error) {
    expect(error).toBeInstanceOf(DataError);
    return (error as Error).message;
  }
  return "read";
}

async function refusalOfNpz(bytes: Uint8Array): Promise<string> {
  return decodeNpz(bytes, "f.npz").then(
    () => "read",
    (error) => {
      expect(error).toBeInstanceOf(DataError);
      return (error as Error).message;
    },
  );
}

const tensors: StateDict = {
  images: { shape: [2, 3], dtype: "float32", data: Float32Array.of(1, -2.5, 3, 4, 5, 0.1) },
  labels: { shape: [2], dtype: "uint32", data: Uint32Array.of(7, 4_000_000_000) },
  bytes: { shape: [1, 1, 3], dtype: "uint8", data: Uint8Array.of(1, 2, 255) },
  scalar: { shape: [], dtype: "float32", data: Float32Array.of(9) },
  none: { shape: [0, 4], dtype: "float32", data: new Float32Array(0) },
};

describe(".npy", () => {
  it("reads what NumPy writes: types, byte orders, Fortran order, versions", () => {
    expect(read(numpy.f8be_fortran)).toEqual({
      ...{ shape: [2, 3], dtype: "float32" },
      data: Float32Array.of(-0.5, -0.25, 0, 0.25, 0.5, 0.75),
    });
    const halves = read(numpy.f2).data;
    expect([...halves]).toEqual([1, -2.5, 65504, 2 ** -24]);
    expect(read(numpy.i8)).toEqual({
      shape: [2, 2],
      dtype: "uint32",
      data: Uint32Array.of(0, 7, 4_000_000_000, 1),
    });
    expect(read(numpy.i4neg)).toEqual({ shape: [2], dtype: "float32", data: Float32Array.of(-3, 16777216) });
    expect(read(numpy.bool)).toEqual({ shape: [3], dtype: "uint8", data: Uint8Array.of(1, 0, 1) });
    expect(read(numpy.scalar)).toEqual({ shape: [], dtype: "float32", data: Float32Array.of(2.5) });
    expect(read(numpy.v2)).toEqual({ shape: [2], dtype: "uint32", data: Uint32Array.of(1, 2) });
    expect(read(numpy.empty)).toEqual({ shape: [0, 3], dtype: "float32", data: new Float32Array(0) });
  });

  it("writes what it reads, with the header of NumPy's manual", () => {
    for (const tensor of Object.values(tensors)) expect(decodeNpy(encodeNpy(tensor), "f")).toEqual(tensor);
    expect(encodeNpy({ shape: [], dtype: "float32", data: Float32Array.of(2.5) })).toEqual(
      file(numpy.scalar),
    );
    const integers = {
      shape: [2, 2],
      dtype: "uint32" as const,
      data: Uint32Array.of(0, 7, 4_000_000_000, 1),
    };
    expect(encodeNpy(integers, { storeAs: "I64" })).toEqual(file(numpy.i8));
    expect(() => encodeNpy(integers, { storeAs: "BF16" as never })).toThrow(
      /storeAs is "BF16"; expected "F64", "F32"/,
    );
    expect(() => encodeNpy(integers, { storeAs: "I32" })).toThrow(
      /the tensor has 4000000000 at 2; I32 holds/,
    );
    expect(() => encodeNpy({ ...integers, shape: [5] })).toThrow(
      /encodeNpy: the tensor has 4 values for shape \[5\]/,
    );
  });

  it("refuses what is malformed, and gives no other error", () => {
    const good = file(numpy.i8);
    for (let length = 0; length < good.length; length += 1) {
      expect(refusal(() => decodeNpy(good.subarray(0, length), "f"))).not.toBe("read");
    }
    const withHeader = (header: string, data = 8) => {
      const bytes = new Uint8Array(10 + header.length + data);
      bytes.set(good.subarray(0, 8));
      bytes.set([header.length & 255, header.length >> 8], 8);
      bytes.set(Buffer.from(header), 10);
      return bytes;
    };
    const header = "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }";
    expect(refusal(() => decodeNpy(withHeader(header), "f"))).toBe("read");
    for (const [bytes, message] of [
      [withHeader(header, 12), /f: has 12 bytes of data for shape \[2\] of F32; expected 8/],
      [withHeader(header.replace("<f4", "<c8")), /has elements of "<c8"; expected one of f8/],
      [withHeader(header.replace("'<f4'", "[('a', '<f4')]")), /has elements of/],
      [withHeader(header.replace("(2,)", "(-2,)")), /has shape \[-2\]/],
      [withHeader(header.replace("False", "0")), /has fortran_order 0/],
      [withHeader("nothing"), /its header is "nothing"/],
      [withHeader(" ".repeat(20_000)), /its header has 20000 bytes; expected at most 10000/],
      [file(numpy.complex), /elements of "<c16"/],
      [Uint8Array.from(good).fill(9, 6, 7), /is of version 9.0/],
      [new Uint8Array(20), /does not begin as a .npy file does/],
    ] as const) {
      expect(refusal(() => decodeNpy(bytes, "f"))).toMatch(message);
    }
    const next = generator(3);
    for (let i = 0; i < 2000; i += 1) {
      const changed = good.slice();
      for (let j = 0; j < 1 + (i % 3); j += 1)
        changed[Math.floor(next() * good.length)] = Math.floor(next() * 256);
      refusal(() => decodeNpy(changed, "f"));
    }
  });
});

describe(".npz", () => {
  it("reads what NumPy writes, compressed", async () => {
    expect(await decodeNpz(file(numpy.npz), "f.npz")).toEqual({
      images: { shape: [2, 3, 4], dtype: "uint8", data: Uint8Array.from({ length: 24 }, (_, i) => i) },
      labels: { shape: [2], dtype: "uint32", data: Uint32Array.of(3, 4) },
    });
  });

  it("writes what it reads, the same bytes each time", async () => {
    for (const compress of [false, true]) {
      const written = await encodeNpz(tensors, { compress });
      expect(await decodeNpz(written, "f.npz")).toEqual(tensors);
      expect(await encodeNpz(tensors, { compress })).toEqual(written);
    }
    expect(await decodeNpz(await encodeNpz({}), "f")).toEqual({});
  });

  it("refuses what is malformed, more than is allowed, and damage", async () => {
    const good = await encodeNpz(tensors);
    for (let length = 0; length < good.length; length += 13) {
      expect(await refusalOfNpz(good.subarray(0, length)), `${length}`).not.toBe("read");
    }
    await expect(decodeNpz(good, "f", { maxBytes: 400 })).rejects.toThrow(
      /more comes out of it than 400 bytes/,
    );
    await expect(decodeNpz(good, "f", { maxBytes: -1 })).rejects.toThrow(/maxBytes is -1/);
    // A bit of the data: what is stored has a checksum and nothing else.
    const damaged = good.slice();
    damaged[30 + "images.npy".length + 128 + 3]! ^= 4;
    expect(await refusalOfNpz(damaged)).toMatch(/images.npy is damaged, its checksum is wrong/);
    const next = generator(5);
    for (let i = 0; i < 300; i += 1) {
      const changed = file(numpy.npz);
      changed[Math.floor(next() * changed.length)] = Math.floor(next() * 256);
      await refusalOfNpz(changed);
    }
  });
});
