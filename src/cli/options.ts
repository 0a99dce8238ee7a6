import { InvalidArgumentError } from "commander";

/** Parsers for commander's options: what is not a number is refused where it is typed. */
export function number(text: string): number {
  const value = Number(text);
  if (text.trim() === "" || !Number.isFinite(value)) {
    throw new InvalidArgumentError(`"${text}" is not a finite number.`);
  }
  return value;
}

export function integer(text: string): number {
  const value = number(text);
  if (!Number.isInteger(value)) throw new InvalidArgumentError(`"${text}" is not an integer.`);
  return value;
}

export function positiveInteger(text: string): number {
  const value = integer(text);
  if (value < 1) throw new InvalidArgumentError(`${text} is below 1.`);
  return value;
}

export function positiveNumber(text: string): number {
  const value = number(text);
  if (value <= 0) throw new InvalidArgumentError(`${text} is not above 0.`);
  return value;
}

/** A comma-separated list of what `item` parses. */
export function listOf<T>(item: (text: string) => T): (text: string) => T[] {
  return (text) => text.split(",").map((part) => item(part.trim()));
}
