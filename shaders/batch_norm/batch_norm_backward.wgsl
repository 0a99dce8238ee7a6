// Backward in one dispatch, for small tensors with C % 4 = 0: an invocation or a workgroup has all rows of its columns. A file of
// batch_norm.wgsl.

fn finish_column(column: u32, sums: Sums) {
  for (var k = 0u; k < quad_size(); k += 1) {
    dbeta[4 * column + k] = sums.dz[k];
    dgamma[4 * column + k] = sums.dz_xhat[k];
  }
}

fn slopes_of(c: Numbers, sums: Sums) -> Slopes {
  if (!BATCH_STATISTICS) { return Slopes(vec4<f32>(0), vec4<f32>(0)); }
  let mean = sums.dz_xhat / params.count;
  return Slopes(-c.rstd * mean, -sums.dz / params.count - c.shift * mean);
}

// One invocation: one column, all rows.
@compute @workgroup_size(WORKGROUP_SIZE)
fn backward(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let column = flat(id, groups);
  if (column >= params.width4) { return; }
  let run = run_of_slice(column, 0, 0, 1);
  let c = numbers_of(column);
  let sums = sum_grad(run, c, false);
  finish_column(column, sums);
  apply_grad_run(run, c, slopes_of(c, sums));
}

// dx from dz, which this invocation has written.
fn apply_residual_blocks(blocks: Blocks, c: Numbers, s: Slopes) {
  let w = params.width4;
  for (var row = blocks.start; row < blocks.end; row += blocks.step) {
    let end = min(row + 8, blocks.end) * w;
    for (var i = row * w + blocks.column; i < end; i += w) {
      put_dx(i, c.a * (dz_at(i) + ((x_at(i) - c.origin) * s.p + s.q)));
    }
  }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn backward_residual(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let column = flat(id, groups);
  if (column >= params.width4) { return; }
  let blocks = blocks_of_slice(column, 0, 0, 1);
  let c = numbers_of(column);
  let sums = sum_grad_residual(blocks, c, false);
  finish_column(column, sums);
  apply_residual_blocks(blocks, c, slopes_of(c, sums));
}

// The same without a mask.
fn apply_joined_run(run: Run, c: Numbers, s: Slopes) {
  for (var i = run.start; i < run.end; i += run.step) {
    put_dx(i, c.a * (dz_at(i) + ((x_at(i) - c.origin) * s.p + s.q)));
  }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn backward_joined(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let column = flat(id, groups);
  if (column >= params.width4) { return; }
  let run = run_of_slice(column, 0, 0, 1);
  let c = numbers_of(column);
  let sums = sum_grad_joined(run, c, false);
  finish_column(column, sums);
  apply_joined_run(run, c, slopes_of(c, sums));
}

// The sums of each column of the workgroup, from lane.y = 0 to all.
fn share_sums(lane: vec3<u32>, column: u32, mine: Sums) -> Sums {
  let sums = add_workgroup(lane, mine, Y);
  if (lane.y == 0) { finish_column(column, sums); }
  workgroupBarrier(); // lane.y = 0 has written the last step of the tree
  return Sums(firsts[lane.x], seconds[lane.x]);
}

// One workgroup: X columns, all rows.
@compute @workgroup_size(X, Y)
fn backward_workgroup(@builtin(local_invocation_id) lane: vec3<u32>, @builtin(workgroup_id) group: vec3<u32>) {
  let column = min(group.x * X + lane.x, params.width4 - 1);
  let run = run_of_slice(column, 0, lane.y, Y);
  let c = numbers_of(column);
  let sums = share_sums(lane, column, sum_grad(run, c, false));
  apply_grad_run(run, c, slopes_of(c, sums));
}

@compute @workgroup_size(X, Y)
fn backward_residual_workgroup(@builtin(local_invocation_id) lane: vec3<u32>, @builtin(workgroup_id) group: vec3<u32>) {
  let column = min(group.x * X + lane.x, params.width4 - 1);
  let blocks = blocks_of_slice(column, 0, lane.y, Y);
  let c = numbers_of(column);
  let sums = share_sums(lane, column, sum_grad_residual(blocks, c, false));
  apply_residual_blocks(blocks, c, slopes_of(c, sums));
}

@compute @workgroup_size(X, Y)
fn backward_joined_workgroup(@builtin(local_invocation_id) lane: vec3<u32>, @builtin(workgroup_id) group: vec3<u32>) {
  let column = min(group.x * X + lane.x, params.width4 - 1);
  let run = run_of_slice(column, 0, lane.y, Y);
  let c = numbers_of(column);
  let sums = share_sums(lane, column, sum_grad_joined(run, c, false));
  apply_joined_run(run, c, slopes_of(c, sums));
}
