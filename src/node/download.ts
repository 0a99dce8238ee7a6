import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { mkdir, mkdtemp, open, rename, rm, stat } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { pipeline } from "node:stream/promises";
import * as tar from "tar";
import { DataError } from "../errors.ts";
import { findDataset } from "./datasets.ts";
import { cacheDirectory } from "./files.ts";

export interface RemoteFile {
  url: string;
  /** Of the file as served, hexadecimal. */
  md5: string;
}

/** Files of a data set; an `archive` is one .tar.gz that is unpacked, without its outermost directory. */
export interface RemoteDataset {
  files: RemoteFile[];
  archive: boolean;
}

const FASHION_MNIST_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com";

/** Official addresses and the checksums published beside them. */
export const REMOTE_DATASETS = {
  cifar10: {
    archive: true,
    files: [
      {
        url: "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        md5: "c32a1d4ab5d03f1284b67883e8d87530",
      },
    ],
  },
  cifar100: {
    archive: true,
    files: [
      {
        url: "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
        md5: "03b5dce01913d631647c71ecec9e9cb8",
      },
    ],
  },
  "fashion-mnist": {
    archive: false,
    files: [
      {
        url: `${FASHION_MNIST_URL}/train-images-idx3-ubyte.gz`,
        md5: "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
      },
      {
        url: `${FASHION_MNIST_URL}/train-labels-idx1-ubyte.gz`,
        md5: "25c81989df183df01b3e8a0aad5dffbe",
      },
      {
        url: `${FASHION_MNIST_URL}/t10k-images-idx3-ubyte.gz`,
        md5: "bef4ecab320f06d8554ea6380940ec79",
      },
      {
        url: `${FASHION_MNIST_URL}/t10k-labels-idx1-ubyte.gz`,
        md5: "bb300cfdad3c16e7a12a480ee83cd310",
      },
    ],
  },
} satisfies Record<string, RemoteDataset>;

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
  await pipeline(createReadStream(path), hash);
  return hash.digest("hex");
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
 *   not the file, or a wrong checksum (the .part file is deleted).
 */
export async function downloadFile(
  { url, md5 }: RemoteFile,
  path: string,
  onProgress: OnProgress = () => {},
): Promise<"present" | "downloaded" | "resumed"> {
  const file = basename(path);
  const part = `${path}.part`;
  if ((await sizeOf(path)) !== undefined && (await md5Of(path)) === md5) return "present";

  await mkdir(dirname(path), { recursive: true });
  const kept = (await sizeOf(part)) ?? 0;
  const ask = async (from: number): Promise<Response> => {
    try {
      // Without "identity" a server or proxy may compress what it sends, and ranges would count other bytes.
      const headers: Record<string, string> = { "accept-encoding": "identity" };
      if (from > 0) headers.range = `bytes=${from}-`;
      return await fetch(url, { headers });
    } catch (cause) {
      const reason = (cause as Error).cause;
      throw new DataError(
        `${url}: no connection (${reason instanceof Error ? reason.message : (cause as Error).message}); ` +
          "check the network and run the same command again",
        { cause },
      );
    }
  };

  let response = await ask(kept);
  let received = response.status === 206 ? kept : 0;
  const range = contentRange(response.headers.get("content-range"));
  const isWhole = response.status === 416 && range.total === kept;
  if (!isWhole && (response.status === 416 || (response.status === 206 && range.start !== kept))) {
    // What we keep is no beginning of what the server has: ask again, from the start.
    await response.body?.cancel();
    await rm(part, { force: true });
    response = await ask(0);
    received = 0;
  }
  if (isWhole) {
    await response.body?.cancel();
  } else {
    if ((response.status !== 200 && response.status !== 206) || !response.body) {
      await response.body?.cancel();
      throw new DataError(
        `${url}: the server answered ${response.status} ${response.statusText}; expected 200 or 206: ` +
          `try later, or download it by hand and put it at ${path}`,
      );
    }
    const length = response.headers.get("content-length");
    const total = length === null ? undefined : received + Number(length);
    const output = await open(part, received > 0 ? "a" : "w");
    try {
      onProgress(file, received, total);
      for await (const chunk of response.body) {
        await output.write(chunk);
        received += chunk.length;
        onProgress(file, received, total);
      }
    } catch (cause) {
      throw new DataError(
        `${url}: the connection broke after ${received} of ${total ?? "unknown"} bytes; ` +
          `run the same command again to resume from ${part}`,
        { cause },
      );
    } finally {
      await output.close();
    }
  }

  const found = await md5Of(part);
  if (found !== md5) {
    const size = await sizeOf(part);
    await rm(part, { force: true });
    throw new DataError(
      `${url}: wrong checksum: expected md5 ${md5}, found ${found} in ${size} bytes; ` +
        "the file was deleted: run the same command again, and if it persists the server's file has changed",
    );
  }
  await rename(part, path);
  return kept > 0 && received > kept && response.status === 206 ? "resumed" : "downloaded";
}

export interface FetchOptions {
  /** Instead of the default cache (see `cacheDirectory`). */
  cache?: string;
  /** Base address to take the files from, by their names, instead of the official one; checksums stay. */
  mirror?: string;
  onProgress?: OnProgress;
}

/** Unpacks a .tar.gz, without its outermost directory, to `directory`, which appears whole or not at all. */
async function unpack(archive: string, directory: string): Promise<void> {
  const partial = await mkdtemp(`${directory}.unpack-`);
  try {
    await tar.x({ file: archive, cwd: partial, strip: 1, strict: true });
    await findDataset(partial);
    await rename(partial, directory);
  } catch (cause) {
    await rm(partial, { recursive: true, force: true });
    throw new DataError(`${archive}: can't be unpacked to ${directory}: ${(cause as Error).message}`, {
      cause,
    });
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
  const cache = cacheDirectory(options.cache);
  const directory = join(cache, name);
  const at = (file: RemoteFile): RemoteFile =>
    options.mirror
      ? { ...file, url: `${options.mirror.replace(/\/+$/, "")}/${basename(new URL(file.url).pathname)}` }
      : file;
  const named = (file: RemoteFile) => basename(new URL(file.url).pathname);

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
        `${directory}: is in the way and is not ${name}; move it elsewhere and run the same command again`,
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
