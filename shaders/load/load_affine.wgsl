// What a kernel loads, where that is an affine map of each channel, and its activation, not worked out yet:
// activation((x - origin) * a + b). As load_plain.wgsl, for channels in whole vec4s. The expression is that of the op that
// would store the map's values (see Load in src/fusion/ports.ts), so they have the bits that they would have in memory.

//#fills load as x_affine

@group(0) @binding(7) var<storage, read> x_numbers: array<vec4<f32>>; // [5, C]: origin, a, b, …

struct Channels { origin: vec4<f32>, a: vec4<f32>, b: vec4<f32> }
fn channels_of(quad: u32, quads: u32) -> Channels {
  return Channels(x_numbers[quad], x_numbers[quads + quad], x_numbers[2 * quads + quad]);
}

fn made(fetched: vec4<f32>, channels: Channels) -> vec4<f32> {
  return activation((fetched - channels.origin) * channels.a + channels.b);
}
