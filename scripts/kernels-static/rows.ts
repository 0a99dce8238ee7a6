// The figures of each kernel, as they are stored: what it does, what it takes, what it could reach.

import type { Chip } from "./chips.ts";
import {
  type Compiled,
  type CompiledKernel,
  type Launch,
  readCompiled,
  readMachineCode,
} from "./compiled.ts";
import { analyze, type Bound, type Count, type Shares, sharesOf } from "./model.ts";

export interface Row {
  /** What it does, in words that a change of the kernel leaves alone; unique for a subgroup size. */
  id: string;
  wave: number;
  /** `conv2d_tile+statistics.conv_8x4` */
  kernel: string;
  /** Dispatches in each workload. */
  workloads: Record<string, number>;
  /** Of the largest grid. */
  workgroups: number;
  /** Of a workgroup. */
  lanes: number;
  registers: number;
  /** Registers of either kind that did not fit. */
  spills: number;
  /** Bytes of memory for what did not fit. */
  scratch: number;
  /** Bytes of workgroup memory. */
  lds: number;
  /** Of a SIMD at a time. */
  waves: number;
  instructions: number;
  mix: Mix;
  /** Loads on their way at a time, at most. */
  inFlight: number;
  /** Bytes on their way to a compute unit at a time, if all its waves are at that point. */
  flying: number;
  /** Issue cycles between a load and the wait for it. */
  distance: number | null;
  /** Bytes that a compute unit could move in a cycle, if only issuing counted. */
  room: number;
  bound: Bound | null;
  /** Percent of peak: see `Shares`. Null for what is not counted in FLOP. */
  ideal: number | null;
  est: number | null;
  whole: number | null;
  /** Of all its dispatches. */
  flops: number;
  bytes: number;
}

/** Instructions: of a turn of the loop that the fmas are in, else of the whole kernel. */
export interface Mix {
  fma: number;
  /** Vector integer arithmetic. */
  integer: number;
  move: number;
  /** The rest of the vector instructions. */
  other: number;
  scalar: number;
  loads: number;
  stores: number;
  lds: number;
}

/** What all dispatches of a workload come to, weighted by FLOP. */
export interface Total {
  workload: string;
  wave: number;
  gigaflops: number;
  ideal: number | null;
  est: number | null;
  whole: number | null;
  dispatches: number;
}

export interface Figures {
  family: string;
  /** Of the driver, e.g. `25.0`: another one compiles to other code. */
  mesa: string;
  totals: Total[];
  rows: Row[];
}

const round = (value: number) => Math.round(10 * value) / 10;

/** FLOP, and FLOP over percent of peak: what remains when the shares of many dispatches are to be one. */
class Spent {
  flops = 0;
  dispatches = 0;
  private readonly over = { ideal: 0, est: 0, whole: 0 };

  add(flops: number, shares: Shares): void {
    this.flops += flops;
    for (const figure of FIGURES) this.over[figure] += flops / shares[figure];
  }

  share(figure: (typeof FIGURES)[number]): number | null {
    return this.flops > 0 ? round(this.flops / this.over[figure]) : null;
  }
}

const FIGURES = ["ideal", "est", "whole"] as const;

/** The figures of what one child compiled. */
export function readFigures(folder: string, chip: Chip): { rows: Row[]; totals: Total[]; mesa: string } {
  const compiled = readCompiled(folder);
  const all = groups(compiled);
  const ids = uniqueIds(all);
  const spent = new Map<string, Spent>();
  const rows = all.map((group, i) => rowOf(folder, chip, group, ids[i]!, spent));
  const wave = rows[0]?.wave ?? 0;
  const totals = [...spent].map(
    ([workload, one]): Total => ({
      ...{ workload, wave, gigaflops: round(one.flops / 1e9) },
      ...{ ideal: one.share("ideal"), est: one.share("est"), whole: one.share("whole") },
      dispatches: one.dispatches,
    }),
  );
  return { rows, totals, mesa: compiled.mesa };
}

function rowOf(
  folder: string,
  chip: Chip,
  { kernel, launches }: Group,
  id: string,
  spent: Map<string, Spent>,
): Row {
  const { assembly, wave, workgroup, statistics } = readMachineCode(folder, kernel);
  const { all, loop, inFlight, widest } = analyze(assembly, chip, wave);
  const lanes = workgroup.reduce((product, n) => product * n);
  // RADV counts in waves of 32 lanes on RDNA.
  const perSimd = statistics["Subgroups per SIMD"]!;
  const waves = chip.generation === "GCN" ? perSimd : perSimd / (wave / 32);
  const own = new Spent();
  let bound: Bound | null = null;
  for (const { workload, workgroups, flops } of launches) {
    const total = spent.get(workload) ?? new Spent();
    spent.set(workload, total);
    total.dispatches += 1;
    if (!loop || flops === 0) continue;
    const shares = sharesOf(loop, chip, wave, { workgroups, lanes, waves }, flops);
    bound = shares.bound;
    own.add(flops, shares);
    total.add(flops, shares);
  }
  const loadBytes = widest.loads > 0 ? widest.loadBytes / widest.loads : 0;
  return {
    ...{ id, wave, kernel: `${kernel.shader}.${kernel.entry}` },
    workloads: countBy(launches, ({ workload }) => workload),
    workgroups: Math.max(...launches.map(({ workgroups }) => workgroups)),
    lanes,
    registers: statistics.VGPRs!,
    spills: statistics["Spilled VGPRs"]! + statistics["Spilled SGPRs"]!,
    scratch: statistics["Scratch size"]!,
    lds: statistics["LDS size"]!,
    waves,
    instructions: statistics.Instructions!,
    mix: mixOf(loop ? loop.turn : all),
    inFlight,
    flying: inFlight * loadBytes * waves * chip.simds,
    distance: loop?.distance ?? null,
    room: round(
      widest.cycles > 0 ? ((widest.loadBytes + widest.storeBytes) / widest.cycles) * chip.simds : 0,
    ),
    bound,
    ideal: own.share("ideal"),
    est: own.share("est"),
    whole: own.share("whole"),
    flops: own.flops,
    bytes: sum(launches, ({ bytes }) => bytes),
  };
}

/** A kernel with one of the works that it does. */
interface Group {
  kernel: CompiledKernel;
  work: string;
  launches: Launch[];
}

function groups({ kernels, launches }: Compiled): Group[] {
  const byFile = new Map(kernels.map((kernel) => [kernel.file, kernel]));
  const found = new Map<string, Group>();
  for (const launch of launches) {
    const key = `${launch.file} ${launch.work}`;
    let group = found.get(key);
    if (!group) {
      group = { kernel: byFile.get(launch.file)!, work: launch.work, launches: [] };
      found.set(key, group);
    }
    group.launches.push(launch);
  }
  return [...found.values()];
}

function mixOf(c: Count): Mix {
  const { fma, integer, move, valu, salu, smem, loads, stores, ldsLoads, ldsStores } = c;
  const rounded = { fma, integer, move, other: valu - fma - integer - move, scalar: salu + smem };
  const memory = { loads, stores, lds: ldsLoads + ldsStores };
  return Object.fromEntries(
    Object.entries({ ...rounded, ...memory }).map(([name, n]) => [name, Math.round(n)]),
  ) as unknown as Mix;
}

function sum<T>(list: readonly T[], of: (one: T) => number): number {
  return list.reduce((total, one) => total + of(one), 0);
}

function countBy<T>(list: readonly T[], of: (one: T) => string): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const one of list) counts[of(one)] = (counts[of(one)] ?? 0) + 1;
  return counts;
}

/** An id for each: where two are alike, the later one names the constants that it differs in. */
function uniqueIds(all: readonly Group[]): string[] {
  const first = new Map<string, CompiledKernel>();
  return all.map(({ kernel, work }) => {
    const id = idOf(kernel, work);
    const other = first.get(id);
    if (!other) {
      first.set(id, kernel);
      return id;
    }
    const { constants } = kernel;
    const different = Object.keys(constants).filter((name) => constants[name] !== other.constants[name]);
    const longer = [id, ...different.map((name) => `${name}=${constants[name]}`)].join(" ");
    return first.has(longer) || different.length === 0 ? `${longer} ${kernel.entry}` : longer;
  });
}

/** What a kernel does: the op's work and what is folded into it, or its name and constants. */
export function idOf({ shader, entry, constants }: CompiledKernel, work: string): string {
  const [module, ...parts] = shader.split("+");
  const [op, shape] = work.split("|") as [string, string | undefined];
  if (shape !== undefined) {
    const folded = parts.length > 0 ? ` +${parts.join("+")}` : "";
    return `${op} ${shapeInWords(op, shape)}${folded}`;
  }
  const given = Object.entries(constants).map(([name, value]) => `${name}=${value}`);
  return [`${[module, ...parts].join("+")}.${entry}`, ...given].join(" ");
}

/** `3×3 16→16 @32 ×128` for the key of a convolution's sizes, `1024×1024×1024` for a product's; others as they are. */
export function shapeInWords(op: string, shape: string): string {
  const sizes = shape.split("x").map(Number);
  if (op.startsWith("conv2d.") && sizes.length === 16) {
    const [N, , , C, K, R, S, P, Q, stride] = sizes as [number, ...number[]];
    const [dilation, , groups] = sizes.slice(13);
    const more = `${dilation === 1 ? "" : ` dilation ${dilation}`}${groups === 1 ? "" : ` groups ${groups}`}`;
    return `${R}×${S}${stride === 1 ? "" : `/${stride}`} ${C}→${K} @${P === Q ? P : `${P}×${Q}`} ×${N}${more}`;
  }
  if (op.startsWith("matmul.") && sizes.length === 8) {
    const [M, N, K, aRow, , bRow] = sizes as number[];
    return `${M}×${N}×${K}${aRow === 1 ? " aᵀ" : ""}${bRow === 1 ? " bᵀ" : ""}`;
  }
  return shape;
}
