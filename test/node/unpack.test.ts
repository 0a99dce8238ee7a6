import { mkdtemp, readdir, readFile, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Readable } from "node:stream";
import { gzipSync } from "node:zlib";
import { Header, type HeaderData } from "tar";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { DataError } from "../../src/errors.ts";
import { unpackTar } from "../../src/node/unpack.ts";

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "fusenorm-unpack-"));
});
afterEach(() => rm(folder, { recursive: true, force: true }));

/** An archive with the given headers; each file holds `size` letters. */
function archive(...entries: HeaderData[]): Buffer {
  const blocks = entries.flatMap((entry) => {
    const header = Buffer.alloc(512);
    new Header({ mode: 0o644, size: 0, type: "File", ...entry }).encode(header);
    const size = entry.type === undefined || entry.type === "File" ? (entry.size ?? 0) : 0;
    return [header, Buffer.alloc(Math.ceil(size / 512) * 512, "x")];
  });
  return Buffer.concat([...blocks, Buffer.alloc(1024)]);
}

const unpack = (bytes: Buffer, options: object = {}) =>
  unpackTar([Readable.from([bytes])], folder, { name: "a.tar", ...options });

async function refusal(bytes: Buffer, options?: object): Promise<string> {
  const error = await unpack(bytes, options).then(
    () => undefined,
    (e: Error) => e,
  );
  expect(error).toBeInstanceOf(DataError);
  return error!.message;
}

describe("unpackTar", () => {
  it("writes files with ordinary modes, whatever the archive says", async () => {
    const mask = process.umask(0);
    try {
      await unpack(
        gzipSync(
          archive(
            { path: "top/", type: "Directory", mode: 0 },
            { path: "top/plain", size: 700, mode: 0o666 },
            { path: "top/secret", size: 1, mode: 0 },
            { path: "top/setuid", size: 1, mode: 0o6777 },
            { path: "top/sticky/", type: "Directory", mode: 0o1777 },
            { path: "top/deep/below", size: 1, mode: 0o4711 },
          ),
        ),
        { strip: 1 },
      );
    } finally {
      process.umask(mask);
    }
    const modes = await Promise.all(
      ["plain", "secret", "setuid", "sticky", "deep", "deep/below"].map(async (name) => [
        name,
        ((await stat(join(folder, name))).mode & 0o7777).toString(8),
      ]),
    );
    expect(Object.fromEntries(modes)).toEqual({
      plain: "644",
      secret: "644",
      setuid: "755",
      sticky: "755",
      deep: "755",
      "deep/below": "755",
    });
    expect((await readFile(join(folder, "plain"), "utf8")).length).toBe(700);
  });

  it.each<[string, HeaderData, RegExp]>([
    [
      "a symbolic link",
      { path: "l", type: "SymbolicLink", linkpath: "/etc/passwd" },
      /entry l is a SymbolicLink/,
    ],
    ["a link", { path: "l", type: "Link", linkpath: "good" }, /entry l is a Link/],
    ["a device", { path: "d", type: "CharacterDevice" }, /entry d is a CharacterDevice/],
    ["a pipe", { path: "p", type: "FIFO" }, /entry p is a FIFO/],
    ["an absolute path", { path: "/tmp/fusenorm-absolute", size: 1 }, /leads out of the folder/],
    ["a path above", { path: "../above", size: 1 }, /leads out of the folder/],
    ["a path that turns back", { path: "a/../../above", size: 1 }, /leads out of the folder/],
    ["a drive", { path: "C:\\above", size: 1 }, /leads out of the folder/],
    [
      "too much",
      { path: "big", size: 5000 },
      /brings it to 2 entries of 5001 bytes; expected at most 10000 of 4096/,
    ],
    ["control characters", { path: "/\u001b[2J\n", size: 1 }, /its entry \/\\u001b\[2J\\u000a leads/],
  ])("refuses %s, and what comes after it", async (_, entry, message) => {
    const bytes = archive({ path: "good", size: 1 }, entry, { path: "after", size: 1 });
    expect(await refusal(bytes, { maxBytes: 4096 })).toMatch(message);
    expect((await readdir(folder)).filter((name) => name !== "good")).toEqual([]);
  });

  it("refuses a great many entries", async () => {
    const bytes = archive(...Array.from({ length: 10_001 }, (_, i) => ({ path: `d/${i}`, size: 0 })));
    expect(await refusal(bytes, { wanted: () => false })).toMatch(/brings it to 10001 entries/);
  });

  it("refuses archives that are cut or damaged", async () => {
    const bytes = archive({ path: "good", size: 2000 });
    expect(await refusal(bytes.subarray(0, 1500))).toMatch(/^a\.tar: can't be unpacked to /);
    const damaged = Buffer.from(bytes);
    damaged[20]! ^= 1;
    expect(await refusal(damaged)).toMatch(/checksum/);
    expect(await refusal(gzipSync(bytes).subarray(0, 40))).toMatch(/can't be unpacked/);
    expect(await refusal(Buffer.from("no archive at all".repeat(100)))).toMatch(/can't be unpacked/);
  });
});
