// Which kernel of shaders/conv2d*.wgsl does a convolution, and with what grid.

import type { NamedBinding } from "../../device/bindings.ts";
import type { KernelSpec } from "../../device/kernels.ts";
import { type LinkedShader, link } from "../../device/link.ts";
import { Recent } from "../../device/recent.ts";
import type { Choice } from "../../device/variants.ts";
import { FusenormError } from "../../errors.ts";
import { type Load, NO_ACTIVATION, type Partials, type Store } from "../../fusion/ports.ts";
import type { PartsOf } from "../../generated/shaders.ts";
import * as shaders from "../../generated/shaders.ts";
import type { Gpu } from "../../gpu.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import type { OpContext } from "../define-op.ts";
import { largestWorkgroup } from "../grid.ts";
import { loadsByScalarUnit, onlyLanes, subgroupLanes } from "../subgroups.ts";
import { addUp, MANY_SLICES, type SliceSums, vec4sOf } from "./slice-sums.ts";

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
 * `grad_weight` have as many columns as 3×3 filters over as many channels as rows, or a third of them.
 */
const KERNELS = {
  depthwise: { family: "depthwise" },
  scalar_4x4: { family: "scalar" },
  scalar_1x4: { family: "scalar" },
  subgroup_4x8: { family: "subgroup", row: false, channels: 8 },
  subgroup_4x16: { family: "subgroup", row: false, channels: 16 },
  subgroup_row_4x8: { family: "subgroup", row: true, channels: 8 },
  subgroup_row_4x16: { family: "subgroup", row: true, channels: 16 },
  tile_256x16: { family: "tile", entry: "8x4", BM: 256, BN: 16, BK: 8 },
  tile_128x32: { family: "tile", entry: "8x4", BM: 128, BN: 32, BK: 16 },
  tile_64x64_8x4: { family: "tile", entry: "8x4", BM: 64, BN: 64, BK: 16 },
  tile_64x64: { family: "tile", entry: "8x8", BM: 64, BN: 64, BK: 16 },
  tile_128x64: { family: "tile", entry: "8x8", BM: 128, BN: 64, BK: 16 },
  tile_128x128: { family: "tile", entry: "8x8", BM: 128, BN: 128, BK: 8 },
  tile_16x144: { family: "tile", entry: "8x4", BM: 16, BN: 144, BK: 8 },
  tile_32x96: { family: "tile", entry: "8x4", BM: 32, BN: 96, BK: 16 },
  band_4: { family: "band", channels: 4, staged: false },
  band_8: { family: "band", channels: 8, staged: false },
  band_16: { family: "band", channels: 16, staged: false },
  staged_band_4: { family: "band", channels: 4, staged: true },
  staged_band_8: { family: "band", channels: 8, staged: true },
  staged_band_16: { family: "band", channels: 16, staged: true },
} as const;

export type ConvVariant = keyof typeof KERNELS;
export type ConvChoice = Choice<ConvVariant>;
type Tile = Extract<(typeof KERNELS)[ConvVariant], { family: "tile" }>;
type Lanes = Extract<(typeof KERNELS)[ConvVariant], { family: "subgroup" }>;
type Band = Extract<(typeof KERNELS)[ConvVariant], { family: "band" }>;

/** The kernel of a variant with holes for what its neighbours do; null for others. */
function blockOf(variant: ConvVariant): Tile | Lanes | Band | null {
  const kernel = KERNELS[variant];
  return kernel.family === "depthwise" || kernel.family === "scalar" ? null : kernel;
}

/** The variants that can do one kernel here, best guess first. */
export interface ConvVariants {
  forward: readonly ConvVariant[];
  grad_input: readonly ConvVariant[];
  grad_weight: readonly ConvVariant[];
}

type Context = Pick<OpContext, "gpu" | "empty" | "temp" | "run">;

const WORKGROUP = 64;

/** What was worked out for a convolution of some sizes on one adapter, to be looked up by the next one. */
interface Known {
  /** The sizes as the chooser knows them. */
  shape: string;
  variants: Map<string, readonly ConvVariant[]>;
  specs: Map<string, KernelSpec>;
}

const knownByGpu = new WeakMap<Gpu, WeakMap<ConvGeometry, Known>>();

function knownOf(gpu: Gpu, g: ConvGeometry): Known {
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

/** The kernel that `make` makes, made once for each `key`. */
function specOf(gpu: Gpu, g: ConvGeometry, key: string, make: () => KernelSpec): KernelSpec {
  const { specs } = knownOf(gpu, g);
  const full = gpu.isSoftware ? key : `hardware ${key}`;
  let spec = specs.get(full);
  if (!spec) {
    spec = make();
    specs.set(full, spec);
  }
  return spec;
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

/** What is done with the results of a convolution beside storing them, where the variant is a `gathers` one. */
export interface Tail {
  /** Of the output's shape, added. */
  addend?: Tensor | null;
  /** They are added to what the output holds. */
  joins?: boolean;
  /** See `accepts`. */
  store?: Store | null;
}

/** y = conv(x, weight) + bias; gives the sums of `tail.store`. */
export function runForward(
  ctx: Context,
  g: ConvGeometry,
  choice: ConvChoice,
  { out, x, weight, bias }: { out: Tensor; x: Tensor; weight: Tensor; bias: Tensor | null },
  tail: Tail = {},
): Partials | null {
  const { variant } = choice;
  if (variant === "depthwise") {
    const lanes = Math.ceil(g.K / 4) * Math.ceil((g.N * g.P * g.Q) / 4);
    const constants = { ...depthwiseSizes(g), HAS_BIAS: bias ? 1 : 0 };
    ctx.run(
      { shader: shaders.conv2d_depthwise, entry: "forward", constants, ...countedOf(g, choice) },
      { out, x, x4: x, weight, bias: bias ?? weight, batch: batchOf(g) },
      foldLanes(ctx, lanes),
    );
    return null;
  }
  const block = blockOf(variant);
  if (block) {
    const input = operand(ctx.gpu, g, "forward.input", x, forwardMap(g).vec4);
    return gather(ctx, g, forwardMap(g), block, choice, { out, input, weight, bias }, tail);
  }
  const constants = { ...sizes(g), HAS_BIAS: bias ? 1 : 0 };
  const blocks = Math.ceil(g.K / g.groups / 4) * g.groups * Math.ceil((g.N * g.P * g.Q) / (4 * WORKGROUP));
  // Without a bias any buffer of at least K numbers may stand at its place.
  ctx.run(
    { shader: shaders.conv2d, entry: "forward", constants, ...countedOf(g, choice) },
    { out, x, weight, bias: bias ?? weight, batch: batchOf(g) },
    ctx.gpu.fold(blocks),
  );
  return null;
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

/** dx from dy, into `out`; gives the sums of `tail.store`. */
export function gradInput(
  ctx: Context,
  g: ConvGeometry,
  choice: ConvChoice,
  { out: dx, dy, weight }: { out: Tensor; dy: Tensor; weight: Tensor },
  tail: Tail = {},
): Partials | null {
  const { variant } = choice;
  if (variant === "depthwise") {
    const lanes = Math.ceil(g.C / 4) * Math.ceil((g.N * g.H * g.W) / 4);
    ctx.run(
      {
        shader: shaders.conv2d_depthwise,
        entry: "grad_input",
        constants: depthwiseSizes(g),
        ...countedOf(g, choice),
      },
      { out: dx, dy, dy4: dy, weight, batch: batchOf(g) },
      foldLanes(ctx, lanes),
    );
    return null;
  }
  const block = blockOf(variant);
  if (block) {
    const map = backwardMap(g);
    // A kernel has one activation: that of the gradient's sink.
    const loads = map.vec4 && !(tail.store?.activation && dy.load?.activation);
    const input = operand(ctx.gpu, g, "grad_input.input", dy, loads);
    return gather(ctx, g, map, block, choice, { out: dx, input, weight, bias: null }, tail);
  }
  const { strideH, strideW } = g;
  const phasePixels = g.N * Math.ceil(g.H / strideH) * Math.ceil(g.W / strideW);
  const blocks =
    Math.ceil(g.C / g.groups / 4) * g.groups * strideH * strideW * Math.ceil(phasePixels / (4 * WORKGROUP));
  ctx.run(
    { shader: shaders.conv2d, entry: "grad_input", constants: sizes(g), ...countedOf(g, choice) },
    { out: dx, weight, dy, batch: batchOf(g) },
    ctx.gpu.fold(blocks),
  );
  return null;
}

/** dw from dy and x: partial sums over slices of the output rows, then their sum in order, with those of other gradients if `late`. */
export function gradWeight(
  ctx: Context,
  g: ConvGeometry,
  { dw, dy, x }: { dw: Tensor; dy: Tensor; x: Tensor },
  late: SliceSums | null = null,
): Tensor {
  const perGroup = g.C / g.groups;
  const columns = g.R * g.S * perGroup;
  const choice = pick(ctx.gpu, g, "grad_weight");
  const { variant } = choice;
  const sum = { out: dw, count: columns, serves: [choice] };
  if (variant === "depthwise") {
    const lanes = Math.ceil(g.K / 4) * columns;
    return sumOfSlices(ctx, sum, g.N * g.P, Math.ceil(lanes / WORKGROUP), late, (out, slices) => {
      ctx.run(
        {
          shader: shaders.conv2d_depthwise,
          entry: "grad_weight",
          constants: depthwiseSizes(g),
          ...countedOf(g, choice),
        },
        { out, x, x4: x, dy, dy4: dy, batch: batchOf(g, slices) },
        foldLanes(ctx, lanes * slices),
      );
    });
  }
  const block = blockOf(variant);
  if (!block || block.family === "band") {
    const tiles = Math.ceil(columns / WORKGROUP) * Math.ceil(g.K / g.groups / 4) * g.groups;
    return sumOfSlices(ctx, sum, g.N * g.P, tiles, late, (out, slices) => {
      ctx.run(
        { shader: shaders.conv2d, entry: "grad_weight", constants: sizes(g), ...countedOf(g, choice) },
        { out, x, dy, batch: batchOf(g, slices) },
        ctx.gpu.fold(tiles * slices),
      );
    });
  }
  const map = forwardMap(g);
  const input = operand(ctx.gpu, g, "grad_weight.input", x, map.vec4);
  const upstream = operand(ctx.gpu, g, "grad_weight.dy", dy, true);
  const tile = block.family === "tile" ? block : null;
  const { row, channels } = block.family === "subgroup" ? block : { row: false, channels: block.BN };
  // As few lanes without work as whole subgroups allow: 3×3 filters over 16 channels have 36 quads of columns, 12 of which
  // are at the left of a filter row.
  const lanes = Math.ceil(columns / 4) / (row ? 3 : 1);
  const workgroup = 8 * Math.ceil(lanes / Math.ceil(lanes / largestWorkgroup(ctx.gpu)) / 8);
  const tiles =
    (tile
      ? Math.ceil(columns / tile.BN) * Math.ceil(g.K / g.groups / tile.BM)
      : Math.ceil(lanes / workgroup) * Math.ceil(g.K / g.groups / channels)) * g.groups;
  const activation = input.activation ?? NO_ACTIVATION;
  const shader = shaderOf(block, {
    input: partOf("x", input.part),
    dy: partOf("dy", upstream.part),
    activation: activation.part,
  });
  return sumOfSlices(ctx, sum, g.N * g.P, tiles, late, (out, slices) => {
    const given = valuesOf(input.constants) + valuesOf(activation.constants);
    const kernel = specOf(ctx.gpu, g, `weight,${variant},${shader.name}${given}`, () => ({
      shader,
      entry: tile ? `grad_weight_${tile.entry}` : row ? "grad_weight_row" : "grad_weight_16",
      constants: {
        ...mapSizes(g, map),
        ...extentOf(map),
        ...(tile ? tileSizes(tile) : { NARROW: narrow(ctx.gpu), WORKGROUP: workgroup }),
        ...(row ? { K16: channels === 16 ? 1 : 0 } : {}),
        ...input.constants,
        ...activation.constants,
      },
      ...countedOf(g, choice),
    }));
    const bindings: Record<string, NamedBinding> = {
      out,
      batch: { ...batchOf(g, slices), ...extentOf(map) },
    };
    bindOperand(bindings, "x", input);
    bindOperand(bindings, "dy", upstream);
    ctx.run(kernel, bindings, ctx.gpu.fold(tiles * slices));
  });
}

/** db from dy; with other gradients if `late`. */
export function gradBias(
  ctx: Context,
  g: ConvGeometry,
  db: Tensor,
  dy: Tensor,
  late: SliceSums | null = null,
): Tensor {
  return sumRows(ctx, { out: db, count: g.K }, dy, g.N * g.P * g.Q, late);
}

/** Writes the sum of each column of `dy` [rows, count] to `out` [count]. */
export function sumRows(
  ctx: Context,
  { out: sums, count }: { out: Tensor; count: number },
  dy: Tensor,
  rows: number,
  late: SliceSums | null = null,
): Tensor {
  const tiles = Math.ceil(count / WORKGROUP);
  return sumOfSlices(ctx, { out: sums, count }, rows, tiles, late, (out, slices) => {
    ctx.run(
      { shader: shaders.conv2d, entry: "sum_rows" },
      { out, source: dy, size: { slices, count, rows } },
      ctx.gpu.fold(tiles * slices),
    );
  });
}

// --- one gathering convolution, for y from x or dx from dy ------------------------------------------------

/** Every pixel of an output map gathers from an input map. */
interface GatherMap {
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

function forwardMap(g: ConvGeometry): GatherMap {
  const { H: IH, W: IW, C: IC, P: OH, Q: OW, K: OC } = g;
  return { grad: false, IH, IW, IC, OH, OW, OC, vec4: (IC / g.groups) % 4 === 0 };
}

function backwardMap(g: ConvGeometry): GatherMap {
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
  const best =
    perGroup <= 16
      ? "tile_256x16"
      : perGroup <= 32
        ? "tile_128x32"
        : perGroup % 128 === 0 && pixels * map.OC >= BUSY * 128 * 128 && fits(gpu, "tile_128x128")
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
  const scalar = loadsByScalarUnit(gpu);
  const bands = [...bandVariants(gpu, g, map, !scalar), ...bandVariants(gpu, g, map, scalar)];
  const pays = waste <= 1.15 && (scalar || !["tile_128x128", "tile_128x64"].includes(best));
  const blocks = pays ? [...bands, ...tiles] : [...tiles, ...bands];
  return inOrder(gpu, subgroup, blocks, ["scalar_4x4"]);
}

/** Whether the tile's workgroup has no more invocations than this adapter allows. */
function fits(gpu: Gpu, name: ConvVariant): boolean {
  const block = blockOf(name);
  return block?.family !== "tile" || tileSizes(block).WORKGROUP! <= largestWorkgroup(gpu);
}

/** Pixels of x that a lane of a band kernel loads at a time, at most: `MOST` of conv2d_band.wgsl. */
const MOST_BAND_LOADS = 8;

/**
 * Lanes of a band kernel's workgroup, and lines of x that they read at most; null where it can't do this convolution. Weights that
 * are staged are shared by more lanes.
 */
function bandOf(
  gpu: Gpu,
  g: ConvGeometry,
  map: GatherMap,
  { staged, channels }: Pick<Band, "staged" | "channels">,
): { lanes: number; lines: number } | null {
  const plain = g.strideH * g.strideW * g.dilationH * g.dilationW * g.groups === 1;
  if (!plain || g.R !== 3 || g.S !== 3 || !map.vec4) return null;
  const { maxComputeWorkgroupStorageSize: room, maxComputeInvocationsPerWorkgroup: most } = gpu.limits;
  const bands = Math.ceil(map.OH / 4);
  const weights = staged ? 9 * channels : 1;
  for (const lanes of staged ? [128, 64, 256] : [64, 128, 256]) {
    const whole = lanes % map.OW === 0;
    // Bands, and images, that the lanes of a workgroup are in.
    const span = whole ? lanes / map.OW : Math.ceil((lanes - 1) / map.OW) + 1;
    const touched =
      whole && bands % span === 0
        ? 1
        : whole && span % bands === 0
          ? span / bands
          : Math.ceil((span - 1) / bands) + 1;
    const lines = 4 * span + 2 * touched;
    const size = lines * (map.OW + 2);
    if (size <= MOST_BAND_LOADS * lanes && 16 * (size + 1 + weights) <= room && lanes <= most)
      return { lanes, lines };
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
    // As in `gatherVariants`, but however narrow the map is.
    const wide = lanes >= 8 && 1.6 * Math.ceil(perGroup / 16) <= Math.ceil(perGroup / 8);
    subgroup.unshift(...(wide ? WIDE_FIRST : NARROW_FIRST).map((size) => `subgroup_row_4x${size}` as const));
  }
  const best = perGroup <= 16 ? "tile_16x144" : perGroup <= 32 ? "tile_32x96" : "tile_64x64";
  const tiles: ConvVariant[] = ["tile_16x144", "tile_32x96", "tile_64x64", "tile_128x64"];
  return inOrder(gpu, subgroup, [best, ...tiles.filter((name) => name !== best)], ["scalar_1x4"]);
}

/** What a kernel reads as one of its operands: a tensor's elements, or what they are made from on the way. */
type Operand = Omit<Load, "part"> & { part: string };

/** `name`: which operand of which kernel, for the choice whether it is worked out while it is loaded. */
function operand(gpu: Gpu, g: ConvGeometry, name: string, tensor: Tensor, vec4: boolean): Operand {
  const { load } = tensor;
  const fits = vec4 && gpu.limits.maxStorageBuffersPerShaderStage >= 10;
  const known = load !== null && load.part in PARTS[name.endsWith(".dy") ? "dy" : "x"];
  if (known && fits && isFused(gpu, g, name)) return load;
  return { part: "plain", elements: tensor, bindings: {}, constants: {}, activation: null };
}

/** Adds an operand's bindings to those of a kernel, as those of the port `x` or `dy`. */
function bindOperand(
  named: Record<string, NamedBinding>,
  port: "x" | "dy",
  { elements, bindings }: Operand,
): void {
  if (port === "x") {
    named.x = elements;
    named.x4 = elements;
  } else named.w4 = elements;
  for (const name in bindings) named[`${port}_${name}`] = bindings[name]!;
}

/** The values of constants, to tell specs of the same shader apart. */
function valuesOf(constants: Readonly<Record<string, number>> | undefined): string {
  let values = "";
  for (const name in constants) values += `,${constants[name]}`;
  return values;
}

function gather(
  ctx: Context,
  g: ConvGeometry,
  map: GatherMap,
  block: Tile | Lanes | Band,
  choice: ConvChoice,
  /** weight: [K, R, S, C / groups] */
  { out, input, weight, bias }: { out: Tensor; input: Operand; weight: Tensor; bias: Tensor | null },
  { addend = null, joins = false, store = null }: Tail,
): Partials | null {
  const { variant } = choice;
  const tile = block.family === "tile" ? block : null;
  const band = block.family === "band" ? bandOf(ctx.gpu, g, map, block) : null;
  const row = block.family === "subgroup" && block.row;
  const channels = block.family === "tile" ? block.BN : block.channels;
  const phases = map.grad ? g.strideH * g.strideW : 1;
  const rows = map.grad ? Math.ceil(map.OH / g.strideH) : map.OH;
  const columns = map.grad ? Math.ceil(map.OW / g.strideW) : map.OW;
  const pixels = g.N * rows * columns;
  // Blocks of pixels share their channels; of each there is one for every block of channels and phase.
  const perPixels = Math.ceil(map.OC / g.groups / channels) * g.groups * phases;
  let blocks = tile
    ? Math.ceil(pixels / tile.BM)
    : band
      ? Math.ceil((g.N * Math.ceil(rows / 4) * columns) / band.lanes)
      : Math.ceil((row ? g.N * rows * Math.ceil(columns / 4) : Math.ceil(pixels / 4)) / WORKGROUP);
  // The fewer partial results, the less there is to add up: a subgroup does several blocks if enough are left.
  const turns = Math.max(1, Math.min(16, Math.floor((blocks * perPixels) / SOFTWARE_WORKGROUPS)));
  const inTurn = tile || band || !store ? 1 : turns;
  blocks = Math.ceil(blocks / inTurn);
  const workgroups = perPixels * blocks;
  const output = store?.part ?? "plain";
  const activation = input.activation ?? store?.activation ?? NO_ACTIVATION;
  const shader = shaderOf(block, {
    input: partOf("x", input.part),
    output: partOf("output", output),
    activation: activation.part,
  });
  // Without a bias or an addend any buffer of at least as many numbers may stand at its place.
  const bindings: Record<string, NamedBinding> = {
    ...{ out, w: weight, w4: weight, bias: bias ?? weight, addend: addend ?? weight },
    batch: { ...batchOf(g, 1, inTurn), ...extentOf(map) },
  };
  bindOperand(bindings, "x", input);
  for (const name in store?.bindings) bindings[name] = store.bindings[name]!;
  let partials: Partials | null = null;
  const lanes = onlyLanes(ctx.gpu);
  if (store) {
    const groups = phases * blocks * (tile || band ? 1 : WORKGROUP / lanes);
    partials = { values: ctx.empty([groups, store.rows, map.OC]), groups };
    bindings.partials = partials.values;
  }
  const flags = `${bias !== null},${addend !== null},${joins}`;
  const given = valuesOf(input.constants) + valuesOf(store?.constants) + valuesOf(activation.constants);
  const kernel = specOf(ctx.gpu, g, `${map.grad},${variant},${shader.name},${flags}${given}`, () => ({
    shader,
    entry: tile ? `conv_${tile.entry}` : band ? "conv" : `conv_${row ? "row_" : ""}${channels}`,
    constants: {
      ...(block.family === "band" ? bandSizes(g, map, band!, block) : mapSizes(g, map)),
      ...(tile ? { ...extentOf(map), ...tileSizes(tile) } : band ? {} : { NARROW: narrow(ctx.gpu) }),
      ...(row && channels === 16 ? rowConstants(ctx.gpu, g, map) : {}),
      ...(map.grad ? { JOIN: joins ? 1 : 0 } : { HAS_BIAS: bias ? 1 : 0, HAS_ADDEND: addend ? 1 : 0 }),
      ...(store && !tile && !band ? { LANES: lanes } : {}),
      ...input.constants,
      ...store?.constants,
      ...activation.constants,
    },
    ...countedOf(g, choice),
  }));
  ctx.run(kernel, bindings, ctx.gpu.fold(workgroups));
  return partials;
}

/** What conv_row_16 need not load on its own, or can load at less cost. */
function rowConstants(gpu: Gpu, g: ConvGeometry, map: GatherMap): Record<string, number> {
  const lanes = onlyLanes(gpu);
  const quads = Math.ceil(map.OW / 4);
  // The first pixel of a row reads x from -left on, its last quad up to the other end.
  const left = map.grad ? 2 - g.left : g.left;
  const padded = left > 0 && 4 * quads + 1 - left >= map.IW;
  const tapBytes = g.R * Math.ceil(map.IC / g.groups / 4) * 16 * 16;
  const taps = Math.min(3, Math.floor(gpu.limits.maxComputeWorkgroupStorageSize / tapBytes));
  return {
    SEAMLESS: lanes > 0 && lanes % quads === 0 && padded ? 1 : 0,
    STAGED: gpu.isSoftware && lanes === 8 ? taps : 0,
  };
}

type Family = "conv2d_subgroup" | "conv2d_tile" | "conv2d_band";

/** By hole: which file of shaders/ is meant by the name of a part. */
const PARTS = {
  x: {
    plain: "conv2d_input_plain",
    affine: "conv2d_input_affine",
    affine_pair: "conv2d_input_affine_pair",
  },
  dy: { plain: "conv2d_dy_plain", affine_pair: "conv2d_dy_affine_pair" },
  output: {
    plain: "conv2d_output_plain",
    statistics: "conv2d_output_statistics",
    gradient_sums: "conv2d_output_gradient_sums",
  },
} as const satisfies Record<
  "x" | "dy" | "output",
  Record<string, PartsOf<"conv2d_tile">["input" | "dy" | "output"]>
>;

/** @throws FusenormError for a part that nobody asked `accepts` or `operand` about */
function partOf<H extends keyof typeof PARTS>(
  hole: H,
  part: string,
): (typeof PARTS)[H][keyof (typeof PARTS)[H]] {
  const parts = PARTS[hole];
  if (!Object.hasOwn(parts, part))
    throw new FusenormError(`internal: conv2d has no part ${part} for ${hole}`);
  return parts[part as keyof typeof parts];
}

/** The family's kernels, with what they read and what becomes of their sums. */
function shaderOf(
  { family }: Tile | Lanes | Band,
  parts: Partial<PartsOf<"conv2d_subgroup" | "conv2d_tile">>,
): LinkedShader<Family> {
  if (family === "band") return link(shaders.conv2d_band, parts);
  return family === "tile" ? link(shaders.conv2d_tile, parts) : link(shaders.conv2d_subgroup, parts);
}

/** Whether a tensor is added by the convolution rather than after it. */
export function adds(gpu: Gpu, g: ConvGeometry): boolean {
  return gpu.limits.maxStorageBuffersPerShaderStage >= 10 && isFused(gpu, g, "forward.addend");
}

const FUSED = ["fused", "separate"] as const;

/** Whether a part is folded in: by what was measured here, else by the class of adapter. */
function isFused(gpu: Gpu, g: ConvGeometry, what: string): boolean {
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

function mapSizes(g: ConvGeometry, map: GatherMap): Record<string, number> {
  const { IC, OC } = map;
  return {
    ...{ IC, OC, R: g.R, S: g.S, GROUPS: g.groups },
    ...{ SH: g.strideH, SW: g.strideW, PT: g.top, PL: g.left, DH: g.dilationH, DW: g.dilationW },
    ...{ GRAD: map.grad ? 1 : 0, VEC4: map.vec4 ? 1 : 0 },
  };
}

/** Height and width of the maps: constants of some kernels, uniforms of others. */
function extentOf({ IH, IW, OH, OW }: GatherMap) {
  return { IH, IW, OH, OW };
}

/** `Batch` of the shaders: what the batch size decides is a uniform, so that one pipeline serves every batch. */
function batchOf({ N, S }: ConvGeometry, slices = 1, blocks = 1) {
  return { N, S, SLICES: slices, BLOCKS: blocks };
}

/** Whether subgroups may be too small for the kernels that count on 8 lanes. */
function narrow(gpu: Gpu): number {
  return subgroupLanes(gpu) < 8 ? 1 : 0;
}

/** Workgroups below which a large GPU is not busy. */
const BUSY = 264;
/** Workgroups that keep a processor's cores busy to the end. */
const SOFTWARE_WORKGROUPS = 16;

function bandSizes(
  g: ConvGeometry,
  { IH, IW, IC, OH, OW, OC, grad }: GatherMap,
  { lanes, lines }: { lanes: number; lines: number },
  { channels, staged }: Band,
): Record<string, number> {
  return {
    ...{ IH, IW, IC, OH, OW, OC, PT: g.top, PL: g.left, GRAD: grad ? 1 : 0 },
    ...{ QUADS: channels / 4, WORKGROUP: lanes, LINES: lines, STAGED: staged ? 1 : 0 },
  };
}

function tileSizes({ entry, BM, BN, BK }: Tile): Record<string, number> {
  return { BM, BN, BK, WORKGROUP: (BM / 8) * (BN / (entry === "8x8" ? 8 : 4)) };
}

// --- depthwise --------------------------------------------------------------------------------------------

function isDepthwise(g: ConvGeometry): boolean {
  return g.groups === g.C && g.groups > 1;
}

function depthwiseSizes(g: ConvGeometry): Record<string, number> {
  const { GROUPS: _, ...rest } = sizes(g);
  return { ...rest, MULTIPLIER: g.K / g.C, VEC4: g.K === g.C && g.C % 4 === 0 ? 1 : 0 };
}

function foldLanes(ctx: Context, lanes: number): [number, number] {
  return ctx.gpu.fold(Math.ceil(lanes / WORKGROUP));
}

// --- shared ----------------------------------------------------------------------------------------------

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

/**
 * Runs `partials` over as many slices of `rows` as keep the adapter busy, and adds them up: at the end of the pass, where `late` is
 * given. A partial result has its last dimension, `count`, rounded up to a multiple of 4.
 */
function sumOfSlices(
  ctx: Context,
  { out, count, serves = [] }: { out: Tensor; count: number; serves?: readonly Choice[] },
  rows: number,
  tiles: number,
  late: SliceSums | null,
  partials: (out: Tensor, slices: number) => void,
): Tensor {
  const { gpu } = ctx;
  const wanted = Math.ceil((gpu.isSoftware ? SOFTWARE_WORKGROUPS : 2 * BUSY) / tiles);
  const slices = sliceCount(rows, wanted);
  if (slices === 1 && count % 4 === 0) {
    partials(out, 1);
    return out;
  }
  // By what is wanted, not by what the rows give: a smaller last batch takes the same kernel.
  const shared = !gpu.isSoftware && wanted >= MANY_SLICES;
  const sum = { out, slices, rows: out.size / count, count, shared, serves };
  // While variants are timed the sum's time belongs to its own.
  if (late && gpu.variants.trials.size === 0) {
    const place = late.add(sum);
    partials(place, slices);
    place.dispose();
  } else {
    const scratch = ctx.temp([4 * vec4sOf(sum)]);
    partials(scratch, slices);
    addUp(ctx.run, scratch, [{ ...sum, at: 0 }]);
  }
  return out;
}

/** At most `wanted` slices of equal height (the last may be lower), none of them empty. */
function sliceCount(rows: number, wanted: number): number {
  const height = Math.ceil(rows / Math.max(1, Math.min(wanted, rows)));
  return Math.ceil(rows / height);
}

/** Of one pass, forward or either gradient; products with padding are counted. */
function flopsOf(g: ConvGeometry): number {
  return 2 * g.N * g.P * g.Q * g.K * g.R * g.S * (g.C / g.groups);
}

/** What profiles and `autotune` count a dispatch as. */
function countedOf(g: ConvGeometry, choice: ConvChoice): Pick<KernelSpec, "flops" | "serves"> {
  return { flops: flopsOf(g), serves: [choice] };
}

function sizes(g: ConvGeometry): Record<string, number> {
  return {
    ...{ H: g.H, W: g.W, C: g.C, K: g.K, R: g.R, S: g.S, P: g.P, Q: g.Q },
    ...{
      SH: g.strideH,
      SW: g.strideW,
      PT: g.top,
      PL: g.left,
      DH: g.dilationH,
      DW: g.dilationW,
      GROUPS: g.groups,
    },
  };
}
