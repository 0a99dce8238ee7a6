// AMD's machine code as RADV disassembles it: basic blocks, loops, and how often a loop turns.

export interface Block {
  name: string;
  code: string[];
  /** Blocks that it may jump to; what it falls through to is the next one. */
  jumps: Jump[];
}

export interface Jump {
  op: string;
  /** Index of a block. */
  to: number;
}

/** Blocks `from` to `to`, of which the last jumps back to the first. */
export interface Loop {
  from: number;
  to: number;
}

/** Instructions without addresses, encodings and remarks. */
export function parseBlocks(text: string): Block[] {
  const blocks: Block[] = [];
  for (const line of text.split("\n")) {
    const label = /^(BB\d+):/.exec(line);
    if (label) {
      blocks.push({ name: label[1]!, code: [], jumps: [] });
    } else if (line.startsWith("\t")) {
      const code = line.split(";")[0]!.trim();
      // "(then repeated 3 times)" stands behind the padding at an end.
      if (code && !code.startsWith("(")) blocks.at(-1)?.code.push(code);
    }
  }
  const places = new Map(blocks.map(({ name }, i) => [name, i]));
  for (const block of blocks) {
    for (const line of block.code) {
      const [op, target] = line.split(/\s+/);
      const to = /^s_c?branch/.test(op!) ? places.get(target!) : undefined;
      if (to !== undefined) block.jumps.push({ op: op!, to });
    }
  }
  return blocks;
}

/** Each loop once, inner ones before those around them. */
export function findLoops(blocks: readonly Block[]): Loop[] {
  const ends = new Map<number, number>();
  blocks.forEach(({ jumps }, i) => {
    for (const { to } of jumps) if (to <= i) ends.set(to, Math.max(i, ends.get(to) ?? 0));
  });
  return [...ends].map(([from, to]) => ({ from, to })).sort((a, b) => a.to - a.from - (b.to - b.from));
}

/**
 * How often a loop turns, where its code tells: a scalar register is set to a number before the loop, steps by one, and a comparison
 * with one ends the loop. Null where the bound is worked out at run time. The counters against endless loops that WGSL compilers
 * add step down, and are passed over.
 */
export function tripsOf(blocks: readonly Block[], loop: Loop): number | null {
  const own = blocks.slice(loop.from, loop.to + 1).flatMap(({ code }) => code);
  const before = blocks.slice(0, loop.from).flatMap(({ code }) => code);
  for (let i = loop.from; i <= loop.to; i += 1) {
    if (!mayLeave(blocks[i]!, i, loop)) continue;
    const compared = lastOf(blocks[i]!.code, (line) =>
      /^s_cmpk?_(lt|ge|eq|lg|le|gt)_[iu]32 (\S+), (\S+)$/.exec(line),
    );
    if (!compared) continue;
    const [, relation, left, right] = compared;
    const register = [left!, right!].find((one) => /^s\d+$/.test(one));
    const bound = integer(register === left ? right! : left!);
    if (!register || bound === null) continue;
    const step = lastOf(own, (line) => sumOf(line, register));
    const start = lastOf(before, (line) => setTo(line, register));
    if (step === null || step <= 0 || start === null) continue;
    // "i <= n", and "n >= i", have one turn more.
    const inclusive = /le|gt/.test(relation!) === (register === left) && /le|gt|ge|lt/.test(relation!);
    const trips = Math.ceil((bound - start + (inclusive ? 1 : 0)) / step);
    if (trips > 0) return trips;
  }
  return null;
}

/** Whether what decides at the end of a block decides to go on with the loop or not. */
function mayLeave({ jumps }: Block, at: number, { from, to }: Loop): boolean {
  const jump = jumps.find(({ op }) => op.startsWith("s_cbranch_scc"));
  if (!jump) return false;
  const others = jumps.find(({ op }) => op === "s_branch");
  const next = others ? others.to : at + 1;
  const isOutside = (block: number) => block < from || block > to;
  return isOutside(jump.to) !== isOutside(next);
}

function integer(text: string): number | null {
  return /^-?(0x[\da-f]+|\d+)$/i.test(text) ? Number(text) : null;
}

/** The step of `s_add_u32 s7, s7, 1`, in either order. */
function sumOf(line: string, register: string): number | null {
  const [op, to, a, b] = line.split(/,?\s+/);
  if (!/^s_(add_[iu]32|add_co_[iu]32|addk_i32)$/.test(op!) || to !== register) return null;
  if (b === undefined) return integer(a!);
  return a === register ? integer(b) : b === register ? integer(a!) : null;
}

/** The number of `s_mov_b32 s7, 0`, or of either half of `s_mov_b64 s[6:7], 0` and of a mask, `s_bfm_b64 s[6:7], 32, 0`. */
function setTo(line: string, register: string): number | null {
  const [op, to, first, second] = line.split(/,?\s+/);
  const value = integer(first ?? "");
  if (value === null) return null;
  if (/^s_mov(k_i32|_b32)$/.test(op!)) return to === register ? value : null;
  const pair = /^s\[(\d+):(\d+)\]$/
    .exec(to!)
    ?.slice(1)
    .map((number) => `s${number}`);
  const half = pair?.indexOf(register) ?? -1;
  const shift = integer(second ?? "");
  let whole: bigint;
  if (op === "s_mov_b64") whole = BigInt(value);
  else if (op === "s_bfm_b64" && shift !== null) whole = ((1n << BigInt(value)) - 1n) << BigInt(shift);
  else return null;
  return half < 0 ? null : Number(BigInt.asIntN(32, whole >> BigInt(32 * half)));
}

function lastOf<T>(lines: readonly string[], read: (line: string) => T | null): T | null {
  for (let i = lines.length - 1; i >= 0; i -= 1) {
    const value = read(lines[i]!);
    if (value !== null) return value;
  }
  return null;
}
