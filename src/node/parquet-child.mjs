// The process in which `readParquet` (./parquet.ts) lets hyparquet read: it tells a file's head, then the rows of the columns that it is
// asked for. JavaScript, so that it runs from the sources too.

import { readFile } from "node:fs/promises";
import { parquetMetadata, parquetReadObjects, parquetSchema } from "hyparquet";

const tell = (/** @type {object} */ answer) => process.send?.(answer);

async function main() {
  const bytes = await readFile(/** @type {string} */ (process.argv[2]));
  const file = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength);
  const metadata = parquetMetadata(file);
  /** @type {Promise<string[]>} */
  const asked = new Promise((resolve) => process.once("message", resolve));
  tell({
    head: {
      columns: parquetSchema(metadata).children.map(({ element }) => element.name),
      rows: Number(metadata.num_rows),
      notes: (metadata.key_value_metadata ?? []).map(({ key, value }) => ({ key, value })),
    },
  });
  // As bytes, not as text: images are columns of bytes without a type.
  tell({ rows: await parquetReadObjects({ file, metadata, columns: await asked, utf8: false }) });
}

main().catch((error) => tell({ error: String(error?.message ?? error) }));
