// What becomes of a convolution's sums: bias or another tensor is added; and the statistics of what is stored, for the
// op after it that asks for them. As conv2d_output_plain.wgsl.
//
// Relative to the mean of the first few pixels of a group, at least a thirty-second of them: what an outlier among those costs is
// no more than thirty times what rounding its share of the mean would. Groups whose squares leave float32's range come out
// infinite or too small: who reads the statistics must see it, and measure such a channel again.

//#fills output as statistics
//#import conv2d_output_bias

@group(0) @binding(10) var<storage, read_write> partials: array<vec4<f32>>;

const REDUCES = true;
const PARTIAL_ROWS = 4u; // origin, offset, deviation, count
const NEEDS_ORIGIN = true; // of the group: the mean of what is stored for its first pixels
const STORES_IN_LOOPS = true;

struct Finished { value: vec4<f32>, u: vec4<f32>, v: vec4<f32> }

fn finish(sum: vec4<f32>, pixel: u32, quad: u32, channels: OutChannels, origin: vec4<f32>) -> Finished {
  let value = with_addend(sum + channels.bias, pixel * (OC / 4) + quad);
  let d = value - origin;
  return Finished(value, d, d * d);
}

fn partial_row(row: u32, count: f32, origin: vec4<f32>, u: vec4<f32>, v: vec4<f32>) -> vec4<f32> {
  let offset = u / max(count, 1);
  switch row {
    case 0: { return origin; }
    case 1: { return offset; }
    case 2: { return sqrt(max(v / max(count, 1) - offset * offset, vec4<f32>(0))); }
    default: { return vec4<f32>(count); }
  }
}

fn put_partial(at: u32, value: vec4<f32>) {
  partials[at] = value;
}
