import { execFileSync } from "node:child_process";
import { mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { encodeIdx } from "../../src/data/idx.ts";
import { generator } from "../helpers/numbers.ts";
import { repository, run } from "../node/children.ts";

// Bundled, as the package has it, the command starts with a fourth of the work that its sources take.
execFileSync(process.execPath, ["--import", "tsx", join(repository, "scripts/build-cli.ts")]);

/** What starts the command, as it is in the package `fusenorm-cli`. */
export const PROGRAM = [join(repository, "packages/cli/dist/cli/main.js")];

export const fusenorm = (...args: string[]) => run(process.execPath, [...PROGRAM, ...args]);

export function folder(): string {
  return mkdtempSync(join(tmpdir(), "fusenorm-cli-"));
}

/** A directory of small random images in the MNIST family's files. */
export function tinyDataset(): string {
  const next = generator(3);
  const directory = folder();
  for (const [part, count] of [
    ["train", 40],
    ["t10k", 20],
  ] as const) {
    const pixels = Uint8Array.from({ length: count * 64 }, () => 256 * next());
    const labels = Uint8Array.from({ length: count }, (_, i) => i % 10);
    writeFileSync(join(directory, `${part}-images-idx3-ubyte`), encodeIdx([count, 8, 8], pixels));
    writeFileSync(join(directory, `${part}-labels-idx1-ubyte`), encodeIdx([count], labels));
  }
  return directory;
}

/** A network and a run that take a moment. */
export const SMALL = [
  "--depth",
  "8",
  "--width",
  "4",
  "--batch-size",
  "10",
  "--lr",
  "0.05",
  "--schedule",
  "constant",
];
