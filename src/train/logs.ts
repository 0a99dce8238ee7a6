// A run's readings as text that other programs read.

import { UsageError } from "../errors.ts";
import { toJson } from "../json.ts";
import { checkFunction, show } from "../options.ts";
import type { TrainerCallback } from "./callbacks.ts";
import type { TrainHistory } from "./run-state.ts";

/** Gets a piece of the file, one after the other; the first one of a run begins the file anew. */
export type LogWriter = (text: string, piece: { first: boolean }) => void | Promise<void>;

type Row = Record<string, number>;

/** Readings and evaluations of a run so far, in the order of their steps. */
export function rowsOf(
  history: Pick<TrainHistory<never>, "log" | "evals">,
): { row: Row; kind: "log" | "eval" }[] {
  const rows = [
    ...history.log.map((row) => ({ row: { ...row } as Row, kind: "log" as const })),
    ...history.evals.map((row) => ({ row: { ...row } as Row, kind: "eval" as const })),
  ];
  // A reading comes before the evaluation of its step: the sort is stable.
  return rows.sort((a, b) => a.row.step! - b.row.step!);
}

/** Readings and evaluations as lines, in the order of their steps; of a run that goes on, those that it had before come first. */
function logAs(
  op: string,
  write: LogWriter,
  lineOf: (row: Row, kind: "log" | "eval") => string,
  head: () => string,
): TrainerCallback<never> {
  checkFunction(op, "write", write);
  return {
    onStart: async ({ history }) => {
      const lines = rowsOf(history).map(({ row, kind }) => lineOf(row, kind));
      await write([head(), ...lines].join(""), { first: true });
    },
    onLog: ({ totalSteps: _total, secondsLeft: _left, ...row }) =>
      write(lineOf(row as Row, "log"), { first: false }),
    onEval: (row) => write(lineOf(row as Row, "eval"), { first: false }),
  };
}

/**
 * Writes each reading and evaluation of a run as one line of JSON, `{"kind":"log","step":10,"loss":…}` or `{"kind":"eval",…}`. NaN and
 * infinities are the strings "#NaN", "#Infinity" and "#-Infinity".
 */
export function jsonLinesLog(write: LogWriter): TrainerCallback<never> {
  return logAs(
    "jsonLinesLog",
    write,
    (row, kind) => `${toJson({ kind, ...row })}\n`,
    () => "",
  );
}

const COLUMNS = [
  "step",
  "epoch",
  "loss",
  "maxLoss",
  "lr",
  "accuracy",
  "imagesPerSecond",
  "testLoss",
  "testAccuracy",
];

/**
 * Writes readings and evaluations of a run as CSV, with a line of names first and empty cells where a line has no such number.
 * @param columns default: those of the metric `accuracy`
 */
export function csvLog(write: LogWriter, columns: readonly string[] = COLUMNS): TrainerCallback<never> {
  const isName = (name: unknown) => typeof name === "string" && /^\w+$/.test(name);
  if (!Array.isArray(columns) || columns.length === 0 || !Array.from(columns).every(isName)) {
    throw new UsageError(
      `csvLog: columns is ${show(columns)}; expected names of numbers in the log, such as ["step", "loss"]`,
    );
  }
  const line = (cells: readonly unknown[]) => `${cells.join(",")}\n`;
  return logAs(
    "csvLog",
    write,
    (row) => line(columns.map((name) => row[name] ?? "")),
    () => line(columns),
  );
}
