// What becomes of grad_input's sums where the convolution's input was made by an op that needs sums of its gradient (see
// GradientSink in src/fusion/ports.ts), and this is the last contribution to that gradient: the others are added, the gradient
// goes through the activation of (x - origin) * a + b, and the sums of dz and of dz * xhat, xhat = (x - origin) * rstd + shift,
// are taken, x being what that op read. As conv2d_output_plain.wgsl.

//#fills output as gradient_sums

override JOIN: bool = false; // `out` holds the other contributions
override MASKED: bool = false; // by the forward's mask, else by what (x - origin) * a + b is

@group(0) @binding(10) var<storage, read_write> partials: array<vec4<f32>>;
@group(0) @binding(11) var<storage, read> sink_input: array<vec4<f32>>; // x
@group(0) @binding(12) var<storage, read> sink_numbers: array<vec4<f32>>; // [5, OC]: origin, a, b, rstd, shift
@group(0) @binding(13) var<storage, read> sink_mask: array<u32>;

const REDUCES = true;
const PARTIAL_ROWS = 2u; // sum(dz), sum(dz * xhat)
const NEEDS_ORIGIN = false;
const STORES_IN_LOOPS = true;

struct OutChannels { origin: vec4<f32>, a: vec4<f32>, b: vec4<f32>, rstd: vec4<f32>, shift: vec4<f32> }
fn out_channels_of(quad: u32) -> OutChannels {
  return OutChannels(
    out_channel_row(0, quad),
    out_channel_row(1, quad),
    out_channel_row(2, quad),
    out_channel_row(3, quad),
    out_channel_row(4, quad),
  );
}
const OUT_CHANNEL_ROWS = 5u;
fn out_channel_row(row: u32, quad: u32) -> vec4<f32> {
  return sink_numbers[row * (OC / 4) + quad];
}
fn out_channels_from(
  row_0: vec4<f32>,
  row_1: vec4<f32>,
  row_2: vec4<f32>,
  row_3: vec4<f32>,
  row_4: vec4<f32>,
) -> OutChannels {
  return OutChannels(row_0, row_1, row_2, row_3, row_4);
}

struct Finished { value: vec4<f32>, u: vec4<f32>, v: vec4<f32> }

fn finish(sum: vec4<f32>, pixel: u32, quad: u32, channels: OutChannels, origin: vec4<f32>) -> Finished {
  let at = pixel * (OC / 4) + quad;
  var dz = sum;
  if (JOIN) { dz += out[at]; }
  let deviation = sink_input[at] - channels.origin;
  if (!MASKED) { dz = activation_grad(dz, deviation * channels.a + channels.b); }
  if (MASKED) {
    let bits = sink_mask[(pixel / 8) * (OC / 4) + quad] >> (4 * (pixel % 8));
    dz = select(vec4<f32>(0), dz, (vec4<u32>(bits) & vec4<u32>(1, 2, 4, 8)) != vec4<u32>(0));
  }
  return Finished(dz, dz, dz * (deviation * channels.rstd + channels.shift));
}

fn partial_row(row: u32, count: f32, origin: vec4<f32>, u: vec4<f32>, v: vec4<f32>) -> vec4<f32> {
  return select(v, u, row == 0);
}

fn put_partial(at: u32, value: vec4<f32>) {
  partials[at] = value;
}
