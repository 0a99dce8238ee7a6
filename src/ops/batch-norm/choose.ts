// How [count, channels] lies in memory for shaders/batch_norm/batch_norm.wgsl, which variant of its kernels takes it, and how that divides
// the work.

import type { Choice } from "../../device/variants.ts";
import type { Gpu } from "../../gpu.ts";
import { largestWorkgroup } from "../grid.ts";

/** How [count, channels] is laid out in vec4 columns and wide rows; see the shader's head. */
export interface Layout {
  channels: number;
  /** Values per channel. */
  count: number;
  /** vec4s in a wide row. */
  width4: number;
  /** Full wide rows. */
  rows: number;
  /** Elements after them. */
  tail: number;
}

/** How a variant divides the work. */
export interface Division {
  slices: number;
  sliceRows: number;
  /** Invocations of the apply kernels where neighbours take neighbouring vec4s; 0 where they take runs of rows. */
  stride: number;
  /** Invocations of a workgroup of kernels without workgroup memory. */
  lanes: number;
  /** Columns and rows of a workgroup; 0 for kernels without workgroup memory. */
  x: number;
  y: number;
}

/**
 * `runs`: no workgroup memory, each invocation takes runs of rows; `one`: all in one dispatch. A call for which one dispatch
 * won't do (the average over all batches is counted up after it; too few buffers; no dx) runs that family's several.
 */
export const VARIANTS = {
  software: { runs: true, one: false, several: "software" },
  workgroup: { runs: false, one: false, several: "workgroup" },
  software_one: { runs: true, one: true, several: "software" },
  workgroup_one: { runs: false, one: true, several: "workgroup" },
} as const;

export type Variant = keyof typeof VARIANTS;

export type BatchNormChoice = Choice<Variant>;

const ALL = Object.keys(VARIANTS) as readonly Variant[];
const SEVERAL = ALL.filter((variant) => !VARIANTS[variant].one);

export type Pass = "forward" | "backward";

/** Storage buffers that one dispatch binds at least; with running statistics, `RUNNING_BUFFERS` more. */
export const ONE_BUFFERS = { forward: 7, backward: 8 };
export const RUNNING_BUFFERS = 3;

/** Whether a variant takes one dispatch. */
export function takesOne(variant: Variant): boolean {
  return VARIANTS[variant].one;
}

const SOFTWARE_WORKGROUP = 32;
const SOFTWARE_ONE_WORKGROUP = 8; // as many workgroups, and so threads, as there are groups of lanes
const SOFTWARE_LANES = 512;
/** Rows in a word of the ReLU's mask. Slices begin at whole words. */
const MASK_ROWS = 8;
const GPU_WORKGROUPS = 1024;
const GPU_LANES = 2 ** 18;
/** Rows up to which one dispatch is faster than three on lavapipe, if there are 16 columns or more to share out. */
const SOFTWARE_ONE_ROWS = 1024;
/** On a GPU: a workgroup takes so many rows in little more than the time that a dispatch takes. */
const GPU_ONE_ROWS = 1024;

export function batchNormLayout(count: number, channels: number): Layout {
  const width4 = channels / gcd(channels, 4); // least common multiple of channels and 4, in vec4s
  const rows = Math.floor((count * channels) / (4 * width4));
  return { channels, count, width4, rows, tail: count * channels - 4 * width4 * rows };
}

/** uint32 words of a ReLU's mask. */
export function maskWords({ rows, tail, width4 }: Layout): number {
  return Math.ceil((rows + Math.sign(tail)) / MASK_ROWS) * width4;
}

function gcd(a: number, b: number): number {
  return b === 0 ? a : gcd(b, a % b);
}

/** How `variant` divides the work of a layout. */
export function divide({ width4, rows }: Layout, variant: Variant, gpu: Gpu): Division {
  const { runs, one } = VARIANTS[variant];
  const largest = largestWorkgroup(gpu);
  const workgroup = gpu.isSoftware ? SOFTWARE_WORKGROUP : largest;
  const lanes = runs && one ? SOFTWARE_ONE_WORKGROUP : workgroup;
  // Columns: whole rows of up to 64 vec4s, so that a workgroup reads runs of up to 1 KiB.
  const wide = one ? 4 : 64;
  const tiles = Math.ceil(width4 / wide);
  const x = runs ? 0 : Math.ceil(width4 / tiles);
  const y = runs ? 0 : Math.floor(largest / x);
  if (one) return { slices: 1, sliceRows: rows, stride: 0, lanes, x, y };
  const wanted = runs
    ? Math.min(Math.floor(SOFTWARE_LANES / width4), Math.floor(rows / 16))
    : Math.min(Math.floor(GPU_WORKGROUPS / tiles), Math.floor(rows / (8 * y)));
  const sliceRows = MASK_ROWS * Math.ceil(rows / Math.max(1, wanted) / MASK_ROWS);
  const slices = sliceRows === 0 ? 1 : Math.ceil(rows / sliceRows);
  const perColumn = Math.max(1, Math.min(Math.floor(GPU_LANES / width4), Math.ceil(rows / 4)));
  return { slices, sliceRows, stride: runs ? 0 : width4 * perColumn, lanes, x, y };
}

/** For kernels without a `_workgroup` twin. */
export function lanesOnly(division: Division): Division {
  return { ...division, x: 0, y: 0 };
}

/** The variants of an adapter's class that take several dispatches. */
export function familyOf(gpu: Gpu): "software" | "workgroup" {
  return gpu.isSoftware ? "software" : "workgroup";
}

/** The variant of a pass. `folds`: kernels around it may do part of it. */
export function chooseVariant(gpu: Gpu, layout: Layout, pass: Pass, folds: boolean): BatchNormChoice {
  const { count, channels, width4 } = layout;
  const { maxStorageBuffersPerShaderStage, maxComputeWorkgroupsPerDimension } = gpu.limits;
  // `workgroup_one` takes 4 columns in a workgroup, and its grid is not folded.
  const one =
    channels === 4 * width4 &&
    maxStorageBuffersPerShaderStage >= ONE_BUFFERS[pass] &&
    width4 <= 4 * maxComputeWorkgroupsPerDimension;
  const family = familyOf(gpu);
  const few = gpu.isSoftware ? count * Math.max(1, 16 / width4) <= SOFTWARE_ONE_ROWS : count <= GPU_ONE_ROWS;
  const fallback = one && few ? (`${family}_one` as const) : family;
  const candidates = one ? ALL : SEVERAL;
  const reach = folds ? "work" : "kernel";
  return gpu.variants.pick(`batch_norm.${pass}`, `${count}x${channels}`, candidates, fallback, reach);
}
