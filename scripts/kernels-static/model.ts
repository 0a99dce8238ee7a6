// What a kernel's machine code could reach on a GPU. A model, not a measurement: docs/design/0009-kernels-without-a-gpu.md says
// what it assumes and what it cannot know.

import { type Block, findLoops, type Loop, parseBlocks, tripsOf } from "./assembly.ts";
import type { Chip } from "./chips.ts";

/** What some code holds; `cycles` are those of issue slots of a SIMD. */
export interface Count {
  cycles: number;
  valu: number;
  fma: number;
  integer: number;
  move: number;
  slow: number;
  salu: number;
  smem: number;
  loads: number;
  stores: number;
  ldsLoads: number;
  ldsStores: number;
  barriers: number;
  matrix: number;
  /** Of all lanes of a wave. */
  loadBytes: number;
  storeBytes: number;
  ldsBytes: number;
}

const NOTHING: Readonly<Count> = {
  ...{ cycles: 0, valu: 0, fma: 0, integer: 0, move: 0, slow: 0, salu: 0, smem: 0, loads: 0, stores: 0 },
  ...{ ldsLoads: 0, ldsStores: 0, barriers: 0, matrix: 0, loadBytes: 0, storeBytes: 0, ldsBytes: 0 },
};

/** What ACO counts as pairable, and what is as fast: two of them in a cycle, or a wave64 in one. */
const PAIRABLE =
  /^v_(dual_)?(fma|fmac|fmaak|fmamk|mul|add|sub|subrev|max|min)_f(32|16)|^v_(dual_)?(mov_b32|cndmask_b32)|^v_dot2|^v_(pk_)?(fma|mul|add)_f16/;
const FMA = /^v_(dual_)?(fma|fmac|fmaak|fmamk|mac|mad|madak|madmk)_f32/;
const SLOW = /^v_(mul_(lo|hi)_[iu]32|mad_[iu]64|exp_|log_|rcp_|rsq_|sqrt_|sin_|cos_)/;
const MOVE = /^v_(dual_)?(mov|cndmask|accvgpr)/;
const MATRIX = /^v_(swmmac|wmma|mfma)/;
const LOAD = /^(buffer|global|flat|scratch)_(load|atomic)/;
const STORE = /^(buffer|global|flat|scratch)_store/;
/** Scalar instructions that steer alone. */
const STEERING = /^s_(delay_alu|nop|waitcnt|clause|cbranch|branch|set_inst|endpgm)/;

/** Bytes that an access brings a lane; three words take as long as four. */
function bytesOf(op: string): number {
  if (/b128|dwordx4|b96|dwordx3/.test(op)) return 16;
  return /b64|dwordx2/.test(op) ? 8 : 4;
}

function issueCycles(op: string, isPair: boolean, { generation }: Chip, wave: number): number {
  if (MATRIX.test(op)) return 32;
  let cycles = wave / 32;
  if (generation === "GCN") cycles = 4;
  else if (generation === "RDNA3" && wave === 64 && PAIRABLE.test(op) && !isPair) cycles = 1;
  return SLOW.test(op) ? 4 * cycles : cycles;
}

export function count(code: readonly string[], chip: Chip, wave: number): Count {
  const sum = { ...NOTHING };
  for (const line of code) {
    const parts = line.split(" :: "); // two instructions of a VOPD pair
    const op = parts[0]!.split(/\s+/)[0]!;
    if (op.startsWith("v_")) {
      for (const part of parts) countVector(sum, part.trim().split(/\s+/)[0]!);
      sum.cycles += issueCycles(op, parts.length > 1, chip, wave);
    } else if (LOAD.test(op)) {
      sum.loads += 1;
      sum.loadBytes += bytesOf(op) * wave;
    } else if (STORE.test(op)) {
      sum.stores += 1;
      sum.storeBytes += bytesOf(op) * wave;
    } else if (op.startsWith("ds_")) {
      const isLoad = /^ds_(load|read)/.test(op);
      const isStore = /^ds_(store|write)/.test(op);
      if (isLoad) sum.ldsLoads += 1;
      if (isStore) sum.ldsStores += 1;
      if (isLoad || isStore) sum.ldsBytes += bytesOf(op) * (/2addr|read2|write2/.test(op) ? 2 : 1) * wave;
    } else if (/^s_(load|buffer_load)/.test(op)) sum.smem += 1;
    else if (op === "s_barrier") sum.barriers += 1;
    else if (op.startsWith("s_") && !STEERING.test(op)) sum.salu += 1;
  }
  return sum;
}

function countVector(sum: Count, name: string): void {
  sum.valu += 1;
  if (FMA.test(name)) sum.fma += 1;
  else if (MATRIX.test(name)) sum.matrix += 1;
  else if (MOVE.test(name)) sum.move += 1;
  else if (!/_f(32|16)/.test(name)) sum.integer += 1;
  if (SLOW.test(name)) sum.slow += 1;
}

/** `a + factor · b` */
export function plus(a: Count, b: Count, factor = 1): Count {
  const sum = { ...a };
  for (const key of Object.keys(sum) as (keyof Count)[]) sum[key] += factor * b[key];
  return sum;
}

export type Bound = "issue" | "LDS" | "L0";

/** Cycles that one wave keeps its SIMD's share of the unit busy, and with what: issuing, its workgroup memory, or loads. */
export function busy(c: Count, { simds }: Chip): { cycles: number; bound: Bound } {
  const lds = (c.ldsBytes / 128) * simds;
  const l0 = (c.loadBytes / 128) * simds;
  const cycles = Math.max(c.cycles, lds, l0);
  return { cycles, bound: cycles === c.cycles ? "issue" : cycles === lds ? "LDS" : "L0" };
}

/** Cycles that the fmas alone would take. */
export function fmaCycles({ fma }: Pick<Count, "fma">, chip: Chip, wave: number): number {
  return ((fma * wave) / 64) * chip.fmaCycles;
}

/** A kernel's code, as the model sees it. */
export interface Analysis {
  all: Count;
  /** One turn of the loop that the fmas are in; null where there is none. */
  loop: LoopAnalysis | null;
  /** Vector loads on their way at a time, at most. */
  inFlight: number;
  /** The block with the most bytes loaded. */
  widest: Count;
}

export interface LoopAnalysis {
  /** One turn; guarded parts as done by half of the waves. */
  turn: Count;
  /** What is done once, before and behind it. */
  once: Count;
  /** How often it turns, where the code tells. */
  trips: number | null;
  /** Turns of the innermost loop in one of this one; 1 where it is unrolled. */
  innerTrips: number;
  /** Issue cycles of its own wave between a load and the wait for it, on average; null without loads. */
  distance: number | null;
  /** The blocks of the innermost loop, for a listing. */
  innermost: Loop;
}

/** A matrix instruction does at least as much for a lane. */
const FMAS_OF_MATRIX = 64;

export function analyze(assembly: string, chip: Chip, wave: number): Analysis & { blocks: Block[] } {
  const blocks = parseBlocks(assembly);
  const counts = blocks.map(({ code }) => count(code, chip, wave));
  const all = counts.reduce((sum, one) => plus(sum, one), NOTHING);
  const widest = counts.reduce((best, one) => (one.loadBytes > best.loadBytes ? one : best), NOTHING);
  const inFlight = loadsInFlight(blocks);
  const loops = findLoops(blocks);
  const weight = ({ fma, matrix }: Count) => fma + FMAS_OF_MATRIX * matrix;
  const dense = counts.reduce((best, one, i) => (weight(one) > weight(counts[best]!) ? i : best), 0);
  const around = loops.filter(({ from, to }) => from <= dense && dense <= to);
  const outer = around.at(-1);
  if (!outer || weight(counts[dense]!) === 0) return { blocks, all, loop: null, inFlight, widest };

  const inner = around.length > 1 ? around[0]! : null;
  const innerTrips = inner ? (tripsOf(blocks, inner) ?? 1) : 1;
  const timesOf = (i: number) => (inner && i >= inner.from && i <= inner.to ? innerTrips : 1);
  const guarded = guardedBlocks(blocks, outer, dense);
  let turn: Count = NOTHING;
  let once: Count = NOTHING;
  counts.forEach((one, i) => {
    if (i >= outer.from && i <= outer.to) turn = plus(turn, one, timesOf(i) * (guarded.has(i) ? 0.5 : 1));
    else once = plus(once, one);
  });
  const distance = loadDistance(blocks, outer, timesOf, chip, wave);
  const trips = tripsOf(blocks, outer);
  const loop = { turn, once, trips, innerTrips, distance, innermost: around[0]! };
  return { blocks, all, loop, inFlight, widest };
}

/** Blocks of a loop that waves without work in them jump over. */
function guardedBlocks(blocks: readonly Block[], { from, to }: Loop, dense: number): Set<number> {
  const guarded = new Set<number>();
  for (let i = from; i <= to; i += 1) {
    for (const jump of blocks[i]!.jumps) {
      if (jump.op !== "s_cbranch_execz" || jump.to <= i) continue;
      for (let j = i + 1; j < Math.min(jump.to, to + 1); j += 1) if (j !== dense) guarded.add(j);
    }
  }
  return guarded;
}

/** What `s_waitcnt` lets stay on its way: null for other instructions. */
function waitsFor(line: string): number | null {
  const wait = /vmcnt\((\d+)\)/.exec(line);
  return wait ? Number(wait[1]) : null;
}

function loadsInFlight(blocks: readonly Block[]): number {
  let flying = 0;
  let most = 0;
  for (const line of blocks.flatMap(({ code }) => code)) {
    if (LOAD.test(line)) {
      flying += 1;
      most = Math.max(most, flying);
    }
    flying = Math.min(flying, waitsFor(line) ?? flying);
  }
  return most;
}

/** Walks the loop twice, since a load may be waited for in the next turn. */
function loadDistance(
  blocks: readonly Block[],
  { from, to }: Loop,
  timesOf: (block: number) => number,
  chip: Chip,
  wave: number,
): number | null {
  let now = 0;
  const pending: (number | null)[] = [];
  const gaps: number[] = [];
  for (const turn of [0, 1]) {
    for (let i = from; i <= to; i += 1) {
      const start = now;
      for (const line of blocks[i]!.code) {
        if (LOAD.test(line)) pending.push(now);
        // GCN counts stores in the same counter.
        else if (chip.generation === "GCN" && STORE.test(line)) pending.push(null);
        const left = waitsFor(line);
        while (left !== null && pending.length > left) {
          const since = pending.shift()!;
          if (turn === 1 && since !== null) gaps.push(now - since);
        }
        now += count([line], chip, wave).cycles;
      }
      now += (timesOf(i) - 1) * (now - start);
    }
  }
  return gaps.length > 0 ? Math.round(gaps.reduce((a, b) => a + b) / gaps.length) : null;
}

/** Cycles that the waves of a workgroup wait for one another at the barriers of a turn. */
const BARRIER = 100;

/** What the time of a kernel depends on beside its code. */
export interface Launched {
  workgroups: number;
  /** Of a workgroup. */
  lanes: number;
  /** Of a SIMD at a time, by registers and workgroup memory. */
  waves: number;
}

/**
 * Cycles until the waves of a grid are through, each of which is busy for `work` and stalled for `stall`: n of them on a SIMD take
 * the longer of n · work and work + stall. They come in rounds, of which the last may be nearly empty.
 */
export function gridCycles(
  chip: Chip,
  wave: number,
  launched: Launched,
  work: number,
  stall: number,
): number {
  const { workgroups, lanes, waves } = launched;
  const all = chip.units * chip.simds;
  const total = workgroups * Math.ceil(lanes / wave);
  const round = (n: number) => (n > 0 ? Math.max(n * work, work + stall) : 0);
  const full = Math.floor(total / (all * waves));
  return full * round(waves) + round(Math.ceil((total - full * all * waves) / all));
}

/** Shares of the peak of fmas, in percent. */
export interface Shares {
  /** Of a turn of the loop, if all latency were hidden. */
  ideal: number;
  /** With latency, and a grid that does not fill the GPU evenly. */
  est: number;
  /** The same with what comes before and behind the loop, and only the FLOP that were asked for. */
  whole: number;
  bound: Bound;
}

export function sharesOf(
  loop: LoopAnalysis,
  chip: Chip,
  wave: number,
  launched: Launched,
  flops: number,
): Shares {
  const { turn, once, distance } = loop;
  // The last wave of a workgroup may have lanes to spare.
  const waves = Math.ceil(launched.lanes / wave);
  const useful = (fmaCycles(turn, chip, wave) * launched.lanes) / (waves * wave);
  const { cycles, bound } = busy(turn, chip);
  const stall =
    (distance === null ? 0 : Math.max(0, chip.latency - distance)) +
    (turn.barriers > 0 && launched.lanes > wave ? BARRIER : 0);
  const all = chip.units * chip.simds;
  const total = launched.workgroups * waves;
  const est = ((total / all) * useful) / gridCycles(chip, wave, launched, cycles, stall);

  // Each lane does its part of the FLOP, in whole turns; more where tiles hang over.
  const fmasOfLane = flops / 2 / (launched.workgroups * launched.lanes);
  const trips = Math.max(loop.trips ?? 1, turn.fma > 0 ? Math.ceil(fmasOfLane / turn.fma) : 1);
  const onceStall = chip.latency * Math.min(2, once.loads) + BARRIER * once.barriers;
  const time = gridCycles(
    chip,
    wave,
    launched,
    trips * cycles + busy(once, chip).cycles,
    trips * stall + onceStall,
  );
  const asked = (flops / 2 / 64) * chip.fmaCycles;
  return { ideal: (100 * useful) / cycles, est: 100 * est, whole: (100 * asked) / all / time, bound };
}
