// The tables of the pages for those who come from another library: what is named there has to exist.

import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import * as core from "../../src/index.ts";
import { SGD } from "../../src/index.ts";
import * as node from "../../src/node/index.ts";
import * as onnx from "../../src/onnx/index.ts";
import { testGpu } from "../helpers/gpu.ts";

export const root = fileURLToPath(new URL("../../", import.meta.url));

export interface Row {
  line: number;
  /** The cells, without the bars around them. */
  cells: string[];
}

/** The rows of all tables of a page with so many columns, without their heads. */
export function rowsOf(page: string, columns: number): Row[] {
  const lines = readFileSync(root + page, "utf8").split("\n");
  return lines.flatMap((text, i) => {
    if (!text.startsWith("|") || text.startsWith("|---") || lines[i + 1]?.startsWith("|---")) return [];
    const cells = text.split("|").slice(1, -1);
    if (cells.length !== columns) throw new Error(`${page}:${i + 1} has ${cells.length} cells`);
    return [{ line: i + 1, cells: cells.map((cell) => cell.trim()) }];
  });
}

/** What stands between backquotes. */
export function codeOf(cell: string): string[] {
  return [...cell.matchAll(/`([^`]+)`/g)].map(([, code]) => code!);
}

/** The name that a piece of code begins with, such as `a.b.c` of `await new a.b.c(d)`; null for an option, `a: b`, or a path. */
export function nameOf(code: string): string | null {
  const name = /^(?:await |new |const gpu = )*(?<name>[A-Za-z_]\w*(?:\.\w+)*)(?![\w/:])/.exec(code)?.groups
    ?.name;
  return name ?? null;
}

/** Whether `a.b.c` leads somewhere from the first of `roots` that has its first word; a call on the way is none. */
export function isIn(roots: readonly object[], name: string): boolean {
  const [first, ...rest] = name.split(".") as [string, ...string[]];
  const from = roots.find((candidate) => first in candidate) as Record<string, unknown> | undefined;
  if (!from) return false;
  let at: unknown = from[first];
  for (const word of rest) {
    // A method is named with its class, too.
    const place = typeof at === "function" && !(word in at) ? at.prototype : at;
    if (place === null || place === undefined || !(word in Object(place))) return false;
    at = (place as Record<string, unknown>)[word];
  }
  return true;
}

/** Exports of this package, and the names that the pages give to instances. */
export async function ourNames(): Promise<{ roots: object[]; dispose(): void }> {
  const gpu = await testGpu();
  const module = new core.Linear(gpu, 2, 2, { random: new core.Random(1) });
  const optimizer = new SGD(module.parameters(), { lr: 1 });
  const tensor = gpu.zeros([1]);
  const sequential = new core.Sequential(new core.ReLU());
  return {
    roots: [
      ...[core, node, onnx],
      { gpu, module, model: module, sequential, optimizer, tensor, t: tensor, loss: tensor },
    ],
    dispose() {
      optimizer.dispose();
      module.dispose();
      tensor.dispose();
    },
  };
}
