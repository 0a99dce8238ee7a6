// Folders of images, and Parquet files of them: pixels as they were put in.

import { mkdirSync, mkdtempSync, renameSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parquetWriteBuffer } from "hyparquet-writer";
import sharp from "sharp";
import { afterAll, describe, expect, it } from "vitest";
import { DataError } from "../../src/errors.ts";
import { Random } from "../../src/index.ts";
import {
  decodeImage,
  loadDataset,
  loadImageFolder,
  loadParquetImages,
  streamImageFolder,
} from "../../src/node/index.ts";

const folder = mkdtempSync(join(tmpdir(), "fusenorm-images-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const random = new Random(4);
const pixels = (count: number) => Uint8Array.from({ length: count }, () => random.uint32() & 255);
const png = (data: Uint8Array, width: number, height: number, channels: 1 | 3 | 4) =>
  sharp(data, { raw: { width, height, channels } }).png().toBuffer();

describe("loadImageFolder", () => {
  it("gives the very pixels of images that have the size, by class and name", async () => {
    const home = join(folder, "exact");
    const expected: Uint8Array[] = [];
    for (const name of ["cat", "ant"]) {
      mkdirSync(join(home, name), { recursive: true });
      for (const file of ["b.png", "a.png"]) {
        const data = pixels(6 * 5 * 3);
        expected.unshift(data);
        writeFileSync(join(home, name, file), await png(data, 5, 6, 3));
      }
    }
    writeFileSync(join(home, "ant", "notes.txt"), "no image");
    const set = await loadImageFolder(home, { height: 6, width: 5, name: "mine" });
    expect(set).toMatchObject({ name: "mine", count: 4, height: 6, width: 5, channels: 3 });
    expect(set.classNames).toEqual(["ant", "cat"]);
    expect([...set.labels]).toEqual([0, 0, 1, 1]);
    // ant/a, ant/b, cat/a, cat/b; they were made from cat/b to ant/a.
    expect(set.images).toEqual(Uint8Array.from(expected.flatMap((image) => [...image])));
  });

  it("scales to cover, takes the middle, makes grey, and puts black behind what is transparent", async () => {
    // Left half dark, right half bright, twice as wide as it is high: the middle has both.
    const wide = Uint8Array.from({ length: 40 * 20 }, (_, i) => (i % 40 < 20 ? 40 : 200));
    const grey = await decodeImage(await png(wide, 40, 20, 1), "wide", {
      height: 10,
      width: 10,
      channels: 1,
    });
    expect(grey.length).toBe(100);
    for (let y = 0; y < 10; y += 1) {
      expect(Math.abs(grey[10 * y + 1]! - 40)).toBeLessThan(4);
      expect(Math.abs(grey[10 * y + 8]! - 200)).toBeLessThan(4);
    }
    const coloured = await decodeImage(await png(wide, 40, 20, 1), "wide", { height: 20, width: 40 });
    expect(coloured).toEqual(Uint8Array.from([...wide].flatMap((value) => [value, value, value])));
    const clear = Uint8Array.of(250, 10, 90, 0, 250, 10, 90, 255);
    expect([...(await decodeImage(await png(clear, 2, 1, 4), "clear", { height: 1, width: 2 }))]).toEqual([
      ...[0, 0, 0],
      ...[250, 10, 90],
    ]);
  });

  it("follows links to folders and files, and leaves out what is hidden", async () => {
    const home = join(folder, "links");
    const expected: number[] = [];
    for (const name of ["a", "c"]) mkdirSync(join(home, name), { recursive: true });
    mkdirSync(join(folder, "elsewhere"));
    for (const path of ["links/a/1.png", "elsewhere/1.png", "links/c/1.png"]) {
      const data = pixels(6);
      expected.push(...data);
      writeFileSync(join(folder, path), await png(data, 2, 1, 3));
    }
    symlinkSync(join(folder, "elsewhere"), join(home, "b"));
    symlinkSync(join(folder, "elsewhere"), join(home, ".hidden"));
    symlinkSync(join(home, "a", "1.png"), join(home, "c", "2.png"));
    for (const name of ["a", "elsewhere"].map((each) => (each === "a" ? join("links", each) : each)))
      writeFileSync(join(folder, name, "._1.png"), "of macOS");
    const set = await loadImageFolder(home, { height: 1, width: 2 });
    expect([set.classNames, [...set.labels]]).toEqual([
      ["a", "b", "c"],
      [0, 1, 2, 2],
    ]);
    expect([...set.images]).toEqual([...expected, ...expected.slice(0, 6)]);
    const stream = await streamImageFolder(home, {
      ...{ height: 1, width: 2, mean: [0, 0, 0], std: [1, 1, 1], batchSize: 4, seed: 0, shuffle: false },
    });
    expect(stream.classNames).toEqual(["a", "b", "c"]);
    expect(stream.count).toBe(4);
    symlinkSync(join(folder, "nowhere"), join(home, "d"));
    await expect(loadImageFolder(home, { height: 1, width: 2 })).rejects.toThrow(
      /links.d: can't be read: ENOENT/,
    );
  });

  it("tells what takes more memory than there is, and reads no more once an image has failed", async () => {
    const home = join(folder, "many");
    mkdirSync(join(home, "a"), { recursive: true });
    const good = await png(pixels(3), 1, 1, 3);
    const count = 400;
    for (let i = 0; i < count; i += 1) {
      writeFileSync(join(home, "a", `${String(i).padStart(3, "0")}.png`), i === 0 ? "none" : good);
    }
    await expect(loadImageFolder(home, { height: 2 ** 14, width: 2 ** 14 })).rejects.toThrow(
      /no memory for 400 images of 805306368 bytes, 322.1 GB; expected .* streamImageFolder/,
    );
    const busy = () => sharp.counters().process + sharp.counters().queue;
    const before = busy();
    await expect(loadImageFolder(home, { height: 1, width: 1 })).rejects.toThrow(/000.png: can't be decoded/);
    // What was under way ends, files that are read meanwhile among it: sharp is idle between two of them, but not for long.
    let idle = 0;
    const idleFor = () => {
      idle = busy() === before ? idle + 1 : 0;
      return idle;
    };
    await expect.poll(idleFor, { interval: 20 }).toBeGreaterThan(10);
    // Nothing begins.
    let later = 0;
    sharp.queue.on("change", () => {
      later += 1;
    });
    await new Promise((resolve) => setTimeout(resolve, 100));
    sharp.queue.removeAllListeners("change");
    expect(later).toBe(0);
  });

  it("refuses what is no image, and folders that are none of classes", async () => {
    const size = { height: 4, width: 4 };
    await expect(decodeImage(Uint8Array.of(1, 2, 3), "odd.png", size)).rejects.toThrow(
      /^odd.png: can't be decoded as an image/,
    );
    const home = join(folder, "wrong");
    mkdirSync(join(home, "empty"), { recursive: true });
    await expect(loadImageFolder(home, size)).rejects.toThrow(/empty has no images/);
    await expect(loadImageFolder(join(home, "empty"), size)).rejects.toThrow(
      /has 0 folders; expected one for/,
    );
    await expect(loadImageFolder(join(home, "nowhere"), size)).rejects.toThrow(DataError);
    await expect(loadImageFolder(home, { height: 0, width: 4 })).rejects.toThrow(/height is 0/);
    await expect(loadImageFolder(home, { ...size, channels: 4 as never })).rejects.toThrow(/channels is 4/);
    writeFileSync(join(home, "empty", "bad.jpg"), "no JPEG");
    await expect(loadImageFolder(home, size)).rejects.toThrow(/bad.jpg: can't be decoded/);
  });
});

describe("loadParquetImages", () => {
  const write = async (rows: number, metadata?: string) => {
    const data = Array.from({ length: rows }, () => pixels(4 * 4 * 3));
    const files = await Promise.all(data.map((one) => png(one, 4, 4, 3)));
    const labels = data.map((_, i) => BigInt((7 * i) % 3));
    const buffer = parquetWriteBuffer({
      schema: [
        { name: "root", num_children: 2 },
        { name: "img", num_children: 2, repetition_type: "OPTIONAL" },
        { name: "bytes", type: "BYTE_ARRAY", repetition_type: "OPTIONAL" },
        { name: "path", type: "BYTE_ARRAY", converted_type: "UTF8", repetition_type: "OPTIONAL" },
        { name: "label", type: "INT64", repetition_type: "OPTIONAL" },
      ],
      columnData: [
        { name: "img", data: files.map((bytes, i) => ({ bytes: new Uint8Array(bytes), path: `${i}.png` })) },
        { name: "label", data: labels },
      ],
      ...(metadata === undefined ? {} : { kvMetadata: [{ key: "huggingface", value: metadata }] }),
    });
    const path = join(folder, `${rows}-${metadata?.length ?? 0}.parquet`);
    writeFileSync(path, new Uint8Array(buffer));
    return { path, data, labels };
  };

  it("gives images, classes and their names as Hugging Face's files have them", async () => {
    const features = { img: { _type: "Image" }, label: { names: ["cat", "dog", "ox"], _type: "ClassLabel" } };
    const { path, data, labels } = await write(50, JSON.stringify({ info: { features } }));
    const set = await loadParquetImages(path, { height: 4, width: 4 });
    expect(set.classNames).toEqual(["cat", "dog", "ox"]);
    expect([...set.labels]).toEqual(labels.map(Number));
    expect(set.images).toEqual(Uint8Array.from(data.flatMap((image) => [...image])));
  });

  it("are a data set by their names: shards in order, a test set or every tenth image, one level down, too", async () => {
    const features = { label: { names: ["cat", "dog", "ox"] } };
    const note = JSON.stringify({ info: { features } });
    const size = { height: 4, width: 4 };
    const bytes = (images: Uint8Array[]) => Uint8Array.from(images.flatMap((image) => [...image]));
    const home = join(folder, "hub");
    mkdirSync(join(home, "plain_text"), { recursive: true });
    const parts: Record<string, Awaited<ReturnType<typeof write>>> = {};
    for (const [i, name] of [
      "train-00000-of-00002",
      "train-00001-of-00002",
      "test-00000-of-00001",
    ].entries()) {
      parts[name] = await write(20 + i, note);
      renameSync(parts[name]!.path, join(home, "plain_text", `${name}.parquet`));
    }
    const { train, test } = await loadDataset(home, size);
    const [first, second, third] = Object.values(parts) as [
      (typeof parts)[0],
      (typeof parts)[0],
      (typeof parts)[0],
    ];
    expect([train.name, test.name]).toEqual(["plain_text train", "plain_text test"]);
    expect(train.images).toEqual(bytes([...first!.data, ...second!.data]));
    expect([...train.labels]).toEqual([...first!.labels, ...second!.labels].map(Number));
    expect(test.images).toEqual(bytes(third!.data));
    expect([train.classNames, test.classNames]).toEqual([features.label.names, features.label.names]);
    await expect(loadDataset(home)).rejects.toThrow(
      /holds images in Parquet files; expected the size .*--size 64/,
    );

    // One file alone, beside folders of another kind's notes: each class keeps its own tenth.
    const alone = join(folder, "alone");
    mkdirSync(alone);
    const whole = await write(60);
    renameSync(whole.path, join(alone, "digits.parquet"));
    const split = await loadDataset(alone, { ...size, name: "digits" });
    expect([split.train.count, split.test.count]).toEqual([54, 6]);
    expect([...split.test.labels].sort()).toEqual([0, 0, 1, 1, 2, 2]);
    const held = [27, 57, 28, 58, 29, 59].map((i) => whole.data[i]!);
    expect(split.test.images).toEqual(bytes(held));
    expect(split.test.classNames).toEqual(["0", "1", "2"]);
    // Of the second class there is one image, of the third none: both stay in training.
    const few = join(folder, "few");
    mkdirSync(few);
    renameSync((await write(2, note)).path, join(few, "few.parquet"));
    await expect(loadDataset(few, size)).rejects.toThrow(/few test/);
    writeFileSync(join(alone, "more.parquet"), "");
    await expect(loadDataset(alone, size)).rejects.toThrow(
      /parquet files are incomplete: train\*.parquet missing/,
    );
    const pictures = join(folder, "pictures");
    mkdirSync(join(pictures, "a"), { recursive: true });
    for (const name of ["1.png", "2.png"])
      writeFileSync(join(pictures, "a", name), await png(pixels(48), 4, 4, 3));
    writeFileSync(join(pictures, "metadata.parquet"), "");
    expect((await loadDataset(pictures, size)).train.classNames).toEqual(["a"]);
  });

  it("takes whole numbers for classes, and no missing one for class 0", async () => {
    const images = await Promise.all(
      [1, 2, 3].map(async () => new Uint8Array(await png(pixels(3), 1, 1, 3))),
    );
    const load = (type: "INT32" | "BOOLEAN" | "STRING" | "TIMESTAMP" | "DOUBLE", data: unknown[]) => {
      const path = join(folder, "classes.parquet");
      const image = { name: "image", data: images, type: "BYTE_ARRAY" as const };
      const label = { name: "label", data, type, nullable: true };
      writeFileSync(path, new Uint8Array(parquetWriteBuffer({ columnData: [image, label] as never })));
      return loadParquetImages(path, { height: 1, width: 1 });
    };
    for (const [type, data, labels] of [
      ["INT32", [2, 0, 1], [2, 0, 1]],
      ["BOOLEAN", [true, false, true], [1, 0, 1]],
      ["STRING", ["10", "0", "3"], [10, 0, 3]],
    ] as const) {
      expect([...(await load(type, [...data])).labels]).toEqual(labels);
    }
    for (const [type, data] of [
      ["INT32", [0, null, 1]],
      ["INT32", [0, -1, 1]],
      ["STRING", ["0", "", "1"]],
      ["STRING", ["0", " 1", "1"]],
      ["DOUBLE", [0, 0.5, 1]],
    ] as const) {
      await expect(load(type, [...data])).rejects.toThrow(
        /row 1 has the label .*; expected an integer from 0/,
      );
    }
    await expect(
      load(
        "TIMESTAMP",
        [1, 0, 2].map((time) => new Date(time)),
      ),
    ).rejects.toThrow(/row 0 has the label a Date/);
  });

  it("says which field of which row is no image, where a column was written as text", async () => {
    const path = join(folder, "text.parquet");
    const load = async (cells: readonly unknown[]) => {
      const columnData = [
        { name: "img", data: cells },
        { name: "label", data: cells.map((_, i) => i), type: "INT32" },
      ];
      writeFileSync(path, new Uint8Array(parquetWriteBuffer({ columnData: columnData as never })));
      return loadParquetImages(path, { height: 1, width: 1 });
    };
    // Objects without a schema become JSON, in which bytes are numbers by name.
    await expect(load([{ bytes: Uint8Array.of(1, 2), path: "a" }])).rejects.toThrow(
      /text.parquet: row 0 has .* as img.bytes; expected the bytes of an image file \(BYTE_ARRAY\), in the column or in its field bytes/,
    );
    await expect(load([{ path: "a" }])).rejects.toThrow(/row 0 has \{ path \} as img; expected the bytes/);
  });

  it("names classes by number where nothing is noted, and refuses other files and columns", async () => {
    const { path } = await write(5);
    const size = { height: 4, width: 4 };
    expect((await loadParquetImages(path, size)).classNames).toEqual(["0", "1", "2"]);
    await expect(loadParquetImages(path, { ...size, labelColumn: "kind" })).rejects.toThrow(
      /has the columns img, label; expected kind with the classes: name it as labelColumn/,
    );
    await expect(loadParquetImages(path, { ...size, labelColumn: "img" })).rejects.toThrow(
      /row 0 has the img/,
    );
    const odd = join(folder, "odd.parquet");
    writeFileSync(odd, "PAR1 no more");
    await expect(loadParquetImages(odd, size)).rejects.toThrow(/odd.parquet: can't be read/);
    await expect(loadParquetImages(join(folder, "nowhere"), size)).rejects.toThrow(DataError);
  });
});
