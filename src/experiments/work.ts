// What cells cost, and how long that takes here: the estimate before a run, and while it goes on.

import type { NetworkName } from "../train/networks.ts";

/** One image of a data set. */
export interface ImageSize {
  height: number;
  width: number;
  channels: number;
}

/** What a cell has to do. */
export interface Work {
  /** Floating-point operations on the adapter; a multiplication and an addition are two. */
  flop: number;
  /** Times that a layer is run, forward or backward: each costs a few dispatches, whatever its size. */
  passes: number;
  /** Floating-point operations on the processor. */
  hostFlop?: number;
  /** Of each network that it runs, what says which kernels that takes. The first cell with a kernel waits for the compiler. */
  programs: readonly Programs[];
}

/** Networks with the same channels share kernels, and more of them with the same maps and norm, and all with the same batch size. */
export interface Programs {
  channels: string;
  maps: string;
  norm: string;
  batchSize: number;
}

/** Convolutions of each stage: Simonyan & Zisserman 2015, table 1. */
export const VGG_STAGES: Partial<Record<NetworkName, readonly number[]>> = {
  vgg11: [1, 1, 2, 2, 2],
  vgg13: [2, 2, 2, 2, 2],
  vgg16: [2, 2, 3, 3, 3],
};

export interface NetworkSize {
  /** Left out for `resnetCifar`. */
  network?: NetworkName;
  depth: number;
  width: number;
  /** Images are made smaller by this factor first. */
  shrink?: number;
}

/** Floating-point operations of one image's pass forward through the convolutions of a network. */
export function forwardFlop(
  { network = "resnetCifar", depth, width, shrink = 1 }: NetworkSize,
  image: ImageSize,
): number {
  const pixels = Math.floor(image.height / shrink) * Math.floor(image.width / shrink);
  const stages = VGG_STAGES[network];
  if (stages) return vggFlop(stages, width, pixels, image.channels);
  // A stage has half as many pixels a side as the one before, and twice as many channels: each 3×3 convolution costs the same, but
  // for those that begin a stage, which have half as many channels to read.
  const convolution = 2 * 9 * width * width * pixels;
  const stem = 2 * 9 * image.channels * width * pixels;
  const projections = network === "plainCifar" ? 0 : 2 * (2 * width * width * pixels) * 0.5;
  return stem + (depth - 2 - 2 * 0.5) * convolution + projections;
}

/** The stages have 1, 2, 4, 8 and 8 times `width` channels, and each a quarter of the pixels of the one before. */
function vggFlop(stages: readonly number[], width: number, pixels: number, channels: number): number {
  let flop = 0;
  let from = channels;
  for (const [stage, count] of stages.entries()) {
    const to = width * Math.min(8, 2 ** stage);
    for (let i = 0; i < count; i += 1) {
      flop += (2 * 9 * from * to * pixels) / 4 ** stage;
      from = to;
    }
  }
  return flop;
}

/** `steps` of forward, backward and update, and `forwards` passes without a gradient, over batches of `batchSize` images. */
export function networkWork(
  size: NetworkSize & { norm: string; batchSize: number },
  image: ImageSize,
  { steps = 0, forwards = 0 }: { steps?: number; forwards?: number },
): Work {
  const { network, depth, width, shrink = 1, norm, batchSize } = size;
  const rounds = 3 * steps + forwards;
  return {
    flop: rounds * batchSize * forwardFlop(size, image),
    passes: rounds * depth,
    // Depth adds no kernel of its own.
    programs: [{ channels: `${network ?? ""} ${width}`, maps: `shrunk ${shrink}`, norm, batchSize }],
  };
}

/** FLOP that take as long as the dispatches of one layer. */
const FLOP_PER_PASS = { software: 5e6, hardware: 3e7 };
/** Of the singular values of a random matrix, in JavaScript. */
const HOST_FLOP_PER_SECOND = 4e8;

/** How fast this adapter is, as measured by a training step: see `measureRate`. */
export interface Rate {
  class: keyof typeof FLOP_PER_PASS;
  secondsPerUnit: number;
  /** Seconds until new kernels run, for all those that a training step of one network takes. */
  compileSeconds: number;
  /** That network. */
  programs: Programs;
}

/**
 * Of a network's kernels, how many are new after one with the same channels: on other maps; then with another norm (most of what layers
 * without a kernel of their own run are elementwise ops, which channels have no part in); and with another batch size. As first
 * looks took on lavapipe.
 */
const NEW_KERNELS = { maps: 0.35, norm: 0.45, otherNorm: 0.03, batchSize: 0.15 };

/** Kernels that were compiled before. */
class Compiled {
  constructor(private readonly seen = new Set<string>()) {}

  copy(): Compiled {
    return new Compiled(new Set(this.seen));
  }

  private add(text: string): boolean {
    const before = this.seen.size;
    return this.seen.add(text).size > before;
  }

  /** What a training step compiles; evaluation, which comes after it in a cell, has a few kernels more. */
  addStep({ channels, maps, norm }: Programs): void {
    for (const text of [channels, `${channels} ${maps}`, `${channels} ${norm}`]) this.add(text);
  }

  /** @returns how much there is to compile, in networks' worth of kernels */
  addAll(programs: readonly Programs[]): number {
    let share = 0;
    for (const { channels, maps, norm, batchSize } of programs) {
      const before = share;
      const common = norm === "batch" || norm === "none";
      const newChannels = this.add(channels);
      const newMaps = this.add(`${channels} ${maps}`);
      const newNorm = this.add(`${channels} ${norm}`);
      const newBatch = this.add(`${channels} ${maps} ${norm} ${batchSize}`);
      if (newChannels) share += 1;
      else {
        if (newMaps) share += NEW_KERNELS.maps;
        if (newNorm) share += common ? NEW_KERNELS.norm : NEW_KERNELS.otherNorm;
      }
      if (share === before && newBatch) share += NEW_KERNELS.batchSize * (common ? 1 : NEW_KERNELS.otherNorm);
    }
    return share;
  }
}

/** In units of one layer's dispatches. */
export const unitsOf = ({ flop, passes }: Work, kind: Rate["class"]): number =>
  passes + flop / FLOP_PER_PASS[kind];

/**
 * Seconds that are left of a run, from what was measured before it, and more and more from its own cells. Time goes as their units of
 * work; the first cells with a kernel also wait for the compiler, which is estimated apart.
 */
export class Estimate {
  private readonly compiled = new Compiled();
  /** Done so far, with what was measured beforehand as if it had been so many units. */
  private seconds: number;
  private units: number;
  /** Of the compiler, and for how many networks' worth of kernels. */
  private compileSeconds: number;
  private compileShare = 1;

  constructor(private readonly rate: Rate) {
    this.units = 500;
    this.seconds = this.units * rate.secondsPerUnit;
    this.compileSeconds = rate.compileSeconds;
    this.compiled.addStep(rate.programs);
  }

  private hostSeconds(work: Work): number {
    return (work.hostFlop ?? 0) / HOST_FLOP_PER_SECOND;
  }

  /** Of one cell whose kernels are compiled. */
  private runSeconds(work: Work): number {
    return (unitsOf(work, this.rate.class) * this.seconds) / this.units + this.hostSeconds(work);
  }

  /** A cell has taken `seconds`. @returns how much of it the compiler took, by this estimate */
  done(work: Work, seconds: number): number {
    const units = unitsOf(work, this.rate.class);
    const share = this.compiled.addAll(work.programs);
    if (share === 0) {
      this.seconds += units > 0 ? Math.max(0, seconds - this.hostSeconds(work)) : 0;
      this.units += units;
      return 0;
    }
    const compile = Math.max(0, seconds - this.runSeconds(work));
    this.compileSeconds += compile;
    this.compileShare += share;
    return compile;
  }

  /** Of the cells that are not done yet. */
  left(works: readonly Work[]): number {
    const compiled = this.compiled.copy();
    let seconds = 0;
    let share = 0;
    for (const work of works) {
      seconds += this.runSeconds(work);
      share += compiled.addAll(work.programs);
    }
    return seconds + (share * this.compileSeconds) / this.compileShare;
  }
}
