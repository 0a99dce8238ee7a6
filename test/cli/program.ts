import { mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { bundleCli } from "../../scripts/lib/bundle-cli.ts";
import { encodeIdx } from "../../src/data/idx.ts";
import { generator } from "../helpers/numbers.ts";
import { repository, run } from "../node/children.ts";

// The command as the package `fusenorm-cli` has it, bundled of these sources, in a folder of this process alone: so it starts
// with a fourth of the work that its sources take.
const home = mkdtempSync(join(tmpdir(), "fusenorm-cli-"));
process.once("exit", () => rmSync(home, { recursive: true, force: true }));
for (const name of ["package.json", "data", "node_modules"])
  symlinkSync(join(repository, name), join(home, name));
await bundleCli(join(home, "dist/cli/main.js"));

/** What starts the command. */
export const PROGRAM = [join(home, "dist/cli/main.js")];

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
