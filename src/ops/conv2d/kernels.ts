// Convolutions by the kernels of shaders/conv2d that choose.ts picks: their bindings, constants and grids.

import type { NamedBinding } from "../../device/bindings.ts";
import type { KernelSpec } from "../../device/kernels.ts";
import { type LinkedShader, link } from "../../device/link.ts";
import type { Choice } from "../../device/variants.ts";
import { FusenormError } from "../../errors.ts";
import { type Load, NO_ACTIVATION, type Partials, type Rider, type Store } from "../../fusion/ports.ts";
import type { PartsOf } from "../../generated/shaders.ts";
import * as shaders from "../../generated/shaders.ts";
import type { Gpu } from "../../gpu.ts";
import { Tensor } from "../../tensor/tensor.ts";
import { inLayer, type OpContext } from "../define-op.ts";
import { largestWorkgroup } from "../grid.ts";
import { onlyLanes, subgroupLanes } from "../subgroups.ts";
import {
  type Band,
  type BandWorkgroup,
  BUSY,
  backwardMap,
  bandOf,
  blockOf,
  type ConvChoice,
  type ConvGeometry,
  forwardMap,
  type GatherMap,
  isFused,
  knownOf,
  type Lanes,
  pick,
  type Tile,
  tileSizes,
} from "./choose.ts";
import { addUp, MANY_SLICES, type SliceSums, vec4sOf } from "./slice-sums.ts";

type Context = Pick<OpContext, "gpu" | "empty" | "temp" | "run">;

const WORKGROUP = 64;

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

/**
 * dw from dy and x: partial sums over slices of the output rows, then their sum in order, with those of other gradients if `late`.
 * `carries`: something may want to ride along, see `Riders`.
 */
export function gradWeight(
  ctx: Context,
  g: ConvGeometry,
  { dw, dy, x }: { dw: Tensor; dy: Tensor; x: Tensor },
  { late = null, carries = false }: { late?: SliceSums | null; carries?: boolean } = {},
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
  const sizesOfTile = tile && tileSizes(tile);
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
  const parts = {
    input: partOf("x", input.part),
    dy: partOf("dy", upstream.part),
    activation: activation.part,
  };
  const { PARTS: shares = 1, WORKGROUP: lanesOfTile = 0 } = sizesOfTile ?? {};
  const most = shares > 1 ? ROOM / Math.ceil(lanesOfTile / 64) : undefined;
  const given = valuesOf(input.constants) + valuesOf(activation.constants);
  const kernelOf = (rider: Rider | null) => {
    const shader = rider
      ? link(shaders.conv2d_tile, { ...parts, rider: partOf("rider", rider.part) })
      : shaderOf(block, parts);
    return specOf(
      ctx.gpu,
      g,
      `weight,${variant},${shader.name}${given}${valuesOf(rider?.constants)}`,
      () => ({
        shader,
        entry: tile ? `grad_weight_${tile.entry}` : row ? "grad_weight_row" : "grad_weight_16",
        constants: {
          ...mapSizes(g, map),
          ...extentOf(map),
          ...(sizesOfTile ?? { NARROW: narrow(ctx.gpu), WORKGROUP: workgroup }),
          ...(row ? { K16: channels === 16 ? 1 : 0 } : {}),
          ...input.constants,
          ...activation.constants,
          ...rider?.constants,
        },
        ...countedOf(g, choice),
      }),
    );
  };
  return sumOfSlices(ctx, { ...sum, parts: shares, most }, g.N * g.P, tiles, late, (out, slices, waits) => {
    const bindings: Record<string, NamedBinding> = {
      out,
      batch: { ...batchOf(g, slices), ...extentOf(map) },
    };
    bindOperand(bindings, "x", input);
    bindOperand(bindings, "dy", upstream);
    if (!carries || !waits || !tile) return ctx.run(kernelOf(null), bindings, ctx.gpu.fold(tiles * slices));
    hold(ctx.gpu, bindings, (run, kept, rider) => {
      const more = rider?.divide(lanesOfTile);
      const grid = ctx.gpu.fold(tiles * slices + (more?.workgroups ?? 0));
      run(kernelOf(rider), { ...kept, ...more?.bindings }, grid);
    });
  });
}

/** Puts a dispatch of a convolution's backward off for something to ride along in it. */
function hold(
  gpu: Gpu,
  bindings: Readonly<Record<string, NamedBinding>>,
  dispatch: (run: Context["run"], bindings: Record<string, NamedBinding>, rider: Rider | null) => void,
): void {
  const { layer } = gpu;
  const handles: Tensor[] = [];
  const kept = { ...bindings };
  for (const [name, value] of Object.entries(bindings)) {
    if (!(value instanceof Tensor)) continue;
    value.range; // in memory by now, as if it were dispatched
    const handle = value.alias();
    handles.push(handle);
    kept[name] = handle;
  }
  gpu.riders.hold({
    takes: ({ part }) => Object.hasOwn(PARTS.rider, part),
    run(rider) {
      try {
        inLayer(gpu, "conv2d backward", layer, ({ run }) => dispatch(run, kept, rider));
      } finally {
        for (const handle of handles) handle.dispose();
      }
    },
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
  rider: { slopes: "conv2d_rider_slopes" },
} as const satisfies Record<
  "x" | "dy" | "output" | "rider",
  Record<string, PartsOf<"conv2d_tile">["input" | "dy" | "output" | "rider"]>
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

/** Workgroups that keep a processor's cores busy to the end. */
const SOFTWARE_WORKGROUPS = 16;

/** Subgroups of 64 that find room at a time on a large GPU which has them: four on each of 192 SIMDs, less a few. */
const ROOM = 730;

function bandSizes(
  g: ConvGeometry,
  { IH, IW, IC, OH, OW, OC, grad }: GatherMap,
  { lanes, lines, loads, whole }: BandWorkgroup,
  { channels, staged }: Band,
): Record<string, number> {
  return {
    ...{ IH, IW, IC, OH, OW, OC, PT: g.top, PL: g.left, GRAD: grad ? 1 : 0 },
    ...{ QUADS: channels / 4, WORKGROUP: lanes, STAGED: staged ? 1 : 0 },
    ...{ LINES: lines, LOADS: loads, WHOLE: whole ? 1 : 0 },
  };
}

function depthwiseSizes(g: ConvGeometry): Record<string, number> {
  const { GROUPS: _, ...rest } = sizes(g);
  return { ...rest, MULTIPLIER: g.K / g.C, VEC4: g.K === g.C && g.C % 4 === 0 ? 1 : 0 };
}

function foldLanes(ctx: Context, lanes: number): [number, number] {
  return ctx.gpu.fold(Math.ceil(lanes / WORKGROUP));
}

/**
 * Runs `partials` over as many slices of `rows` as keep the adapter busy, which are `most` workgroups on a GPU, and adds them up: at the
 * end of the pass, where `late` is given. Each slice gives as many partial results as it has `parts`; they have their last dimension,
 * `count`, rounded up to a multiple of 4. Where they `wait`, they may be written later, but before the next dispatch.
 */
function sumOfSlices(
  ctx: Context,
  {
    out,
    count,
    parts = 1,
    most = 2 * BUSY,
    serves = [],
  }: { out: Tensor; count: number; parts?: number; most?: number; serves?: readonly Choice[] },
  rows: number,
  tiles: number,
  late: SliceSums | null,
  partials: (out: Tensor, slices: number, waits: boolean) => void,
): Tensor {
  const { gpu } = ctx;
  const wanted = Math.ceil((gpu.isSoftware ? SOFTWARE_WORKGROUPS : most) / tiles);
  const slices = sliceCount(rows, wanted);
  if (slices * parts === 1 && count % 4 === 0) {
    partials(out, 1, false);
    return out;
  }
  // By what is wanted, not by what the rows give: a smaller last batch takes the same kernel.
  const shared = !gpu.isSoftware && wanted * parts >= MANY_SLICES;
  const sum = { out, slices: slices * parts, rows: out.size / count, count, shared, serves };
  // While variants are timed the sum's time belongs to its own.
  if (late && gpu.variants.trials.size === 0) {
    const place = late.add(sum);
    partials(place, slices, true);
    place.dispose();
  } else {
    const scratch = ctx.temp([4 * vec4sOf(sum)]);
    partials(scratch, slices, false);
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
