import { appendFile } from "node:fs/promises";
import { hostname } from "node:os";
import { join } from "node:path";
import { DataError } from "../errors.ts";
import { eventFileHead, scalarsEvent } from "../formats/tfevents.ts";
import { show } from "../options.ts";
import type { TrainerCallback } from "../train/callbacks.ts";
import { rowsOf } from "../train/logs.ts";
import { fileError, makeDirectory } from "./files.ts";

type Row = Record<string, number>;

/** `{ testLoss: 1 }` of an evaluation as `{ "test/loss": 1 }`, `{ loss: 1 }` of a reading as `{ "train/loss": 1 }`. */
function tagged({ step: _step, ...row }: Row, kind: "log" | "eval"): Row {
  const tags = Object.entries(row).map(([name, value]) => {
    const own =
      kind === "eval" ? name.replace(/^test(.)/, (_all, first: string) => first.toLowerCase()) : name;
    return [`${kind === "eval" ? "test" : "train"}/${own}`, value];
  });
  return Object.fromEntries(tags);
}

/**
 * Writes readings and evaluations of a run as scalars for TensorBoard, `train/loss`, `test/accuracy` and so on, to a new event file
 * in `directory`. Of a run that goes on, those that it had before come first, in place of what earlier files there say.
 * @throws DataError where the file can't be written
 */
export function tensorBoardLog(directory: string): TrainerCallback<never> {
  if (typeof directory !== "string" || directory === "") {
    throw new DataError(`tensorBoardLog: directory is ${show(directory)}; expected a path`);
  }
  let path = "";
  const write = async (bytes: Uint8Array) => {
    await appendFile(path, bytes).catch((cause: unknown) => {
      throw fileError(path, "written", cause);
    });
  };
  const now = () => Date.now() / 1e3;
  const add = (row: Row, kind: "log" | "eval") => write(scalarsEvent(now(), row.step!, tagged(row, kind)));
  return {
    onStart: async ({ history }) => {
      // Readers take the files of a folder in the order of their names.
      path = join(directory, `events.out.tfevents.${Date.now()}.${hostname()}.${process.pid}`);
      try {
        makeDirectory(directory);
      } catch (cause) {
        throw fileError(directory, "written", cause);
      }
      const events = rowsOf(history).map(({ row, kind }) =>
        scalarsEvent(now(), row.step!, tagged(row, kind)),
      );
      await write(Buffer.concat([eventFileHead(now()), ...events]));
    },
    onLog: ({ totalSteps: _total, secondsLeft: _left, ...row }) => add(row as Row, "log"),
    onEval: (row) => add(row as Row, "eval"),
  };
}
