import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { chmod, mkdtemp, open, rename, rm, stat } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { pipeline } from "node:stream/promises";
import { DataError } from "../errors.ts";
import { printable } from "../foreign.ts";
import { checkFunction, checkOptions, checkText, optionNames, show } from "../options.ts";
import { findDataset } from "./datasets.ts";
import { cacheDirectory, fileError, makeDirectory } from "./files.ts";
import { unpackTar } from "./unpack.ts";

/** A file of a data set: where it is, its size and checksum. */
export interface RemoteFile {
  url: string;
  /** Of the file as served, hexadecimal. */
  md5: string;
  /** Size as served: an answer of another size is refused, and no more is taken. Without it, 2³⁰ bytes at most. */
  bytes?: number;
}

const MOST_BYTES = 2 ** 30;

/** Files of a data set; an `archive` is one .tar.gz that is unpacked, without its outermost directory. */
export interface RemoteDataset {
  files: RemoteFile[];
  archive: boolean;
}

const FASHION_MNIST_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com";

/** Official addresses, sizes, and the checksums published beside them. */
export const REMOTE_DATASETS = {
  cifar10: {
    archive: true,
    files: [
      {
        url: "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        md5: "c32a1d4ab5d03f1284b67883e8d87530",
        bytes: 170_052_171,
      },
    ],
  },
  cifar100: {
    archive: true,
    files: [
      {
        url: "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
        md5: "03b5dce01913d631647c71ecec9e9cb8",
        bytes: 168_513_733,
      },
    ],
  },
  "fashion-mnist": {
    archive: false,
    files: [
      {
        url: `${FASHION_MNIST_URL}/train-images-idx3-ubyte.gz`,
        md5: "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        bytes: 26_421_880,
      },
      {
        url: `${FASHION_MNIST_URL}/train-labels-idx1-ubyte.gz`,
        md5: "25c81989df183df01b3e8a0aad5dffbe",
        bytes: 29_515,
      },
      {
        url: `${FASHION_MNIST_URL}/t10k-images-idx3-ubyte.gz`,
        md5: "bef4ecab320f06d8554ea6380940ec79",
        bytes: 4_422_102,
      },
      {
        url: `${FASHION_MNIST_URL}/t10k-labels-idx1-ubyte.gz`,
        md5: "bb300cfdad3c16e7a12a480ee83cd310",
        bytes: 5_148,
      },
    ],
  },
} satisfies Record<string, RemoteDataset>;

/** A data set that `fetchDataset` downloads. */
export type RemoteName = keyof typeof REMOTE_DATASETS;

/** Bytes of a file that are there so far, and of how many (when the server says). */
export type OnProgress = (file: string, received: number, total: number | undefined) => void;

const sizeOf = (path: string): Promise<number | undefined> =>
  stat(path).then(
    (s) => s.size,
    () => undefined,
  );

async function md5Of(path: string): Promise<string> {
  const hash = createHash("md5");
  try {
    await pipeline(createReadStream(path), hash);
  } catch (cause) {
    throw fileError(path, "read", cause);
  }
  return hash.digest("hex");
}

/** @throws DataError unless `remote` is { url, md5 }, with a size or without. */
function checkRemoteFile(op: string, remote: RemoteFile): void {
  if (remote === null || typeof remote !== "object") {
    throw new DataError(`${op}: the file is ${show(remote)}; expected { url, md5 }`);
  }
  const { url, md5, bytes } = remote;
  const rule = (name: string, value: unknown, ok: boolean, expected: string) => {
    if (!ok) throw new DataError(`${op}: ${name} is ${show(value)}; expected ${expected}`);
  };
  const isWeb = typeof url === "string" && URL.canParse(url) && /^https?:$/.test(new URL(url).protocol);
  rule("url", url, isWeb, "an address that begins with http:// or https://");
  rule(
    "md5",
    md5,
    typeof md5 === "string" && /^[0-9a-f]{32}$/.test(md5),
    "32 hexadecimal digits, in lower case",
  );
  rule(
    "bytes",
    bytes,
    bytes === undefined || (Number.isSafeInteger(bytes) && bytes >= 0),
    "the size as served",
  );
}

/** `<start>` and `<total>` of `bytes <start>-<end>/<total>`, or of the `bytes *\/<total>` of a 416. */
function contentRange(header: string | null): { start?: number; total?: number } {
  const match = /^bytes (?:(\d+)-\d+|\*)\/(\d+|\*)$/.exec(header ?? "");
  const number = (text: string | undefined) => (text && text !== "*" ? Number(text) : undefined);
  return { start: number(match?.[1]), total: number(match?.[2]) };
}

/**
 * Downloads a file, whole or not at all.
 *
 * Bytes are gathered in `<path>.part`; when that file is there already, only the rest is asked for (HTTP Range),
 * and a server that can't do that is read from the start. The result takes its name once its checksum is right.
 * A file that is already there with the right checksum is left alone.
 *
 * @returns how the file came to be there
 * @throws DataError on a connection that fails or breaks (the .part file stays, to be resumed), an answer that is
 *   not the file or larger than it may be, a wrong checksum (the .part file is deleted), or a file that can't be written.
 */
export async function downloadFile(
  remote: RemoteFile,
  path: string,
  onProgress: OnProgress = () => {},
): Promise<"present" | "downloaded" | "resumed"> {
  checkRemoteFile("downloadFile", remote);
  checkFunction("downloadFile", "onProgress", onProgress);
  if (typeof path !== "string" || path === "") {
    throw new DataError(`downloadFile: path is ${show(path)}; expected the file to write`);
  }
  const { url, md5, bytes } = remote;
  const most = bytes ?? MOST_BYTES;
  const part = `${path}.part`;
  const bad = (what: string, cause?: unknown) => new DataError(`${printable(url)}: ${what}`, { cause });
  if ((await sizeOf(path)) !== undefined && (await md5Of(path)) === md5) return "present";

  try {
    makeDirectory(dirname(path));
  } catch (cause) {
    throw fileError(dirname(path), "written", cause);
  }
  let kept = (await sizeOf(part)) ?? 0;
  // More than the file has, or as much of something else, is no beginning of it.
  if (kept > most || (kept === bytes && (await md5Of(part)) !== md5)) {
    await rm(part, { force: true });
    kept = 0;
  }
  const status = kept > 0 && kept === bytes ? "downloaded" : await receive();

  const found = await md5Of(part);
  if (found !== md5) {
    const size = await sizeOf(part);
    await rm(part, { force: true });
    throw bad(
      `wrong checksum: expected md5 ${md5}, found ${found} in ${size} bytes; ` +
        "the file was deleted: run the same command again, and if it persists the server's file has changed",
    );
  }
  await rename(part, path).catch((cause: unknown) => {
    throw fileError(path, "written", cause);
  });
  return status;

  async function ask(from: number): Promise<Response> {
    try {
      // Without "identity" a server or proxy may compress what it sends, and ranges would count other bytes.
      const headers: Record<string, string> = { "accept-encoding": "identity" };
      if (from > 0) headers.range = `bytes=${from}-`;
      return await fetch(url, { headers });
    } catch (cause) {
      const reason = (cause as Error).cause;
      throw bad(
        `no connection (${printable(reason instanceof Error ? reason.message : (cause as Error).message)}); ` +
          "check the network and run the same command again",
        cause,
      );
    }
  }

  /** Fills the .part file from the server. */
  async function receive(): Promise<"downloaded" | "resumed"> {
    let response = await ask(kept);
    let range = contentRange(response.headers.get("content-range"));
    if (kept > 0 && response.status === 416 && range.total === kept) {
      await response.body?.cancel();
      return "downloaded";
    }
    let isRest = kept > 0 && response.status === 206 && range.start === kept;
    if (kept > 0 && !isRest && (response.status === 416 || response.status === 206)) {
      // What we keep is no beginning of what the server has: ask again, from the start.
      await response.body?.cancel();
      await rm(part, { force: true });
      response = await ask(0);
      range = {};
      isRest = false;
    }
    if ((response.status !== 200 && !isRest) || !response.body) {
      await response.body?.cancel();
      throw bad(
        `the server answered ${response.status} ${printable(response.statusText)}; expected 200 or 206: ` +
          `try later, or download it by hand and put it at ${printable(path)}`,
      );
    }
    let received = isRest ? kept : 0;
    const length = /^\d+$/.exec(response.headers.get("content-length") ?? "");
    // Of what was compressed on the way, against our wish, the length says nothing.
    const isPlain = /^(identity)?$/.test(response.headers.get("content-encoding") ?? "");
    const total = range.total ?? (length && isPlain ? received + Number(length[0]) : undefined);
    if (/^text\/html/i.test(response.headers.get("content-type") ?? "")) {
      await response.body.cancel();
      throw bad(
        "the server sent a web page, of an error or a login; expected the file: open the address in a browser",
      );
    }
    const changed = "the file there has changed, or a proxy answers for it";
    if (total !== undefined && (total > most || total !== (bytes ?? total))) {
      await response.body.cancel();
      throw bad(`the server's file has ${total} bytes; expected ${bytes ?? `at most ${most}`}: ${changed}`);
    }
    const output = await open(part, isRest ? "a" : "w").catch((cause: unknown) => {
      throw fileError(part, "written", cause);
    });
    const body = response.body[Symbol.asyncIterator]();
    try {
      onProgress(basename(path), received, total);
      for (;;) {
        const next = await body.next().catch((cause: unknown) => {
          throw broken(cause);
        });
        if (next.done) break;
        if (received + next.value.length > most) {
          await rm(part, { force: true });
          throw bad(
            `the server sends more than ${most} bytes, which is ${bytes === undefined ? "the most that is taken" : "the file's size"}: ${changed}`,
          );
        }
        await output.writeFile(next.value).catch((cause: unknown) => {
          throw fileError(part, "written", cause);
        });
        received += next.value.length;
        onProgress(basename(path), received, total);
      }
    } finally {
      await body.return?.().catch(() => {});
      await output.close();
    }
    if (received < (bytes ?? total ?? 0)) throw broken();
    return isRest && received > kept ? "resumed" : "downloaded";

    function broken(cause?: unknown): DataError {
      return bad(
        `the connection broke after ${received} of ${bytes ?? total ?? "unknown"} bytes; ` +
          `run the same command again to resume from ${printable(part)}`,
        cause,
      );
    }
  }
}

/** Options of `fetchDataset`. */
export interface FetchOptions {
  /** Instead of the default cache (see `cacheDirectory`). */
  cache?: string;
  /** Base address to take the files from, by their names, instead of the official one; checksums stay. */
  mirror?: string;
  onProgress?: OnProgress;
}

const FETCH_OPTIONS = optionNames<FetchOptions>({ cache: 0, mirror: 0, onProgress: 0 });

const named = (file: RemoteFile): string => basename(new URL(file.url).pathname);

/** Unpacks a .tar.gz, without its outermost directory, to `directory`, which appears whole or not at all. */
async function unpack(archive: string, directory: string): Promise<void> {
  const partial = await mkdtemp(`${directory}.unpack-`).catch((cause: unknown) => {
    throw fileError(directory, "written", cause);
  });
  try {
    await unpackTar([createReadStream(archive)], partial, { name: archive, strip: 1 });
    await findDataset(partial);
    // mkdtemp's folders are their owner's alone.
    await chmod(partial, 0o755);
    await rename(partial, directory);
  } catch (cause) {
    await rm(partial, { recursive: true, force: true, maxRetries: 3 });
    if (cause instanceof DataError) throw cause;
    throw fileError(directory, "written", cause);
  }
}

/**
 * Brings a data set into the cache, resuming what an interrupted run left there.
 *
 * @returns the data set's directory, and whether anything had to be downloaded
 * @throws DataError as `downloadFile`, and if the cache holds something else under that name.
 */
export async function fetchDataset(
  name: string,
  remote: RemoteDataset,
  options: FetchOptions = {},
): Promise<{ directory: string; downloaded: boolean }> {
  checkOptions("fetchDataset", options, FETCH_OPTIONS);
  if (options.onProgress !== undefined) checkFunction("fetchDataset", "onProgress", options.onProgress);
  if (typeof name !== "string" || !/^\w[\w.-]*$/.test(name)) {
    throw new DataError(
      `fetchDataset: name is ${show(name)}; expected letters, digits, ".", "-" and "_", for a folder`,
    );
  }
  if (!Array.isArray(remote?.files) || remote.files.length === 0) {
    throw new DataError(
      `fetchDataset: ${name}: remote is ${show(remote)}; expected { files: [{ url, md5 }], archive }`,
    );
  }
  for (const file of remote.files) checkRemoteFile("fetchDataset", file);
  if (options.cache !== undefined) checkText("fetchDataset", "cache", options.cache);
  const unnamed = remote.files.find((file) => named(file) === "");
  if (unnamed)
    throw new DataError(`fetchDataset: ${printable(unnamed.url)} ends in no file's name; expected one`);
  if (
    options.mirror !== undefined &&
    !(typeof options.mirror === "string" && /^https?:\/\/./.test(options.mirror))
  ) {
    throw new DataError(
      `fetchDataset: mirror is ${show(options.mirror)}; expected an address that begins with http:// or https://`,
    );
  }
  const cache = cacheDirectory(options.cache);
  const directory = join(cache, name);
  const at = (file: RemoteFile): RemoteFile =>
    options.mirror ? { ...file, url: `${options.mirror.replace(/\/+$/, "")}/${named(file)}` } : file;
  if (!remote.archive) {
    let downloaded = false;
    for (const file of remote.files) {
      const status = await downloadFile(at(file), join(directory, named(file)), options.onProgress);
      downloaded ||= status !== "present";
    }
    return { directory, downloaded };
  }

  if ((await sizeOf(directory)) !== undefined) {
    try {
      await findDataset(directory);
    } catch (cause) {
      throw new DataError(
        `${printable(directory)}: is in the way and is not ${name}; move it elsewhere and run the same command again`,
        { cause },
      );
    }
    return { directory, downloaded: false };
  }
  for (const file of remote.files) {
    const archive = join(cache, named(file));
    await downloadFile(at(file), archive, options.onProgress);
    await unpack(archive, directory);
    await rm(archive);
  }
  return { directory, downloaded: true };
}
