/**
 * Has Node, Bun and Deno show `object` by its own `toString` where it is logged. A method of the class by that symbol would keep the class in
 * every bundle: what the key of a method calls may have effects.
 */
export function showByToString(object: object): void {
  Object.defineProperty(object, Symbol.for("nodejs.util.inspect.custom"), { value: () => String(object) });
}
