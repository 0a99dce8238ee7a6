// Which kernel of shaders/conv2d*.wgsl does a convolution, and with what grid.

import type { NormTail } from "../autograd/tape.ts";
import type { Binding, Gpu } from "../gpu/device.ts";
import type { KernelSpec } from "../gpu/kernel.ts";
import { link } from "../gpu/link.ts";
import type { Variant } from "../gpu/variants.ts";
import type { Partials, Recipe } from "../tensor/deferred.ts";
import type { Tensor } from "../tensor/tensor.ts";
import type { OpContext } from "./define-op.ts";
import { onlyLanes, subgroupLanes } from "./subgroups.ts";

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

/** The variants that can do one kernel here, best guess first. */
export interface ConvVariants {
  forward: readonly Variant[];
  grad_input: readonly Variant[];
  grad_weight: readonly Variant[];
}

type Context = Pick<OpContext, "gpu" | "empty" | "temp" | "run">;

const WORKGROUP = 64;

/** What this adapter can use for a convolution of these sizes; each list starts with what is chosen untuned. */
export function conv2dVariants(gpu: Gpu, g: ConvGeometry): ConvVariants {
  if (isDepthwise(g))
    return { forward: ["depthwise"], grad_input: ["depthwise"], grad_weight: ["depthwise"] };
  return {
    forward: gatherVariants(gpu, g, forwardMap(g)),
    grad_input: gatherVariants(gpu, g, backwardMap(g)),
    grad_weight: gradWeightVariants(gpu, g),
  };
}

/** y = conv(x, weight) + bias; with `statistics`, those of y for a batch-norm, if `canReduce`. */
export function runForward(
  ctx: Context,
  g: ConvGeometry,
  out: Tensor,
  x: Tensor,
  weight: Tensor,
  bias: Tensor | null,
  statistics = false,
  variant: Variant = pick(ctx.gpu, g, "forward"),
): Partials | null {
  if (variant === "depthwise") {
    const lanes = Math.ceil(g.K / 4) * Math.ceil((g.N * g.P * g.Q) / 4);
    const constants = { ...depthwiseSizes(g), HAS_BIAS: bias ? 1 : 0 };
    const bindings = [out, x, x, null, null, weight, bias ?? weight, batchOf(g)];
    ctx.run(
      { shader: "conv2d_depthwise", entry: "forward", constants, flops: flopsOf(g) },
      bindings,
      foldLanes(ctx, lanes),
    );
    return null;
  }
  if (variant !== "scalar_4x4") {
    const input = operand(ctx.gpu, g, "forward.input", x, forwardMap(g).vec4);
    const output: Output = statistics ? { part: "statistics", bias } : { part: "plain", bias, joins: false };
    return gather(ctx, g, forwardMap(g), variant, out, input, weight, output);
  }
  const constants = { ...sizes(g), HAS_BIAS: bias ? 1 : 0 };
  const blocks = Math.ceil(g.K / g.groups / 4) * g.groups * Math.ceil((g.N * g.P * g.Q) / (4 * WORKGROUP));
  // Without a bias any buffer of at least K numbers may stand at its place.
  const bindings = [out, x, weight, bias ?? weight, null, batchOf(g)];
  ctx.run(
    { shader: "conv2d", entry: "forward", constants, flops: flopsOf(g) },
    bindings,
    ctx.gpu.fold(blocks),
  );
  return null;
}

/** Whether the kernel that does `pass` adds up what a batch-norm behind it (or, backwards, before it) wants to know. */
export function canReduce(
  gpu: Gpu,
  g: ConvGeometry,
  pass: "forward" | "grad_input",
  variant: Variant = pick(gpu, g, pass),
): boolean {
  const fits = variant.startsWith("tile") || (variant.startsWith("subgroup") && onlyLanes(gpu) > 0);
  return fits && gpu.limits.maxStorageBuffersPerShaderStage >= 10 && isFused(gpu, g, `${pass}.output`);
}

/**
 * dx from dy, into `dx`. `contribution`: dx holds the other contributions, which are added, or the sums for a
 * batch-norm's backward are wanted; only where the variant is neither `depthwise` nor `scalar_4x4`, see `canJoin`.
 */
export function gradInput(
  ctx: Context,
  g: ConvGeometry,
  dx: Tensor,
  dy: Tensor,
  weight: Tensor,
  { joins, norm }: { joins: boolean; norm: NormSource | null } = { joins: false, norm: null },
  variant: Variant = pick(ctx.gpu, g, "grad_input"),
): Partials | null {
  if (variant === "depthwise") {
    const lanes = Math.ceil(g.C / 4) * Math.ceil((g.N * g.H * g.W) / 4);
    const kernel: KernelSpec = {
      shader: "conv2d_depthwise",
      entry: "grad_input",
      constants: depthwiseSizes(g),
      flops: flopsOf(g),
    };
    ctx.run(kernel, [dx, null, null, dy, dy, weight, null, batchOf(g)], foldLanes(ctx, lanes));
    return null;
  }
  if (variant !== "scalar_4x4") {
    const map = backwardMap(g);
    const input = operand(ctx.gpu, g, "grad_input.input", dy, map.vec4);
    const output: Output = norm ? { part: "gradient", norm, joins } : { part: "plain", bias: null, joins };
    return gather(ctx, g, map, variant, dx, input, weight, output);
  }
  const { strideH, strideW } = g;
  const phasePixels = g.N * Math.ceil(g.H / strideH) * Math.ceil(g.W / strideW);
  const blocks =
    Math.ceil(g.C / g.groups / 4) * g.groups * strideH * strideW * Math.ceil(phasePixels / (4 * WORKGROUP));
  const kernel: KernelSpec = {
    shader: "conv2d",
    entry: "grad_input",
    constants: sizes(g),
    flops: flopsOf(g),
  };
  ctx.run(kernel, [dx, null, weight, null, dy, batchOf(g)], ctx.gpu.fold(blocks));
  return null;
}

/** Whether `gradInput` can add to what dx holds. */
export function canJoin(variant: Variant): boolean {
  return /^(tile|subgroup)/.test(variant);
}

/** dw from dy and x: partial sums over slices of the output rows, then their sum in order. */
export function gradWeight(ctx: Context, g: ConvGeometry, dw: Tensor, dy: Tensor, x: Tensor): Tensor {
  const perGroup = g.C / g.groups;
  const columns = g.R * g.S * perGroup;
  const variant = pick(ctx.gpu, g, "grad_weight");
  if (variant === "depthwise") {
    const lanes = Math.ceil(g.K / 4) * columns;
    return sumOfSlices(ctx, dw, columns, g.N * g.P, Math.ceil(lanes / WORKGROUP), (out, slices) => {
      const kernel: KernelSpec = {
        shader: "conv2d_depthwise",
        entry: "grad_weight",
        constants: depthwiseSizes(g),
        flops: flopsOf(g),
      };
      const bindings = [out, x, x, dy, dy, null, null, batchOf(g, slices)];
      ctx.run(kernel, bindings, foldLanes(ctx, lanes * slices));
    });
  }
  if (variant === "scalar_1x4") {
    const tiles = Math.ceil(columns / WORKGROUP) * Math.ceil(g.K / g.groups / 4) * g.groups;
    return sumOfSlices(ctx, dw, columns, g.N * g.P, tiles, (out, slices) => {
      const bindings = [out, x, null, null, dy, batchOf(g, slices)];
      ctx.run(
        { shader: "conv2d", entry: "grad_weight", constants: sizes(g), flops: flopsOf(g) },
        bindings,
        ctx.gpu.fold(tiles * slices),
      );
    });
  }
  const map = forwardMap(g);
  const input = operand(ctx.gpu, g, "grad_weight.input", x, map.vec4);
  const upstream = operand(ctx.gpu, g, "grad_weight.dy", dy, true);
  const tile = TILES[variant];
  const row = variant.startsWith("subgroup_row");
  const channels = variant.endsWith("x16") ? 16 : 8;
  // As few lanes without work as whole subgroups allow: 3×3 filters over 16 channels have 36 quads of columns, 12 of which
  // are at the left of a filter row.
  const lanes = Math.ceil(columns / 4) / (row ? 3 : 1);
  const workgroup = 8 * Math.ceil(lanes / Math.ceil(lanes / 256) / 8);
  const tiles =
    (tile
      ? Math.ceil(columns / tile.BN) * Math.ceil(g.K / g.groups / tile.BM)
      : Math.ceil(lanes / workgroup) * Math.ceil(g.K / g.groups / channels)) * g.groups;
  return sumOfSlices(ctx, dw, columns, g.N * g.P, tiles, (out, slices) => {
    const kernel: KernelSpec = {
      shader: moduleOf(tile ? "conv2d_tile" : "conv2d_subgroup", input.part, upstream.part, "plain"),
      entry: tile ? `grad_weight_${tile.entry}` : row ? "grad_weight_row" : "grad_weight_16",
      constants: {
        ...mapSizes(g, map),
        ...(tile ? tileSizes(tile) : { NARROW: narrow(ctx.gpu), WORKGROUP: workgroup }),
        ...(row ? { K16: channels === 16 ? 1 : 0 } : {}),
        ...input.constants,
      },
      flops: flopsOf(g),
    };
    const [, numbers, raw] = upstream.bindings;
    const bindings: Binding[] = [out, ...inputBindings(input, null, upstream.bindings[0]!), numbers!, raw!];
    ctx.run(kernel, withBatch(bindings, batchOf(g, slices)), ctx.gpu.fold(tiles * slices));
  });
}

/** db from dy */
export function gradBias(ctx: Context, g: ConvGeometry, db: Tensor, dy: Tensor): Tensor {
  return sumRows(ctx, db, dy, g.N * g.P * g.Q, g.K);
}

/** Writes the sum of each column of `dy` [rows, columns] to `sums` [columns]. */
export function sumRows(ctx: Context, sums: Tensor, dy: Tensor, rows: number, columns: number): Tensor {
  const tiles = Math.ceil(columns / WORKGROUP);
  return sumOfSlices(ctx, sums, columns, rows, tiles, (out, slices) => {
    const size = new Uint32Array([slices, columns, rows]);
    ctx.run({ shader: "conv2d", entry: "sum_rows" }, [out, dy, size], ctx.gpu.fold(tiles * slices));
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

function gatherVariants(gpu: Gpu, g: ConvGeometry, map: GatherMap): Variant[] {
  const perGroup = map.OC / g.groups;
  if (perGroup % 4 !== 0) return ["scalar_4x4"];
  const lanes = subgroupLanes(gpu);
  const subgroup: Variant[] = [];
  if (lanes > 0) {
    // A block of 16 channels takes about 1.6 times as long as one of 8.
    const sizes = 1.6 * Math.ceil(perGroup / 16) <= Math.ceil(perGroup / 8) ? [16, 8] : [8, 16];
    subgroup.push(...sizes.map((size) => `subgroup_4x${size}`));
    if (g.S === 3 && g.strideW === 1 && g.dilationW === 1) {
      // Rows are cut into quads: worth it unless much of the last quad is empty. Narrow subgroups spill beyond 8.
      const waste = (4 * Math.ceil(map.OW / 4)) / map.OW;
      const rows = (lanes < 8 ? [8, 16] : sizes).map((size) => `subgroup_row_4x${size}`);
      subgroup.splice(waste <= 1.2 ? 0 : 2, 0, ...rows);
    }
  }
  const pixels = g.N * map.OH * map.OW;
  const best =
    perGroup <= 16
      ? "tile_256x16"
      : perGroup <= 32
        ? "tile_128x32"
        : perGroup % 128 === 0 && pixels * map.OC >= BUSY * 128 * 128
          ? "tile_128x128"
          : pixels * map.OC >= BUSY * 128 * 64
            ? "tile_128x64"
            : "tile_64x64_8x4";
  const gather: Variant[] = [
    "tile_256x16",
    "tile_128x32",
    "tile_64x64_8x4",
    "tile_64x64",
    "tile_128x64",
    "tile_128x128",
  ];
  return inOrder(gpu, subgroup, [best, ...gather.filter((name) => name !== best)], ["scalar_4x4"]);
}

function gradWeightVariants(gpu: Gpu, g: ConvGeometry): Variant[] {
  const perGroup = g.K / g.groups;
  if (perGroup % 4 !== 0) return ["scalar_1x4"];
  const lanes = subgroupLanes(gpu);
  const subgroup: Variant[] = lanes > 0 ? ["subgroup_4x16"] : [];
  if (lanes > 0 && g.S === 3 && g.strideW === 1 && g.dilationW === 1 && (g.C / g.groups) % 4 === 0) {
    // As in `gatherVariants`, but however narrow the map is.
    const wide = lanes >= 8 && 1.6 * Math.ceil(perGroup / 16) <= Math.ceil(perGroup / 8);
    subgroup.unshift(...(wide ? [16, 8] : [8, 16]).map((size) => `subgroup_row_4x${size}`));
  }
  const best = perGroup <= 16 ? "tile_16x144" : perGroup <= 32 ? "tile_32x96" : "tile_64x64";
  const tiles: Variant[] = ["tile_16x144", "tile_32x96", "tile_64x64", "tile_128x64"];
  return inOrder(gpu, subgroup, [best, ...tiles.filter((name) => name !== best)], ["scalar_1x4"]);
}

/** Where a kernel reads one of its operands: the tensor itself, or what a batch-norm would make it from. */
interface Operand {
  part: "plain" | Recipe["kind"];
  /** The tensor, the numbers per channel, and the batch-norm's input. */
  bindings: [Tensor, Tensor | null, Tensor | null];
  constants: Record<string, number>;
}

/** The batch-norm whose gradient `gradInput` masks and sums up. */
type NormSource = Omit<NormTail, "residual">;

/** What becomes of the sums of `gather`. `joins`: they are added to what `out` holds. */
type Output =
  | { part: "plain"; bias: Tensor | null; joins: boolean }
  | { part: "statistics"; bias: Tensor | null }
  | { part: "gradient"; norm: NormSource; joins: boolean };

/** `name`: which operand of which kernel, for the choice whether it is worked out while it is loaded. */
function operand(gpu: Gpu, g: ConvGeometry, name: string, tensor: Tensor, vec4: boolean): Operand {
  const recipe = tensor.deferred;
  const fits = vec4 && gpu.limits.maxStorageBuffersPerShaderStage >= 10;
  const loads = recipe && (recipe.kind === "gradient" || !recipe.residual);
  if (!loads || !fits || !isFused(gpu, g, name)) {
    return { part: "plain", bindings: [tensor, null, null], constants: {} };
  }
  if (recipe.kind === "normalise") {
    const constants = { INPUT_RELU: recipe.relu ? 1 : 0 };
    return { part: recipe.kind, bindings: [recipe.x, recipe.numbers, null], constants };
  }
  return { part: recipe.kind, bindings: [recipe.dz, recipe.slopes, recipe.x], constants: {} };
}

/** What stands at the bindings 1 to 7. */
function inputBindings(
  { part, bindings: [x, numbers, raw] }: Operand,
  w: Tensor | null,
  w4: Tensor,
  bias: Tensor | null = null,
): Binding[] {
  return [part === "plain" ? x : null, x, w, w4, bias, numbers, raw];
}

function gather(
  ctx: Context,
  g: ConvGeometry,
  map: GatherMap,
  variant: Variant,
  out: Tensor,
  input: Operand,
  /** [K, R, S, C / groups] */
  weight: Tensor,
  output: Output,
): Partials | null {
  const tile = TILES[variant];
  const row = variant.startsWith("subgroup_row");
  const channels = tile ? tile.BN : variant.endsWith("x16") ? 16 : 8;
  const phases = map.grad ? g.strideH * g.strideW : 1;
  const rows = map.grad ? Math.ceil(map.OH / g.strideH) : map.OH;
  const columns = map.grad ? Math.ceil(map.OW / g.strideW) : map.OW;
  const pixels = g.N * rows * columns;
  // Blocks of pixels share their channels; of each there is one for every block of channels and phase.
  const perPixels = Math.ceil(map.OC / g.groups / channels) * g.groups * phases;
  let blocks = tile
    ? Math.ceil(pixels / tile.BM)
    : Math.ceil((row ? g.N * rows * Math.ceil(columns / 4) : Math.ceil(pixels / 4)) / WORKGROUP);
  // The fewer partial results, the less there is to add up: a subgroup does several blocks if enough are left.
  const turns = Math.max(1, Math.min(16, Math.floor((blocks * perPixels) / SOFTWARE_WORKGROUPS)));
  const inTurn = tile || output.part === "plain" ? 1 : turns;
  blocks = Math.ceil(blocks / inTurn);
  const workgroups = perPixels * blocks;
  const constants: Record<string, number> = {
    ...mapSizes(g, map),
    ...(tile ? tileSizes(tile) : { NARROW: narrow(ctx.gpu) }),
    ...(row && channels === 16 ? rowConstants(ctx.gpu, g, map) : {}),
    ...input.constants,
  };
  // Without a bias any buffer of at least as many numbers may stand at its place.
  let bias: Tensor | null = weight;
  if (output.part === "gradient") bias = null;
  else {
    constants.HAS_BIAS = output.bias ? 1 : 0;
    bias = output.bias ?? weight;
  }
  if (output.part !== "statistics") constants.JOIN = output.joins ? 1 : 0;
  const bindings = [out, ...inputBindings(input, weight, weight, bias)];
  let partials: Partials | null = null;
  if (output.part !== "plain") {
    const lanes = onlyLanes(ctx.gpu);
    const groups = phases * blocks * (tile ? 1 : WORKGROUP / lanes);
    if (!tile) constants.LANES = lanes;
    const partialRows = output.part === "statistics" ? 4 : 2;
    partials = { values: ctx.empty([groups, partialRows, map.OC]), groups };
    bindings.push(null, null, partials.values);
  }
  if (output.part === "gradient") {
    const { x, numbers, mask, relu } = output.norm;
    constants.MASK = mask ? 2 : relu ? 1 : 0;
    bindings.push(x, numbers, mask ?? numbers);
  }
  const kernel: KernelSpec = {
    shader: moduleOf(tile ? "conv2d_tile" : "conv2d_subgroup", input.part, "plain", output.part),
    entry: tile ? `conv_${tile.entry}` : `conv_${row ? "row_" : ""}${channels}`,
    constants,
    flops: flopsOf(g),
  };
  ctx.run(kernel, withBatch(bindings, batchOf(g, 1, inTurn)), ctx.gpu.fold(workgroups));
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

/** A family's kernels, with what they read and what becomes of their sums. */
function moduleOf(
  family: "conv2d_subgroup" | "conv2d_tile",
  input: Operand["part"],
  dy: Operand["part"],
  output: Output["part"],
) {
  return link(family, {
    input: `conv2d_input_${input}`,
    dy: dy === "gradient" ? "conv2d_dy_gradient" : "conv2d_dy_plain",
    output: `conv2d_output_${output}`,
  });
}

/** Whether a part of batch-norm is folded in: by what was measured here, else by the class of adapter. */
function isFused(gpu: Gpu, g: ConvGeometry, what: string): boolean {
  const choice = !gpu.isSoftware || softwareFuses(gpu, g, what) ? "fused" : "separate";
  return gpu.variants.pick(`conv2d.${what}`, shapeOf(g), ["fused", "separate"], choice, "work") === "fused";
}

/**
 * On a processor arithmetic at a store comes for little, but what is done to a number as it is loaded is done for each time
 * that it is loaded: few times in grad_weight, and dear only where many channels make a pass over memory cheap. With 4 lanes it
 * never pays. See docs/design/0005-folding.md.
 */
function softwareFuses(gpu: Gpu, g: ConvGeometry, what: string): boolean {
  if (what.endsWith(".output")) return true;
  if (onlyLanes(gpu) < 8) return false;
  return what === "grad_weight.input" || (what === "forward.input" && g.C <= 16);
}

function mapSizes(g: ConvGeometry, map: GatherMap): Record<string, number> {
  const { IH, IW, IC, OH, OW, OC } = map;
  return {
    ...{ IH, IW, IC, OH, OW, OC, R: g.R, S: g.S, GROUPS: g.groups },
    ...{ SH: g.strideH, SW: g.strideW, PT: g.top, PL: g.left, DH: g.dilationH, DW: g.dilationW },
    ...{ GRAD: map.grad ? 1 : 0, VEC4: map.vec4 ? 1 : 0 },
  };
}

/** `Batch` of the shaders: what the batch size decides is a uniform, so that one pipeline serves every batch. */
function batchOf(g: ConvGeometry, slices = 1, blocks = 1): Uint32Array {
  return new Uint32Array([g.N, slices, blocks]);
}

/** The bindings of a tile or subgroup kernel, `batch` at 14. */
function withBatch(bindings: readonly Binding[], batch: Uint32Array): Binding[] {
  return [...bindings, ...Array<null>(14 - bindings.length).fill(null), batch];
}

/** Whether subgroups may be too small for the kernels that count on 8 lanes. */
function narrow(gpu: Gpu): number {
  return subgroupLanes(gpu) < 8 ? 1 : 0;
}

/**
 * Tiles of conv2d_tile.wgsl: rows × columns, and how much of the sum is held at a time (16 KiB in all, and no more blocks
 * of 4 × 4 of either operand than lanes). Those of `grad_weight` have as many columns as 3×3 filters over as many
 * channels as rows, or a third of them.
 */
const TILES: Partial<Record<Variant, { entry: "8x8" | "8x4"; BM: number; BN: number; BK: number }>> = {
  tile_256x16: { entry: "8x4", BM: 256, BN: 16, BK: 8 },
  tile_128x32: { entry: "8x4", BM: 128, BN: 32, BK: 16 },
  tile_64x64_8x4: { entry: "8x4", BM: 64, BN: 64, BK: 16 },
  tile_64x64: { entry: "8x8", BM: 64, BN: 64, BK: 16 },
  tile_128x64: { entry: "8x8", BM: 128, BN: 64, BK: 16 },
  tile_128x128: { entry: "8x8", BM: 128, BN: 128, BK: 8 },
  tile_16x144: { entry: "8x4", BM: 16, BN: 144, BK: 8 },
  tile_32x96: { entry: "8x4", BM: 32, BN: 96, BK: 16 },
};

/** Workgroups below which a large GPU is not busy. */
const BUSY = 264;
/** Workgroups that keep a processor's cores busy to the end. */
const SOFTWARE_WORKGROUPS = 16;

function tileSizes({ entry, BM, BN, BK }: NonNullable<(typeof TILES)[Variant]>): Record<string, number> {
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
  subgroup: readonly Variant[],
  tiles: readonly Variant[],
  scalar: readonly Variant[],
): Variant[] {
  return gpu.isSoftware ? [...subgroup, ...scalar, ...tiles] : [...tiles, ...subgroup, ...scalar];
}

/** The sizes as the chooser knows them. */
function shapeOf(g: ConvGeometry): string {
  return Object.values(g).join("x");
}

/** The variant that is chosen for a kernel. */
export function pick(gpu: Gpu, g: ConvGeometry, kernel: keyof ConvVariants): Variant {
  const candidates = conv2dVariants(gpu, g)[kernel];
  return gpu.variants.pick(`conv2d.${kernel}`, shapeOf(g), candidates, candidates[0]!);
}

/**
 * Runs `partials` over as many slices of `rows` as keep the adapter busy, and adds them up. A partial result has its
 * last dimension, `columns`, rounded up to a multiple of 4.
 */
function sumOfSlices(
  ctx: Context,
  out: Tensor,
  columns: number,
  rows: number,
  tiles: number,
  partials: (out: Tensor, slices: number) => void,
): Tensor {
  const slices = sliceCount(rows, Math.ceil((ctx.gpu.isSoftware ? SOFTWARE_WORKGROUPS : 2 * BUSY) / tiles));
  if (slices === 1 && columns % 4 === 0) {
    partials(out, 1);
    return out;
  }
  const count = out.size / columns;
  const quads = count * Math.ceil(columns / 4);
  const scratch = ctx.temp([slices, 4 * quads]);
  partials(scratch, slices);
  const size = new Uint32Array([slices, columns, count]);
  const parallel = !ctx.gpu.isSoftware && slices >= 32;
  const entry = parallel ? "sum_partials_workgroup" : "sum_partials";
  const workgroups = Math.ceil(quads / (parallel ? 4 : WORKGROUP));
  ctx.run({ shader: "conv2d", entry }, [out, scratch, size], [Math.min(1024, workgroups)]);
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
