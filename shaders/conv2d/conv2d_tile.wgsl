// Convolution for GPUs: an implicit matrix product in tiles of workgroup memory and registers.
//
//   conv         y = conv(x, w) + bias; with GRAD the same loops give dx = conv_transposed(dy, w): see the phases below
//   grad_weight  dw, as partial sums over slices of the output rows (added up by sum_partials.wgsl)
//
// Layouts: x [N, IH, IW, IC]   w [OC, R, S, ICG]   out [N, OH, OW, OC]   ICG = IC / GROUPS, OCG = OC / GROUPS.
// With GRAD, x is dy, out is dx, and w stays as it is: [IC, R, S, OCG].
//
//                rows of a tile (BM)     columns (BN)         summed over, BK at a time
//   conv         pixels of `out`         output channels      (r, s, c), c rounded up to a multiple of 4
//   grad_weight  channels of dy          (r, s, c), likewise  pixels of dy
//
// One workgroup owns one tile; one invocation owns 8 rows × 8 columns of it, or 8 × 4, as two halves of 4, so that
// neighbours read neighbouring vec4s of workgroup memory. An invocation loads at most one block of 4 × 4 numbers of each
// operand per chunk, before it multiplies the chunk before; one barrier stands before a chunk is read, one before it is
// overwritten.
//
// OCG is a multiple of 4. VEC4 says that ICG is one, too; without it x, and w in forward, are loaded number by number.
//
// conv2d_tile_conv.wgsl and conv2d_tile_grad_weight.wgsl are of this module, and share what stands here.
//
// What x and dy are made from, and what becomes of the sums, is up to the other parts of this module: conv2d_input_*.wgsl,
// conv2d_dy_*.wgsl and conv2d_output_*.wgsl, which declare the bindings that are missing here. If the output REDUCES, the
// pixels of one tile are a group.

//#import conv2d_map
//#import product_8x8
//#import conv2d_tile_conv
//#import conv2d_tile_grad_weight
//#hole input: conv2d_input_plain
//#hole dy: conv2d_dy_plain
//#hole output: conv2d_output_plain
//#hole activation: activation_none
//#hole rider: conv2d_rider_none

override BM: u32 = 64;
override BN: u32 = 64;
override BK: u32 = 16;
// Of a chunk, each summed over by lanes of its own; they fill up the last subgroup of a tile with few lanes. 1, or more in grad_weight_8x4.
override PARTS: u32 = 1;
override PART: u32 = BK / PARTS;
override WORKGROUP: u32 = 64; // PARTS · BM / 8 · BN / (8 or 4), no less than either number of blocks

// 4 × 4 blocks of a chunk: which lanes load them.
override ROW_BLOCKS: u32 = BK / 4 * (BM / 4);
override COLUMN_BLOCKS: u32 = BK / 4 * (BN / 4);
// Other lanes, if there are enough.
override FIRST_COLUMN_LANE: u32 = select(0u, ROW_BLOCKS, ROW_BLOCKS + COLUMN_BLOCKS <= WORKGROUP);

@group(0) @binding(0) var<storage, read_write> out: array<vec4<f32>>;
// The same as numbers and as vec4s: the weights, or dy in grad_weight.
@group(0) @binding(3) var<storage, read> w: array<f32>;
@group(0) @binding(4) var<storage, read> w4: array<vec4<f32>>;
// What differs from batch to batch, so that a pipeline serves them all.
struct Batch {
  N: u32,
  SLICES: u32, // of the N·OH output rows, in grad_weight
}
@group(0) @binding(14) var<uniform> batch: Batch;

// A chunk of the rows, [BK][row in fours], then one of the columns; the odd one out spreads stores over the banks.
override ROW_STRIDE: u32 = BM / 4 + 1;
override COLUMN_STRIDE: u32 = BN / 4 + 1;
override COLUMNS: u32 = BK * ROW_STRIDE;
override TILES_SIZE: u32 = COLUMNS + BK * COLUMN_STRIDE;
// Where the last lane of the last part begins.
override LAST_ROW: u32 = (BK - PART) * ROW_STRIDE + BM / 8 - 1;
override LAST_COLUMN: u32 = (BK - PART) * COLUMN_STRIDE + BN / 4 - 1;
var<workgroup> tiles: array<vec4<f32>, TILES_SIZE>;

// Writes a block of 4 × 4, k first, to `at`.
fn keep(at: u32, stride: u32, block: mat4x4<f32>) {
  tiles[at] = block[0];
  tiles[at + stride] = block[1];
  tiles[at + 2 * stride] = block[2];
  tiles[at + 3 * stride] = block[3];
}

// Columns of a block that do not exist become zeros.
fn masked(block: mat4x4<f32>, exists: vec4<bool>) -> mat4x4<f32> {
  return mat4x4<f32>(
    select(vec4<f32>(0), block[0], exists.x),
    select(vec4<f32>(0), block[1], exists.y),
    select(vec4<f32>(0), block[2], exists.z),
    select(vec4<f32>(0), block[3], exists.w),
  );
}

fn made(fetched: array<Fetched, 4>, channels: Channels) -> mat4x4<f32> {
  return mat4x4<f32>(
    x_made(fetched[0], channels),
    x_made(fetched[1], channels),
    x_made(fetched[2], channels),
    x_made(fetched[3], channels),
  );
}

// acc[row][half of the columns]. Every lane's row and column are within the tile: `min` says so here, since compilers leave
// out the check of an index only where they see its bound in the same function.
fn multiply_8x8(acc: ptr<function, array<vec4<f32>, 16>>, any_row: u32, any_column: u32) {
  let row = min(any_row, BM / 8 - 1);
  let column = min(any_column, BN / 8 - 1);
  for (var k = 0u; k < BK; k++) {
    let a0 = tiles[k * ROW_STRIDE + row];
    let a1 = tiles[k * ROW_STRIDE + BM / 8 + row];
    let b0 = tiles[COLUMNS + k * COLUMN_STRIDE + column];
    let b1 = tiles[COLUMNS + k * COLUMN_STRIDE + BN / 8 + column];
    add_8x8(acc, a0, a1, b0, b1);
  }
}

fn multiply_8x4(acc: ptr<function, array<vec4<f32>, 8>>, row: u32, column: u32, part: u32) {
  let a = min(part * PART * ROW_STRIDE + row, LAST_ROW);
  let b = min(part * PART * COLUMN_STRIDE + column, LAST_COLUMN);
  for (var k = 0u; k < PART; k++) {
    let a0 = tiles[k * ROW_STRIDE + a];
    let a1 = tiles[k * ROW_STRIDE + BM / 8 + a];
    let bs = tiles[COLUMNS + k * COLUMN_STRIDE + b];
    (*acc)[0] = fma(vec4<f32>(a0.x), bs, (*acc)[0]);
    (*acc)[1] = fma(vec4<f32>(a0.y), bs, (*acc)[1]);
    (*acc)[2] = fma(vec4<f32>(a0.z), bs, (*acc)[2]);
    (*acc)[3] = fma(vec4<f32>(a0.w), bs, (*acc)[3]);
    (*acc)[4] = fma(vec4<f32>(a1.x), bs, (*acc)[4]);
    (*acc)[5] = fma(vec4<f32>(a1.y), bs, (*acc)[5]);
    (*acc)[6] = fma(vec4<f32>(a1.z), bs, (*acc)[6]);
    (*acc)[7] = fma(vec4<f32>(a1.w), bs, (*acc)[7]);
  }
}
