// What grad_weight reads as dy, where that is an affine map, per channel, of a pair of tensors, and not worked out yet:
// a * (dz + (x - origin) * p + q), as in conv2d_input_affine_pair.wgsl. dz is bound as `w`.

//#fills dy as dy_affine_pair

@group(0) @binding(8) var<storage, read> dy_numbers: array<vec4<f32>>; // [4, OC]: p, q, origin, a
@group(0) @binding(9) var<storage, read> dy_other: array<vec4<f32>>; // x

struct DyChannels { p: vec4<f32>, q: vec4<f32>, origin: vec4<f32>, a: vec4<f32> }
fn dy_channels_of(quad: u32) -> DyChannels {
  let row = OC / 4;
  return DyChannels(dy_numbers[quad], dy_numbers[row + quad], dy_numbers[2 * row + quad], dy_numbers[3 * row + quad]);
}

struct DyFetched { dz: vec4<f32>, x: vec4<f32> }
fn dy_fetch(at: u32) -> DyFetched {
  return DyFetched(w4[at], dy_other[at]);
}
fn dy_made(fetched: DyFetched, channels: DyChannels) -> vec4<f32> {
  return channels.a * (fetched.dz + ((fetched.x - channels.origin) * channels.p + channels.q));
}

fn dy_vec4(at: u32, channels: DyChannels) -> vec4<f32> {
  return dy_made(dy_fetch(at), channels);
}
