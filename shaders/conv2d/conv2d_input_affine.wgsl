// What a convolution reads, where that is an affine map of each channel, and its activation, not worked out yet:
// activation((x - origin) * a + b). As conv2d_input_plain.wgsl; with VEC4 only. The expression is that of the op that would
// store the map's values (see Load in src/fusion/ports.ts), so they have the bits that they would have in memory.

//#fills input as x_affine

@group(0) @binding(2) var<storage, read> x4: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read> x_numbers: array<vec4<f32>>; // [5, IC]: origin, a, b, …

struct Channels { origin: vec4<f32>, a: vec4<f32>, b: vec4<f32> }
fn channels_of(quad: u32) -> Channels {
  return Channels(channel_row(0, quad), channel_row(1, quad), channel_row(2, quad));
}
const CHANNEL_ROWS = 3u;
fn channel_row(row: u32, quad: u32) -> vec4<f32> {
  return x_numbers[row * (IC / 4) + quad];
}
fn channels_from(row_0: vec4<f32>, row_1: vec4<f32>, row_2: vec4<f32>, row_3: vec4<f32>) -> Channels {
  return Channels(row_0, row_1, row_2);
}

alias Fetched = vec4<f32>;
fn x_fetch(at: u32) -> Fetched {
  return x4[at];
}
fn x_made(fetched: Fetched, channels: Channels) -> vec4<f32> {
  return activation((fetched - channels.origin) * channels.a + channels.b);
}

fn x_vec4(at: u32, channels: Channels) -> vec4<f32> {
  return x_made(x_fetch(at), channels);
}

fn x_number(at: u32) -> f32 {
  return 0;
}
