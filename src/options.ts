// Checks of arguments that every public function shares. Each refusal names the op, the value, the rule and, where there
// is one, the nearest right word.

import { ShapeError, UsageError } from "./errors.ts";

/** `value` for a message: short, and telling what it is. */
export function show(value: unknown): string {
  if (typeof value === "string")
    return JSON.stringify(value.length > 60 ? `${value.slice(0, 57)}...` : value);
  if (typeof value === "bigint") return `${value}n`;
  if (typeof value === "function") return value.name ? `the function ${value.name}` : "a function";
  if (value === null || typeof value !== "object") return String(value);
  if (Array.isArray(value)) {
    const some = Array.from(value.slice(0, 8), show);
    return `[${some.join(", ")}${value.length > 8 ? `, … ${value.length} in all` : ""}]`;
  }
  if (isPlain(value)) {
    const keys = Object.keys(value);
    return keys.length === 0 ? "{}" : `{ ${keys.slice(0, 6).join(", ")}${keys.length > 6 ? ", …" : ""} }`;
  }
  const { shape, length } = value as { shape?: unknown; length?: unknown };
  const name = value.constructor?.name || "object";
  if (Array.isArray(shape)) return `a ${name} ${show(shape)}`;
  return typeof length === "number" ? `a ${name} of ${length}` : `a ${name}`;
}

/** Made by `{}`, in this or another window. */
export function isPlain(value: unknown): value is Record<string, unknown> {
  if (value === null || typeof value !== "object") return false;
  const prototype = Object.getPrototypeOf(value);
  return prototype === null || Object.getPrototypeOf(prototype) === null;
}

/** The names of all options of type T: the compiler wants each one, and no other. */
export function optionNames<T>(names: { [K in keyof T]-?: 0 }): readonly string[] {
  return Object.keys(names);
}

/**
 * @param name what the object is called in messages
 * @throws UsageError unless `options` is a plain object with no key but the known ones.
 */
export function checkOptions(op: string, options: unknown, known: readonly string[], name = "options"): void {
  if (!isPlain(options)) {
    throw new UsageError(
      `${op}: ${name} is ${show(options)}; expected an object of ${known.length === 0 ? "no options" : known.join(", ")}`,
    );
  }
  // On every call of an op: nothing is allocated.
  for (const key in options) {
    if (!known.includes(key)) {
      const near = nearest(key, known);
      throw new UsageError(
        `${op}: there is no option "${key}"${near ? `; did you mean "${near}"?` : ";"} expected one of ${known.join(", ")}`,
      );
    }
  }
}

/** Words of other libraries for what has another name here. */
const SYNONYMS: Record<string, string> = {
  kaiming: "he",
  kaiming_normal: "he",
  kaiming_uniform: "he_uniform",
  he_normal: "he",
  glorot: "xavier",
  glorot_uniform: "xavier",
  glorot_normal: "xavier_normal",
  xavier_uniform: "xavier",
  learningrate: "lr",
  float: "float32",
  f32: "float32",
  half: "float16",
  f16: "float16",
  int32: "uint32",
  type: "dtype",
  swish: "silu",
};

/** The known word that is most like `word`, or null if none is. */
export function nearest(word: string, known: readonly string[]): string | null {
  const plain = (text: string) => text.toLowerCase().replace(/[-_ ]/g, "");
  const meant = SYNONYMS[word.toLowerCase()] ?? SYNONYMS[plain(word)];
  if (meant !== undefined && known.includes(meant)) return meant;
  let best: string | null = null;
  let least = Number.POSITIVE_INFINITY;
  for (const candidate of known) {
    const distance = editDistance(plain(word), plain(candidate));
    if (distance < least && distance <= Math.max(word.length, candidate.length) / 2) {
      best = candidate;
      least = distance;
    }
  }
  return best;
}

/** Letters to add, drop or change (Levenshtein), row by row. */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i += 1) {
    const next = [i];
    for (let j = 1; j <= b.length; j += 1) {
      next[j] = Math.min(row[j]! + 1, next[j - 1]! + 1, row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1));
    }
    row = next;
  }
  return row[b.length]!;
}

/** `"a", "b" or "c"` */
export function oneOf(choices: readonly string[]): string {
  const quoted = choices.map((choice) => `"${choice}"`);
  return [quoted.slice(0, -1).join(", "), quoted.at(-1)].filter(Boolean).join(" or ");
}

/** @throws `Failure` unless `value` is one of `choices`. */
export function checkChoice<T extends string>(
  op: string,
  name: string,
  value: unknown,
  choices: readonly T[],
  Failure: typeof UsageError | typeof ShapeError = UsageError,
): asserts value is T {
  if (choices.includes(value as T)) return;
  const near = typeof value === "string" ? nearest(value, choices) : null;
  throw new Failure(
    `${op}: ${name} is ${show(value)}; expected ${oneOf(choices)}${near ? ` (did you mean "${near}"?)` : ""}`,
  );
}

/** @throws UsageError unless `value` is true or false. */
export function checkFlag(op: string, name: string, value: unknown): asserts value is boolean {
  if (typeof value !== "boolean") {
    throw new UsageError(`${op}: ${name} is ${show(value)}; expected true or false`);
  }
}

/** @throws UsageError unless `value` is a string. */
export function checkText(op: string, name: string, value: unknown): asserts value is string {
  if (typeof value !== "string") throw new UsageError(`${op}: ${name} is ${show(value)}; expected a string`);
}

/** @throws ShapeError unless `value` is an integer from `low` to `high`. */
export function checkInteger(
  op: string,
  name: string,
  value: unknown,
  low: number,
  high = Number.MAX_SAFE_INTEGER,
): asserts value is number {
  if (!Number.isInteger(value) || (value as number) < low || (value as number) > high) {
    const range =
      high < Number.MAX_SAFE_INTEGER
        ? `an integer from ${low} to ${high}`
        : low === 1
          ? "a positive integer"
          : `an integer of at least ${low}`;
    throw new ShapeError(`${op}: ${name} is ${show(value)}; expected ${range}`);
  }
}

/** @throws ShapeError unless `value` is a finite number of at least `low`. */
export function checkNumber(
  op: string,
  name: string,
  value: unknown,
  low = Number.NEGATIVE_INFINITY,
): asserts value is number {
  if (!Number.isFinite(value) || (value as number) < low) {
    const least = low === Number.NEGATIVE_INFINITY ? "" : ` of at least ${low}`;
    throw new ShapeError(`${op}: ${name} is ${show(value)}; expected a finite number${least}`);
  }
}

/** @throws UsageError unless `value` is a function. */
export function checkFunction(op: string, name: string, value: unknown): void {
  if (typeof value !== "function") {
    throw new UsageError(`${op}: ${name} is ${show(value)}; expected a function`);
  }
}

/** @throws ShapeError unless `value` is an array. */
export function checkArray(
  op: string,
  name: string,
  value: unknown,
  of: string,
): asserts value is readonly unknown[] {
  if (!Array.isArray(value)) {
    throw new ShapeError(`${op}: ${name} is ${show(value)}; expected an array of ${of}`);
  }
}

/** @throws ShapeError unless `value` was made by `kind`. */
export function checkInstance<T>(
  op: string,
  name: string,
  value: unknown,
  // biome-ignore lint/suspicious/noExplicitAny: any constructor will do
  kind: abstract new (...args: any[]) => T,
): asserts value is T {
  if (!(value instanceof kind)) {
    throw new ShapeError(`${op}: ${name} is ${show(value)}; expected a ${kind.name}`);
  }
}

/**
 * `result` of a callback that must do its work before it returns. A promise is refused: what the call set up would be gone when
 * the function goes on. Its rejection counts as seen, since this error is thrown instead.
 * @throws UsageError
 */
export function synchronous<T>(op: string, result: T): T {
  if (typeof (result as { then?: unknown } | null)?.then !== "function") return result;
  Promise.resolve(result).catch(() => {});
  throw new UsageError(
    `${op}: the function returned a promise; expected one that does its work before it returns: await before or after ${op}`,
  );
}
