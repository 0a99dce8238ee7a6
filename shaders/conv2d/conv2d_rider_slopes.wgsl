// What some workgroups of grad_weight do for another op, before those that do its own work: they add up the sums of a gradient sink
// (conv2d_output_gradient_sums.wgsl), which the kernel before has left, and make of them the coefficients that the kernel after it
// loads with its dy (conv2d_dy_affine_pair.wgsl), and the gradients of what the sink's op scales and shifts by. As grad_finalize of
// batch_norm_grad.wgsl does in a dispatch of its own. In place of conv2d_rider_none.wgsl.
//
// A column is four channels. One workgroup owns ride.width of them, side by side, and WORKGROUP / ride.width lanes share the groups
// of each; then a tree over those lanes, in the memory of the tiles: two vec4s for each lane.

//#fills rider as slopes

// False where the statistics are constants: p and q are 0.
override BATCH_STATISTICS: bool = true;

@group(0) @binding(10) var<storage, read_write> new_slopes: array<vec4<f32>>; // [4, C]: p, q, origin, a
@group(0) @binding(11) var<storage, read> sums: array<vec4<f32>>; // [groups, 2, C]: sum(dz), sum(dz * xhat)
@group(0) @binding(12) var<storage, read> numbers: array<vec4<f32>>; // [5, C]: origin, a, b, rstd, shift
@group(0) @binding(13) var<storage, read_write> affine_grads: array<vec4<f32>>; // holds dgamma and dbeta, [C] each

struct Ride {
  workgroups: u32,
  width: u32, // columns of a workgroup, at most WORKGROUP
  columns: u32, // C / 4
  groups: u32,
  count: f32, // values per channel
  dgamma_at: u32, // in vec4s
  dbeta_at: u32,
}
@group(0) @binding(15) var<uniform> ride: Ride;

fn is_riders(index: u32) -> bool {
  return index < ride.workgroups;
}

fn carried(index: u32) -> u32 {
  return index - ride.workgroups;
}

fn ride_along(index: u32, lane: u32) {
  let parts = WORKGROUP / ride.width;
  let part = lane / ride.width;
  let column = index * ride.width + lane % ride.width;
  var dz = vec4<f32>(0);
  var dz_xhat = vec4<f32>(0);
  // Lanes without a column, or without a part, add up what nobody reads.
  for (var group = part; group < ride.groups; group += parts) {
    dz += sums[2 * group * ride.columns + column];
    dz_xhat += sums[(2 * group + 1) * ride.columns + column];
  }
  tiles[lane] = dz;
  tiles[WORKGROUP + lane] = dz_xhat;
  for (var size = min(parts, ride.groups); size > 1;) {
    let half = (size + 1) / 2;
    workgroupBarrier();
    if (part + half < size) {
      dz += tiles[lane + half * ride.width];
      dz_xhat += tiles[WORKGROUP + lane + half * ride.width];
      tiles[lane] = dz;
      tiles[WORKGROUP + lane] = dz_xhat;
    }
    size = half;
  }
  if (part == 0 && column < ride.columns) { finish_column(column, dz, dz_xhat); }
}

fn finish_column(column: u32, dz: vec4<f32>, dz_xhat: vec4<f32>) {
  let row = ride.columns;
  affine_grads[ride.dbeta_at + column] = dz;
  affine_grads[ride.dgamma_at + column] = dz_xhat;
  var p = vec4<f32>(0);
  var q = vec4<f32>(0);
  if (BATCH_STATISTICS) {
    let mean_dz = dz / ride.count;
    let mean_dz_xhat = dz_xhat / ride.count;
    p = -numbers[3 * row + column] * mean_dz_xhat;
    q = -mean_dz - numbers[4 * row + column] * mean_dz_xhat;
  }
  new_slopes[column] = p;
  new_slopes[row + column] = q;
  new_slopes[2 * row + column] = numbers[column];
  new_slopes[3 * row + column] = numbers[row + column];
}
