// What compile.ts and the null driver leave in a folder.

import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

export interface CompiledKernel {
  /** FILE.json and FILE.asm are the driver's, FILE.wgsl is the source. */
  file: string;
  /** `conv2d_tile+x_affine`: a module, with the parts in its holes. */
  shader: string;
  entry: string;
  constants: Record<string, number>;
}

/** One dispatch. */
export interface Launch {
  workload: string;
  file: string;
  op: string;
  /** What it works out, whichever kernel does: `conv2d.forward|SHAPE`; empty for what is not counted in FLOP. */
  work: string;
  workgroups: number;
  flops: number;
  bytes: number;
}

export interface Compiled {
  /** Version of the driver, e.g. `25.0`. */
  mesa: string;
  kernels: CompiledKernel[];
  launches: Launch[];
}

/** What the driver says of a kernel; its statistics are RADV's. */
export interface MachineCode {
  family: string;
  wave: number;
  workgroup: readonly [number, number, number];
  statistics: Readonly<Record<string, number>>;
  assembly: string;
}

/** `description`: the adapter's, which names the driver. */
export function writeCompiled(folder: string, description: string, what: Omit<Compiled, "mesa">): void {
  const mesa = /Mesa (\d+\.\d+)/.exec(description)?.[1] ?? "";
  const compiled: Compiled = { mesa, ...what };
  writeFileSync(join(folder, "compiled.json"), JSON.stringify(compiled));
}

export function readCompiled(folder: string): Compiled {
  return JSON.parse(readFileSync(join(folder, "compiled.json"), "utf8"));
}

/** @throws Error where the driver wrote nothing, or without a disassembly. */
export function readMachineCode(folder: string, { file, shader, entry }: CompiledKernel): MachineCode {
  const base = join(folder, file);
  for (const ending of ["json", "asm"]) {
    if (existsSync(`${base}.${ending}`)) continue;
    throw new Error(
      `${shader}.${entry}: the driver left no ${ending === "asm" ? "disassembly: its LLVM does not know this family" : "statistics"}`,
    );
  }
  return {
    ...JSON.parse(readFileSync(`${base}.json`, "utf8")),
    assembly: readFileSync(`${base}.asm`, "utf8"),
  };
}
