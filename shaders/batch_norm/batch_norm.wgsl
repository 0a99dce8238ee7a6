// Batch normalisation, fused with an optional residual and an activation:
//
//   mean, var over all but the channel;  rstd = 1 / sqrt(var + eps)
//   y  = act((x - mean) * rstd * gamma + beta [+ residual])
//   dz = dy * act'(z), z what the activation is of
//   dx = gamma * rstd * (dz - sum(dz) / n - xhat * sum(dz * xhat) / n),   xhat = (x - mean) * rstd
//   dgamma = sum(dz * xhat),  dbeta = sum(dz),  dresidual = dz
//   (Ioffe & Szegedy 2015, section 3.)
//
// Layout. x, y, residual and their gradients are [N, H, W, C], read as a flat array of vec4s. One or more rows of C
// channels make a *wide row* of width4 whole vec4s, so that a vec4 column always holds the same channels, also where
// C % 4 != 0. `rows` is the number of full wide rows; `tail` elements follow them. Element j of a wide row is channel
// j % C. An invocation owns one column: its per-channel numbers stay in registers.
//
// Numbers per channel live in rows of 4 * width4 elements, each channel repeated as in a wide row:
//   saved     [5, 4 * width4]          origin, a, b, rstd, shift
//   partials  [slices, 3, 4 * width4]  origin, offset, deviation        of x in one slice of rows
//             [slices, 4, 4 * width4]  the same and the count           from a convolution's epilogue (COUNTED)
//             [slices, 2, 4 * width4]  sum(dz), sum(dz * xhat)          in one slice of rows, or from such an epilogue
//   slopes    [4, 4 * width4]          p, q, origin, a                  dx = a * (dz + (x - origin) * p + q)
//
// The ReLU's mask, where the input alone doesn't give it (that is, with a residual): a bit for each element of y. A word
// is a *block*, eight wide rows of one column: bit 4 * (row % 8) + k of word (row / 8) * width4 + column. Slices begin at
// whole blocks, and an invocation writes whole words.
//
// Precision. A mean of 1000 standard deviations, rounded to float32, is off by 3e-5 of them. So a mean is kept as
// origin + offset: (x - origin) is exact near it, and
//   y = (x - origin) * a + b,  a = rstd * gamma,  b = beta - offset * a;   xhat = (x - origin) * rstd + shift.
// lib/moments.wgsl says how the origin is found, and what is done about squares out of range.
//
// The activation is a part of this module: one of activation_*.wgsl (see activation.wgsl). Backward works z out again from x
// and, for activations other than the ReLU, the residual.
//
// Elements. x, y, residual and their gradients are read and written through `x_at`, `put_y` and so on, by vec4: the other
// part of this module is batch_norm_f32.wgsl, or batch_norm_f16.wgsl for tensors in float16. All else is float32.
//
// Where to look: batch_norm_measure.wgsl, batch_norm_finalize.wgsl and batch_norm_apply.wgsl are the forward pass,
// batch_norm_grad.wgsl is the backward; batch_norm_forward.wgsl and batch_norm_backward.wgsl do each in one dispatch. All are of
// this module, and share what stands here.
//
// Two families. Software adapters: one invocation measures a column in a run of rows that lie next to each other in
// memory, with neither barrier nor workgroup memory (entry points without suffix). GPUs (`_workgroup`): X columns by Y
// rows in a workgroup, coalesced, then a tree over Y in workgroup memory; a barrier stands before each of its steps.
// Every sum has a fixed order: results have the same bits in every run on one adapter.

//#import batch_norm_measure
//#import batch_norm_finalize
//#import batch_norm_apply
//#import batch_norm_forward
//#import batch_norm_grad
//#import batch_norm_backward
//#import moments
//#hole elements: batch_norm_f32
//#hole activation: activation_none

override WORKGROUP_SIZE: u32 = 64;
// Columns and rows of a workgroup in the `_workgroup` entry points.
override X: u32 = 1;
override Y: u32 = 64;
override HAS_GAMMA: bool = true;
override HAS_BETA: bool = true;
override HAS_RESIDUAL: bool = false;
// Elements after the last full wide row.
override HAS_TAIL: bool = false;
// False where the statistics are constants: dx = a * dz.
override BATCH_STATISTICS: bool = true;
// Partials are a convolution's, and tell how many values they are of.
override COUNTED: bool = false;
// Sums of the gradient: dz is written, too. Only of channels in whole vec4s, which leave no tail.
override KEEPS_DZ: bool = false;
// dx is added to what else makes the gradient.
override HAS_ADDEND: bool = false;
// Apply kernels: write the mask.
override HAS_MASK: bool = false;
// Apply kernels: neighbouring invocations take neighbouring vec4s of the whole tensor, rather than runs of rows.
override STRIDED: bool = false;

// Sizes are no override constants: compiling a kernel for each shape costs a software adapter a quarter of a second
// and gains nothing.
struct Params {
  channels: u32,
  width4: u32,
  rows: u32,
  tail: u32,
  slices: u32,
  slice_rows: u32,
  stride: u32, // invocations of a STRIDED kernel, a multiple of width4
  count: f32, // values per channel
  eps: f32,
  momentum: f32, // negative for the cumulative average
}

@group(0) @binding(0) var<storage, read_write> partials: array<vec4<f32>>;
@group(0) @binding(0) var<storage, read_write> new_slopes: array<f32>;
@group(0) @binding(1) var<storage, read> batch_mean: array<f32>;
@group(0) @binding(2) var<storage, read> batch_var: array<f32>; // biased
@group(0) @binding(2) var<storage, read> slices: array<f32>; // partials, by element
@group(0) @binding(3) var<storage, read_write> saved: array<f32>;
@group(0) @binding(3) var<storage, read> numbers: array<f32>; // saved, to read by element
@group(0) @binding(3) var<storage, read> numbers4: array<vec4<f32>>; // the same by vec4
@group(0) @binding(4) var<storage, read_write> batches: array<f32>; // seen so far
@group(0) @binding(4) var<storage, read> slopes: array<vec4<f32>>; // new_slopes, by vec4
@group(0) @binding(4) var<storage, read> mask_before: array<u32>; // the forward's
@group(0) @binding(5) var<storage, read_write> running_mean: array<f32>;
@group(0) @binding(5) var<storage, read> given_mean: array<f32>;
@group(0) @binding(6) var<storage, read_write> running_var: array<f32>;
@group(0) @binding(6) var<storage, read> given_var: array<f32>;
@group(0) @binding(7) var<uniform> params: Params;
@group(0) @binding(8) var<storage, read> gamma: array<f32>;
@group(0) @binding(8) var<storage, read_write> dgamma: array<f32>;
@group(0) @binding(9) var<storage, read> beta: array<f32>;
@group(0) @binding(9) var<storage, read_write> dbeta: array<f32>;
@group(0) @binding(10) var<storage, read_write> mask: array<u32>;

// --- what the kernels share --------------------------------------------------------------------------------

// The place of an invocation in a grid that may be folded into two dimensions.
fn flat(id: vec3<u32>, groups: vec3<u32>) -> u32 {
  return id.x + id.y * groups.x * WORKGROUP_SIZE;
}

// Channels of a column where C % 4 = 0: 4, which no compiler knows, so that none writes the body of a loop four times.
fn quad_size() -> u32 {
  return min(4, params.channels);
}

fn in_tail(column: u32) -> vec4<bool> {
  return vec4<u32>(4 * column) + vec4<u32>(0, 1, 2, 3) < vec4<u32>(params.tail);
}

fn slice_start(slice: u32) -> u32 {
  return min(slice * params.slice_rows, params.rows);
}

fn owns_tail(slice: u32) -> bool {
  return HAS_TAIL && slice == params.slices - 1;
}

// How many values of its channel element j of a wide row has in a slice.
fn slice_count(slice: u32, j: u32) -> f32 {
  return f32(slice_start(slice + 1) - slice_start(slice) + select(0u, 1u, owns_tail(slice) && j < params.tail));
}

// The same of a partial result, wherever it is from.
fn partial_count(slice: u32, j: u32) -> f32 {
  if (COUNTED) { return slices[(slice * 4 + 3) * 4 * params.width4 + j]; }
  return slice_count(slice, j);
}

// The vec4s of one invocation: from `start` in steps of `step` to before `end`, all of one column.
struct Run { column: u32, start: u32, step: u32, end: u32 }

// Every `lanes`-th row of a slice from row `lane` on.
fn run_of_slice(column: u32, slice: u32, lane: u32, lanes: u32) -> Run {
  let w = params.width4;
  return Run(column, (slice_start(slice) + lane) * w + column, lanes * w, slice_start(slice + 1) * w + column);
}

// Blocks of one column: the rows from `start`, eight of them every `step`, to before `end`.
struct Blocks { column: u32, start: u32, step: u32, end: u32 }

// Every `lanes`-th block of a slice from block `lane` on.
fn blocks_of_slice(column: u32, slice: u32, lane: u32, lanes: u32) -> Blocks {
  return Blocks(column, slice_start(slice) + 8 * lane, 8 * lanes, slice_start(slice + 1));
}

fn word_of(row: u32, column: u32) -> u32 {
  return (row / 8) * params.width4 + column;
}
