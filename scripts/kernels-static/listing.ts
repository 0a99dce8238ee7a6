// A kernel's inner loop beside the WGSL that it is from.

import type { Block } from "./assembly.ts";
import type { Chip } from "./chips.ts";
import { type Analysis, count } from "./model.ts";

/** The instructions of the loop that holds most fmas, each with its issue cycles; of the widest block where there are none. */
export function innerLoop(
  { blocks, loop }: Analysis & { blocks: readonly Block[] },
  chip: Chip,
  wave: number,
): string[] {
  const range = loop ? blocks.slice(loop.innermost.from, loop.innermost.to + 1) : blocks;
  return range.flatMap(({ name, code }) => [
    `${name}:`,
    ...code.map((line) => {
      const { cycles } = count([line], chip, wave);
      return `${cycles > 0 ? String(cycles).padStart(3) : "   "}  ${line}`;
    }),
  ]);
}

interface WgslFunction {
  name: string;
  text: string;
}

/** Functions of a module, whole. */
function functionsOf(source: string): WgslFunction[] {
  const found: WgslFunction[] = [];
  for (const { index, 1: name } of source.matchAll(/^fn\s+(\w+)|(?<=\n@[^\n]*\s)fn\s+(\w+)/gm)) {
    let depth = 0;
    let end = source.indexOf("{", index);
    do {
      if (source[end] === "{") depth += 1;
      if (source[end] === "}") depth -= 1;
      end += 1;
    } while (depth > 0 && end < source.length);
    const text = source.slice(index, end);
    found.push({ name: name ?? /fn\s+(\w+)/.exec(text)![1]!, text });
  }
  return found;
}

/** Of the functions that an entry point comes to, the one with the most multiplications within a loop; the entry point if none has any. */
export function hottestFunction(source: string, entry: string): string {
  const functions = new Map(functionsOf(source).map((one) => [one.name, one]));
  const reached = new Set<string>();
  const visit = (name: string) => {
    if (reached.has(name) || !functions.has(name)) return;
    reached.add(name);
    for (const [, called] of functions.get(name)!.text.matchAll(/\b(\w+)\s*\(/g)) visit(called!);
  };
  visit(entry);
  const heat = (name: string) => productsInLoops(functions.get(name)!.text);
  const [hottest] = [...reached].sort((a, b) => heat(b) - heat(a));
  return hottest === undefined ? source : functions.get(hottest)!.text;
}

function productsInLoops(text: string): number {
  const loop = /\b(for|loop|while)\b/.exec(text);
  return loop ? [...text.slice(loop.index).matchAll(/ \* |\*=|\bfma\(/g)].length : 0;
}

/** Two texts beside each other where there is room, else one above the other. */
export function beside(left: readonly string[], right: readonly string[], width: number): string {
  if (width < 100) return [...left, "", ...right].join("\n");
  const half = Math.floor((width - 3) / 2);
  const cut = (line: string) => (line.length > half ? `${line.slice(0, half - 1)}…` : line);
  const lines = Math.max(left.length, right.length);
  return Array.from({ length: lines }, (_, i) =>
    `${cut(left[i] ?? "").padEnd(half)} │ ${cut(right[i] ?? "")}`.trimEnd(),
  ).join("\n");
}
