// What each experiment is made of, and what runs it.

import type { DatasetSplits } from "../data/dataset.ts";
import type { Gpu } from "../gpu.ts";
import type { Checkpoint } from "../train/checkpoint.ts";
import type { ImageSize, Work } from "./work.ts";

export const PRESETS = ["first-look", "quick", "standard", "paper"] as const;
/**
 * `first-look`: all experiments in a few minutes on any machine. `quick`: the same with more steps and images, minutes on two
 * processor cores. `standard`: one consumer GPU. `paper`: the setup of the paper.
 */
export type Preset = (typeof PRESETS)[number];

/**
 * All settings of one cell: plain values, written into its file. Equal ones are one cell, whichever experiments ask for it. `label`
 * follows from the others, and is unique among the cells of a measurement in a preset.
 */
export interface Configuration {
  /** The id of its measurement. */
  measure: string;
  label: string;
}

/** Where a cell that trains for long leaves what it needs to go on after it was killed. */
export interface CellCheckpoint {
  /** The file, for messages. */
  where: string;
  /** Between two of them, so that they cost little. */
  everyMs: number;
  /** What was left, or null. */
  load(): Checkpoint | null;
  /** Leaves it in place of the one before. */
  save(checkpoint: Checkpoint): Promise<void>;
}

/** What a cell works with. */
export interface CellContext {
  gpu: Gpu;
  /** Cut down to what the preset uses. */
  data: DatasetSplits;
  /** Adds a point to the live view's curve of this cell. */
  onPoint(curve: string, x: number, y: number): void;
  signal?: AbortSignal;
  checkpoint?: CellCheckpoint;
}

/** What a cell runs: a network trained, or looked at. Several experiments may judge the cells of one measurement. */
export interface Measurement<C extends Configuration = Configuration, D = unknown> {
  id: string;
  /** Measures one cell; what it gives is written as JSON. */
  run(context: CellContext, configuration: C, seed: number): Promise<D>;
  /** What a cell costs; `image` is one of the data set's, before it is shrunk. */
  work(configuration: C, image: ImageSize): Work;
}

/** One finished cell: a configuration with one seed. */
export interface Cell<C extends Configuration = Configuration, D = unknown> {
  configuration: C;
  seed: number;
  data: D;
  seconds: number;
}

/** Whether a finding is met by what was measured; `inconclusive` where something is missing. */
export type Verdict = "holds" | "does not hold" | "inconclusive";

/** One clause of a finding: its criterion, what was measured, and whether it was met. */
export interface Finding {
  criterion: string;
  measured: string;
  verdict: Verdict;
}

/**
 * How a number of the paper was come by. F: read off the paper's own figure, so ± a few per cent. N: quoted by two independent
 * reading notes. R: recalled.
 */
export type Mark = "F" | "N" | "R";

/** A number of the paper beside ours. */
export interface Comparison {
  what: string;
  paper: string;
  mark: Mark;
  ours: string;
}

/** A picture as SVG, and what it shows. */
export interface Figure {
  svg: string;
  caption: string;
}

/** What is shown of the cells beside the verdict. */
export interface Exhibit {
  figures: Figure[];
  tables?: { caption: string; head: string[]; rows: string[][] }[];
  notes?: string[];
}

/** An experiment of the paper: what it measures, and how it judges what came out. */
export interface Experiment<C extends Configuration = Configuration, D = unknown> {
  id: string;
  title: string;
  /** Where it is in the paper. */
  source: string;
  /** The paper's claim, in a sentence. */
  claim: string;
  /** What is done here, in a sentence or two. */
  about: string;
  measurements: readonly Measurement[];
  /** The cells that it wants at a preset, each to be run with every seed. */
  configurations(preset: Preset): C[];
  /** Runs of a configuration, given the run's number of seeds, where it is not that number: repeats of a random matrix. */
  repeats?(configuration: C, seeds: number): number;
  /** Over the cells that there are; pure. None for an experiment that judges nothing. */
  verdict(cells: readonly Cell<C, D>[]): Finding[];
  /** The paper's numbers, and ours where there are cells. */
  compare(cells: readonly Cell<C, D>[]): Comparison[];
  /** Figures and tables of the cells. */
  exhibit(cells: readonly Cell<C, D>[]): Promise<Exhibit>;
}

/** Keeps the types of configuration and data together, then forgets them. */
export function defineExperiment<C extends Configuration, D>(experiment: Experiment<C, D>): Experiment {
  return experiment as unknown as Experiment;
}

/** Keeps the types of configuration and data together; both are forgotten by those who run it. */
export function defineMeasurement<C extends Configuration, D>(measurement: Measurement<C, D>): Measurement {
  return measurement as unknown as Measurement;
}

/** `holds` or `does not hold`; `inconclusive` where a number is missing. */
export function judge(condition: boolean, ...numbers: number[]): Verdict {
  if (numbers.some(Number.isNaN)) return "inconclusive";
  return condition ? "holds" : "does not hold";
}

/** @param what which cells: `trained without batch-norm` */
export const missing = (criterion: string, what: string): Finding => ({
  criterion,
  measured: `missing: ${what}`,
  verdict: "inconclusive",
});
