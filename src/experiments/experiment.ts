// What each experiment is made of, and what runs it.

import type { DatasetSplits } from "../data/dataset.ts";
import type { Gpu } from "../gpu.ts";

export const PRESETS = ["quick", "standard", "paper"] as const;
/**
 * `quick`: minutes on two processor cores. `standard`: under an hour on one consumer GPU. `paper`: the setup of the
 * paper.
 */
export type Preset = (typeof PRESETS)[number];

/** All settings of one cell: plain values, written into its file. `label` names the file and is unique. */
export interface Configuration {
  label: string;
  [setting: string]: unknown;
}

/** What a cell works with. */
export interface CellContext {
  gpu: Gpu;
  /** Cut down to what the preset uses. */
  data: DatasetSplits;
  /** Adds a point to the live view's curve of this cell. */
  onPoint(curve: string, x: number, y: number): void;
  signal?: AbortSignal;
}

/** One finished cell: a configuration with one seed. */
export interface Cell<C extends Configuration = Configuration, D = unknown> {
  experiment: string;
  configuration: C;
  seed: number;
  data: D;
  seconds: number;
}

export type Verdict = "holds" | "does not hold" | "inconclusive";

/** One clause of a finding: its criterion, what was measured, and whether it was met. */
export interface Finding {
  criterion: string;
  measured: string;
  verdict: Verdict;
}

export interface Figure {
  svg: string;
  caption: string;
}

export interface ExperimentReport {
  findings: Finding[];
  figures: Figure[];
  tables?: { caption: string; head: string[]; rows: string[][] }[];
  notes?: string[];
}

export interface Experiment<C extends Configuration = Configuration, D = unknown> {
  id: string;
  title: string;
  /** Where it is in the paper. */
  source: string;
  /** What is done, in a sentence or two. */
  about: string;
  configurations(preset: Preset): C[];
  /** Runs of a configuration, given the run's number of seeds, where it is not that number: repeats of a random matrix. */
  repeats?(configuration: C, seeds: number): number;
  run(context: CellContext, configuration: C, seed: number): Promise<D>;
  /** Over the cells there are: findings whose cells are missing are inconclusive. */
  report(cells: readonly Cell<C, D>[]): Promise<ExperimentReport>;
}

/** Keeps the types of configuration and data together, then forgets them. */
export function defineExperiment<C extends Configuration, D>(experiment: Experiment<C, D>): Experiment {
  return experiment as unknown as Experiment;
}

/** `holds` or `does not hold`; `inconclusive` where a number is missing. */
export function judge(condition: boolean, ...numbers: number[]): Verdict {
  if (numbers.some(Number.isNaN)) return "inconclusive";
  return condition ? "holds" : "does not hold";
}

export const missing = (criterion: string): Finding => ({
  criterion,
  measured: "cells are missing",
  verdict: "inconclusive",
});
