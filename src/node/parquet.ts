// Parquet files, read by `hyparquet` in a process of its own: a damaged count can make it loop for hours or fill the memory, and
// then only the end of the process stops it.

import { fork } from "node:child_process";
import { stat } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { DataError } from "../errors.ts";
import { printable } from "../foreign.ts";
import { fileError } from "./files.ts";

/** What a file says of itself. */
export interface ParquetHead {
  /** Names of the outermost columns. */
  columns: string[];
  rows: number;
  /** What writers note for themselves. */
  notes: { key: string; value?: string }[];
}

export type ParquetRow = Record<string, unknown>;

type Answer = { head: ParquetHead } | { rows: ParquetRow[] } | { error: string };

const CHILD = fileURLToPath(new URL("./parquet-child.mjs", import.meta.url));

/**
 * The rows of some columns of a Parquet file.
 * @param op in errors, with the file's path
 * @param pick says which columns, and may refuse the file
 * @param seconds the most that it may take. Default 20, and a second more for each MB: a whole file takes a fiftieth of it.
 * @throws DataError for a file that is not there or can't be read in that time, and what `pick` throws
 */
export async function readParquet(
  op: string,
  path: string,
  pick: (head: ParquetHead) => string[],
  seconds?: number,
): Promise<ParquetRow[]> {
  const { size } = await stat(path).catch((cause: unknown) => {
    throw fileError(path, "read", cause);
  });
  const most = seconds ?? 20 + size / 1e6;
  const bad = (what: string) =>
    new DataError(`${op}: ${printable(path)}: ${what}; expected a Parquet file: get it anew`);
  const megabytes = 512 + 16 * Math.ceil(size / 1e6);
  const child = fork(CHILD, [path], {
    // Others than Node have no such limit; time ends them.
    execArgv: process.versions.bun || process.versions.deno ? [] : [`--max-old-space-size=${megabytes}`],
    serialization: "advanced",
    stdio: ["ignore", "ignore", "ignore", "ipc"],
  });
  let timer: ReturnType<typeof setTimeout> | undefined;
  try {
    return await new Promise((resolve, reject) => {
      let rows = 0;
      const hear = (answer: Answer) => {
        if ("error" in answer) return reject(bad(`can't be read (${printable(answer.error)})`));
        if ("head" in answer) {
          rows = answer.head.rows;
          return child.send(pick(answer.head));
        }
        if (answer.rows.length === rows) return resolve(answer.rows);
        reject(bad(`has ${answer.rows.length} rows, and says that it has ${rows}`));
      };
      child.on("message", (answer) => {
        try {
          hear(answer as Answer);
        } catch (error) {
          reject(error);
        }
      });
      child.once("error", (error) => reject(bad(`can't be read (${printable(error.message)})`)));
      child.once("exit", () =>
        reject(bad("can't be read: it asks for more memory than a file of its size has in it")),
      );
      timer = setTimeout(
        () => reject(bad(`can't be read within ${Math.ceil(most)} s: most likely it is damaged`)),
        1000 * most,
      );
    });
  } finally {
    clearTimeout(timer);
    child.kill("SIGKILL");
  }
}
