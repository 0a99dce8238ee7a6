// What a convolution reads, where that is an affine map, per channel, of a pair of tensors, and not worked out yet: a gradient dz
// and what it is the gradient at, x, give a * (dz + (x - origin) * p + q). As conv2d_input_plain.wgsl; with VEC4 only.

//#fills input as x_affine_pair

@group(0) @binding(2) var<storage, read> x4: array<vec4<f32>>; // dz
@group(0) @binding(6) var<storage, read> x_numbers: array<vec4<f32>>; // [4, IC]: p, q, origin, a
@group(0) @binding(7) var<storage, read> x_other: array<vec4<f32>>; // x

struct Channels { p: vec4<f32>, q: vec4<f32>, origin: vec4<f32>, a: vec4<f32> }
fn channels_of(quad: u32) -> Channels {
  return Channels(channel_row(0, quad), channel_row(1, quad), channel_row(2, quad), channel_row(3, quad));
}
const CHANNEL_ROWS = 4u;
fn channel_row(row: u32, quad: u32) -> vec4<f32> {
  return x_numbers[row * (IC / 4) + quad];
}
fn channels_from(row_0: vec4<f32>, row_1: vec4<f32>, row_2: vec4<f32>, row_3: vec4<f32>) -> Channels {
  return Channels(row_0, row_1, row_2, row_3);
}

struct Fetched { dz: vec4<f32>, x: vec4<f32> }
fn x_fetch(at: u32) -> Fetched {
  return Fetched(x4[at], x_other[at]);
}
fn x_made(fetched: Fetched, channels: Channels) -> vec4<f32> {
  return channels.a * (fetched.dz + ((fetched.x - channels.origin) * channels.p + channels.q));
}

fn x_vec4(at: u32, channels: Channels) -> vec4<f32> {
  return x_made(x_fetch(at), channels);
}

fn x_number(at: u32) -> f32 {
  return 0;
}
