import type { Shape } from "./shape.ts";

// Numbers as people read them, in the manner of PyTorch: equal widths, four digits, and of large tensors the corners.

/** Elements up to which all are shown; of larger tensors, so many at each end of each axis. */
const THRESHOLD = 1000;
const EDGE = 3;

/** How to write numbers so that they can be compared: integers as they are, else four digits, with exponents where they differ much. */
function notation(values: readonly number[]): (value: number) => string {
  const finite = values.filter(Number.isFinite);
  const sizes = finite.filter((value) => value !== 0).map(Math.abs);
  const [low, high] = [Math.min(...sizes), Math.max(...sizes)];
  const integers = finite.every(Number.isInteger) && high < 1e9;
  const exponents = sizes.length > 0 && (high >= 1e6 || low < 1e-4 || high / low > 1e6);
  return (value) => {
    if (Number.isNaN(value)) return "NaN";
    if (!Number.isFinite(value)) return value < 0 ? "−∞" : "∞";
    if (integers || sizes.length === 0) return `${value}`;
    return exponents ? value.toExponential(4) : value.toFixed(4);
  };
}

/** Where along an axis the shown elements lie; −1 stands for those left out. */
function shown(length: number, all: boolean): number[] {
  if (all || length <= 2 * EDGE) return Array.from({ length }, (_, i) => i);
  const ends = Array.from({ length: EDGE }, (_, i) => i);
  return [...ends, -1, ...ends.map((i) => length - EDGE + i)];
}

/** The elements as nested brackets, a row a line. */
export function formatElements(data: ArrayLike<number>, shape: Shape): string {
  const all = data.length <= THRESHOLD;
  const axes = shape.map((length) => shown(length, all));
  const visible: number[] = [];
  const collect = (axis: number, offset: number): void => {
    if (axis === shape.length) visible.push(data[offset]!);
    else for (const i of axes[axis]!) if (i >= 0) collect(axis + 1, offset * shape[axis]! + i);
  };
  collect(0, 0);
  const write = notation(visible);
  const width = Math.max(...visible.map((value) => write(value).length));
  const block = (axis: number, offset: number): string => {
    if (axis === shape.length) return write(data[offset]!).padStart(width);
    const parts = axes[axis]!.map((i) => (i < 0 ? "…" : block(axis + 1, offset * shape[axis]! + i)));
    const deeper = shape.length - axis - 1;
    return `[${parts.join(deeper === 0 ? ", " : `,${"\n".repeat(deeper)}${" ".repeat(axis + 1)}`)}]`;
  };
  return block(0, 0);
}
