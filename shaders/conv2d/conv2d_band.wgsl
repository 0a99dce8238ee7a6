// 3×3 convolution with stride 1 for GPUs that load what all lanes share once: out = conv(x, w) + bias; with GRAD the same loops
// give dx = conv_transposed(dy, w).
//
// Layouts: x [N, IH, IW, IC]   w [OC, 3, 3, IC]   out [N, OH, OW, OC], IC and OC multiples of 4.
// With GRAD, x is dy, out is dx, and w stays as it is: [IC, 3, 3, OC].
//
// A band is four rows of an output map, the last of which may be missing; an invocation owns one column of a band, four pixels
// one below the other, of QUADS × 4 output channels. One workgroup owns WORKGROUP columns, band after band and image after
// image. Four channels of all x that it reads, with the rim, are in workgroup memory at a time, and serve all nine taps: a column
// of six numbers is read for three taps of four pixels. The weights have one address for all lanes: from memory they come by the
// scalar unit where there is one (AMD), and are in no lane's way. Elsewhere they are STAGED in workgroup memory with the four
// channels of x, whose broadcasts take less of a lane's time than those of memory.
//
// An invocation loads its part of the next four channels, and of their weights, before it multiplies; one barrier stands before they are
// overwritten, one before they are read.
//
// What x is made from, and what becomes of the sums, is up to the other parts of this module: conv2d_input_*.wgsl and
// conv2d_output_*.wgsl, which declare the bindings that are missing here. If the output REDUCES, the pixels of one workgroup are
// a group.

//#hole input: conv2d_input_plain
//#hole output: conv2d_output_plain
//#hole activation: activation_none

override IH: u32 = 1;
override IW: u32 = 1;
override IC: u32 = 4;
override OH: u32 = 1;
override OW: u32 = 1;
override OC: u32 = 4;
override PT: i32 = 0;
override PL: i32 = 0;
override GRAD: bool = false;
override QUADS: u32 = 1; // 1, 2 or 4
override WORKGROUP: u32 = 64;
override LINES: u32 = 66; // of x in a workgroup's tile, at most
override LOADS: u32 = 4224; // pixels of x that a workgroup loads, at most
override WHOLE: bool = false; // a workgroup's bands are those of whole images
override STAGED: bool = false;

// Backwards the filter is turned round, and what was padded is cut off.
override TOP: i32 = select(PT, 2 - PT, GRAD);
override LEFT: i32 = select(PL, 2 - PL, GRAD);
override BANDS: u32 = (OH + 3) / 4; // of an image
override IMAGE_LINES: u32 = BANDS * 4 + 2;
override COLUMNS: u32 = OW + 2;
override SIZE: u32 = LINES * COLUMNS;
override TILE: u32 = SIZE + 1;
override WEIGHTS: u32 = select(1, 36 * QUADS, STAGED); // staged: of four channels of x

@group(0) @binding(0) var<storage, read_write> out: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> w4: array<vec4<f32>>;
// What differs from batch to batch, so that a pipeline serves them all.
struct Batch {
  N: u32,
  // 3; as a uniform, so that the loop over it stays one: nine taps in the text take long to compile. Where weights are staged the
  // loop is unrolled: their places are constants then.
  S: u32,
}
@group(0) @binding(14) var<uniform> batch: Batch;

// Four channels of x by line and column. What lies outside of the map stays zero; what would be loaded there goes to the last one.
var<workgroup> tile: array<vec4<f32>, TILE>;

// --- x ---------------------------------------------------------------------------------------------------

// A lane's pixels of x: each one's first vec4 in memory, and its place in the tile. At most MOST; the host sees to it.
const MOST = 8u;
struct Places { at: array<u32, MOST>, to: array<u32, MOST> }

// Pixels are counted along the columns of the map, and along its lines; unless images are WHOLE, along those of the rim, too.
// What is counted past the last one, or lies where no tap comes, goes to the tile's last place.
fn find_place(places: ptr<function, Places>, i: u32, first_line: u32, lane: u32) {
  if (i * WORKGROUP >= LOADS) { return; }
  let counted = (i * WORKGROUP + lane) / IW;
  let v = i * WORKGROUP + lane - counted * IW;
  var tile_line = counted;
  if (WHOLE) { tile_line = u32(i32(counted / IH * IMAGE_LINES + counted % IH) + TOP); }
  let column = u32(i32(v) + LEFT);
  let to = tile_line * COLUMNS + column;
  let line = first_line + tile_line;
  let image = line / IMAGE_LINES;
  let h = u32(i32(line - image * IMAGE_LINES) - TOP);
  // Of negative numbers each of these is large.
  let inside = tile_line < LINES && column < COLUMNS && image < batch.N && h < IH;
  (*places).at[i] = select(0u, ((image * IH + h) * IW + v) * (IC / 4), inside);
  (*places).to[i] = select(SIZE, to, inside);
}

fn find_places(first_line: u32, lane: u32) -> Places {
  var places: Places;
  find_place(&places, 0, first_line, lane);
  find_place(&places, 1, first_line, lane);
  find_place(&places, 2, first_line, lane);
  find_place(&places, 3, first_line, lane);
  find_place(&places, 4, first_line, lane);
  find_place(&places, 5, first_line, lane);
  find_place(&places, 6, first_line, lane);
  find_place(&places, 7, first_line, lane);
  return places;
}

// A lane's part of the next four channels, on its way while the last ones are multiplied.
alias Ahead = array<Fetched, MOST>;

fn look_ahead(places: Places, quad: u32) -> Ahead {
  var ahead: Ahead;
  if (0 * WORKGROUP < LOADS) { ahead[0] = x_fetch(places.at[0] + quad); }
  if (1 * WORKGROUP < LOADS) { ahead[1] = x_fetch(places.at[1] + quad); }
  if (2 * WORKGROUP < LOADS) { ahead[2] = x_fetch(places.at[2] + quad); }
  if (3 * WORKGROUP < LOADS) { ahead[3] = x_fetch(places.at[3] + quad); }
  if (4 * WORKGROUP < LOADS) { ahead[4] = x_fetch(places.at[4] + quad); }
  if (5 * WORKGROUP < LOADS) { ahead[5] = x_fetch(places.at[5] + quad); }
  if (6 * WORKGROUP < LOADS) { ahead[6] = x_fetch(places.at[6] + quad); }
  if (7 * WORKGROUP < LOADS) { ahead[7] = x_fetch(places.at[7] + quad); }
  return ahead;
}

fn keep_ahead(places: Places, ahead: Ahead, channels: Channels) {
  if (0 * WORKGROUP < LOADS) { tile[places.to[0]] = x_made(ahead[0], channels); }
  if (1 * WORKGROUP < LOADS) { tile[places.to[1]] = x_made(ahead[1], channels); }
  if (2 * WORKGROUP < LOADS) { tile[places.to[2]] = x_made(ahead[2], channels); }
  if (3 * WORKGROUP < LOADS) { tile[places.to[3]] = x_made(ahead[3], channels); }
  if (4 * WORKGROUP < LOADS) { tile[places.to[4]] = x_made(ahead[4], channels); }
  if (5 * WORKGROUP < LOADS) { tile[places.to[5]] = x_made(ahead[5], channels); }
  if (6 * WORKGROUP < LOADS) { tile[places.to[6]] = x_made(ahead[6], channels); }
  if (7 * WORKGROUP < LOADS) { tile[places.to[7]] = x_made(ahead[7], channels); }
}

// --- staged weights --------------------------------------------------------------------------------------

// Of four channels of x: by tap, by four output channels, by one of them (with GRAD: by one of x).
var<workgroup> staged: array<vec4<f32>, WEIGHTS>;

// A lane's part of the next ones, at most 144 / 64.
const MOST_WEIGHTS = 3u;
alias WeightsAhead = array<vec4<f32>, MOST_WEIGHTS>;

fn weight_ahead(i: u32, lane: u32, in_quad: u32, out_quad: u32) -> vec4<f32> {
  let place = min(i * WORKGROUP + lane, WEIGHTS - 1);
  let tap = place / (4 * QUADS);
  let quad = place / 4 % QUADS;
  return w4[weight_at(tap, in_quad, out_quad + quad) + place % 4 * weight_step()];
}

fn look_ahead_weights(lane: u32, in_quad: u32, out_quad: u32) -> WeightsAhead {
  var ahead: WeightsAhead;
  if (STAGED && 0 * WORKGROUP < WEIGHTS) { ahead[0] = weight_ahead(0, lane, in_quad, out_quad); }
  if (STAGED && 1 * WORKGROUP < WEIGHTS) { ahead[1] = weight_ahead(1, lane, in_quad, out_quad); }
  if (STAGED && 2 * WORKGROUP < WEIGHTS) { ahead[2] = weight_ahead(2, lane, in_quad, out_quad); }
  return ahead;
}

fn keep_weight(i: u32, lane: u32, weight: vec4<f32>) {
  if (i * WORKGROUP + lane < WEIGHTS) { staged[i * WORKGROUP + lane] = weight; }
}

fn keep_weights(lane: u32, ahead: WeightsAhead) {
  if (STAGED && 0 * WORKGROUP < WEIGHTS) { keep_weight(0, lane, ahead[0]); }
  if (STAGED && 1 * WORKGROUP < WEIGHTS) { keep_weight(1, lane, ahead[1]); }
  if (STAGED && 2 * WORKGROUP < WEIGHTS) { keep_weight(2, lane, ahead[2]); }
}

// --- the product -----------------------------------------------------------------------------------------

// Where the first of four vec4s of weights lies, of one tap between four channels of x and four output channels; and how far it is
// from one to the next. Of output channels that don't exist any will do.
fn weight_at(tap: u32, in_quad: u32, out_quad: u32) -> u32 {
  let k = min(out_quad, OC / 4 - 1);
  return select((k * 36 + tap) * (IC / 4) + in_quad, (in_quad * 36 + 8 - tap) * (OC / 4) + k, GRAD);
}
fn weight_step() -> u32 {
  return 9 * select(IC / 4, OC / 4, GRAD);
}

// They by four input channels, of four output channels each; `any_quad`: which of a lane's quads it is.
fn weights_of(tap: u32, in_quad: u32, out_quad: u32, any_quad: u32) -> mat4x4<f32> {
  var w: mat4x4<f32>;
  if (STAGED) {
    let at = min(tap * (4 * QUADS) + 4 * any_quad, WEIGHTS - 4);
    w = mat4x4<f32>(staged[at], staged[at + 1], staged[at + 2], staged[at + 3]);
  } else {
    let at = weight_at(tap, in_quad, out_quad + any_quad);
    let step = weight_step();
    w = mat4x4<f32>(w4[at], w4[at + step], w4[at + 2 * step], w4[at + 3 * step]);
  }
  if (GRAD) { return w; }
  return transpose(w);
}

// Four pixels, one below the other: numbers of x, or sums.
alias Four = array<vec4<f32>, 4>;
// Sums of four output channels each.
alias Sums = array<Four, 4>;

fn plus(sum: vec4<f32>, x: vec4<f32>, w: mat4x4<f32>) -> vec4<f32> {
  return fma(vec4<f32>(x.w), w[3], fma(vec4<f32>(x.z), w[2], fma(vec4<f32>(x.y), w[1], fma(vec4<f32>(x.x), w[0], sum))));
}

fn multiply_quad(sums: Four, x: Four, tap: u32, in_quad: u32, out_quad: u32, i: u32) -> Four {
  let w = weights_of(tap, in_quad, out_quad, i);
  return Four(plus(sums[0], x[0], w), plus(sums[1], x[1], w), plus(sums[2], x[2], w), plus(sums[3], x[3], w));
}

// All channels of one tap before the next: no more weights at a time than AMD has scalar registers.
fn multiply(sums: ptr<function, Sums>, x: Four, tap: u32, in_quad: u32, out_quad: u32) {
  (*sums)[0] = multiply_quad((*sums)[0], x, tap, in_quad, out_quad, 0);
  if (QUADS > 1) { (*sums)[1] = multiply_quad((*sums)[1], x, tap, in_quad, out_quad, 1); }
  if (QUADS > 2) {
    (*sums)[2] = multiply_quad((*sums)[2], x, tap, in_quad, out_quad, 2);
    (*sums)[3] = multiply_quad((*sums)[3], x, tap, in_quad, out_quad, 3);
  }
}

// Three taps, one below the other. Every lane's column lies within the tile: `min` says so here, since compilers leave out the
// check of an index only where they see its bound in the same function.
fn multiply_column(sums: ptr<function, Sums>, any_place: u32, s: u32, in_quad: u32, out_quad: u32) {
  let at = min(any_place, SIZE - 5 * COLUMNS - 3) + s;
  let x0 = tile[at];
  let x1 = tile[at + COLUMNS];
  let x2 = tile[at + 2 * COLUMNS];
  let x3 = tile[at + 3 * COLUMNS];
  let x4 = tile[at + 4 * COLUMNS];
  let x5 = tile[at + 5 * COLUMNS];
  multiply(sums, Four(x0, x1, x2, x3), s, in_quad, out_quad);
  multiply(sums, Four(x1, x2, x3, x4), 3 + s, in_quad, out_quad);
  multiply(sums, Four(x2, x3, x4, x5), 6 + s, in_quad, out_quad);
}

// --- results ---------------------------------------------------------------------------------------------

struct Own { lane: u32, first: u32, total: u32, block: u32, pixel: u32, rows: u32 }

// Rows of the map in a band.
fn rows_of(band: u32) -> u32 {
  return min(4, OH - band % BANDS * 4);
}

// Pixels of the group.
fn pixels_of(own: Own) -> f32 {
  let end = min(own.first + WORKGROUP, own.total);
  var count = 0u;
  for (var band = own.first / OW; band * OW < end; band++) {
    count += (min(end, (band + 1) * OW) - max(own.first, band * OW)) * rows_of(band);
  }
  return f32(count);
}

// Sums over the lanes of tile[lane], and of tile[WORKGROUP + lane], in the same order each time; in the first lane alone.
const PARTS = 8u;
fn sum_over_lanes(lane: u32) -> array<vec4<f32>, 2> {
  workgroupBarrier();
  var sum = vec4<f32>(0);
  if (lane < 2 * PARTS) {
    for (var i = 0u; i < WORKGROUP / PARTS; i++) { sum += tile[lane * (WORKGROUP / PARTS) + i]; }
  }
  workgroupBarrier();
  if (lane < 2 * PARTS) { tile[lane] = sum; }
  workgroupBarrier();
  var sums: array<vec4<f32>, 2>;
  if (lane == 0) {
    for (var i = 0u; i < PARTS; i++) {
      sums[0] += tile[i];
      sums[1] += tile[PARTS + i];
    }
  }
  workgroupBarrier();
  return sums;
}

// The mean of what the first eighth of the lanes stores: no less than a thirty-second of the group's pixels, since rows may be
// missing in their band and in no other.
fn origin_of(own: Own, sums: Four, quad: u32, channels: OutChannels) -> vec4<f32> {
  const FIRST = 8u;
  if (own.lane < WORKGROUP / FIRST) {
    var stored = vec4<f32>(0);
    for (var i = 0u; i < 4; i++) {
      if (i < own.rows) { stored += finish(sums[i], own.pixel + i * OW, quad, channels, vec4<f32>(0)).value; }
    }
    tile[own.lane] = stored;
    tile[WORKGROUP + own.lane] = vec4<f32>(f32(own.rows));
  }
  workgroupBarrier();
  if (own.lane == 0) {
    var stored = vec4<f32>(0);
    var count = vec4<f32>(0);
    for (var i = 0u; i < WORKGROUP / FIRST; i++) {
      stored += tile[i];
      count += tile[WORKGROUP + i];
    }
    tile[SIZE] = stored / max(count, vec4<f32>(1));
  }
  workgroupBarrier();
  let origin = tile[SIZE];
  workgroupBarrier();
  return origin;
}

// Finishes and stores a lane's four pixels of four channels.
fn store(own: Own, sums: Four, any_quad: u32) {
  let quad = min(any_quad, OC / 4 - 1);
  let channels = out_channels_of(quad);
  var origin = vec4<f32>(0);
  if (NEEDS_ORIGIN) { origin = origin_of(own, sums, quad, channels); }
  var u = vec4<f32>(0);
  var v = vec4<f32>(0);
  for (var i = 0u; i < 4; i++) {
    if (i < own.rows && any_quad < OC / 4) {
      let pixel = own.pixel + i * OW;
      let finished = finish(sums[i], pixel, quad, channels, origin);
      out[pixel * (OC / 4) + quad] = finished.value;
      u += finished.u;
      v += finished.v;
    }
  }
  if (REDUCES) {
    tile[own.lane] = u;
    tile[WORKGROUP + own.lane] = v;
    let both = sum_over_lanes(own.lane);
    if (own.lane == 0 && any_quad < OC / 4 && own.first < own.total) {
      let count = pixels_of(own);
      for (var r = 0u; r < PARTIAL_ROWS; r++) {
        put_partial((own.block * PARTIAL_ROWS + r) * (OC / 4) + quad, partial_row(r, count, origin, both[0], both[1]));
      }
    }
  }
}

@compute @workgroup_size(WORKGROUP)
fn conv(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let id = workgroup.x + workgroup.y * groups.x;
  let k_blocks = (OC / 4 + QUADS - 1) / QUADS;
  let out_quad = id % k_blocks * QUADS;
  var own: Own;
  own.lane = lane;
  own.block = id / k_blocks;
  own.first = own.block * WORKGROUP;
  own.total = batch.N * BANDS * OW;
  let first_band = own.first / OW;
  let band = (own.first + lane) / OW;
  let column = own.first + lane - band * OW;
  let image = band / BANDS;
  let line = (band - image * BANDS) * 4; // the first of x, and of out
  own.pixel = (image * OH + line) * OW + column;
  own.rows = select(0u, rows_of(band), own.first + lane < own.total);

  let first_line = first_band / BANDS * IMAGE_LINES + first_band % BANDS * 4;
  let place = (image * IMAGE_LINES + line - first_line) * COLUMNS + column;
  let places = find_places(first_line, lane);
  var sums: Sums;
  var ahead = look_ahead(places, 0);
  var channels = channels_of(0);
  var weights = look_ahead_weights(lane, 0, out_quad);
  for (var quad = 0u; quad < IC / 4; quad++) {
    workgroupBarrier();
    keep_ahead(places, ahead, channels);
    keep_weights(lane, weights);
    workgroupBarrier();
    let next = min(quad + 1, IC / 4 - 1);
    ahead = look_ahead(places, next);
    channels = channels_of(next);
    weights = look_ahead_weights(lane, next, out_quad);
    for (var s = 0u; s < select(batch.S, 3, STAGED); s++) { multiply_column(&sums, place, s, quad, out_quad); }
  }
  if (REDUCES) { workgroupBarrier(); }
  for (var i = 0u; i < QUADS; i++) {
    var four = sums[0];
    if (QUADS > 1 && i == 1) { four = sums[1]; }
    if (QUADS > 2 && i == 2) { four = sums[2]; }
    if (QUADS > 2 && i == 3) { four = sums[3]; }
    store(own, four, out_quad + i);
  }
}
