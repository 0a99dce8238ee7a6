// Parquet files of several writers, whole and damaged. The files in parquet-files.json have the same 21 rows; each has another
// set of encodings, page versions and compressions.

import { readFileSync, writeFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parquetWriteBuffer } from "hyparquet-writer";
import { afterAll, describe, expect, it } from "vitest";
import { DataError } from "../../src/errors.ts";
import { loadParquetImages } from "../../src/node/index.ts";
import { readParquet } from "../../src/node/parquet.ts";

const { columns, files } = JSON.parse(
  readFileSync(new URL("./parquet-files.json", import.meta.url), "utf8"),
) as { columns: Record<string, (string | number | boolean | null)[]>; files: Record<string, string> };

const folder = await mkdtemp(join(tmpdir(), "fusenorm-parquet-"));
afterAll(() => rm(folder, { recursive: true, force: true }));

/** The path of a file with these bytes. */
function written(bytes: Uint8Array): string {
  const path = join(folder, "odd.parquet");
  writeFileSync(path, bytes);
  return path;
}

/** As parquet-files.json has them: bytes in hexadecimal, but for text. */
function shown(column: string, value: unknown): unknown {
  if (typeof value === "bigint") return Number(value);
  if (!(value instanceof Uint8Array)) return value ?? null;
  return Buffer.from(value).toString(column === "text" ? "utf8" : "hex");
}

/** A column of 300 images, and one of labels in two runs, of 200 and 100. */
function labelled(): Uint8Array<ArrayBuffer> {
  const image = Array.from({ length: 300 }, (_, i) => Uint8Array.of(i & 255));
  const label = Array.from({ length: 300 }, (_, i) => (i < 200 ? 7 : 3));
  return new Uint8Array(
    parquetWriteBuffer({
      codec: "UNCOMPRESSED",
      columnData: [
        { name: "image", data: image, type: "BYTE_ARRAY" },
        { name: "label", data: label, type: "INT32" },
      ],
    }),
  );
}

describe("Parquet files", () => {
  it.each(Object.keys(files))("of %s are read", async (name) => {
    const path = written(Buffer.from(files[name]!, "base64"));
    const rows = await readParquet("read", path, (head) => {
      expect(head.rows).toBe(21);
      return head.columns;
    });
    for (const [path, expected] of Object.entries(columns)) {
      const [column, field] = path.split(".") as [string, string?];
      const cells = rows.map((row) =>
        field ? (row[column] as Record<string, unknown>)?.[field] : row[column],
      );
      expect(
        cells.map((cell) => shown(column, cell)),
        path,
      ).toEqual(expected);
    }
  });

  it("that would be read without end, or into more memory than there is, are refused in time", async () => {
    const damages: [what: string, change: (bytes: Uint8Array) => void][] = [];
    // A run of 200 is the varint 400; the largest is of 2³¹ − 1.
    const at = Buffer.from(labelled()).indexOf(Buffer.from([0x90, 0x03]));
    expect(at).toBeGreaterThan(0);
    damages.push(["a run without end", (bytes) => bytes.set([0xfe, 0xff, 0xff, 0xff, 0x0f], at)]);
    // A list of the metadata, of so many elements.
    const list = Buffer.from(labelled()).lastIndexOf(Buffer.from([0x19, 0x3c, 0x48]));
    expect(list).toBeGreaterThan(0);
    damages.push([
      "a list without end",
      (bytes) => bytes.set([0x19, 0xfc, 0xff, 0xff, 0xff, 0xff, 0x0f], list),
    ]);
    for (const [what, change] of damages) {
      const bytes = labelled();
      change(bytes);
      const read = readParquet("read", written(bytes), () => ["image", "label"], 3);
      await expect(read, what).rejects.toThrow(DataError);
      await expect(read, what).rejects.toThrow(
        /^read: .*odd\.parquet: .*; expected a Parquet file: get it anew$/,
      );
    }
  });

  it("with another number of rows than they say are refused", async () => {
    const bytes = Buffer.from(labelled());
    const rows = Buffer.from([0x16, 0xd8, 0x04]); // 300: of the file first
    bytes.set([0x16, 0xda, 0x04], bytes.indexOf(rows, bytes.length - 400));
    const read = readParquet("read", written(bytes), () => ["image", "label"]);
    await expect(read).rejects.toThrow(
      /has \d+ rows, and says that it has 301; expected a Parquet file: get it anew$/,
    );
  });

  it("are not read on where who picks the columns refuses them, and leave no process behind", async () => {
    const refuse = () => {
      throw new DataError("not these");
    };
    await expect(readParquet("read", written(labelled()), refuse)).rejects.toThrow("not these");
    await new Promise((resolve) => setTimeout(resolve, 200));
    expect(process.getActiveResourcesInfo().filter((name) => name === "ProcessWrap")).toEqual([]);
  });

  it("that loadParquetImages can't read are named", async () => {
    const path = written(labelled().subarray(0, 900));
    await expect(loadParquetImages(path, { height: 1, width: 1 })).rejects.toThrow(
      /^loadParquetImages: .*odd\.parquet: can't be read \(.*\); expected a Parquet file: get it anew$/,
    );
  });
});
