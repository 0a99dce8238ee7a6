import { createHash } from "node:crypto";
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Command } from "commander";
import * as tar from "tar";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { registerData } from "../../src/cli/data.ts";
import { DataError, UsageError } from "../../src/errors.ts";
import { loadDataset } from "../../src/node/datasets.ts";
import { downloadFile, fetchDataset, REMOTE_DATASETS } from "../../src/node/download.ts";
import { Random } from "../../src/tensor/random.ts";

const md5 = (bytes: Uint8Array) => createHash("md5").update(bytes).digest("hex");
const source = new Random("download");
const CONTENT = Buffer.from(Uint8Array.from({ length: 300_000 }, () => source.int(256)));
const REMOTE_MD5 = md5(CONTENT);

/** What the server does, and what it was asked and sent: reset before each test. */
let behaviour: {
  files: Record<string, Uint8Array>;
  ranges: boolean;
  breakAfter?: number;
  /** Answers in its own way, if it says so by true. */
  lie?: (request: IncomingMessage, response: ServerResponse) => boolean;
};
let requests: { url: string; range: string | undefined; status: number; sent: number }[];
let server: Server;
let base: string;
let root: string;

function serve(request: IncomingMessage, response: ServerResponse): void {
  const body = behaviour.files[request.url!.slice(1)];
  const log = { url: request.url!, range: request.headers.range, status: 200, sent: 0 };
  requests.push(log);
  if (behaviour.lie?.(request, response)) return;
  if (!body) {
    log.status = 404;
    response.writeHead(404).end("no such file");
    return;
  }
  const start = behaviour.ranges ? Number(/^bytes=(\d+)-$/.exec(log.range ?? "")?.[1] ?? 0) : 0;
  if (start >= body.length) {
    log.status = 416;
    response.writeHead(416, { "content-range": `bytes */${body.length}` }).end();
    return;
  }
  const part = body.subarray(start);
  log.status = start > 0 ? 206 : 200;
  response.writeHead(log.status, {
    "content-length": part.length,
    ...(start > 0 && { "content-range": `bytes ${start}-${body.length - 1}/${body.length}` }),
  });
  if (behaviour.breakAfter === undefined) {
    log.sent = part.length;
    response.end(part);
    return;
  }
  log.sent = behaviour.breakAfter;
  // Give the bytes time to leave before the connection is cut, so that the client has them.
  response.write(part.subarray(0, log.sent), () => setTimeout(() => response.destroy(), 50));
}

beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), "fusenorm-download-"));
  behaviour = { files: { "file.bin": CONTENT }, ranges: true };
  requests = [];
  server = createServer(serve).listen(0, "127.0.0.1");
  await new Promise((resolve) => server.once("listening", resolve));
  base = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
});
afterEach(async () => {
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
  await rm(root, { recursive: true, force: true });
});

const remote = (file = "file.bin") => ({ url: `${base}/${file}`, md5: REMOTE_MD5 });

async function expectDataError(run: Promise<unknown>, ...parts: string[]): Promise<void> {
  const error = await run.then(
    () => undefined,
    (e: unknown) => e,
  );
  expect(error).toBeInstanceOf(DataError);
  for (const part of parts) expect((error as Error).message).toContain(part);
}

describe("downloadFile", () => {
  it("downloads a file with progress, and leaves a good one alone", async () => {
    const path = join(root, "deep", "file.bin");
    const progress: [string, number, number | undefined][] = [];
    expect(await downloadFile(remote(), path, (...seen) => progress.push(seen))).toBe("downloaded");
    expect(CONTENT.equals(await readFile(path))).toBe(true);
    expect(await readdir(join(root, "deep"))).toEqual(["file.bin"]);
    expect(progress[0]).toEqual(["file.bin", 0, CONTENT.length]);
    expect(progress.at(-1)).toEqual(["file.bin", CONTENT.length, CONTENT.length]);
    expect(await downloadFile(remote(), path)).toBe("present");
    expect(requests.length).toBe(1);
  });

  it("replaces a damaged file", async () => {
    const path = join(root, "file.bin");
    await writeFile(path, CONTENT.subarray(0, 1000));
    expect(await downloadFile(remote(), path)).toBe("downloaded");
    expect(CONTENT.equals(await readFile(path))).toBe(true);
  });

  it("resumes an interrupted download where it broke off", async () => {
    const path = join(root, "file.bin");
    behaviour.breakAfter = 120_000;
    await expectDataError(
      downloadFile(remote(), path),
      `${base}/file.bin: the connection broke after 120000 of 300000 bytes`,
      "run the same command again to resume",
    );
    expect(await readdir(root)).toEqual(["file.bin.part"]);
    behaviour.breakAfter = undefined;
    const progress: number[] = [];
    expect(await downloadFile(remote(), path, (_, received) => progress.push(received))).toBe("resumed");
    expect(requests).toEqual([
      { url: "/file.bin", range: undefined, status: 200, sent: 120_000 },
      { url: "/file.bin", range: "bytes=120000-", status: 206, sent: 180_000 },
    ]);
    expect(progress[0]).toBe(120_000);
    expect(CONTENT.equals(await readFile(path))).toBe(true);
    expect(await readdir(root)).toEqual(["file.bin"]);
  });

  it("resumes twice", async () => {
    const path = join(root, "file.bin");
    behaviour.breakAfter = 100_000;
    await expectDataError(downloadFile(remote(), path), "after 100000 of 300000");
    await expectDataError(downloadFile(remote(), path), "after 200000 of 300000");
    behaviour.breakAfter = undefined;
    expect(await downloadFile(remote(), path)).toBe("resumed");
    expect(requests.map(({ range, sent }) => [range, sent])).toEqual([
      [undefined, 100_000],
      ["bytes=100000-", 100_000],
      ["bytes=200000-", 100_000],
    ]);
    expect(CONTENT.equals(await readFile(path))).toBe(true);
  });

  it("starts over with a server that knows no ranges", async () => {
    const path = join(root, "file.bin");
    behaviour.ranges = false;
    await writeFile(`${path}.part`, CONTENT.subarray(0, 50_000));
    expect(await downloadFile(remote(), path)).toBe("downloaded");
    expect(requests).toEqual([{ url: "/file.bin", range: "bytes=50000-", status: 200, sent: 300_000 }]);
    expect(CONTENT.equals(await readFile(path))).toBe(true);
  });

  it("takes a .part that is already whole, and starts over from one that is too long", async () => {
    const path = join(root, "file.bin");
    await writeFile(`${path}.part`, CONTENT);
    expect(await downloadFile(remote(), path)).toBe("downloaded");
    expect(requests.map(({ status }) => status)).toEqual([416]);
    await rm(path);
    await writeFile(`${path}.part`, Buffer.concat([CONTENT.subarray(0, 1000), Buffer.alloc(400_000)]));
    expect(await downloadFile(remote(), path)).toBe("downloaded");
    expect(requests.map(({ range, status }) => [range, status]).slice(1)).toEqual([
      ["bytes=401000-", 416],
      [undefined, 200],
    ]);
    expect(CONTENT.equals(await readFile(path))).toBe(true);
  });

  it("deletes a file with a wrong checksum and says so", async () => {
    const path = join(root, "file.bin");
    const wrong = Buffer.from(CONTENT);
    wrong[5]! ^= 1;
    behaviour.files["file.bin"] = wrong;
    await expectDataError(
      downloadFile(remote(), path),
      `wrong checksum: expected md5 ${REMOTE_MD5}, found ${md5(wrong)} in 300000 bytes`,
      "the file was deleted",
    );
    expect(await readdir(root)).toEqual([]);
    // The same from a damaged beginning that was resumed; the next run then starts clean.
    behaviour.files["file.bin"] = CONTENT;
    await writeFile(`${path}.part`, wrong.subarray(0, 1000));
    await expectDataError(downloadFile(remote(), path), "wrong checksum");
    expect(await downloadFile(remote(), path)).toBe("downloaded");
  });

  it("reports a missing file and a server that is not there, and writes nothing", async () => {
    await expectDataError(
      downloadFile(remote("other.bin"), join(root, "other.bin")),
      `${base}/other.bin: the server answered 404 Not Found; expected 200 or 206`,
    );
    await new Promise((resolve) => server.close(resolve));
    await expectDataError(
      downloadFile(remote(), join(root, "file.bin")),
      "no connection",
      "check the network and run the same command again",
    );
    expect(await readdir(root)).toEqual([]);
    server = createServer(serve).listen(0, "127.0.0.1");
  });
});

describe("a server that lies", () => {
  const path = () => join(root, "file.bin");
  const sized = (bytes = CONTENT.length) => ({ ...remote(), bytes });
  const lie = (answer: (request: IncomingMessage, response: ServerResponse) => void) => {
    behaviour.lie = (request, response) => {
      answer(request, response);
      return true;
    };
  };
  const honest = () => {
    behaviour.lie = undefined;
  };

  it("is read no further than the file's size, and leaves nothing", async () => {
    let sent = 0;
    lie((_, response) => {
      response.writeHead(200);
      const more = () => {
        while (!response.destroyed && response.write(CONTENT)) sent += CONTENT.length;
      };
      response.on("drain", more);
      more();
    });
    await expectDataError(
      downloadFile(sized(), path()),
      "the server sends more than 300000 bytes, which is the file's size",
    );
    expect(await readdir(root)).toEqual([]);
    expect(sent).toBeLessThan(50e6);
    honest();
    expect(await downloadFile(sized(), path())).toBe("downloaded");
  });

  it("is refused by its headers where it has another size, or more than is ever taken", async () => {
    const claim = (length: number) =>
      lie((_, response) => void response.writeHead(200, { "content-length": length }).flushHeaders());
    for (const length of [1, CONTENT.length - 1, CONTENT.length + 1, 2 ** 45]) {
      claim(length);
      await expectDataError(
        downloadFile(sized(), path()),
        `the server's file has ${length} bytes; expected 300000: the file there has changed`,
      );
    }
    claim(2 ** 30 + 1);
    await expectDataError(
      downloadFile(remote(), path()),
      "has 1073741825 bytes; expected at most 1073741824",
    );
    expect(await readdir(root)).toEqual([]);
  });

  it("is told by its web page", async () => {
    const page = "<!doctype html><title>Sign in</title>";
    lie((_, response) => response.writeHead(200, { "content-type": "text/html; charset=utf-8" }).end(page));
    await expectDataError(
      downloadFile(sized(), path()),
      "the server sent a web page, of an error or a login",
    );
    lie((_, response) => response.writeHead(503, "No \u00ff way").end(page));
    await expectDataError(downloadFile(sized(), path()), "the server answered 503");
  });

  it("may close early, in chunks too, and be resumed", async () => {
    lie((_, response) => {
      response.write(CONTENT.subarray(0, 100_000));
      response.end();
    });
    await expectDataError(downloadFile(sized(), path()), "the connection broke after 100000 of 300000 bytes");
    expect(await readdir(root)).toEqual(["file.bin.part"]);
    // A range that ends early: what came is kept as well.
    lie((_, response) =>
      response
        .writeHead(206, { "content-range": "bytes 100000-149999/300000" })
        .end(CONTENT.subarray(100_000, 150_000)),
    );
    await expectDataError(downloadFile(sized(), path()), "the connection broke after 150000 of 300000 bytes");
    honest();
    expect(await downloadFile(sized(), path())).toBe("resumed");
    expect(CONTENT.equals(await readFile(path()))).toBe(true);
  });

  it("may say another start than was asked for, another size, or none", async () => {
    for (const range of [
      "bytes 0-299999/300000",
      "bytes 90000-299999/300000",
      "pages 3-4/5",
      "",
      "bytes */300000",
    ]) {
      await writeFile(`${path()}.part`, CONTENT.subarray(0, 100_000));
      behaviour.lie = (request, response) => {
        if (!request.headers.range) return false;
        response.writeHead(206, range ? { "content-range": range } : {}).end(CONTENT.subarray(90_000));
        return true;
      };
      expect(await downloadFile(sized(), path()), range).toBe("downloaded");
      expect(CONTENT.equals(await readFile(path()))).toBe(true);
      await rm(path());
    }
    await writeFile(`${path()}.part`, CONTENT.subarray(0, 100_000));
    lie((_, response) => response.writeHead(206, { "content-range": "bytes 100000-399999/400000" }).end("x"));
    await expectDataError(
      downloadFile(sized(), path()),
      "the server's file has 400000 bytes; expected 300000",
    );
    // The right start, other bytes: only the checksum can tell.
    lie((_, response) =>
      response
        .writeHead(206, { "content-range": "bytes 100000-299999/300000" })
        .end(CONTENT.subarray(0, 200_000)),
    );
    await expectDataError(downloadFile(sized(), path()), "wrong checksum");
    expect(await readdir(root)).toEqual([]);
    // Part of the file to one who asked for all of it.
    lie((_, response) => response.writeHead(206, { "content-range": "bytes 5-9/300000" }).end("12345"));
    await expectDataError(downloadFile(sized(), path()), "the server answered 206");
  });

  it("may send elsewhere, but not to what is no web address, nor in circles", async () => {
    for (const target of ["file:///etc/hostname", "ftp://127.0.0.1/x", "data:text/plain,hello", "/again"]) {
      lie((_, response) => response.writeHead(302, { location: target }).end());
      await expectDataError(downloadFile(sized(), path()), "no connection");
    }
    behaviour.lie = (request, response) => {
      if (request.url === "/file.bin") return false;
      response.writeHead(302, { location: "/file.bin" }).end();
      return true;
    };
    expect(await downloadFile({ ...sized(), url: `${base}/moved` }, path())).toBe("downloaded");
  });

  it("need not be asked for a .part that is whole, and a .part of other bytes is no beginning", async () => {
    await writeFile(`${path()}.part`, CONTENT);
    expect(await downloadFile(sized(), path())).toBe("downloaded");
    expect(requests).toEqual([]);
    for (const size of [300_000, 300_001]) {
      await rm(path());
      await writeFile(`${path()}.part`, Buffer.alloc(size, 7));
      expect(await downloadFile(sized(), path())).toBe("downloaded");
      expect(CONTENT.equals(await readFile(path()))).toBe(true);
    }
  });
});

describe("downloadFile where it can't write, or is called wrongly", () => {
  it("names the file, and the system's reason", async () => {
    await writeFile(join(root, "file"), "");
    await expectDataError(
      downloadFile(remote(), join(root, "file", "x.bin")),
      `${join(root, "file")}: can't be written: E`,
    );
    await mkdir(join(root, "y.bin.part"));
    await expectDataError(downloadFile(remote(), join(root, "y.bin")), "y.bin.part: can't be");
    await mkdir(join(root, "z.bin"));
    await expectDataError(downloadFile(remote(), join(root, "z.bin")), "z.bin: can't be read: EISDIR");
  });

  it("lets an error of the caller's through, and goes on after it", async () => {
    const path = join(root, "file.bin");
    const stop = () => {
      throw new RangeError("mine");
    };
    await expect(downloadFile(remote(), path, stop)).rejects.toThrow(new RangeError("mine"));
    expect(await downloadFile(remote(), path)).toBe("downloaded");
  });

  it.each<[string, unknown, string]>([
    ["nothing", undefined, "the file is undefined; expected"],
    [
      "a file's address",
      { url: "file:///etc/passwd", md5: REMOTE_MD5 },
      'url is "file:///etc/passwd"; expected an address',
    ],
    ["no address", { url: "not one", md5: REMOTE_MD5 }, 'url is "not one"'],
    ["no checksum", { url: "http://127.0.0.1/x" }, "md5 is undefined"],
    ["another checksum", { url: "http://127.0.0.1/x", md5: "abc" }, 'md5 is "abc"'],
    ["a negative size", { url: "http://127.0.0.1/x", md5: REMOTE_MD5, bytes: -1 }, "bytes is -1"],
  ])("refuses %s", async (_, file, message) => {
    await expectDataError(downloadFile(file as never, join(root, "x")), message);
    await expectDataError(
      fetchDataset("x", { archive: false, files: [file as never] }, { cache: root }),
      message,
    );
  });

  it("refuses options that are none", async () => {
    const remotes = { archive: false, files: [remote()] };
    for (const options of [null, 5, { cache: 5 }, { miror: "x" }, { onProgress: "bar" }]) {
      await expect(fetchDataset("x", remotes, options as never)).rejects.toThrow(UsageError);
    }
    await expectDataError(
      fetchDataset("x", remotes, { cache: root, mirror: "ftp://x" }),
      'mirror is "ftp://x"',
    );
    await expect(downloadFile(remote(), join(root, "x"), null as never)).rejects.toThrow(UsageError);
    expect(requests).toEqual([]);
  });

  it("refuses names that lead out of the cache", async () => {
    const files = [{ url: "http://127.0.0.1/x", md5: REMOTE_MD5 }];
    for (const name of ["..", "../x", "a/b", "", "a\u0000", undefined]) {
      await expectDataError(
        fetchDataset(name as never, { archive: false, files }, { cache: root }),
        "name is",
      );
    }
    const unnamed = [{ url: "http://127.0.0.1/", md5: REMOTE_MD5 }];
    await expectDataError(
      fetchDataset("x", { archive: false, files: unnamed }, { cache: root }),
      "ends in no file's name",
    );
    await expectDataError(fetchDataset("x", undefined as never, { cache: root }), "remote is undefined");
  });
});

describe("fetchDataset", () => {
  /** A CIFAR-10 archive as published: one directory with the batches, two records each. */
  async function archive(): Promise<Uint8Array> {
    const directory = join(root, "build", "cifar-10-batches-bin");
    await mkdir(directory, { recursive: true });
    for (const name of [
      "data_batch_1",
      "data_batch_2",
      "data_batch_3",
      "data_batch_4",
      "data_batch_5",
      "test_batch",
    ]) {
      await writeFile(join(directory, `${name}.bin`), new Uint8Array(2 * 3073).fill(3));
    }
    const path = join(root, "build", "made.tar.gz");
    await tar.c({ gzip: true, file: path, cwd: join(root, "build") }, ["cifar-10-batches-bin"]);
    return readFile(path);
  }

  it("unpacks an archive into the cache, once", async () => {
    const bytes = await archive();
    behaviour.files["cifar.tar.gz"] = bytes;
    const cache = join(root, "cache");
    const cifar = { archive: true, files: [{ url: `${base}/cifar.tar.gz`, md5: md5(bytes) }] };
    const directory = join(cache, "cifar10");
    expect(await fetchDataset("cifar10", cifar, { cache })).toEqual({ directory, downloaded: true });
    expect(await readdir(cache)).toEqual(["cifar10"]);
    expect((await loadDataset("cifar10", { cache })).train).toMatchObject({ count: 10, classes: 10 });
    expect(await fetchDataset("cifar10", cifar, { cache })).toEqual({ directory, downloaded: false });
    expect(requests.length).toBe(1);
  });

  it("leaves no half-unpacked directory, and nothing of the user's is touched", async () => {
    const bytes = (await archive()).subarray(0, 200);
    behaviour.files["cifar.tar.gz"] = bytes;
    const cache = join(root, "cache");
    const cifar = { archive: true, files: [{ url: `${base}/cifar.tar.gz`, md5: md5(bytes) }] };
    await expectDataError(fetchDataset("cifar10", cifar, { cache }), "cifar.tar.gz: can't be unpacked");
    expect(await readdir(cache)).toEqual(["cifar.tar.gz"]);
    await mkdir(join(cache, "cifar10"));
    await writeFile(join(cache, "cifar10", "thesis.tex"), "mine");
    await expectDataError(fetchDataset("cifar10", cifar, { cache }), "is in the way", "move it elsewhere");
    expect(await readFile(join(cache, "cifar10", "thesis.tex"), "utf8")).toBe("mine");
  });

  it("takes separate files from a mirror, and only those that are missing", async () => {
    const cache = join(root, "cache");
    const files = ["one.gz", "two.gz"].map((name) => ({
      url: `http://example.invalid/a/${name}`,
      md5: REMOTE_MD5,
    }));
    behaviour.files = { "m/one.gz": CONTENT };
    const separate = { archive: false, files };
    const options = { cache, mirror: `${base}/m/` };
    await expectDataError(fetchDataset("set", separate, options), "/m/two.gz: the server answered 404");
    behaviour.files["m/two.gz"] = CONTENT;
    expect(await fetchDataset("set", separate, options)).toMatchObject({ downloaded: true });
    expect(requests.map(({ url }) => url)).toEqual(["/m/one.gz", "/m/two.gz", "/m/two.gz"]);
    expect((await readdir(join(cache, "set"))).sort()).toEqual(["one.gz", "two.gz"]);
  });

  it("knows official addresses with a checksum each", () => {
    const all = Object.values(REMOTE_DATASETS).flatMap(({ files }) => files);
    expect(all.length).toBe(6);
    for (const { url, md5: sum, bytes } of all) {
      expect(bytes).toBeGreaterThan(5000);
      expect(new URL(url).pathname).toMatch(/\.gz$/);
      expect(sum).toMatch(/^[0-9a-f]{32}$/);
    }
    expect(new Set(all.map(({ md5: sum }) => sum)).size).toBe(6);
  });
});

describe("fusenorm data", () => {
  async function fusenorm(...args: string[]): Promise<string> {
    const program = new Command().exitOverride().configureOutput({ writeErr: () => {} });
    registerData(program);
    for (const command of program.commands.flatMap((c) => [c, ...c.commands])) {
      command.exitOverride().configureOutput({ writeErr: () => {} });
    }
    const log = vi.spyOn(console, "log").mockImplementation(() => {});
    try {
      await program.parseAsync(["data", ...args], { from: "user" });
      return log.mock.calls.flat().join("\n");
    } finally {
      log.mockRestore();
    }
  }

  it("describes a data set", async () => {
    const text = await fusenorm("info", "embedded");
    expect(text).toContain("train    2,000 images, 200 per class");
    expect(text).toContain("test     500 images, 50 per class");
    expect(text).toContain("size     28 × 28, 1 channel");
    expect(text).toContain("classes  10: T-shirt/top, Trouser");
    expect(text).toMatch(/mean {5}0\.2\d+ +std 0\.3\d+/);
  });

  it("lists what is here, and how to get what is not", async () => {
    const text = await fusenorm("list", "--cache", root);
    expect(text).toContain("train    2,000 images");
    expect(text).toContain("cifar10\n  no complete copy in");
    expect(text).toContain("run `npx fusenorm-cli data fetch cifar100`");
  });

  it("fails clearly: unknown name, empty directory, bad mirror, missing file, wrong file", async () => {
    await expect(fusenorm("fetch", "imagenet")).rejects.toThrow(
      /imagenet.*Allowed choices are cifar10, cifar100/,
    );
    await expect(fusenorm("info")).rejects.toThrow(/missing required argument/);
    await expectDataError(fusenorm("info", root), "no data set found, it is empty");
    await expect(fusenorm("fetch", "cifar10", "--mirror", "ftp://x")).rejects.toThrow(UsageError);
    const fetchCifar = () => fusenorm("fetch", "cifar10", "--cache", join(root, "c"), "--mirror", base);
    await expectDataError(fetchCifar(), "cifar-10-binary.tar.gz: the server answered 404");
    behaviour.files["cifar-10-binary.tar.gz"] = CONTENT;
    await expectDataError(fetchCifar(), "the server's file has 300000 bytes; expected 170052171");
    expect(await readdir(join(root, "c"))).toEqual([]);
  });
});
