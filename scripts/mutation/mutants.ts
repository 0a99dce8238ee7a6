// Mutants of a WGSL module: its text with one thing changed.

import { parse, type Source } from "./wgsl.ts";

export type Kind = "operator" | "bound" | "constant" | "removed" | "arguments" | "component";

export interface Mutant {
  module: string;
  kind: Kind;
  /** 1-based, of the first character that changes. */
  line: number;
  /** The function it is in; null at module scope. */
  fn: string | null;
  /** That function, if it is an entry point: only tests that dispatch it can see the change. */
  entry: string | null;
  /** The override whose default it changes: only dispatches that do not set it can. */
  override: string | null;
  /** The lines it touches, white space normalised. */
  before: string;
  after: string;
  /** Where in the module's text what is put instead. */
  edit: { start: number; end: number; replacement: string };
}

/** The whole module, changed. */
export function mutated(text: string, { edit }: Mutant): string {
  return text.slice(0, edit.start) + edit.replacement + text.slice(edit.end);
}

/** What each operator is replaced by, one at a time. */
const OPERATORS: Record<string, readonly string[]> = {
  "++": ["--"],
  "--": ["++"],
  "+": ["-"],
  "-": ["+"],
  "*": ["/"],
  "/": ["*"],
  "%": ["/"],
  "<": ["<=", ">="],
  "<=": ["<", ">"],
  ">": [">=", "<="],
  ">=": [">", "<"],
  "==": ["!="],
  "!=": ["=="],
  "&&": ["||"],
  "||": ["&&"],
  "&": ["|"],
  "|": ["&"],
  "^": ["&"],
  "<<": [">>"],
  ">>": ["<<"],
  "+=": ["-=", "="],
  "-=": ["+=", "="],
  "*=": ["/=", "="],
  "/=": ["*="],
  "&=": ["|="],
  "|=": ["&="],
  "^=": ["&="],
  "<<=": [">>="],
  ">>=": ["<<="],
};

const COMPONENTS: Record<string, string> = { x: "y", y: "x", z: "y", w: "z" };
const STATEMENT_START = /^[;{}]$/;

/** Every mutant of `text`, in the order of the text, no two alike. */
export function mutantsOf(module: string, text: string): Mutant[] {
  const source = parse(text);
  const found = new Map<string, Mutant>();
  const add = (kind: Kind, start: number, end: number, replacement: string) => {
    const key = `${start} ${end} ${replacement}`;
    if (text.slice(start, end) === replacement || found.has(key)) return;
    const fn = source.functions.find(
      ({ first, last }) => source.tokens[first]!.start <= start && end <= source.tokens[last]!.end,
    );
    const [from, to] = [text.lastIndexOf("\n", start - 1) + 1, endOfLine(text, end)];
    found.set(key, {
      module,
      kind,
      line: text.slice(0, start).split("\n").length,
      fn: fn?.name ?? null,
      entry: fn?.isEntry ? fn.name : null,
      override: fn ? null : (/^override (\w+)/.exec(text.slice(from, to))?.[1] ?? null),
      before: squeeze(text.slice(from, to)),
      after: squeeze(text.slice(from, start) + replacement + text.slice(end, to)),
      edit: { start, end, replacement },
    });
  };
  for (let i = 0; i < source.tokens.length; i += 1) {
    if (source.inert[i]) continue;
    operators(source, i, add);
    constants(source, i, add);
    components(source, i, add);
    calls(source, i, add);
    loops(source, i, add);
    statements(source, i, add);
  }
  return [...found.values()].sort((a, b) => a.line - b.line);
}

type Add = (kind: Kind, start: number, end: number, replacement: string) => void;

function operators({ tokens }: Source, i: number, add: Add): void {
  const { kind, text, start, end } = tokens[i]!;
  if (kind !== "symbol") return;
  const before = tokens[i - 1]!;
  const isBinary = before.kind === "number" || /^[)\]]$/.test(before.text) || isOperand(before.text);
  // Address-of and dereference, which are written as binary operators are, stay.
  const others = isBinary ? OPERATORS[text] : text === "-" || text === "!" ? [""] : undefined;
  for (const other of others ?? []) add("operator", start, end, other);
}

function isOperand(text: string): boolean {
  return /^[\p{XID_Start}_]/u.test(text) && !/^(return|if|while|switch|case)$/.test(text);
}

function constants({ tokens }: Source, i: number, add: Add): void {
  const { kind, text, start, end } = tokens[i]!;
  if (text === "true" || text === "false") add("constant", start, end, text === "true" ? "false" : "true");
  if (kind !== "number" || isFixed(tokens, i)) return;
  const [, digits, suffix] = /^(0[xX][\da-fA-F]+|[\d.]+(?:[eE][+-]?\d+)?)([iufh]?)$/.exec(text)!;
  const value = Number(digits);
  const isFloat = /[.eE]/.test(digits!) && !/^0[xX]/.test(digits!);
  if (isFloat || /[fh]/.test(suffix!)) {
    const others = value === 0 ? [1] : value === 1 ? [0, 2] : value === 0.5 ? [1] : [value * 2];
    for (const other of others) {
      const printed = String(other);
      add("constant", start, end, (/[.eE]/.test(printed) ? printed : `${printed}.0`) + suffix);
    }
    return;
  }
  const print = (n: number) => (/^0[xX]/.test(digits!) ? `0x${n.toString(16)}` : String(n));
  for (const other of value > 0 ? [value + 1, value - 1] : [1]) {
    if (other <= 0xffffffff) add("constant", start, end, print(other) + suffix);
  }
}

/** The default of the workgroup's size, `override WORKGROUP_SIZE: u32 = 64`: another one computes the same. */
function isFixed(tokens: Source["tokens"], i: number): boolean {
  return tokens[i - 5]?.text === "override" && /^WORKGROUP(_SIZE)?$/.test(tokens[i - 4]!.text);
}

function components({ tokens }: Source, i: number, add: Add): void {
  const { text, start, end } = tokens[i]!;
  if (tokens[i - 1]?.text !== "." || !/^[xyzw]{1,4}$/.test(text)) return;
  const swapped = text.length === 1 ? COMPONENTS[text]! : text[1]! + text[0]! + text.slice(2);
  add("component", start, end, swapped);
}

function calls(source: Source, i: number, add: Add): void {
  const { tokens, text } = source;
  const name = tokens[i]!.text;
  if (tokens[i + 1]?.text !== "(" || !/^(min|max|clamp|select)$/.test(name)) return;
  const close = source.partner.get(i + 1)!;
  const parts = argumentsOf(source, i + 2, close);
  const [start, end] = [tokens[i]!.start, tokens[close]!.end];
  const at = (n: number) => text.slice(...parts[n]!);
  if (name === "select") {
    add("arguments", parts[0]![0], parts[1]![1], `${at(1)}, ${at(0)}`);
  } else if (name === "clamp") {
    add("bound", start, end, `min(${at(0)}, ${at(2)})`);
    add("bound", start, end, `max(${at(0)}, ${at(1)})`);
  } else {
    add("bound", start, end, `(${at(0)})`);
    add("bound", start, end, `(${at(1)})`);
  }
}

/** [start, end) in the text of each argument between two tokens. */
function argumentsOf({ tokens, partner }: Source, first: number, close: number): [number, number][] {
  const parts: [number, number][] = [];
  let begin = first;
  for (let i = first; i <= close; i += 1) {
    if (i === close || tokens[i]!.text === ",") {
      if (i > begin) parts.push([tokens[begin]!.start, tokens[i - 1]!.end]);
      begin = i + 1;
    } else if (partner.has(i)) {
      i = partner.get(i)!;
    }
  }
  return parts;
}

/** `for (var i = start; i < end; …)`: start + 1, and an end that is one less or one more. */
function loops({ tokens, partner }: Source, i: number, add: Add): void {
  if (tokens[i]!.text !== "for") return;
  const close = partner.get(i + 1)!;
  let first: number | null = null;
  for (let j = i + 2; j < close; j += 1) {
    const { text } = tokens[j]!;
    if (text === "=" && first === null) first = j;
    if (text === ";") {
      if (first !== null) add("bound", tokens[j - 1]!.end, tokens[j - 1]!.end, " + 1");
      // The condition, if it is one comparison.
      let end = j + 1;
      while (tokens[end]!.text !== ";") end += 1;
      const comparisons = tokens.slice(j, end).filter((token) => /^([<>]=?|==|!=|&&|\|\|)$/.test(token.text));
      if (comparisons.length === 1 && /^[<>]=?$/.test(comparisons[0]!.text)) {
        const before = comparisons[0]!.start;
        add("bound", before, before, "+ 1 ");
        add("bound", tokens[end - 1]!.end, tokens[end - 1]!.end, " + 1");
      }
      return;
    }
  }
}

/** Removes one assignment, call, break, continue or return of nothing. */
function statements({ tokens, partner, functions }: Source, i: number, add: Add): void {
  if (!functions.some(({ first, last }) => first < i && i < last)) return;
  if (!STATEMENT_START.test(tokens[i - 1]!.text) || isHeader(tokens, partner, i)) return;
  const { kind, text } = tokens[i]!;
  if (/^(var|let|const|if|else|for|while|loop|switch|case|default|continuing)$/.test(text)) return;
  if (text === "return" && tokens[i + 1]!.text !== ";") return;
  if (kind !== "word" && text !== "(" && text !== "*") return;
  let end = i;
  while (tokens[end]!.text !== ";") {
    if (tokens[end]!.text === "{") return;
    end = /^[([]$/.test(tokens[end]!.text) ? partner.get(end)! + 1 : end + 1;
  }
  add("removed", tokens[i]!.start, tokens[end]!.start, "");
}

/** Whether a token stands between the parentheses of a `for`. */
function isHeader(tokens: Source["tokens"], partner: Source["partner"], i: number): boolean {
  for (let j = i - 1; j >= 0 && !/^[{}]$/.test(tokens[j]!.text); j -= 1) {
    if (tokens[j]!.text === "for") return partner.get(j + 1)! > i;
  }
  return false;
}

function endOfLine(text: string, from: number): number {
  const at = text.indexOf("\n", from);
  return at < 0 ? text.length : at;
}

function squeeze(text: string): string {
  return text.replace(/\s+/g, " ").trim();
}
