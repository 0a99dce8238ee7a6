// What a kernel loads, as it lies in memory. A part of pool2d.wgsl and reduce.wgsl.

//#fills load as x_plain

// What `made` needs to know of four channels, the `quad`th four of `quads`.
struct Channels { unused: u32 }
fn channels_of(quad: u32, quads: u32) -> Channels {
  return Channels(quad);
}

// The elements that four numbers in memory stand for.
fn made(fetched: vec4<f32>, channels: Channels) -> vec4<f32> {
  return fetched;
}
