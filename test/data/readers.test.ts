import { crc32, gzipSync } from "node:zlib";
import { describe, expect, it } from "vitest";
import { CIFAR10_CLASSES, CIFAR100_CLASSES, readCifarDataset } from "../../src/data/cifar.ts";
import {
  balancedIndices,
  channelMoments,
  classCounts,
  type ImageDataset,
  imageDataset,
  subset,
} from "../../src/data/dataset.ts";
import { gunzip } from "../../src/data/gzip.ts";
import { encodeIdx, parseIdx, readIdxDataset } from "../../src/data/idx.ts";
import { DataError } from "../../src/errors.ts";
import { Random } from "../../src/tensor/random.ts";

const randomBytes = (n: number, seed = 1) => {
  const random = new Random(seed);
  return Uint8Array.from({ length: n }, () => random.int(256));
};

/** Asserts a DataError whose message has every one of `parts`. */
async function expectDataError(run: () => unknown, ...parts: string[]): Promise<void> {
  const error = await Promise.resolve()
    .then(run)
    .then(
      () => undefined,
      (e: unknown) => e,
    );
  expect(error).toBeInstanceOf(DataError);
  for (const part of parts) expect((error as Error).message).toContain(part);
}

describe("IDX", () => {
  const pixels = randomBytes(5 * 3 * 4);
  const images = encodeIdx([5, 3, 4], pixels);
  const labels = encodeIdx([5], Uint8Array.of(0, 2, 1, 2, 0));

  it("has the published header", () => {
    expect([...images.subarray(0, 16)]).toEqual([0, 0, 8, 3, 0, 0, 0, 5, 0, 0, 0, 3, 0, 0, 0, 4]);
    expect([...labels]).toEqual([0, 0, 8, 1, 0, 0, 0, 5, 0, 2, 1, 2, 0]);
  });

  it.each([
    ["plain", (bytes: Uint8Array) => bytes],
    ["gzip", (bytes: Uint8Array) => new Uint8Array(gzipSync(bytes))],
  ])("reads %s files", async (_, pack) => {
    const data = await readIdxDataset(
      "tiny",
      { name: "i", bytes: pack(images) },
      { name: "l", bytes: pack(labels) },
    );
    expect(data).toMatchObject({ name: "tiny", count: 5, height: 3, width: 4, channels: 1, classes: 3 });
    expect(data.images).toEqual(pixels);
    expect([...data.labels]).toEqual([0, 2, 1, 2, 0]);
    expect(data.classNames).toEqual(["0", "1", "2"]);
  });

  it("reads rank 4 as NHWC, and bytes at an offset in their buffer", async () => {
    const source = encodeIdx([2, 2, 2, 3], randomBytes(24));
    const shifted = new Uint8Array(source.length + 3);
    shifted.set(source, 3);
    const data = await readIdxDataset(
      "rgb",
      { name: "i", bytes: shifted.subarray(3) },
      { name: "l", bytes: encodeIdx([2], Uint8Array.of(0, 1)) },
    );
    expect(data).toMatchObject({ count: 2, height: 2, width: 2, channels: 3 });
    expect(data.images).toEqual(randomBytes(24));
  });

  it("rejects every truncation of a file, and a byte too many", async () => {
    for (let length = 0; length < images.length; length++) {
      await expectDataError(
        () => parseIdx({ name: "short-file", bytes: images.subarray(0, length) }),
        "short-file",
        `${length}`,
      );
    }
    await expectDataError(
      () => parseIdx({ name: "f", bytes: images.subarray(0, 40) }),
      "truncated: expected 76 bytes for [5, 3, 4], found 40",
      "fusenorm-cli data fetch",
    );
    await expectDataError(
      () => parseIdx({ name: "f", bytes: Uint8Array.of(...images, 0) }),
      "too long: expected 76 bytes for [5, 3, 4], found 77",
    );
  });

  it("rejects every truncation of a gzip file, and damage inside it", async () => {
    const packed = new Uint8Array(gzipSync(images));
    for (let length = 2; length < packed.length; length++) {
      await expectDataError(
        () => gunzip({ name: "short.gz", bytes: packed.subarray(0, length) }),
        "short.gz: the gzip data is truncated or damaged",
        `file of ${length} bytes`,
      );
    }
    const damaged = packed.slice();
    damaged[damaged.length - 6]! ^= 1; // in the checksum
    await expectDataError(() => gunzip({ name: "bad.gz", bytes: damaged }), "bad.gz", "damaged");
  });

  it("rejects what is not IDX, other element types, and ranks that don't fit", async () => {
    await expectDataError(
      () => parseIdx({ name: "page.html", bytes: new TextEncoder().encode("<!doctype html>") }),
      'page.html: not an IDX file: its 15 bytes begin "3c 21 64 6f"',
    );
    await expectDataError(
      () => parseIdx({ name: "f", bytes: Uint8Array.of(0, 0, 0x0d, 1, 0, 0, 0, 0) }),
      "IDX type 0x0d of rank 1; expected type 0x08",
    );
    await expectDataError(() => parseIdx({ name: "f", bytes: Uint8Array.of(0, 0, 8, 0) }), "rank 0");
    const swapped = () => readIdxDataset("x", { name: "i", bytes: labels }, { name: "l", bytes: images });
    await expectDataError(swapped, "l: labels of shape [5, 3, 4]", "is this the image file?");
    const labelsTwice = () => readIdxDataset("x", { name: "i", bytes: labels }, { name: "l", bytes: labels });
    await expectDataError(labelsTwice, "i: images of shape [5]", "is this the label file?");
    const twice = () => readIdxDataset("x", { name: "i", bytes: images }, { name: "l", bytes: images });
    await expectDataError(twice, "l: labels of shape [5, 3, 4]", "is this the image file?");
  });

  it("rejects counts that differ, labels without a class, and no pixels", async () => {
    const four = encodeIdx([4], new Uint8Array(4));
    await expectDataError(
      () => readIdxDataset("x", { name: "images", bytes: images }, { name: "labels", bytes: four }),
      "images holds 5 images, labels holds 4 labels",
    );
    await expectDataError(
      () => readIdxDataset("x", { name: "i", bytes: images }, { name: "l", bytes: labels }, ["a", "b"]),
      "l: label 2 at position 1; expected 0 … 1",
    );
    for (const shape of [
      [0, 3, 4],
      [5, 0, 4],
    ]) {
      const empty = { name: "empty", bytes: encodeIdx(shape, new Uint8Array(0)) };
      const none = { name: "l", bytes: encodeIdx([shape[0]!], new Uint8Array(shape[0]!)) };
      await expectDataError(() => readIdxDataset("x", empty, none), "empty: no pixels");
    }
  });
});

describe("gzip", () => {
  const content = randomBytes(200_000, 7);
  const join = (...parts: Uint8Array[]) => Uint8Array.from(Buffer.concat(parts));
  const pack = (bytes: Uint8Array) => Uint8Array.from(gzipSync(bytes));
  const whole = pack(content);
  const cuts = [0, 1, 70_000, 70_000, 199_999, 200_000];
  const members = join(...cuts.map((cut, i) => pack(content.subarray(cut, cuts[i + 1] ?? cut))));

  it.each([
    ["one member", whole],
    ["several members, some of them empty", members],
    ["zero padding", join(whole, new Uint8Array(513))],
    [
      "zeros between members",
      join(pack(content.subarray(0, 9)), new Uint8Array(7), pack(content.subarray(9))),
    ],
  ])("unpacks %s", async (_, bytes) => {
    expect(Buffer.compare(await gunzip({ name: "f", bytes }), content)).toBe(0);
  });

  it("unpacks headers with extra field, name, comment and checksum, and checks that", async () => {
    const head = [
      0x1f,
      0x8b,
      8,
      0x1e,
      0,
      0,
      0,
      0,
      0,
      3,
      4,
      0,
      65,
      66,
      0,
      0,
      ...Buffer.from("name\0comment\0"),
    ];
    const sum = crc32(Uint8Array.from(head)) & 0xffff;
    const named = join(Uint8Array.of(...head, sum & 255, sum >> 8), whole.subarray(10));
    expect(Buffer.compare(await gunzip({ name: "f", bytes: named }), content)).toBe(0);
    named[17]! ^= 4; // in the name
    await expectDataError(
      () => gunzip({ name: "f", bytes: named }),
      "f: the gzip data is truncated or damaged",
    );
  });

  it("refuses other bytes after the last member, in words that say so", async () => {
    for (const tail of [Uint8Array.of(1, 2, 3), Uint8Array.of(0, 0, 9), Uint8Array.of(0x1f)]) {
      await expectDataError(
        () => gunzip({ name: "f", bytes: join(whole, tail) }),
        `f: ${tail.length} bytes of other data follow the gzip data, trailing garbage`,
        "gzip -dc",
      );
    }
  });

  it("ends as soon as more comes out than the header names, or may", async () => {
    const bomb = pack(join(encodeIdx([1, 2, 2], new Uint8Array(4)), new Uint8Array(3e7)));
    const label = { name: "l", bytes: encodeIdx([1], Uint8Array.of(0)) };
    const before = process.memoryUsage().arrayBuffers;
    await expectDataError(
      () => readIdxDataset("b", { name: "bomb", bytes: bomb }, label),
      "bomb: more comes out of this gzip file",
      "than the 20 bytes of its header for [1, 2, 2]",
    );
    await expectDataError(
      () => gunzip({ name: "b", bytes: bomb }, { maxBytes: 1000 }),
      "than the 1000 bytes",
    );
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(5e6);
    expect((await gunzip({ name: "b", bytes: whole }, { maxBytes: 200_000 })).length).toBe(200_000);
    // Images that agree with no label are refused by their header as well.
    const many = pack(join(encodeIdx([1000, 30, 1000], new Uint8Array(3e7))));
    await expectDataError(
      () => readIdxDataset("b", { name: "m", bytes: many }, label),
      "m holds 1000 images, l holds 1",
    );
    const page = pack(new TextEncoder().encode("<!doctype html>".repeat(1e5)));
    await expectDataError(() => readIdxDataset("b", { name: "p", bytes: page }, label), "p: not an IDX file");
  });
});

describe.each([
  ["cifar10", 1, CIFAR10_CLASSES],
  ["cifar100", 2, CIFAR100_CLASSES],
] as const)("%s", (kind, labelBytes, classNames) => {
  const record = labelBytes + 3072;
  /** `n` records with labels 0, 1, …; CIFAR-100's coarse label is 200, out of range if it were taken. */
  const batch = (n: number, seed: number) => {
    const bytes = randomBytes(n * record, seed);
    for (let i = 0; i < n; i++) {
      if (labelBytes === 2) bytes[i * record] = 200;
      bytes[i * record + labelBytes - 1] = i % classNames.length;
    }
    return bytes;
  };

  it("turns planes into NHWC, over several files", () => {
    const files = [
      { name: "a", bytes: batch(3, 1) },
      { name: "b", bytes: batch(2, 2) },
    ];
    const data = readCifarDataset("c", kind, files);
    expect(data).toMatchObject({ count: 5, height: 32, width: 32, channels: 3, classes: classNames.length });
    expect([...data.labels]).toEqual([0, 1, 2, 0, 1]);
    expect(new Set(data.classNames).size).toBe(classNames.length);
    const flat = Uint8Array.of(...files[0]!.bytes, ...files[1]!.bytes);
    for (let n = 0; n < 5; n++) {
      for (let y = 0; y < 32; y++) {
        for (let x = 0; x < 32; x++) {
          for (let c = 0; c < 3; c++) {
            const stored = flat[n * record + labelBytes + c * 1024 + y * 32 + x];
            if (data.images[((n * 32 + y) * 32 + x) * 3 + c] !== stored) {
              expect.fail(`image ${n}, row ${y}, column ${x}, channel ${c}`);
            }
          }
        }
      }
    }
  });

  it("rejects truncated and empty files, naming the byte counts", async () => {
    const bytes = batch(2, 3);
    for (const length of [0, 1, record - 1, record + 1, 2 * record - 1]) {
      const file = { name: "batch.bin", bytes: bytes.subarray(0, length) };
      await expectDataError(
        () => readCifarDataset("c", kind, [{ name: "good", bytes }, file]),
        "batch.bin",
        `multiple of ${record} bytes`,
        `found ${length}`,
        `fusenorm-cli data fetch ${kind}`,
      );
    }
  });

  it("rejects a label out of range", async () => {
    const bytes = batch(2, 4);
    bytes[record + labelBytes - 1] = classNames.length;
    await expectDataError(
      () => readCifarDataset("c", kind, [{ name: "batch.bin", bytes }]),
      `batch.bin: label ${classNames.length} in record 1; expected 0 … ${classNames.length - 1}`,
    );
  });
});

describe("data set functions", () => {
  const tiny: ImageDataset = imageDataset({
    name: "tiny",
    images: randomBytes(6 * 2 * 3 * 2),
    labels: Uint8Array.of(1, 0, 1, 1, 0, 0),
    height: 2,
    width: 3,
    channels: 2,
    classNames: ["a", "b"],
  });

  it("takes moments per channel, as a two-pass float64 sum does", () => {
    const { mean, std } = channelMoments(tiny);
    for (let c = 0; c < 2; c++) {
      const values = [...tiny.images].filter((_, i) => i % 2 === c).map((value) => value / 255);
      const average = values.reduce((a, b) => a + b) / values.length;
      const variance = values.reduce((sum, v) => sum + (v - average) ** 2, 0) / values.length;
      expect(mean[c]).toBeCloseTo(average, 12);
      expect(std[c]).toBeCloseTo(Math.sqrt(variance), 12);
    }
  });

  it("counts classes and takes balanced subsets in order", async () => {
    expect(classCounts(tiny)).toEqual([3, 3]);
    expect(balancedIndices(tiny, 2)).toEqual([0, 1, 2, 4]);
    const part = subset(tiny, [4, 0]);
    expect([...part.labels]).toEqual([0, 1]);
    expect([...part.images]).toEqual([...tiny.images.subarray(48, 60), ...tiny.images.subarray(0, 12)]);
    await expectDataError(() => balancedIndices(tiny, 4), "tiny has 3 images of class 0 (a)", "at least 4");
    await expectDataError(() => subset(tiny, [0, 6]), "index 6 at position 1; expected 0 … 5");
  });
});

describe("wrong arguments", () => {
  const pixels = encodeIdx([1, 1, 1], Uint8Array.of(7));
  const named = { name: "f", bytes: pixels };
  const good = {
    name: "d",
    images: Uint8Array.of(1, 2),
    labels: Uint8Array.of(0, 1),
    height: 1,
    width: 1,
    channels: 1,
  };
  const made = imageDataset({ ...good, classNames: ["a", "b"] });
  // biome-ignore lint/suspicious/noExplicitAny: this is about calls that the types forbid
  const any = (value: unknown): any => value;

  it.each<[string, () => unknown, string]>([
    ["gunzip()", () => gunzip(any(undefined)), "gunzip: the file is undefined; expected { name, bytes }"],
    ["gunzip(bytes)", () => gunzip(any(pixels)), "gunzip: the file is a Uint8Array of 17"],
    ["gunzip of a text", () => gunzip({ name: "f", bytes: any("text") }), 'bytes: "text"'],
    [
      "gunzip of an ArrayBuffer",
      () => gunzip({ name: "f", bytes: any(pixels.buffer) }),
      "bytes: a ArrayBuffer",
    ],
    ["gunzip with NaN", () => gunzip(named, { maxBytes: Number.NaN }), "gunzip: maxBytes is NaN"],
    ["parseIdx()", () => parseIdx(any(null)), "parseIdx: the file is null"],
    [
      "parseIdx of floats",
      () => parseIdx({ name: "f", bytes: any(new Float32Array(3)) }),
      "a Float32Array of 3",
    ],
    [
      "readIdxDataset without labels",
      () => readIdxDataset("n", named, any(undefined)),
      "labels: the file is undefined",
    ],
    [
      "readIdxDataset without a name",
      () => readIdxDataset(any(5), named, { name: "l", bytes: encodeIdx([1], Uint8Array.of(0)) }),
      "name is 5",
    ],
    [
      "encodeIdx of another product",
      () => encodeIdx([2, 3], new Uint8Array(5)),
      "[2, 3] has 6 values, 5 were given",
    ],
    ["encodeIdx of no shape", () => encodeIdx(any(undefined), new Uint8Array(5)), "shape is undefined"],
    ["encodeIdx of a negative size", () => encodeIdx([-1, -5], new Uint8Array(5)), "shape is [-1, -5]"],
    [
      "encodeIdx of a size past 32 bits",
      () => encodeIdx([2 ** 32], new Uint8Array(0)),
      "shape is [4294967296]",
    ],
    ["encodeIdx of a hole", () => encodeIdx(new Array(2), new Uint8Array(5)), "shape is ["],
    ["encodeIdx of floats", () => encodeIdx([2], any(new Float32Array(2))), "values are a Float32Array of 2"],
    [
      "readCifarDataset of no kind",
      () => readCifarDataset("c", any("constructor"), [named]),
      'kind is "constructor"',
    ],
    ["readCifarDataset of no files", () => readCifarDataset("c", "cifar10", []), "files are []"],
    [
      "readCifarDataset of one file",
      () => readCifarDataset("c", "cifar10", any(named)),
      "files are { name, bytes }",
    ],
    ["readCifarDataset of texts", () => readCifarDataset("c", "cifar10", any(["a"])), 'the file is "a"'],
    ["imageDataset()", () => imageDataset(any(undefined)), "imageDataset: the data set is undefined"],
    [
      "imageDataset of floats",
      () => imageDataset({ ...made, images: any(new Float32Array(2)) }),
      "images is a Float32Array of 2",
    ],
    [
      "imageDataset of a list of labels",
      () => imageDataset({ ...made, labels: any([0, 1]) }),
      "labels is [0, 1]",
    ],
    ["imageDataset of half a pixel", () => imageDataset({ ...made, width: 0.5, height: 2 }), "width is 0.5"],
    [
      "imageDataset of a huge size",
      () => imageDataset({ ...made, height: 2 ** 32, width: 2 ** 32 }),
      "d holds",
    ],
    [
      "imageDataset without classes",
      () => imageDataset({ ...made, classNames: any(undefined) }),
      "classNames is undefined",
    ],
    ["subset()", () => subset(any(undefined), [0]), "subset: the data set is undefined"],
    ["subset of no indices", () => subset(made, any(undefined)), "indices are undefined"],
    ["subset of a length", () => subset(made, any({ length: 2 ** 40 })), "indices are { length }"],
    ["subset of half an index", () => subset(made, [0.5]), "index 0.5 at position 0"],
    ["subset of another count", () => subset({ ...made, count: 9 }, [8]), "subset: d has 2 bytes of images"],
    ["balancedIndices of NaN", () => balancedIndices(made, Number.NaN), "perClass is NaN"],
    ["balancedIndices of zero", () => balancedIndices(made, 0), "perClass is 0"],
    [
      "classCounts of a foreign label",
      () => classCounts({ ...made, labels: Uint8Array.of(0, 2) }),
      "has label 2 at position 1",
    ],
    ["channelMoments()", () => channelMoments(any("data")), 'channelMoments: the data set is "data"'],
    [
      "channelMoments of other channels",
      () => channelMoments({ ...made, channels: 3 }),
      "channelMoments: d has 2 bytes",
    ],
  ])("%s", async (_, call, message) => {
    await expectDataError(call, message);
  });

  it("escapes control characters in what it quotes", async () => {
    const name = "\u001b[31mred\u202e\n\ud800";
    await expectDataError(
      () => parseIdx({ name, bytes: Uint8Array.of(1) }),
      "\\u001b[31mred\\u202e\\u000a\\ud800: not",
    );
    expect(new DataError("two\nlines \u001b]0;title\u0007").message).toBe(
      "two\nlines \\u001b]0;title\\u0007",
    );
  });
});
