// The tensors of batch_norm.wgsl in float16, two to a word: every adapter has the conversions, also without shader-f16,
// and a software adapter loads a word for what it pays for a half. A vec4 is 8 bytes.

//#fills elements as float16
//#import float16

@group(0) @binding(0) var<storage, read_write> y: array<vec2<u32>>;
@group(0) @binding(0) var<storage, read_write> dx: array<vec2<u32>>;
@group(0) @binding(1) var<storage, read> x: array<vec2<u32>>;
@group(0) @binding(2) var<storage, read> residual: array<vec2<u32>>;
@group(0) @binding(2) var<storage, read> dy: array<vec2<u32>>;
@group(0) @binding(5) var<storage, read_write> dz: array<vec2<u32>>;
@group(0) @binding(6) var<storage, read> addend: array<vec2<u32>>;
@group(0) @binding(6) var<storage, read> summand: array<vec2<u32>>; // the residual, in backward

fn x_at(i: u32) -> vec4<f32> { return to_floats(x[i]); }
fn residual_at(i: u32) -> vec4<f32> { return to_floats(residual[i]); }
fn summand_at(i: u32) -> vec4<f32> { return to_floats(summand[i]); }
fn dy_at(i: u32) -> vec4<f32> { return to_floats(dy[i]); }
fn dz_at(i: u32) -> vec4<f32> { return to_floats(dz[i]); }
fn addend_at(i: u32) -> vec4<f32> { return to_floats(addend[i]); }
fn put_dx(i: u32, v: vec4<f32>) { dx[i] = to_halves(v); }
fn put_dz(i: u32, v: vec4<f32>) { dz[i] = to_halves(v); }

// Stores y, and tells which elements of what it stored are not zero.
fn put_y(i: u32, v: vec4<f32>) -> vec4<bool> {
  let halves = to_halves(v);
  y[i] = halves;
  return (halves.xxyy & vec4<u32>(0xffff, 0xffff0000, 0xffff, 0xffff0000)) != vec4<u32>(0);
}
