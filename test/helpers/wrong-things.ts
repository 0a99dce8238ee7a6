// A table of right arguments, and what becomes of a call when one of them is replaced by something wrong.

import { FusenormError } from "../../src/errors.ts";
import type { Gpu } from "../../src/gpu.ts";
import { Tensor } from "../../src/tensor/tensor.ts";

/** One argument or option: a right value, and which other values are right as well. */
export interface Argument {
  value: unknown;
  accepts: (value: unknown) => boolean;
  /** Of an options object, by name. */
  fields?: Record<string, Argument>;
}

export interface Entry {
  /** What messages may begin with. Default: the entry's name. */
  names?: readonly string[];
  args: readonly Argument[];
  call: (...args: never[]) => unknown;
  /** Puts back what an accepted call changed. */
  after?: () => void;
  /** Which accepted calls are made: all (the default), the one with the right arguments, or none, as they need a network. */
  accepted?: "all" | "right" | "none";
}

// --- kinds of arguments ------------------------------------------------------------------------------

/** A tensor of float32, or of `dtypes`, on the same Gpu as `value`. */
export const tensor = (value: Tensor, dtypes: readonly string[] = ["float32"]): Argument => ({
  value,
  accepts: (v) => v instanceof Tensor && !v.isDisposed && dtypes.includes(v.dtype),
});

export const integer = (value: number, low: number, high = Number.MAX_SAFE_INTEGER): Argument => ({
  value,
  accepts: (v) => Number.isInteger(v) && (v as number) >= low && (v as number) <= high,
});

export const number = (value: number, low = Number.NEGATIVE_INFINITY, high = Number.MAX_VALUE): Argument => ({
  value,
  accepts: (v) => Number.isFinite(v) && (v as number) >= low && (v as number) <= high,
});

export const flag = (value: boolean): Argument => ({ value, accepts: (v) => typeof v === "boolean" });

export const text = (value: string): Argument => ({ value, accepts: (v) => typeof v === "string" });

export const choice = (value: string, ...others: string[]): Argument => ({
  value,
  accepts: (v) => v === value || others.includes(v as string),
});

export const func = (value: (...args: never[]) => unknown): Argument => ({
  value,
  accepts: (v) => typeof v === "function",
});

/** An array of what `item` accepts. */
export const list = (value: readonly unknown[], item: (value: unknown) => boolean): Argument => ({
  value,
  accepts: (v) => Array.isArray(v) && Array.from(v).every(item),
});

export const shape = (value: readonly number[]): Argument =>
  list(value, (size) => Number.isSafeInteger(size) && (size as number) > 0);

export const instance = <T>(value: T): Argument => ({
  value,
  accepts: (v) => v instanceof (value as object).constructor,
});

/** A plain object; `required` fields must be there. */
export const options = (fields: Record<string, Argument>, required: readonly string[] = []): Argument => ({
  value: Object.fromEntries(Object.entries(fields).map(([name, { value }]) => [name, value])),
  accepts: (v) => isPlain(v) && required.length === 0 && Object.keys(v).length === 0,
  fields: Object.fromEntries(
    Object.entries(fields).map(([name, field]) => [name, required.includes(name) ? field : optional(field)]),
  ),
});

/** May be left out. */
export const optional = (argument: Argument): Argument => ({
  ...argument,
  accepts: (v) => v === undefined || argument.accepts(v),
});

export const orNull = (argument: Argument): Argument => ({
  ...argument,
  accepts: (v) => v === null || argument.accepts(v),
});

/** Either of the two; the value is the first one's. */
export const either = (first: Argument, second: Argument): Argument => ({
  ...first,
  accepts: (v) => first.accepts(v) || second.accepts(v),
});

function isPlain(value: unknown): value is object {
  return value !== null && typeof value === "object" && Object.getPrototypeOf(value) === Object.prototype;
}

// --- what is wrong ------------------------------------------------------------------------------------

/** Things that people pass by mistake, by what they are called in a report. */
export function wrongThings(gpu: Gpu, other: Gpu): Record<string, unknown> {
  const disposed = gpu.zeros([2, 3]);
  disposed.dispose();
  const keep = (t: Tensor) => t.gpu.keep(t);
  return {
    null: null,
    undefined: undefined,
    true: true,
    zero: 0,
    seven: 7,
    "minus one": -1,
    "a fraction": 1.5,
    NaN: Number.NaN,
    infinity: Number.POSITIVE_INFINITY,
    "2^53": 2 ** 53,
    "1e300": 1e300,
    "a bigint": 5n,
    "a symbol": Symbol("wrong"),
    "an empty string": "",
    "a string": "wrong",
    "an array": [1, 2],
    "an empty array": [],
    "an array of a hole": new Array(1),
    "a nested array": [[1, 2], [3]],
    "an array of strings": ["a", "b"],
    "an array of fractions": [1.5, Number.NaN],
    "an array of huge numbers": [1e6, 1e6, 1e6],
    "an array of overflow": [2 ** 52, 2 ** 52],
    "an array of symbols": [Symbol("wrong")],
    "an object": {},
    "an unknown option": { surelyUnknown: 1 },
    "a function": () => 1,
    "a class": Date,
    "a date": new Date(0),
    "a typed array": new Float32Array(3),
    "big integers": new BigInt64Array(2),
    "a view": new DataView(new ArrayBuffer(8)),
    "a buffer": new ArrayBuffer(8),
    "a promise": Promise.resolve(1),
    "a Gpu": gpu,
    "a disposed tensor": disposed,
    "a tensor of another Gpu": keep(other.full([2, 4, 4, 8], 0.5)),
    "a scalar tensor": keep(gpu.full([], 0.5)),
    "a vector": keep(gpu.full([3], 0.5)),
    "a tensor of integers": keep(gpu.zeros([2], { dtype: "uint32" })),
    "a tensor of bytes": keep(gpu.zeros([2, 4, 4, 8], { dtype: "uint8" })),
    "a tensor of halves": keep(gpu.zeros([2, 4, 4, 8], { dtype: "float16" })),
    "a tensor of nine axes": keep(gpu.full([1, 2, 1, 2, 1, 2, 1, 2, 1], 0.5)),
  };
}

/** Something of `value` that a message has to show. */
function traces(value: unknown): string[] {
  if (value instanceof Tensor) {
    return [
      "Tensor",
      "tensor",
      value.dtype,
      "dispose",
      "another Gpu",
      `[${value.shape.join(", ")}]`,
      `rank ${value.rank}`,
    ];
  }
  if (typeof value === "symbol") return ["Symbol"];
  if (typeof value === "function") return ["function", "returned"];
  if (Array.isArray(value)) {
    // A list, or the item of it that is wrong.
    const items = Array.from(value).flatMap((item) => (Array.isArray(item) ? item : [item]));
    return ["[", "rray", "empty", "no ", `${value.length}`, ...items.map((item) => String(item))];
  }
  if (value !== null && typeof value === "object") {
    const keys = Object.keys(value);
    // Of an empty object, a required option is missing.
    return [
      value.constructor.name,
      "{",
      "bject",
      ...keys,
      ...(keys.length === 0 ? ["undefined", "missing"] : []),
    ];
  }
  return [String(value), ...(value === "" ? ['""'] : [])];
}

/** Tensors, and what holds tensors, in a result, but for those that came in. */
function disposeAll(result: unknown, own: ReadonlySet<unknown>, depth = 0): void {
  if (result === null || typeof result !== "object" || depth > 3 || own.has(result)) return;
  const { dispose } = result as { dispose?: unknown };
  if (typeof dispose === "function") dispose.call(result);
  else for (const item of Object.values(result)) disposeAll(item, own, depth + 1);
}

function* tensorsIn(value: unknown, depth = 0): Iterable<Tensor> {
  if (value instanceof Tensor) yield value;
  else if (value !== null && typeof value === "object" && depth < 3) {
    for (const item of Object.values(value)) yield* tensorsIn(item, depth + 1);
  }
}

/**
 * Calls `entry` with the right arguments, and then with each of them, and each of their options, replaced by each wrong
 * thing and by an unknown option. What is not accepted has to give a typed error that begins with the name and shows the
 * value, and to leave no buffer; what is accepted may give either. Returns how many calls were made.
 */
export async function tryAll(
  gpu: Gpu,
  name: string,
  entry: Entry,
  things: Record<string, unknown>,
  problems: string[],
): Promise<number> {
  const names = entry.names ?? [name];
  const right = entry.args.map(({ value }) => value);
  const own = new Set([...tensorsIn(Object.values(things)), ...tensorsIn(right), ...right]);
  let calls = 0;

  const call = async (args: readonly unknown[], accepted: boolean): Promise<unknown> => {
    calls += 1;
    const run = () => entry.call(...(args as never[]));
    let result: unknown;
    try {
      result = run();
      // A promise's result counts; an iterator's first step is none.
      if (result instanceof Promise) result = await result;
    } catch (error) {
      return error;
    }
    if (accepted) {
      disposeAll(result, own);
      entry.after?.();
    }
    return null;
  };

  const attempt = async (what: string, args: readonly unknown[], wrong: unknown, accepted: boolean) => {
    if (accepted && entry.accepted !== undefined) return;
    const before = gpu.stats.liveBuffers;
    const error = await call(args, accepted);
    const note = (text: string) => problems.push(`${name}, ${what}: ${text}`);
    if (error === null) {
      if (!accepted) note("was accepted");
      return;
    }
    if (!(error instanceof FusenormError)) return note(`gave ${String(error)}`);
    const { message } = error;
    if (!names.some((own) => message.startsWith(`${own}: `) || message.startsWith(`${own} `))) {
      return note(`gave a message that begins otherwise: ${message}`);
    }
    if (accepted) return;
    if (gpu.stats.liveBuffers !== before) note(`left ${gpu.stats.liveBuffers - before} buffers`);
    // Or a field of it that is not there.
    const shown =
      traces(wrong).some((trace) => message.includes(trace)) || /[.\w]+ is undefined/.test(message);
    if (!shown) note(`does not show the value: ${message}`);
    if (/internal:|undefined is not|\[object/.test(message)) note(`gave an odd message: ${message}`);
  };

  const with_ = (index: number, value: unknown) => right.map((own, i) => (i === index ? value : own));
  const wrongs = Object.entries(things);
  const error = entry.accepted === "none" ? null : await call(right, true);
  if (error !== null)
    problems.push(`${name}, right arguments: gave ${String((error as Error).stack ?? error)}`);
  for (const [index, { accepts, fields, value }] of entry.args.entries()) {
    for (const [label, wrong] of wrongs) {
      await attempt(`argument ${index} is ${label}`, with_(index, wrong), wrong, accepts(wrong));
    }
    if (!fields) continue;
    const given = value as Record<string, unknown>;
    for (const [field, { accepts: takes }] of Object.entries(fields)) {
      for (const [label, wrong] of wrongs) {
        const changed = { ...given, [field]: wrong };
        await attempt(`option ${field} is ${label}`, with_(index, changed), wrong, takes(wrong));
      }
    }
    const known = Object.keys(fields);
    const near = known.find((field) => field.length > 3);
    const misspelt = near ? `${near}s` : "surelyUnknown";
    const unknown = { ...given, [misspelt]: 1 };
    await attempt(`an option "${misspelt}"`, with_(index, unknown), { [misspelt]: 1 }, false);
    const refusal = (await call(with_(index, unknown), false)) as Error | null;
    const expected = `there is no option "${misspelt}"${near ? `; did you mean "${near}"?` : ""}`;
    if (!refusal?.message.includes(expected))
      problems.push(`${name}: ${misspelt} is not refused by name: ${refusal}`);
  }
  return calls;
}
