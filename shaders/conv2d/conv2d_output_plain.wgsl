// What becomes of a convolution's sums: bias, what `out` holds already, or another tensor is added. Part of
// conv2d_subgroup.wgsl and conv2d_tile.wgsl; bias and the other tensor are in conv2d_output_bias.wgsl.

//#fills output as plain
//#import conv2d_output_bias

override JOIN: bool = false; // `out` holds other contributions to the same gradient

// Whether two numbers of each result are added up over pixels, and written as rows of a partial result.
const REDUCES = false;
const PARTIAL_ROWS = 0u;
const NEEDS_ORIGIN = false;
// Whether results are stored in loops, because much is done for each: written out it would take seconds to compile.
override STORES_IN_LOOPS: bool = JOIN || HAS_ADDEND;

// What is stored for four channels of a pixel, and the two numbers of each that are added up.
struct Finished { value: vec4<f32>, u: vec4<f32>, v: vec4<f32> }

// `sum` is of four channels, the quad, of a pixel of `out`; `origin` counts if NEEDS_ORIGIN.
fn finish(sum: vec4<f32>, pixel: u32, quad: u32, channels: OutChannels, origin: vec4<f32>) -> Finished {
  var value = with_addend(sum + channels.bias, pixel * (OC / 4) + quad);
  if (JOIN) { value += out[pixel * (OC / 4) + quad]; }
  return Finished(value, vec4<f32>(0), vec4<f32>(0));
}

// Row 0 … PARTIAL_ROWS - 1 of a partial result of `count` pixels.
fn partial_row(row: u32, count: f32, origin: vec4<f32>, u: vec4<f32>, v: vec4<f32>) -> vec4<f32> {
  return vec4<f32>(0);
}

// partials: [groups, PARTIAL_ROWS, OC], by vec4
fn put_partial(at: u32, value: vec4<f32>) {
}
