// What a convolution reads, as it lies in memory; part of conv2d_subgroup.wgsl and conv2d_tile.wgsl.

//#fills input as x_plain

@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> x4: array<vec4<f32>>;

// What `x_vec4` needs to know of four channels: some rows of numbers, four at most.
struct Channels { unused: u32 }
fn channels_of(quad: u32) -> Channels {
  return Channels(quad);
}
// The same by rows, for lanes that load one each.
const CHANNEL_ROWS = 0u;
fn channel_row(row: u32, quad: u32) -> vec4<f32> {
  return vec4<f32>(0);
}
fn channels_from(row_0: vec4<f32>, row_1: vec4<f32>, row_2: vec4<f32>, row_3: vec4<f32>) -> Channels {
  return Channels(0);
}

// What lies in memory at vec4 `at`, and the four numbers made from it, of the channels that `channels` was made for.
alias Fetched = vec4<f32>;
fn x_fetch(at: u32) -> Fetched {
  return x4[at];
}
fn x_made(fetched: Fetched, channels: Channels) -> vec4<f32> {
  return fetched;
}

fn x_vec4(at: u32, channels: Channels) -> vec4<f32> {
  return x_made(x_fetch(at), channels);
}

fn x_number(at: u32) -> f32 {
  return x[at];
}
