// JSON that keeps every number: it has no NaN and no infinities of its own, and diverged runs are full of them.

const NON_FINITE = new Map([
  ["#NaN", Number.NaN],
  ["#Infinity", Number.POSITIVE_INFINITY],
  ["#-Infinity", Number.NEGATIVE_INFINITY],
]);

/** JSON in which NaN and infinities are the strings "#NaN", "#Infinity", "#-Infinity". */
export function toJson(value: unknown, indent?: number): string {
  return JSON.stringify(
    value,
    (_key, item) =>
      ArrayBuffer.isView(item)
        ? Array.from(item as unknown as ArrayLike<number>, (v) => (Number.isFinite(v) ? v : `#${v}`))
        : typeof item === "number" && !Number.isFinite(item)
          ? `#${item}`
          : item,
    indent,
  );
}

export function fromJson(text: string): unknown {
  return JSON.parse(text, (_key, item) =>
    typeof item === "string" && NON_FINITE.has(item) ? NON_FINITE.get(item) : item,
  );
}
