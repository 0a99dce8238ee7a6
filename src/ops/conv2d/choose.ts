// Which kernel of shaders/conv2d takes a convolution, by its sizes and by adapter.

import type { KernelSpec } from "../../device/kernels.ts";
import { Recent } from "../../device/recent.ts";
import type { Choice } from "../../device/variants.ts";
import type { Gpu } from "../../gpu.ts";
import { largestWorkgroup } from "../grid.ts";
import { loadsByScalarUnit, onlyLanes, subgroupLanes } from "../subgroups.ts";

/** All sizes of one convolution. */
export interface ConvGeometry {
  N: number;
  H: number;
  W: number;
  C: number;
  K: number;
  R: number;
  S: number;
  P: number;
  Q: number;
  strideH: number;
  strideW: number;
  /** Zeros above and left of the map; those below and to the right are implied by P and Q. */
  top: number;
  left: number;
  dilationH: number;
  dilationW: number;
  groups: number;
}

/**
 * What does a convolution: one of a channel at a time (depthwise), four by four numbers of one invocation (scalar), a register
 * block of a subgroup's lanes (`row`: along rows of the map), a column of four pixels (band), or a tile of a workgroup. Of tiles:
 * rows × columns, and how much of the sum is held at a time (16 KiB in all, and no more blocks of 4 × 4 of either operand than lanes). The tiles of
 * `grad_weight` have as many columns as 3×3 filters over as many channels as rows, a third of them, or half; with several `parts` of the
 * sum side by side, each of `BK` and with lanes of its own, they fill up subgroups of 64 (22 KiB at most).
 */
const KERNELS = {
  depthwise: { family: "depthwise" },
  scalar_4x4: { family: "scalar" },
  scalar_1x4: { family: "scalar" },
  subgroup_4x8: { family: "subgroup", row: false, channels: 8 },
  subgroup_4x16: { family: "subgroup", row: false, channels: 16 },
  subgroup_row_4x8: { family: "subgroup", row: true, channels: 8 },
  subgroup_row_4x16: { family: "subgroup", row: true, channels: 16 },
  tile_256x16: { family: "tile", entry: "8x4", BM: 256, BN: 16, BK: 8, parts: 1 },
  tile_128x32: { family: "tile", entry: "8x4", BM: 128, BN: 32, BK: 16, parts: 1 },
  tile_64x64_8x4: { family: "tile", entry: "8x4", BM: 64, BN: 64, BK: 16, parts: 1 },
  tile_64x64: { family: "tile", entry: "8x8", BM: 64, BN: 64, BK: 16, parts: 1 },
  tile_128x64: { family: "tile", entry: "8x8", BM: 128, BN: 64, BK: 16, parts: 1 },
  tile_128x128: { family: "tile", entry: "8x8", BM: 128, BN: 128, BK: 8, parts: 1 },
  tile_16x144: { family: "tile", entry: "8x4", BM: 16, BN: 144, BK: 8, parts: 1 },
  tile_32x96: { family: "tile", entry: "8x4", BM: 32, BN: 96, BK: 16, parts: 1 },
  tile_16x72x7: { family: "tile", entry: "8x4", BM: 16, BN: 72, BK: 8, parts: 7 },
  tile_32x96x2: { family: "tile", entry: "8x4", BM: 32, BN: 96, BK: 16, parts: 2 },
  band_4: { family: "band", channels: 4, staged: false },
  band_8: { family: "band", channels: 8, staged: false },
  band_16: { family: "band", channels: 16, staged: false },
  staged_band_4: { family: "band", channels: 4, staged: true },
  staged_band_8: { family: "band", channels: 8, staged: true },
  staged_band_16: { family: "band", channels: 16, staged: true },
} as const;

export type ConvVariant = keyof typeof KERNELS;

export type ConvChoice = Choice<ConvVariant>;

export type Tile = Extract<(typeof KERNELS)[ConvVariant], { family: "tile" }>;

export type Lanes = Extract<(typeof KERNELS)[ConvVariant], { family: "subgroup" }>;

export type Band = Extract<(typeof KERNELS)[ConvVariant], { family: "band" }>;

/** The kernel of a variant with holes for what its neighbours do; null for others. */
export function blockOf(variant: ConvVariant): Tile | Lanes | Band | null {
  const kernel = KERNELS[variant];
  return kernel.family === "depthwise" || kernel.family === "scalar" ? null : kernel;
}

/** The variants that can do one kernel here, best guess first. */
export interface ConvVariants {
  forward: readonly ConvVariant[];
  grad_input: readonly ConvVariant[];
  grad_weight: readonly ConvVariant[];
}

/** What was worked out for a convolution of some sizes on one adapter, to be looked up by the next one. */
interface Known {
  /** The sizes as the chooser knows them. */
  shape: string;
  variants: Map<string, readonly ConvVariant[]>;
  specs: Map<string, KernelSpec>;
}

const knownByGpu = new WeakMap<Gpu, WeakMap<ConvGeometry, Known>>();

export function knownOf(gpu: Gpu, g: ConvGeometry): Known {
  let byGeometry = knownByGpu.get(gpu);
  if (!byGeometry) {
    byGeometry = new WeakMap();
    knownByGpu.set(gpu, byGeometry);
  }
  let known = byGeometry.get(g);
  if (!known) {
    known = { shape: shapeOf(g), variants: new Map(), specs: new Map() };
    byGeometry.set(g, known);
  }
  return known;
}

/** Sizes that are remembered. */
const MOST_GEOMETRIES = 1024;

const geometries = new Recent<string, ConvGeometry>(MOST_GEOMETRIES);

/** The same object for the same sizes, so that what is known of it is found. */
export function sameGeometry(g: ConvGeometry): ConvGeometry {
  const key = shapeOf(g);
  const before = geometries.get(key);
  if (before) return before;
  geometries.set(key, g);
  return g;
}

/** What this adapter can use for a convolution of these sizes; each list starts with what is chosen untuned. */
export function conv2dVariants(gpu: Gpu, g: ConvGeometry): ConvVariants {
  return {
    forward: variantsOf(gpu, g, "forward"),
    grad_input: variantsOf(gpu, g, "grad_input"),
    grad_weight: variantsOf(gpu, g, "grad_weight"),
  };
}

function variantsOf(gpu: Gpu, g: ConvGeometry, pass: keyof ConvVariants): readonly ConvVariant[] {
  if (isDepthwise(g)) return ["depthwise"];
  if (pass === "grad_weight") return gradWeightVariants(gpu, g);
  return gatherVariants(gpu, g, pass === "forward" ? forwardMap(g) : backwardMap(g));
}

/** Whether a kernel of `variant` has a `Tail`. */
export function gathers(variant: ConvVariant): boolean {
  return blockOf(variant) !== null;
}

/** Whether the kernel that does `pass` has a hole for `part`, and filling it is faster here. */
export function accepts(
  gpu: Gpu,
  g: ConvGeometry,
  pass: "forward" | "grad_input",
  variant: ConvVariant,
  part: string,
): boolean {
  const { family } = KERNELS[variant];
  const fits = family === "tile" || family === "band" || (family === "subgroup" && onlyLanes(gpu) > 0);
  const known = pass === "forward" ? part === "statistics" : part === "gradient_sums";
  const room = gpu.limits.maxStorageBuffersPerShaderStage >= 10;
  return fits && known && room && isFused(gpu, g, `${pass}.output`);
}

/** Every pixel of an output map gathers from an input map. */
export interface GatherMap {
  grad: boolean;
  IH: number;
  IW: number;
  IC: number;
  OH: number;
  OW: number;
  OC: number;
  /** Channels are read four at a time. */
  vec4: boolean;
}

export function forwardMap(g: ConvGeometry): GatherMap {
  const { H: IH, W: IW, C: IC, P: OH, Q: OW, K: OC } = g;
  return { grad: false, IH, IW, IC, OH, OW, OC, vec4: (IC / g.groups) % 4 === 0 };
}

export function backwardMap(g: ConvGeometry): GatherMap {
  const { P: IH, Q: IW, K: IC, H: OH, W: OW, C: OC } = g;
  return { grad: true, IH, IW, IC, OH, OW, OC, vec4: (IC / g.groups) % 4 === 0 };
}

const WIDE_FIRST = [16, 8] as const;

const NARROW_FIRST = [8, 16] as const;

function gatherVariants(gpu: Gpu, g: ConvGeometry, map: GatherMap): ConvVariant[] {
  const perGroup = map.OC / g.groups;
  if (perGroup % 4 !== 0) return ["scalar_4x4"];
  const lanes = subgroupLanes(gpu);
  const subgroup: ConvVariant[] = [];
  if (lanes > 0) {
    // A block of 16 channels takes about 1.6 times as long as one of 8.
    const sizes = 1.6 * Math.ceil(perGroup / 16) <= Math.ceil(perGroup / 8) ? WIDE_FIRST : NARROW_FIRST;
    subgroup.push(...sizes.map((size) => `subgroup_4x${size}` as const));
    if (g.S === 3 && g.strideW === 1 && g.dilationW === 1) {
      // Rows are cut into quads: worth it unless much of the last quad is empty. Narrow subgroups spill beyond 8.
      const waste = (4 * Math.ceil(map.OW / 4)) / map.OW;
      const rows = (lanes < 8 ? NARROW_FIRST : sizes).map((size) => `subgroup_row_4x${size}` as const);
      subgroup.splice(waste <= 1.2 ? 0 : 2, 0, ...rows);
    }
  }
  const pixels = g.N * map.OH * map.OW;
  const scalar = loadsByScalarUnit(gpu);
  // The largest tile sums up 8 at a time, the next one 16: by the model for AMD's GPUs that is 10 points of the peak for the latter, and
  // an H100 was faster so in dx, but not forward.
  const best =
    perGroup <= 16
      ? "tile_256x16"
      : perGroup <= 32
        ? "tile_128x32"
        : perGroup % 128 === 0 &&
            !scalar &&
            !map.grad &&
            pixels * map.OC >= BUSY * 128 * 128 &&
            fits(gpu, "tile_128x128")
          ? "tile_128x128"
          : pixels * map.OC >= BUSY * 128 * 64
            ? "tile_128x64"
            : "tile_64x64_8x4";
  const gather: ConvVariant[] = [
    "tile_256x16",
    "tile_128x32",
    "tile_64x64_8x4",
    "tile_64x64",
    "tile_128x64",
    "tile_128x128",
  ];
  const tiles: ConvVariant[] = [best, ...gather.filter((name) => name !== best && fits(gpu, name))];
  // Bands of four rows: worth it unless much of the last one is empty. Where weights come as any other load they are staged, and
  // for many channels on large maps the tiles with the most numbers a lane are faster. See docs/design/0004-convolution.md.
  const waste = (4 * Math.ceil(map.OH / 4)) / map.OH;
  const bands = [...bandVariants(gpu, g, map, !scalar), ...bandVariants(gpu, g, map, scalar)];
  const pays = waste <= 1.15 && (scalar || !["tile_128x128", "tile_128x64"].includes(best));
  const blocks = pays ? [...bands, ...tiles] : [...tiles, ...bands];
  return inOrder(gpu, subgroup, blocks, ["scalar_4x4"]);
}

/** Whether the tile's workgroup has no more invocations, and no more memory, than this adapter allows. */
export function fits(gpu: Gpu, name: ConvVariant): boolean {
  const block = blockOf(name);
  if (block?.family !== "tile") return true;
  const bytes = 16 * vec4sOfTiles(block);
  return (
    tileSizes(block).WORKGROUP <= largestWorkgroup(gpu) && bytes <= gpu.limits.maxComputeWorkgroupStorageSize
  );
}

/** What the tiles of one workgroup take: `TILES_SIZE` of conv2d_tile.wgsl. In grad_weight, two for each lane at least. */
export function vec4sOfTiles(tile: Tile): number {
  const { BM, BN, BK } = tileSizes(tile);
  return BK * (BM / 4 + 1 + BN / 4 + 1);
}

/** Pixels of x that a lane of a band kernel loads at a time, at most: `MOST` of conv2d_band.wgsl. */
const MOST_BAND_LOADS = 8;

/** What a workgroup of a band kernel works on. */
export interface BandWorkgroup {
  lanes: number;
  /** Lines of x in its tile, at most. */
  lines: number;
  /** Pixels of x that it loads, at most. */
  loads: number;
  /** Whether its bands are those of whole images. */
  whole: boolean;
}

/** Null where no band kernel can do this convolution. Weights that are staged are shared by more lanes. */
export function bandOf(
  gpu: Gpu,
  g: ConvGeometry,
  map: GatherMap,
  { staged, channels }: Pick<Band, "staged" | "channels">,
): BandWorkgroup | null {
  const plain = g.strideH * g.strideW * g.dilationH * g.dilationW * g.groups === 1;
  if (!plain || g.R !== 3 || g.S !== 3 || !map.vec4) return null;
  const { maxComputeWorkgroupStorageSize: room, maxComputeInvocationsPerWorkgroup: most } = gpu.limits;
  const bands = Math.ceil(map.OH / 4);
  const weights = staged ? 9 * channels : 1;
  for (const lanes of staged ? [128, 64, 256] : [64, 128, 256]) {
    const even = lanes % map.OW === 0;
    // Bands, and images, that the lanes of a workgroup are in.
    const span = even ? lanes / map.OW : Math.ceil((lanes - 1) / map.OW) + 1;
    const whole = even && span % bands === 0;
    const touched = even && bands % span === 0 ? 1 : whole ? span / bands : Math.ceil((span - 1) / bands) + 1;
    const lines = 4 * span + 2 * touched;
    // Of whole images only what lies in the map; else every line that may.
    const loads = (whole ? touched * map.IH : lines) * map.IW;
    const size = lines * (map.OW + 2);
    if (loads <= MOST_BAND_LOADS * lanes && 16 * (size + 1 + weights) <= room && lanes <= most)
      return { lanes, lines, loads, whole };
  }
  return null;
}

/**
 * Of as many channels in a lane as leave a large GPU something to do for all its lanes; where weights are staged no more than 8,
 * which was faster than 16 at every shape measured: see docs/design/0004-convolution.md.
 */
function bandVariants(gpu: Gpu, g: ConvGeometry, map: GatherMap, staged: boolean): ConvVariant[] {
  const all = ([16, 8, 4] as const).filter((channels) => bandOf(gpu, g, map, { staged, channels }));
  const waves = (g.N * Math.ceil(map.OH / 4) * map.OW) / 64;
  const fits = (channels: number) => map.OC % channels === 0 && (waves * map.OC) / channels >= 1.5 * BUSY;
  const best = fits(16) && !staged ? 16 : fits(8) ? 8 : 4;
  const name = (channels: 4 | 8 | 16) =>
    staged ? (`staged_band_${channels}` as const) : (`band_${channels}` as const);
  return [...all.filter((one) => one === best), ...all.filter((one) => one !== best)].map(name);
}

function gradWeightVariants(gpu: Gpu, g: ConvGeometry): ConvVariant[] {
  const perGroup = g.K / g.groups;
  if (perGroup % 4 !== 0) return ["scalar_1x4"];
  const lanes = subgroupLanes(gpu);
  const subgroup: ConvVariant[] = lanes > 0 ? ["subgroup_4x16"] : [];
  if (lanes > 0 && g.S === 3 && g.strideW === 1 && g.dilationW === 1 && (g.C / g.groups) % 4 === 0) {
    // However narrow the map is, unlike in `gatherVariants`. Blocks of 16 take 9 to 20 % longer on AMD's processors, 12 % less on
    // Intel's, and twice as long to compile.
    subgroup.unshift(...NARROW_FIRST.map((size) => `subgroup_row_4x${size}` as const));
  }
  const narrow: ConvVariant[] = ["tile_16x144", "tile_32x96"];
  const parted: ConvVariant[] = ["tile_16x72x7", "tile_32x96x2"];
  // Subgroups of 64 have lanes to spare otherwise; the fewer but larger workgroups fill other GPUs less evenly.
  const few = loadsByScalarUnit(gpu) ? [...parted, ...narrow] : [...narrow, ...parted];
  const best = perGroup <= 16 ? few[0]! : perGroup <= 32 ? few[1]! : "tile_64x64";
  const tiles = [...few, "tile_64x64", "tile_128x64"] satisfies ConvVariant[];
  const inTurn = [best, ...tiles.filter((name) => name !== best)].filter((name) => fits(gpu, name));
  return inOrder(gpu, subgroup, inTurn, ["scalar_1x4"]);
}

/** Whether a tensor is added by the convolution rather than after it. */
export function adds(gpu: Gpu, g: ConvGeometry): boolean {
  return gpu.limits.maxStorageBuffersPerShaderStage >= 10 && isFused(gpu, g, "forward.addend");
}

const FUSED = ["fused", "separate"] as const;

/** Whether a part is folded in: by what was measured here, else by the class of adapter. */
export function isFused(gpu: Gpu, g: ConvGeometry, what: string): boolean {
  const choice = !gpu.isSoftware || softwareFuses(gpu, g, what) ? "fused" : "separate";
  return (
    gpu.variants.pick(`conv2d.${what}`, knownOf(gpu, g).shape, FUSED, choice, "work").variant === "fused"
  );
}

/**
 * On a processor arithmetic at a store comes for little, but what is done to a number as it is loaded is done for each time
 * that it is loaded: few times in grad_weight, and dear only where many channels make a pass over memory cheap. With 4 lanes it
 * never pays. See docs/design/0005-folding.md.
 */
function softwareFuses(gpu: Gpu, g: ConvGeometry, what: string): boolean {
  if (what.endsWith(".output") || what.endsWith(".addend")) return true;
  if (onlyLanes(gpu) < 8) return false;
  return what === "grad_weight.input" || (what === "forward.input" && g.C <= 16);
}

/** Workgroups below which a large GPU is not busy. */
export const BUSY = 264;

export function tileSizes({ entry, BM, BN, BK, parts }: Tile) {
  const lanes = (BM / 8) * (BN / (entry === "8x8" ? 8 : 4));
  return { BM, BN, BK: BK * parts, PARTS: parts, WORKGROUP: lanes * parts };
}

function isDepthwise(g: ConvGeometry): boolean {
  return g.groups === g.C && g.groups > 1;
}

/** Kernels that lean on subgroups as SIMD lanes go first where a processor does the work, tiles elsewhere. */
function inOrder(
  gpu: Gpu,
  subgroup: readonly ConvVariant[],
  tiles: readonly ConvVariant[],
  scalar: readonly ConvVariant[],
): ConvVariant[] {
  return gpu.isSoftware ? [...subgroup, ...scalar, ...tiles] : [...tiles, ...subgroup, ...scalar];
}

/** The sizes as the chooser knows them. */
function shapeOf(g: ConvGeometry): string {
  return Object.values(g).join("x");
}

/** Chooses the variant for a kernel; what comes of it is handed on. */
export function pick(gpu: Gpu, g: ConvGeometry, pass: keyof ConvVariants): ConvChoice {
  const { shape, variants } = knownOf(gpu, g);
  const key = gpu.isSoftware ? pass : `hardware ${pass}`;
  let candidates = variants.get(key);
  if (!candidates) {
    candidates = variantsOf(gpu, g, pass);
    variants.set(key, candidates);
  }
  return gpu.variants.pick(`conv2d.${pass}`, shape, candidates, candidates[0]!);
}
