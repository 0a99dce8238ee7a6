// What a kernel loads, normalised, and its activation, on the way: the batch-norm before it, folded in. As load_plain.wgsl, for
// channels in whole vec4s. The numbers per channel and the expression are those of batch_norm.wgsl, so the elements have the bits
// that they would have in memory.

//#fills load as x_normalised

@group(0) @binding(7) var<storage, read> x_numbers: array<vec4<f32>>; // [5, C]: origin, a, b, …

struct Channels { origin: vec4<f32>, a: vec4<f32>, b: vec4<f32> }
fn channels_of(quad: u32, quads: u32) -> Channels {
  return Channels(x_numbers[quad], x_numbers[quads + quad], x_numbers[2 * quads + quad]);
}

fn made(fetched: vec4<f32>, channels: Channels) -> vec4<f32> {
  return activation((fetched - channels.origin) * channels.a + channels.b);
}
