// What a convolution's results have in common where they may have a bias, or a tensor added: a part of conv2d_output_plain.wgsl and
// conv2d_output_statistics.wgsl.

override HAS_BIAS: bool = false;
override HAS_ADDEND: bool = false;

@group(0) @binding(5) var<storage, read> bias: array<vec4<f32>>;
@group(0) @binding(11) var<storage, read> addend: array<vec4<f32>>; // of the output's shape

fn with_addend(value: vec4<f32>, at: u32) -> vec4<f32> {
  if (!HAS_ADDEND) { return value; }
  return value + addend[at];
}

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
