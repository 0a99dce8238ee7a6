import { existsSync, mkdirSync, statSync } from "node:fs";
import { InvalidArgumentError } from "commander";
import { UsageError } from "../errors.ts";

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

/** Makes the directory that results go to. @throws UsageError if something else is in its place */
export function makeOutDirectory(command: string, out: string): void {
  if (existsSync(out) && !statSync(out).isDirectory()) {
    throw new UsageError(`${command}: --out ${out} is a file, not a directory; name another place`);
  }
  try {
    mkdirSync(out, { recursive: true });
  } catch (error) {
    throw new UsageError(`${command}: --out ${out} can't be made: ${(error as Error).message}`);
  }
}

/** A comma-separated list of what `item` parses. */
export function listOf<T>(item: (text: string) => T): (text: string) => T[] {
  return (text) => text.split(",").map((part) => item(part.trim()));
}
