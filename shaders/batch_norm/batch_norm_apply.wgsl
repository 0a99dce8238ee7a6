// y from x and the numbers of the channels; with a residual and a ReLU, its mask. A file of batch_norm.wgsl.

// What an invocation of the apply kernels treats. The tail goes to the last slice.
fn run_of_apply(invocation: u32) -> Run {
  let w = params.width4;
  let column = invocation % w;
  let has_tail = 4 * column < params.tail;
  if (STRIDED) {
    let end = params.rows * w + select(0u, column + 1, has_tail);
    return Run(column, invocation, params.stride, select(0u, end, invocation < params.stride));
  }
  let slice = invocation / w;
  var run = Run(column, 0, w, 0);
  if (slice < params.slices) {
    run = run_of_slice(column, slice, 0, 1);
    if (owns_tail(slice) && has_tail) { run.end += w; }
  }
  return run;
}

fn activate(v: vec4<f32>, origin: vec4<f32>, a: vec4<f32>, b: vec4<f32>, i: u32) -> vec4<f32> {
  var z = (v - origin) * a + b;
  if (HAS_RESIDUAL) { z += residual_at(i); }
  return activation(z);
}

// Four loads in flight.
fn apply_run(run: Run, origin: vec4<f32>, a: vec4<f32>, b: vec4<f32>) {
  let step = run.step;
  var i = run.start;
  for (; i + 3 * step < run.end; i += 4 * step) {
    let x0 = x_at(i);
    let x1 = x_at(i + step);
    let x2 = x_at(i + 2 * step);
    let x3 = x_at(i + 3 * step);
    put_y(i, activate(x0, origin, a, b, i));
    put_y(i + step, activate(x1, origin, a, b, i + step));
    put_y(i + 2 * step, activate(x2, origin, a, b, i + 2 * step));
    put_y(i + 3 * step, activate(x3, origin, a, b, i + 3 * step));
  }
  for (; i < run.end; i += step) { put_y(i, activate(x_at(i), origin, a, b, i)); }
}

// The same by blocks, for kernels that write the mask.
fn blocks_of_apply(invocation: u32) -> Blocks {
  let w = params.width4;
  let column = invocation % w;
  let has_tail = select(0u, 1u, 4 * column < params.tail);
  let piece = invocation / w;
  if (STRIDED) {
    let end = select(0u, params.rows + has_tail, invocation < params.stride);
    return Blocks(column, 8 * piece, 8 * (params.stride / w), end);
  }
  if (piece >= params.slices) { return Blocks(column, 0, 8, 0); }
  var blocks = blocks_of_slice(column, piece, 0, 1);
  if (owns_tail(piece)) { blocks.end += has_tail; }
  return blocks;
}

// Writes y, and returns the four bits of its mask.
fn put_masked(i: u32, z: vec4<f32>) -> u32 {
  let bits = select(vec4<u32>(0), vec4<u32>(1, 2, 4, 8), put_y(i, z));
  return (bits.x | bits.y) | (bits.z | bits.w);
}

// Four rows of a column, with four loads in flight.
fn apply_four(i: u32, origin: vec4<f32>, a: vec4<f32>, b: vec4<f32>) -> u32 {
  let w = params.width4;
  let x0 = x_at(i);
  let x1 = x_at(i + w);
  let x2 = x_at(i + 2 * w);
  let x3 = x_at(i + 3 * w);
  let m0 = put_masked(i, activate(x0, origin, a, b, i));
  let m1 = put_masked(i + w, activate(x1, origin, a, b, i + w));
  let m2 = put_masked(i + 2 * w, activate(x2, origin, a, b, i + 2 * w));
  let m3 = put_masked(i + 3 * w, activate(x3, origin, a, b, i + 3 * w));
  return (m0 | (m1 << 4)) | ((m2 << 8) | (m3 << 12));
}

// Half a block at a time, and its word written twice: on lavapipe a loop of eight rows costs more than that store.
fn apply_blocks(blocks: Blocks, origin: vec4<f32>, a: vec4<f32>, b: vec4<f32>) {
  let w = params.width4;
  let column = blocks.column;
  var word = 0u;
  var row = blocks.start;
  for (; row + 3 < blocks.end; row += select(4, blocks.step - 4, row % 8 == 4)) {
    let bits = apply_four(row * w + column, origin, a, b);
    word = select(bits, word | (bits << 16), row % 8 == 4);
    mask[word_of(row, column)] = word;
  }
  for (; row < blocks.end; row += 1) {
    let i = row * w + column;
    let bits = put_masked(i, activate(x_at(i), origin, a, b, i)) << (4 * (row % 8));
    word = select(word | bits, bits, row % 8 == 0);
    mask[word_of(row, column)] = word;
  }
}

fn apply_column(invocation: u32) {
  let w = params.width4;
  let column = invocation % w;
  let origin = numbers4[column];
  let a = numbers4[w + column];
  let b = numbers4[2 * w + column];
  if (HAS_MASK) { apply_blocks(blocks_of_apply(invocation), origin, a, b); }
  else { apply_run(run_of_apply(invocation), origin, a, b); }
}

// All rows of a column by one of the one-dispatch kernels.
fn apply_slice(column: u32, lane: u32, lanes: u32, origin: vec4<f32>, a: vec4<f32>, b: vec4<f32>) {
  if (HAS_MASK) { apply_blocks(blocks_of_slice(column, 0, lane, lanes), origin, a, b); }
  else { apply_run(run_of_slice(column, 0, lane, lanes), origin, a, b); }
}

// One invocation: one column in one slice of rows, or in every stride-th vec4.
@compute @workgroup_size(WORKGROUP_SIZE)
fn apply(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  apply_column(flat(id, groups));
}

// The same, and the number of batches seen, where every channel of `finalize_running` has read it.
@compute @workgroup_size(WORKGROUP_SIZE)
fn apply_counting(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  if (flat(id, groups) == 0) { batches[0] += 1; }
  apply_column(flat(id, groups));
}
