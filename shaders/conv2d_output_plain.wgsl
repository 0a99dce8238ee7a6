// What becomes of a convolution's sums: bias, or what `out` holds already is added. Part of conv2d_subgroup.wgsl and conv2d_tile.wgsl.

override HAS_BIAS: bool = false;
override JOIN: bool = false; // `out` holds other contributions to the same gradient

@group(0) @binding(5) var<storage, read> bias: array<vec4<f32>>;

// Whether two numbers of each result are added up over pixels, and written as rows of a partial result.
const REDUCES = false;
const PARTIAL_ROWS = 0u;
const NEEDS_ORIGIN = false;
// Whether `finish` loads anything.
override FINISH_LOADS = JOIN;

// What `finish` needs to know of four output channels.
struct OutChannels { bias: vec4<f32> }
fn out_channels_of(quad: u32) -> OutChannels {
  return OutChannels(select(vec4<f32>(0), bias[select(0u, quad, HAS_BIAS)], HAS_BIAS));
}
// The same by rows of numbers, five at most, for lanes that load one each; 0 if that is not worth it.
const OUT_CHANNEL_ROWS = 0u;
fn out_channel_row(row: u32, quad: u32) -> vec4<f32> {
  return vec4<f32>(0);
}
fn out_channels_from(
  row_0: vec4<f32>,
  row_1: vec4<f32>,
  row_2: vec4<f32>,
  row_3: vec4<f32>,
  row_4: vec4<f32>,
) -> OutChannels {
  return OutChannels(vec4<f32>(0));
}

// What is stored for four channels of a pixel, and the two numbers of each that are added up.
struct Finished { value: vec4<f32>, u: vec4<f32>, v: vec4<f32> }

// `sum` is of four channels, the quad, of a pixel of `out`; `origin` counts if NEEDS_ORIGIN.
fn finish(sum: vec4<f32>, pixel: u32, quad: u32, channels: OutChannels, origin: vec4<f32>) -> Finished {
  var value = sum + channels.bias;
  if (JOIN) { value += out[pixel * (OC / 4) + quad]; }
  return Finished(value, vec4<f32>(0), vec4<f32>(0));
}

// Row 0 … PARTIAL_ROWS - 1 of a partial result of `count` pixels.
fn partial_row(row: u32, count: f32, origin: vec4<f32>, u: vec4<f32>, v: vec4<f32>) -> vec4<f32> {
  return vec4<f32>(0);
}

// partials: [groups, PARTIAL_ROWS, OC], by vec4
fn put_partial(at: u32, value: vec4<f32>) {
}
