// What the page and the worker that trains say to each other. A recorded run is a list of the worker's messages.

import type { AdapterSummary } from "../../src/device/adapter.ts";
import type { Histogram } from "../../src/train/statistics.ts";
import type { KernelResults } from "./kernels.ts";
import type { Limits } from "./rate-search.ts";
import type { Settings } from "./settings.ts";

/** The left network or the right one. */
export type Side = 0 | 1;

/** Of one mini-batch, before the step that it makes. */
export interface Reading {
  loss: number;
  /** Share of its images that were classified right, 0 … 1. */
  accuracy: number;
}

/** Of one layer's channels: means over channels of |mean| and of the standard deviation. */
export interface LayerMoments {
  mean: number;
  std: number;
}

/** A look inside one network. Numbers may be infinite or NaN where it has blown up. */
export interface Look {
  side: Side;
  /** Steps made before. */
  step: number;
  /** What each convolution of the main path gives, before its norm, and the logits. */
  layers: LayerMoments[];
  /** The same of the weights before the first step. */
  start: LayerMoments[];
  /** Of the middle layer's weights; null where it is zero or not finite. */
  gradient: {
    layer: number;
    std: number;
    kurtosis: number;
    histogram: Histogram;
  } | null;
  /** ∂L/∂logits, images × classes. */
  logitGradients: number[][];
  /** Probabilities of the dozen test images, images × classes. */
  answers: number[][];
  /** On the test images that are looked at. */
  testAccuracy: number;
}

/** Why a network is no longer trained. */
export interface Failure {
  side: Side;
  /** `diverged`: its loss has passed 10³ and ten times its start, or is not finite. `stuck`: it gives each image the same answer. */
  kind: "diverged" | "stuck";
  /** Steps made before. */
  step: number;
  rate: number;
  loss: number;
  /** The first whose activations are ten times as wide as at the start (from 1); null if none is. */
  layer: number | null;
  /** Of each layer: its standard deviation over that at the start; null where it began with zeros, as Fixup's branches do, and is finite. */
  growth: (number | null)[];
}

export interface Landscape {
  side: Side;
  step: number;
  loss: number;
  alphas: number[];
  losses: number[];
}

export interface Answer {
  /** Probabilities by class, of each network. */
  probabilities: [number[], number[]];
}

/** A search for the largest rates that each network stands. */
export interface Search {
  state: "searching" | "done" | "stopped";
  /** Of the networks; their rate does not matter. */
  settings: Settings;
  /** From 1. */
  trial: number;
  /** Of this trial, and how many it has at most. */
  step: number;
  steps: number;
  /** The rate that each network is tried at; null where its limits are known. */
  rates: [number | null, number | null];
  /** Null until they are known. */
  limits: [Limits | null, Limits | null];
}

export interface Sample {
  /** 28 × 28 bytes. */
  pixels: number[];
  label: number;
}

export type FromWorker =
  | { type: "ready"; adapter: AdapterSummary; classNames: string[]; samples: Sample[] }
  /** Fresh networks; what was seen before is of others. `run` is the one that the page asked for. */
  | { type: "begin"; run: number; settings: Settings; layers: number }
  | { type: "playing"; playing: boolean }
  /** One of the first steps is told twice: when one network's reading is there, and when both are. */
  | { type: "step"; step: number; rate: number; readings: [Reading | null, Reading | null] }
  | { type: "look"; look: Look }
  | { type: "failure"; failure: Failure }
  | { type: "landscape"; landscape: Landscape }
  | { type: "search"; search: Search }
  | { type: "answer"; answer: Answer }
  /** `progress` from 0 to 1; results at the end. */
  | { type: "kernels"; progress: number; results: KernelResults | null }
  /** `gpu`: there is no WebGPU here, or no adapter. */
  | { type: "error"; what: "gpu" | "other"; message: string };

export type ToWorker =
  /** Fresh networks with these settings. The page counts its runs, so that it knows of which one it hears. */
  | { type: "begin"; run: number; settings: Settings; play: boolean }
  /** For the steps to come. */
  | { type: "rate"; rate: number }
  | { type: "play" }
  | { type: "pause" }
  | { type: "step" }
  | { type: "landscape" }
  | { type: "search" }
  | { type: "stop-search" }
  | { type: "ask"; pixels: number[] }
  | { type: "kernels" };
