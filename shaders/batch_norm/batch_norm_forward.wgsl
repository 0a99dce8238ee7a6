// Statistics, numbers of the channels and y in one dispatch, for small tensors with C % 4 = 0: an invocation or a workgroup has all
// rows of its columns. A file of batch_norm.wgsl.

// Finalizes the four channels of a column.
struct Affine { origin: vec4<f32>, a: vec4<f32>, b: vec4<f32> }

fn save_column(column: u32, tally: Tally) -> Affine {
  var result: Affine;
  for (var k = 0u; k < quad_size(); k += 1) {
    let numbers = save_merged(4 * column + k, merged_of(tally, k));
    result.origin[k] = numbers.x;
    result.a[k] = numbers.y;
    result.b[k] = numbers.z;
  }
  return result;
}

fn track_column(column: u32, tally: Tally) {
  for (var k = 0u; k < quad_size(); k += 1) { track(4 * column + k, merged_of(tally, k), params.momentum); }
}

// One invocation: one column, all rows.
@compute @workgroup_size(WORKGROUP_SIZE)
fn forward(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let column = flat(id, groups);
  if (column >= params.width4) { return; }
  let run = run_of_slice(column, 0, 0, 1);
  let tally = measure(run, false);
  let affine_of = save_column(column, tally);
  apply_slice(column, 0, 1, affine_of.origin, affine_of.a, affine_of.b);
}

// The same with running statistics; momentum is a number here.
@compute @workgroup_size(WORKGROUP_SIZE)
fn forward_running(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let column = flat(id, groups);
  if (column >= params.width4) { return; }
  if (column == 0) { batches[0] += 1; }
  let run = run_of_slice(column, 0, 0, 1);
  let tally = measure(run, false);
  let affine_of = save_column(column, tally);
  track_column(column, tally);
  apply_slice(column, 0, 1, affine_of.origin, affine_of.a, affine_of.b);
}

// What lane.y = 0 has for each column of the workgroup, to all.
fn share_affine(lane: vec3<u32>, affine_of: Affine) -> Affine {
  workgroupBarrier(); // the tree has been read
  if (lane.y == 0) {
    origins[lane.x] = affine_of.origin;
    firsts[lane.x] = affine_of.a;
    seconds[lane.x] = affine_of.b;
  }
  workgroupBarrier();
  return Affine(origins[lane.x], firsts[lane.x], seconds[lane.x]);
}

// One workgroup: X columns, all rows.
@compute @workgroup_size(X, Y)
fn forward_workgroup(@builtin(local_invocation_id) lane: vec3<u32>, @builtin(workgroup_id) group: vec3<u32>) {
  // Columns past the end repeat the last one, and write the same.
  let column = min(group.x * X + lane.x, params.width4 - 1);
  let run = run_of_slice(column, 0, lane.y, Y);
  let tally = combine_workgroup(lane, measure(run, false), Y);
  var affine_of: Affine;
  if (lane.y == 0) { affine_of = save_column(column, tally); }
  affine_of = share_affine(lane, affine_of);
  apply_slice(column, lane.y, Y, affine_of.origin, affine_of.a, affine_of.b);
}

@compute @workgroup_size(X, Y)
fn forward_running_workgroup(@builtin(local_invocation_id) lane: vec3<u32>, @builtin(workgroup_id) group: vec3<u32>) {
  let column = min(group.x * X + lane.x, params.width4 - 1);
  let run = run_of_slice(column, 0, lane.y, Y);
  let tally = combine_workgroup(lane, measure(run, false), Y);
  var affine_of: Affine;
  if (lane.y == 0) {
    affine_of = save_column(column, tally);
    // Once only: a repeated column would move the running statistics again.
    if (group.x * X + lane.x < params.width4) { track_column(column, tally); }
    if (group.x * X + lane.x == 0) { batches[0] += 1; }
  }
  affine_of = share_affine(lane, affine_of);
  apply_slice(column, lane.y, Y, affine_of.origin, affine_of.a, affine_of.b);
}
