// The tensors of batch_norm.wgsl in float32.

//#fills elements as float32

@group(0) @binding(0) var<storage, read_write> y: array<vec4<f32>>;
@group(0) @binding(0) var<storage, read_write> dx: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> residual: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> dy: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> dz: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read> addend: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read> summand: array<vec4<f32>>; // the residual, in backward

fn x_at(i: u32) -> vec4<f32> { return x[i]; }
fn residual_at(i: u32) -> vec4<f32> { return residual[i]; }
fn summand_at(i: u32) -> vec4<f32> { return summand[i]; }
fn dy_at(i: u32) -> vec4<f32> { return dy[i]; }
fn dz_at(i: u32) -> vec4<f32> { return dz[i]; }
fn addend_at(i: u32) -> vec4<f32> { return addend[i]; }
fn put_dx(i: u32, v: vec4<f32>) { dx[i] = v; }
fn put_dz(i: u32, v: vec4<f32>) { dz[i] = v; }

// Stores y, and tells which elements of what it stored are not zero.
fn put_y(i: u32, v: vec4<f32>) -> vec4<bool> {
  y[i] = v;
  return bitcast<vec4<u32>>(v) != vec4<u32>(0);
}
