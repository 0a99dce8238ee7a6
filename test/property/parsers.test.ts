// Damaged files into every parser: what comes back is consistent, or a DataError says what is wrong. No other error, no hang,
// no memory beyond what the file itself accounts for.

import { readFileSync, writeFileSync } from "node:fs";
import { mkdtemp, readdir, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Readable } from "node:stream";
import { gunzipSync, gzipSync } from "node:zlib";
import fc from "fast-check";
import onnxProto from "onnx-proto";
import { Header } from "tar";
import { describe, expect, it } from "vitest";
import { readCifarDataset } from "../../src/data/cifar.ts";
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
import { Variants } from "../../src/device/variants.ts";
import { DataError, FusenormError } from "../../src/errors.ts";
import { decodeNpy, decodeNpz, encodeNpy, encodeNpz } from "../../src/formats/npy.ts";
import { decodeSafetensors, encodeSafetensors } from "../../src/formats/safetensors.ts";
import { downloadFile, fetchDataset } from "../../src/node/download.ts";
import { readParquet } from "../../src/node/parquet.ts";
import { unpackTar } from "../../src/node/unpack.ts";
import { decodeOnnx } from "../../src/onnx/decode.ts";
import { Random } from "../../src/tensor/random.ts";
import { type Checkpoint, decodeCheckpoint, encodeCheckpoint } from "../../src/train/checkpoint.ts";
import { casesOf, checkProperty } from "./check.ts";

const random = new Random("parsers");
const bytesOf = (n: number, below = 256) => Uint8Array.from({ length: n }, () => random.int(below));
const join2 = (...parts: Uint8Array[]) => Uint8Array.from(Buffer.concat(parts));

/** One change to a file; places are shares of its length, so that cases shrink and fit any file. */
type Change = (file: Uint8Array) => Uint8Array;
const share = fc.double({ min: 0, max: 1, noNaN: true });
const at = (file: Uint8Array, place: number) => Math.min(file.length, Math.floor(place * (file.length + 1)));
// Headers stand at the beginning, checksums at the end.
const place = fc.oneof(
  share,
  share.map((x) => x / 20),
  share.map((x) => 1 - x / 20),
);
const INTERESTING = [0, 1, 0x7f, 0x80, 0xff, 0x1f, 0x8b, 0x22, 0x2c, 0x2d, 0x5b, 0x5d, 0x7b, 0x7d];
const named = (name: string, change: Change) => Object.assign(change, { toString: () => name });
const edit = (file: Uint8Array, from: number, remove: number, insert: Uint8Array) =>
  join2(file.subarray(0, from), insert, file.subarray(Math.min(file.length, from + remove)));

const change: fc.Arbitrary<Change> = fc.oneof(
  fc.tuple(place, fc.nat(7)).map(([p, bit]) =>
    named(`flip(${p}, ${bit})`, (file) => {
      const out = file.slice();
      const i = Math.min(file.length - 1, at(file, p));
      if (i >= 0) out[i]! ^= 1 << bit;
      return out;
    }),
  ),
  place.map((p) => named(`truncate(${p})`, (file) => file.slice(0, at(file, p)))),
  fc
    .tuple(place, fc.uint8Array({ maxLength: 12 }))
    .map(([p, bytes]) => named(`insert(${p}, [${bytes}])`, (file) => edit(file, at(file, p), 0, bytes))),
  fc
    .tuple(place, fc.array(fc.constantFrom(...INTERESTING), { minLength: 1, maxLength: 8 }))
    .map(([p, bytes]) =>
      named(`overwrite(${p}, [${bytes}])`, (file) =>
        edit(file, at(file, p), bytes.length, Uint8Array.from(bytes)),
      ),
    ),
  fc
    .tuple(place, fc.nat(40))
    .map(([p, n]) => named(`remove(${p}, ${n})`, (file) => edit(file, at(file, p), n, new Uint8Array(0)))),
  fc
    .tuple(place, place, fc.nat(60))
    .map(([from, to, n]) =>
      named(`copy(${from}, ${to}, ${n})`, (file) =>
        edit(file, at(file, to), 0, file.slice(at(file, from), at(file, from) + n)),
      ),
    ),
  fc.tuple(place, place, fc.nat(16)).map(([a, b, n]) =>
    named(`swap(${a}, ${b}, ${n})`, (file) => {
      const [i, j] = [at(file, a), at(file, b)].sort((x, y) => x - y) as [number, number];
      const size = Math.min(n, j - i, file.length - j);
      const out = file.slice();
      out.set(file.subarray(j, j + size), i);
      out.set(file.subarray(i, i + size), j);
      return out;
    }),
  ),
  fc.constant(named("twice", (file: Uint8Array) => join2(file, file))),
  fc.nat(700).map((n) => named(`zeros(${n})`, (file) => join2(file, new Uint8Array(n)))),
);
/** Cases of which one or the other is certain to be readable still. */
const ENOUGH = 50;
const changes = fc.array(change, { minLength: 1, maxLength: 4 });
const changed = (file: Uint8Array, list: readonly Change[]) => list.reduce((bytes, one) => one(bytes), file);
const showChanges = (value: unknown) => fc.stringify(value).replace(/\s+/g, " ");

/** What `parse` gives, or null where it throws a DataError. @throws on any other error, and on memory beyond `most`. */
async function parsed<T>(parse: () => T | Promise<T>, most: number): Promise<T | null> {
  const before = process.memoryUsage().arrayBuffers;
  const started = Date.now();
  try {
    return await parse();
  } catch (error) {
    if (!(error instanceof DataError)) throw error;
    // biome-ignore lint/suspicious/noControlCharactersInRegex: what must not be there
    expect(error.message).not.toMatch(/[\x00-\x08\x0b-\x1f\x7f-\x9f]/);
    expect(error.message.length).toBeLessThan(2000);
    return null;
  } finally {
    // What grew while it worked: what was collected meanwhile does not count, so this errs on the quiet side.
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(most);
    // Milliseconds are enough for these; this is about work without end.
    expect(Date.now() - started).toBeLessThan(20_000);
  }
}

const product = (shape: readonly number[]) => shape.reduce((a, b) => a * b, 1);

function expectConsistent(data: ImageDataset): void {
  expect(data.images.length).toBe(data.count * data.height * data.width * data.channels);
  expect(data.labels.length).toBe(data.count);
  expect(data.classNames.length).toBe(data.classes);
  expect(data.labels.every((label) => label < data.classes)).toBe(true);
}

describe("damaged files", () => {
  const images = encodeIdx([40, 5, 6], bytesOf(1200));
  const labels = encodeIdx([40], bytesOf(40, 10));

  it("IDX", async () => {
    let read = 0;
    const { cases } = await checkProperty(
      "parseIdx",
      casesOf(0.3),
      fc.tuple(fc.constantFrom(images, labels), changes),
      async ([file, list]) => {
        const bytes = changed(file, list);
        const array = await parsed(() => parseIdx({ name: "f", bytes }), 1 << 20);
        if (!array) return;
        read += 1;
        expect(array.values.length).toBe(product(array.shape));
        expect(Buffer.compare(encodeIdx(array.shape, array.values), bytes)).toBe(0);
      },
      showChanges,
    );
    // Changed values are no damage that the format could show.
    if (cases >= ENOUGH) expect(read).toBeGreaterThan(0);
  });

  it("gzip, as zlib reads it", async () => {
    const content = join2(images, bytesOf(3000, 4), new Uint8Array(5000));
    const one = Uint8Array.from(gzipSync(content));
    const two = join2(gzipSync(content.subarray(0, 999)), gzipSync(content.subarray(999)));
    const stored = Uint8Array.from(gzipSync(content, { level: 0 }));
    const maxBytes = 12_000;
    let read = 0;
    const { cases } = await checkProperty(
      "gunzip",
      casesOf(0.5),
      fc.tuple(fc.constantFrom(one, two, stored), changes),
      async ([file, list]) => {
        const bytes = changed(file, list);
        const out = await parsed(() => gunzip({ name: "f", bytes }, { maxBytes }), 1 << 20);
        if (!out) return;
        if (bytes[0] !== 0x1f || bytes[1] !== 0x8b) {
          expect(out).toBe(bytes);
          return;
        }
        read += 1;
        expect(out.length).toBeLessThanOrEqual(maxBytes);
        // zlib ends at zeros; here another member may follow them.
        const theirs = gunzipSync(bytes);
        expect(Buffer.compare(out.subarray(0, theirs.length), theirs)).toBe(0);
        expect(out.length === theirs.length || bytes.includes(0)).toBe(true);
      },
      showChanges,
    );
    if (cases >= ENOUGH) expect(read).toBeGreaterThan(0);
  });

  it("MNIST-like data sets, plain, packed, and damaged before they were packed", async () => {
    const pack = (bytes: Uint8Array) => Uint8Array.from(gzipSync(bytes));
    const ways = fc.constantFrom<[string, (file: Uint8Array, list: Change[]) => Uint8Array]>(
      ["plain", changed],
      ["packed", (file, list) => changed(pack(file), list)],
      ["damaged, then packed", (file, list) => pack(changed(file, list))],
    );
    const part = fc.tuple(ways, fc.oneof(fc.constant<Change[]>([]), changes));
    await checkProperty(
      "readIdxDataset",
      casesOf(0.5),
      fc.tuple(part, part),
      async ([[[, way], list], [[, labelWay], labelList]]) => {
        const pixels = { name: "images", bytes: way(images, list) };
        const targets = { name: "labels", bytes: labelWay(labels, labelList) };
        const data = await parsed(() => readIdxDataset("d", pixels, targets), 1 << 20);
        if (data) expectConsistent(data);
        else expect(list.length + labelList.length).toBeGreaterThan(0);
      },
      showChanges,
    );
  });

  it("CIFAR", async () => {
    const batch = (kind: 1 | 2) => bytesOf(3 * (3072 + kind), 10);
    await checkProperty(
      "readCifarDataset",
      casesOf(0.1),
      fc.tuple(
        fc.constantFrom<"cifar10" | "cifar100">("cifar10", "cifar100"),
        fc.array(fc.oneof(fc.constant<Change[]>([]), changes), { minLength: 1, maxLength: 3 }),
      ),
      async ([kind, lists]) => {
        const files = lists.map((list, i) => ({
          name: `f${i}`,
          bytes: changed(batch(kind === "cifar10" ? 1 : 2), list),
        }));
        const data = await parsed(() => readCifarDataset("c", kind, files), 1 << 20);
        if (data) expectConsistent(data);
      },
      showChanges,
    );
  });

  it("Parquet files", async () => {
    const stored = readFileSync(new URL("../node/parquet-files.json", import.meta.url), "utf8");
    const files = Object.values<string>(JSON.parse(stored).files).map((text) =>
      Uint8Array.from(Buffer.from(text, "base64")),
    );
    /** Numbers as Thrift and runs have them, of any size. */
    const huge = fc.tuple(place, fc.double({ min: 0, max: 63, noNaN: true })).map(([p, log]) => {
      const bytes: number[] = [];
      for (let left = BigInt(Math.floor(2 ** log)); left > 0n || bytes.length === 0; left >>= 7n) {
        bytes.push(Number(left & 127n) | (left > 127n ? 128 : 0));
      }
      return named(`overwrite(${p}, [${bytes}])`, (file: Uint8Array) =>
        edit(file, at(file, p), bytes.length, Uint8Array.from(bytes)),
      );
    });
    const some = fc.array(fc.oneof(change, huge), { minLength: 1, maxLength: 3 });
    const folder = await mkdtemp(join(tmpdir(), "fusenorm-parquet-"));
    const path = join(folder, "damaged.parquet");
    let read = 0;
    try {
      const { cases } = await checkProperty(
        "readParquet",
        casesOf(0.08),
        fc.tuple(fc.nat(files.length - 1), some),
        async ([which, list]) => {
          writeFileSync(path, changed(files[which]!, list));
          let told = 0;
          const rows = await parsed(
            () =>
              readParquet(
                "read",
                path,
                (head) => {
                  told = head.rows;
                  return head.columns;
                },
                3,
              ),
            1 << 20,
          );
          if (!rows) return;
          read += 1;
          expect(rows.length).toBe(told);
        },
        showChanges,
      );
      if (cases >= ENOUGH) expect(read).toBeGreaterThan(0);
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  });

  it("archives", async () => {
    const entry = (path: string, size: number, type: "File" | "Directory" = "File") => {
      const header = Buffer.alloc(512);
      new Header({ path, size, type, mode: 0o6766 }).encode(header);
      return join2(header, bytesOf(size), new Uint8Array((512 - (size % 512)) % 512));
    };
    const tar = join2(
      entry("top/", 0, "Directory"),
      entry("top/a.bin", 700),
      entry("top/b/c.bin", 40),
      new Uint8Array(1024),
    );
    const root = await mkdtemp(join(tmpdir(), "fusenorm-fuzz-"));
    let count = 0;
    try {
      await checkProperty(
        "unpackTar",
        casesOf(0.1),
        fc.tuple(fc.constantFrom(tar, Uint8Array.from(gzipSync(tar))), changes),
        async ([file, list]) => {
          const folder = await mkdtemp(join(root, `${count++}-`));
          const source = [Readable.from([Buffer.from(changed(file, list))])];
          await parsed(() => unpackTar(source, folder, { name: "a", strip: 1, maxBytes: 5000 }), 1 << 24);
          let bytes = 0;
          for (const path of await readdir(folder, { recursive: true })) {
            const found = await stat(join(folder, path));
            if (found.isFile()) bytes += found.size;
            expect((found.mode & 0o7777 & ~0o755).toString(8)).toBe("0");
          }
          expect(bytes).toBeLessThanOrEqual(5000);
        },
        showChanges,
      );
      // Nothing beside the folders.
      expect((await readdir(root)).length).toBe(count);
    } finally {
      await rm(root, { recursive: true, force: true });
    }
  });
});

describe("checkpoints", () => {
  const ours = encodeCheckpoint({
    tensors: {
      "conv.weight": { shape: [3, 7], dtype: "float32", data: Float32Array.from(bytesOf(21)) },
      labels: { shape: [5], dtype: "uint8", data: bytesOf(5) },
      step: { shape: [], dtype: "uint32", data: Uint32Array.of(77) },
    },
    metadata: { step: "77", history: JSON.stringify({ log: [{ loss: 0.5 }, "\u2028"] }) },
  });

  /** What holds of whatever is read. */
  function expectSound({ tensors, metadata }: Checkpoint, file: Uint8Array): void {
    const dataBytes = file.length - 8 - Number(Buffer.from(file).readBigUInt64LE());
    let bytes = 0;
    for (const { shape, dtype, data } of Object.values(tensors)) {
      expect(data.length).toBe(product(shape));
      expect({ float32: Float32Array, uint32: Uint32Array, uint8: Uint8Array }[dtype as "uint8"]).toBe(
        data.constructor,
      );
      bytes += data.byteLength;
    }
    expect(bytes).toBeLessThanOrEqual(dataBytes);
    expect(Object.values(metadata).every((text) => typeof text === "string")).toBe(true);
  }

  it("of ours are refused with any change", async () => {
    await checkProperty(
      "decodeCheckpoint, ours",
      casesOf(1),
      changes,
      async (list) => {
        const bytes = changed(ours, list);
        const read = await parsed(() => decodeCheckpoint(bytes, "f"), 1 << 20);
        expect(read === null).toBe(Buffer.compare(bytes, ours) !== 0);
      },
      showChanges,
    );
  });

  const file = (header: string, body: Uint8Array) => {
    const json = Buffer.from(header);
    const length = Buffer.alloc(8);
    length.writeBigUInt64LE(BigInt(json.length));
    return join2(length, json, body);
  };
  const number = fc.oneof(
    fc.nat(24),
    fc.constantFrom(-1, -4, 0.5, 1e21, 2 ** 31, 2 ** 32, 2 ** 53, 1e308, -0, null, "4", true),
  );
  const name = fc.oneof(
    fc.string(),
    fc.constantFrom("__proto__", "constructor", "__metadata__", "a", "\u001b[2J"),
  );
  const json = fc.jsonValue({ maxDepth: 3 });
  const entry = fc.oneof(
    {
      weight: 4,
      arbitrary: fc.record(
        {
          dtype: fc.constantFrom("F32", "U32", "U8", "F16", "toString"),
          shape: fc.array(number, { maxLength: 3 }),
          data_offsets: fc.array(number, { minLength: 2, maxLength: 2 }),
        },
        { requiredKeys: [] },
      ),
    },
    // Such as hold by themselves, at a place of their own or another's.
    {
      weight: 4,
      arbitrary: fc
        .tuple(fc.nat(3), fc.nat(30))
        .map(([n, from]) => ({ dtype: "F32", shape: [n], data_offsets: [from, from + 4 * n] })),
    },
    { weight: 1, arbitrary: json },
  );
  const header = fc.oneof(
    {
      weight: 6,
      arbitrary: fc
        .array(fc.tuple(name, entry), { maxLength: 4 })
        .map(
          (entries) =>
            `{${entries.map(([key, value]) => `${JSON.stringify(key)}:${JSON.stringify(value)}`).join()}}`,
        ),
    },
    { weight: 1, arbitrary: json.map((value) => JSON.stringify(value)) },
    { weight: 1, arbitrary: fc.string() },
  );

  it("of other programs are sound or refused", async () => {
    let read = 0;
    const { cases } = await checkProperty(
      "decodeCheckpoint, foreign",
      casesOf(1),
      fc.tuple(header, fc.oneof({ weight: 3, arbitrary: fc.constant<Change[]>([]) }, changes), fc.nat(60)),
      async ([text, list, size]) => {
        const bytes = changed(file(text, bytesOf(size)), list);
        const found = await parsed(() => decodeCheckpoint(bytes, "f"), 1 << 20);
        if (!found) return;
        read += Object.keys(found.tensors).length;
        expectSound(found, bytes);
        // What was read can be written, and read again.
        expect(decodeCheckpoint(encodeCheckpoint(found), "again")).toEqual(found);
      },
      showChanges,
    );
    if (cases >= ENOUGH) expect(read).toBeGreaterThan(0);
  });

  it("come back as they were, whatever the names", async () => {
    const tensor = fc.oneof(
      fc
        .float32Array({ maxLength: 9 })
        .map((data) => ({ shape: [data.length], dtype: "float32" as const, data })),
      fc
        .uint8Array({ maxLength: 9 })
        .map((data) => ({ shape: [1, data.length], dtype: "uint8" as const, data })),
      fc
        .uint32Array({ minLength: 1, maxLength: 1 })
        .map((data) => ({ shape: [], dtype: "uint32" as const, data })),
    );
    const key = fc
      .oneof(fc.string({ unit: "binary" }), fc.nat(9).map(String), fc.constantFrom("constructor", "toString"))
      .filter((k) => k !== "__proto__" && k !== "__metadata__");
    await checkProperty(
      "encodeCheckpoint",
      casesOf(0.3),
      fc.record({
        tensors: fc.dictionary(key, tensor, { noNullPrototype: true }),
        metadata: fc.dictionary(key, fc.string({ unit: "binary" }), { noNullPrototype: true }),
      }),
      (state) => {
        expect(decodeCheckpoint(encodeCheckpoint(state), "f")).toEqual(state);
      },
    );
  });
});

describe("weights of other programs", () => {
  const tensor = (shape: number[], dtype: "float32" | "uint8" = "float32") => {
    const size = product(shape);
    const data = dtype === "uint8" ? bytesOf(size) : Float32Array.from(bytesOf(size), (v) => v - 90.5);
    return { shape, dtype, data };
  };
  const state = { weight: tensor([4, 3, 2]), bias: tensor([4]), count: tensor([], "uint8") };
  const { onnx } = onnxProto;
  const { DataType } = onnx.TensorProto;
  const model = onnx.ModelProto.encode({
    irVersion: 8,
    graph: {
      name: "g",
      initializer: [
        { name: "w", dims: [2, 3], dataType: DataType.FLOAT, rawData: bytesOf(24, 100) },
        { name: "b", dims: [3], dataType: DataType.INT64, int64Data: [1, 2, 3] },
        { name: "h", dims: [2, 2], dataType: DataType.FLOAT16, int32Data: [1, 2, 3, 4] },
      ],
      node: [
        {
          ...{ opType: "Constant", output: ["c"] },
          attribute: [{ name: "value", t: { dims: [2], dataType: DataType.DOUBLE, doubleData: [1, 2] } }],
        },
      ],
    },
  }).finish();

  type Tensors = Record<string, { shape: readonly number[]; dtype: string; data: ArrayLike<number> }>;
  const formats: [string, () => Promise<Uint8Array>, (bytes: Uint8Array) => Promise<Tensors>][] = [
    [
      "decodeSafetensors",
      async () => encodeSafetensors(state),
      async (bytes) => decodeSafetensors(bytes, "f").tensors,
    ],
    ["decodeNpy", async () => encodeNpy(state.weight), async (bytes) => ({ only: decodeNpy(bytes, "f") })],
    ["decodeNpz", () => encodeNpz(state), (bytes) => decodeNpz(bytes, "f", { maxBytes: 1 << 20 })],
    [
      "decodeOnnx",
      async () => Uint8Array.from(model),
      async (bytes) => (await decodeOnnx(bytes, "f")).tensors,
    ],
  ];
  it.each(formats)("%s", async (name, encode, decode) => {
    const file = await encode();
    const whole = await decode(file);
    expect(Object.keys(whole).length).toBeGreaterThan(0);
    await checkProperty(
      name,
      casesOf(0.3),
      changes,
      async (list) => {
        const tensors = await parsed(() => decode(changed(file, list)), 4 << 20);
        for (const { shape, data } of Object.values(tensors ?? {})) {
          expect(shape.every((size) => Number.isSafeInteger(size) && size >= 0)).toBe(true);
          expect(data.length).toBe(product(shape));
        }
      },
      showChanges,
    );
  });
});

describe("calls with anything", () => {
  const anything = fc.anything({
    withTypedArray: true,
    withNullPrototype: true,
    withBigInt: true,
    withDate: true,
  });
  const good = imageDataset({
    name: "d",
    images: bytesOf(24),
    labels: Uint8Array.of(0, 1, 1, 0),
    height: 2,
    width: 3,
    channels: 1,
    classNames: ["a", "b"],
  });
  const field = fc.constantFrom(
    "name",
    "images",
    "labels",
    "count",
    "height",
    "width",
    "channels",
    "classes",
    "classNames",
    "source",
  );
  const odd = fc.oneof(
    anything,
    fc.tuple(field, anything).map(([key, value]) => ({ ...good, [key]: value })),
  );
  const oddFile = fc.oneof(
    anything,
    fc.record({ name: anything, bytes: anything }),
    fc.uint8Array().map((bytes) => ({ name: "f", bytes })),
  );
  // biome-ignore lint/suspicious/noExplicitAny: this is about calls that the types forbid
  type Any = any;
  const calls: Record<string, (a: Any, b: Any) => unknown> = {
    imageDataset: (a) => expectConsistent(imageDataset(a)),
    subset: (a, b) => expectConsistent(subset(a, b)),
    "subset of a good one": (_, b) => expectConsistent(subset(good, b)),
    balancedIndices: (a, b) => balancedIndices(a, b),
    classCounts: (a) => classCounts(a),
    channelMoments: (a) => channelMoments(a),
    encodeIdx: (a, b) => encodeIdx(a, b),
    encodeCheckpoint: (a) => encodeCheckpoint(a),
    "encodeCheckpoint of tensors": (a, b) => encodeCheckpoint({ tensors: { a, b }, metadata: {} }),
    "encodeCheckpoint of a tensor": (a, b) =>
      encodeCheckpoint({ tensors: { a: { shape: a, dtype: "float32", data: b } }, metadata: {} }),
    "encodeCheckpoint of metadata": (a) => encodeCheckpoint({ tensors: {}, metadata: a }),
    decodeCheckpoint: (a, b) => decodeCheckpoint(a, b),
    variants: (a) => new Variants().load(a),
    downloadFile: (a, b) => downloadFile(a, b),
    fetchDataset: (a, b) => fetchDataset(a, b),
  };
  const files: Record<string, (a: Any, b: Any) => unknown> = {
    gunzip: (a, b) => gunzip(a, b),
    parseIdx: (a) => parseIdx(a),
    readIdxDataset: (a, b) => readIdxDataset("d", a, b),
    readCifarDataset: (a, b) => readCifarDataset("d", a, b),
    "readCifarDataset of a list": (a, b) => readCifarDataset("d", "cifar10", [a, b]),
  };
  const check = (name: string, call: (a: unknown, b: unknown) => unknown, of: fc.Arbitrary<unknown>) =>
    checkProperty(name, casesOf(0.1), fc.tuple(of, fc.oneof(of, anything)), async ([a, b]) => {
      try {
        await call(a, b);
      } catch (error) {
        if (!(error instanceof FusenormError)) throw error;
      }
    });
  it.each(Object.entries(calls))("%s", (name, call) => check(name, call, odd).then(() => {}));
  it.each(Object.entries(files))("%s", (name, call) => check(name, call, oddFile).then(() => {}));

  it("variants.load takes all or nothing, and what toJSON gave", async () => {
    await checkProperty(
      "variants.load",
      casesOf(0.2),
      fc.dictionary(
        fc.string().map((s) => `k|${s}`),
        fc.oneof({ weight: 9, arbitrary: fc.string() }, anything),
      ),
      (choices) => {
        const variants = new Variants();
        variants.remember("conv2d", "8", "tile");
        try {
          variants.load(choices as Record<string, string>);
          expect(variants.toJSON()).toEqual({
            ...choices,
            "conv2d|8": (choices as Any)["conv2d|8"] ?? "tile",
          });
        } catch (error) {
          if (!(error instanceof FusenormError)) throw error;
          expect(variants.toJSON()).toEqual({ "conv2d|8": "tile" });
        }
      },
    );
  });
});
