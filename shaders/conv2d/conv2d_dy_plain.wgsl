// What grad_weight reads as dy (bound as `w`), as it lies in memory; part of conv2d_subgroup.wgsl and conv2d_tile.wgsl.

//#fills dy as dy_plain

struct DyChannels { unused: u32 }
fn dy_channels_of(quad: u32) -> DyChannels {
  return DyChannels(quad);
}

alias DyFetched = vec4<f32>;
fn dy_fetch(at: u32) -> DyFetched {
  return w4[at];
}
fn dy_made(fetched: DyFetched, channels: DyChannels) -> vec4<f32> {
  return fetched;
}

fn dy_vec4(at: u32, channels: DyChannels) -> vec4<f32> {
  return dy_made(dy_fetch(at), channels);
}
