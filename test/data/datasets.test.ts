import { mkdir, mkdtemp, readdir, readFile, rm, stat, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import sharp from "sharp";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { classCounts, FASHION_MNIST_CLASSES, type ImageDataset } from "../../src/data/dataset.ts";
import { encodeIdx } from "../../src/data/idx.ts";
import { DataError, UsageError } from "../../src/errors.ts";
import { embeddedDirectory, findDataset, loadDataset } from "../../src/node/datasets.ts";
import { cacheDirectory, readNamed, writeFileAtomic } from "../../src/node/files.ts";

let root: string;
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), "fusenorm-data-"));
});
afterEach(() => rm(root, { recursive: true, force: true }));

async function put(files: Record<string, Uint8Array | string>, directory = root): Promise<void> {
  await mkdir(directory, { recursive: true });
  for (const [name, contents] of Object.entries(files)) await writeFile(join(directory, name), contents);
}

function mnistFiles(sizes = { train: [6, 3, 2], t10k: [4, 3, 2] }): Record<string, Uint8Array> {
  const files: Record<string, Uint8Array> = {};
  for (const [split, shape] of Object.entries(sizes)) {
    const [count, height, width] = shape as [number, number, number];
    files[`${split}-images-idx3-ubyte`] = encodeIdx(
      shape,
      Uint8Array.from({ length: count * height * width }, (_, i) => i),
    );
    files[`${split}-labels-idx1-ubyte`] = encodeIdx(
      [count],
      Uint8Array.from({ length: count }, (_, i) => i % 3),
    );
  }
  return files;
}

function cifarFiles(perFile = 2): Record<string, Uint8Array> {
  const names = [1, 2, 3, 4, 5].map((i) => `data_batch_${i}.bin`);
  // Every byte of batch i is i, the label too, so that the order of the files shows.
  return Object.fromEntries(
    [...names, "test_batch.bin"].map((name, i) => [name, new Uint8Array(perFile * 3073).fill(i + 1)]),
  );
}

async function expectDataError(run: Promise<unknown>, ...parts: string[]): Promise<void> {
  const error = await run.then(
    () => undefined,
    (e: unknown) => e,
  );
  expect(error).toBeInstanceOf(DataError);
  for (const part of parts) expect((error as Error).message).toContain(part);
}

describe("the embedded sample", () => {
  it("is 2,500 balanced images of Fashion-MNIST", async () => {
    const { train, test } = await loadDataset("embedded");
    expect(train).toMatchObject({ count: 2000, height: 28, width: 28, channels: 1, classes: 10 });
    expect(test).toMatchObject({ count: 500, height: 28, width: 28, channels: 1, classes: 10 });
    expect(classCounts(train)).toEqual(new Array(10).fill(200));
    expect(classCounts(test)).toEqual(new Array(10).fill(50));
    expect(train.classNames).toEqual([...FASHION_MNIST_CLASSES]);
    // Fashion-MNIST's first training labels, as published: ankle boot, two T-shirts, dress, T-shirt, …
    expect([...train.labels.subarray(0, 8)]).toEqual([9, 0, 0, 3, 0, 2, 7, 2]);
    expect([...test.labels.subarray(0, 8)]).toEqual([9, 2, 1, 1, 6, 1, 4, 6]);
  });

  it("is small and carries its licence", async () => {
    const directory = embeddedDirectory();
    const sizes = await Promise.all(
      (await readdir(directory)).map(async (name) => (await stat(join(directory, name))).size),
    );
    expect(sizes.reduce((a, b) => a + b)).toBeLessThan(1.5e6);
    expect(await readFile(join(directory, "LICENSE"), "utf8")).toMatch(/MIT License[\s\S]*Zalando SE/);
  });
});

describe("loadDataset", () => {
  it("reads a directory of IDX files, plain or gzip, with class names if given", async () => {
    const files = mnistFiles();
    files["train-images-idx3-ubyte.gz"] = gzipSync(files["train-images-idx3-ubyte"]!);
    delete files["train-images-idx3-ubyte"];
    await put(files);
    const { train, test } = await loadDataset(root);
    expect(train).toMatchObject({ count: 6, height: 3, width: 2, channels: 1, classNames: ["0", "1", "2"] });
    expect(test.count).toBe(4);
    expect(train.images[7]).toBe(7);
    await put({ "classes.txt": "ant\nbee\ncat\ndog\n" });
    expect((await loadDataset(root, { name: "Insects" })).train).toMatchObject({
      name: "Insects train",
      classes: 4,
      classNames: ["ant", "bee", "cat", "dog"],
    });
  });

  it("takes Fashion-MNIST's class names from the directory's name", async () => {
    const directory = join(root, "my-fashion-mnist");
    await put(mnistFiles(), directory);
    expect((await loadDataset(directory)).test.classNames).toEqual([...FASHION_MNIST_CLASSES]);
  });

  it("reads CIFAR-10 one level down, batches in order", async () => {
    await put({ "notes.txt": "not data" });
    await mkdir(join(root, "another"));
    await put(cifarFiles(), join(root, "cifar-10-batches-bin"));
    const { train, test } = await loadDataset(root);
    expect([...train.labels]).toEqual([1, 1, 2, 2, 3, 3, 4, 4, 5, 5]);
    expect([...test.labels]).toEqual([6, 6]);
  });

  it("names a folder in CIFAR's format after what it holds", async () => {
    const name = async (path: string) => (await loadDataset(path)).train.name;
    const folder = join(root, "ten (JPEG)");
    await put(cifarFiles(), folder);
    expect(await name(folder)).toBe("ten (JPEG) train");
    await put(cifarFiles(), join(root, "again", "cifar-10-batches-bin"));
    expect(await name(join(root, "again"))).toBe("again train");
    expect(await name(join(root, "again", "cifar-10-batches-bin"))).toBe("again train");
    // The first reds of the true first image, and then those of a copy that has lost one grey level.
    const files = cifarFiles();
    files["data_batch_1.bin"]!.set([6, 59, 43, 50, 68, 98, 119]);
    await put(files, folder);
    expect(await name(folder)).toBe("CIFAR-10 train");
    files["data_batch_1.bin"]![4] = 67;
    await put(files, folder);
    expect(await name(folder)).toBe("ten (JPEG) train");
    const hundred = join(root, "fine");
    const train = new Uint8Array(3074);
    await put({ "train.bin": train, "test.bin": new Uint8Array(3074) }, hundred);
    expect(await name(hundred)).toBe("fine train");
    train.set([11, 19]);
    train.set([195, 212, 182], 2 + 29);
    await put({ "train.bin": train }, hundred);
    expect(await name(hundred)).toBe("CIFAR-100 train");
    expect((await loadDataset(hundred, { name: "mine" })).test.name).toBe("mine test");
  });

  it("reads CIFAR-100", async () => {
    await put({
      "train.bin": new Uint8Array(3 * 3074).fill(99),
      "test.bin": new Uint8Array(3074),
      "fine_label_names.txt": "",
    });
    const { train } = await loadDataset(root);
    expect(train).toMatchObject({ count: 3, classes: 100 });
    expect(train.classNames[train.labels[0]!]).toBe("worm");
  });

  it("finds named data in the cache", async () => {
    await put(cifarFiles(), join(root, "cifar10"));
    expect((await loadDataset("cifar10", { cache: root })).train.count).toBe(10);
    await put({ "train.bin": "" }, join(root, "cifar100"));
    await put(mnistFiles(), join(root, "fashion-mnist"));
    expect((await loadDataset("fashion-mnist", { cache: root })).train.count).toBe(6);
    await expectDataError(
      loadDataset("cifar100", { cache: root }),
      `cifar100: no complete copy in ${join(root, "cifar100")}; run \`npx fusenorm-cli data fetch cifar100\``,
    );
  });

  it("says what a directory without data must hold, and what it holds", async () => {
    const needs = ["train,t10k", "data_batch_1.bin", "train.bin and test.bin", "fusenorm-cli data fetch"];
    await expectDataError(loadDataset(root), `${root}: no data set found, it is empty`, ...needs);
    await put({ "cat.jpg": "", "dog.jpg": "" });
    await expectDataError(loadDataset(root), "it holds cat.jpg, dog.jpg", ...needs);
    await expectDataError(loadDataset(join(root, "nowhere")), "no such directory", "cifar10");
    await expectDataError(loadDataset(join(root, "cat.jpg")), "a file, not a directory");
  });

  it("names missing files", async () => {
    const files = cifarFiles();
    delete files["data_batch_4.bin"];
    delete files["test_batch.bin"];
    await put(files);
    await expectDataError(loadDataset(root), "incomplete: data_batch_4.bin, test_batch.bin missing");
    const idx = join(root, "idx");
    const mnist = mnistFiles();
    delete mnist["t10k-labels-idx1-ubyte"];
    await put(mnist, idx);
    await expectDataError(loadDataset(idx), "incomplete: t10k-labels-idx1-ubyte[.gz] missing");
    await put({ "train.bin": new Uint8Array(3074) }, join(root, "c100"));
    await expectDataError(loadDataset(join(root, "c100")), "incomplete: test.bin missing");
  });

  it("does not choose between several data sets", async () => {
    await put(cifarFiles(), join(root, "a"));
    await put(mnistFiles(), join(root, "b"));
    await expectDataError(findDataset(root), "2 data sets below it (a, b)");
    const emnist = Object.entries(mnistFiles()).map(([name, bytes]) => [`emnist-${name}`, bytes] as const);
    await put(Object.fromEntries(emnist), join(root, "b"));
    await expectDataError(findDataset(join(root, "b")), "2 IDX data sets in one directory", '"emnist"');
  });

  it("names the damaged file of a directory", async () => {
    const files = cifarFiles();
    files["data_batch_3.bin"] = files["data_batch_3.bin"]!.subarray(0, 4000);
    await put(files);
    await expectDataError(
      loadDataset(root),
      join(root, "data_batch_3.bin"),
      "multiple of 3073 bytes",
      "found 4000 = 1 records + 927 bytes",
    );
  });

  it("rejects splits that don't belong together", async () => {
    await put(mnistFiles({ train: [6, 3, 2], t10k: [4, 3, 3] }));
    await expectDataError(loadDataset(root), "training images are [3, 2, 1], test images [3, 3, 1]");
    const files = mnistFiles();
    files["t10k-labels-idx1-ubyte"] = encodeIdx([4], Uint8Array.of(0, 1, 2, 3));
    await put(files);
    await expectDataError(loadDataset(root), "label 3 at position 3; expected 0 … 2");
  });
});

describe("image folders", () => {
  const sizes = { height: 2, width: 3 };
  /** A PNG of one colour; what is read of it is that colour. */
  const image = (red: number) =>
    sharp({ create: { width: 3, height: 2, channels: 3, background: { r: red, g: 1, b: 2 } } })
      .png()
      .toBuffer();
  const folders = async (home: string, classes: Record<string, number[]>) => {
    for (const [name, reds] of Object.entries(classes)) {
      const files = await Promise.all(
        reds.map(async (red, i) => [`${10 + i}.png`, await image(red)] as const),
      );
      await put(Object.fromEntries(files), join(home, name));
    }
  };
  /** Each image's label and red. */
  const told = ({ labels, images }: ImageDataset) => [...labels].map((label, i) => [label, images[18 * i]]);

  it("train and val, or test, by the classes of train", async () => {
    const home = join(root, "photos");
    await folders(join(home, "train"), { ant: [10, 11], bee: [20], cat: [30, 31] });
    await folders(join(home, "test"), { cat: [39], ant: [19] });
    const { train, test } = await loadDataset(home, sizes);
    expect([train.name, test.name]).toEqual(["photos train", "photos test"]);
    expect(train).toMatchObject({ height: 2, width: 3, channels: 3, classNames: ["ant", "bee", "cat"] });
    expect(test.classNames).toEqual(train.classNames);
    expect(told(train)).toEqual([
      [0, 10],
      [0, 11],
      [1, 20],
      [2, 30],
      [2, 31],
    ]);
    expect(told(test)).toEqual([
      [0, 19],
      [2, 39],
    ]);
    // Of both the validation set: the test set is for the end.
    await folders(join(home, "val"), { bee: [29] });
    expect(told((await loadDataset(home, { ...sizes, channels: 3 })).test)).toEqual([[1, 29]]);
    expect(await findDataset(home)).toMatchObject({ kind: "folders", directory: home });
    await folders(join(home, "val"), { dog: [49] });
    await expectDataError(loadDataset(home, sizes), "has a folder dog, and", "expected the same classes");
  });

  it("classes alone: every tenth image is held out, of few the last", async () => {
    const home = join(root, "photos");
    await folders(home, { ant: Array.from({ length: 21 }, (_, i) => i), train: [101, 102, 103] });
    const { train, test } = await loadDataset(home, sizes);
    expect(told(test)).toEqual([
      [0, 9],
      [0, 19],
      [1, 103],
    ]);
    expect(train.count).toBe(19 + 2);
    expect(told(train).filter(([label]) => label === 1)).toEqual([
      [1, 101],
      [1, 102],
    ]);
    await folders(home, { one: [5] });
    await expectDataError(loadDataset(home, sizes), join(home, "one"), "has 1 image; expected 2 or more");
  });

  it("want a size, which others have", async () => {
    await folders(root, { ant: [1, 2], bee: [3, 4] });
    for (const given of [{}, { height: 2 }, { width: 3 }]) {
      await expectDataError(
        loadDataset(root, given),
        "expected the size that they are scaled to",
        "--size 64",
      );
    }
    await expectDataError(
      loadDataset(root, { ...sizes, channels: 2 as never }),
      "channels is 2; expected 1 or 3",
    );
    await put(mnistFiles(), join(root, "mnist"));
    await expectDataError(loadDataset(join(root, "mnist"), { channels: 1 }), "has a size of its own");
  });
});

describe("what is no data", () => {
  it("is refused by name and kind: wrong arguments, pipes, devices without an end", async () => {
    for (const wrong of [undefined, null, 5, "", ["a"]]) {
      await expectDataError(loadDataset(wrong as never), "loadDataset: source is");
    }
    await expectDataError(findDataset(undefined as never), "findDataset: directory is undefined");
    for (const [options, message] of [
      [null, "options is null"],
      ["cifar10", 'options is "cifar10"'],
      [{ cash: root }, 'there is no option "cash"; did you mean "cache"?'],
      [{ cache: 5 }, "cache is 5"],
      [{ name: ["a"] }, 'name is ["a"]'],
    ] as const) {
      await expect(loadDataset("cifar10", options as never)).rejects.toThrow(UsageError);
      await expect(loadDataset("cifar10", options as never)).rejects.toThrow(message);
    }
    await expectDataError(loadDataset("a\u0000b"), "\\u0000b:");
    await put(cifarFiles());
    await rm(join(root, "data_batch_2.bin"));
    await symlink("/dev/zero", join(root, "data_batch_2.bin"));
    await expectDataError(loadDataset(root), "data_batch_2.bin: can't be read: it is no plain file");
    await expectDataError(readNamed(root), "it is no plain file");
    await expectDataError(readNamed(undefined as never), "path is undefined");
  });

  it("may have a name that would drive a terminal: it is escaped wherever it is printed", async () => {
    const directory = join(root, "evil\u001b[2J\nset");
    await put({ ...mnistFiles(), "classes.txt": "\ufeffant\u001b[31m\r\nbee\ncat\n" }, directory);
    const { train } = await loadDataset(directory);
    expect(train.name).toBe("evil\\u001b[2J\\u000aset train");
    expect(train.classNames).toEqual(["ant\\u001b[31m", "bee", "cat"]);
    await rm(join(directory, "t10k-labels-idx1-ubyte"));
    await expectDataError(loadDataset(directory), "evil\\u001b[2J\\u000aset: idx files are incomplete");
    await put({ "b\u0007\nell": "" }, join(root, "other"));
    await expectDataError(loadDataset(join(root, "other")), "it holds b\\u0007\\u000aell");
  });

  it("is a classes.txt of a megabyte or more", async () => {
    await put({ ...mnistFiles(), "classes.txt": "a\n".repeat(1e6) });
    await expectDataError(
      loadDataset(root),
      "classes.txt: has 2000000 bytes; expected one class name per line",
    );
  });
});

describe("files", () => {
  it("puts the cache where the environment says", () => {
    const before = { ...process.env };
    try {
      process.env.FUSENORM_CACHE = "/a";
      process.env.XDG_CACHE_HOME = "/b";
      expect(cacheDirectory()).toBe("/a");
      expect(cacheDirectory("/c")).toBe("/c");
      delete process.env.FUSENORM_CACHE;
      expect(cacheDirectory()).toBe("/b/fusenorm");
      delete process.env.XDG_CACHE_HOME;
      process.env.HOME = "/home/u";
      expect(cacheDirectory()).toBe("/home/u/.cache/fusenorm");
    } finally {
      // One by one: `process.env = {…}` would cut the tests after this one off from the environment of native code.
      for (const name of ["HOME", "XDG_CACHE_HOME", "FUSENORM_CACHE"]) {
        if (before[name] === undefined) delete process.env[name];
        else process.env[name] = before[name];
      }
    }
  });

  it("writes whole files or nothing", async () => {
    await writeFileAtomic(join(root, "new", "file"), "text");
    expect(await readFile(join(root, "new", "file"), "utf8")).toBe("text");
    await mkdir(join(root, "taken", "x"), { recursive: true });
    await expectDataError(
      writeFileAtomic(join(root, "taken"), "text"),
      `${join(root, "taken")}: can't be written: E`,
    );
    await expectDataError(
      writeFileAtomic(join(root, "new", "file", "x"), "text"),
      "file/x: can't be written: E",
    );
    await expectDataError(writeFileAtomic("/dev/full/x", "text"), "/dev/full/x: can't be written: E");
    expect((await readdir(root)).sort()).toEqual(["new", "taken"]);
  });
});
