// What becomes of sums: they are stored, and added up over the pixels of a subgroup. A file of conv2d_subgroup.wgsl.

// What is added up over the pixels that an invocation stores, for four channels; `origin` is the subgroup's.
struct Totals { origin: vec4<f32>, u: vec4<f32>, v: vec4<f32> }
struct Totals8 { low: Totals, high: Totals, pixels: f32 }
struct Totals16 { low: Totals8, high: Totals8 }

// The sums of eight channels. Taken at constant indices: with others some compilers would keep `acc` in memory throughout.
struct Sums8 { low: mat4x4<f32>, high: mat4x4<f32> }
fn sums_of(acc: ptr<function, array<vec4<f32>, 8>>) -> Sums8 {
  return Sums8(
    mat4x4<f32>((*acc)[0], (*acc)[1], (*acc)[2], (*acc)[3]),
    mat4x4<f32>((*acc)[4], (*acc)[5], (*acc)[6], (*acc)[7]),
  );
}

fn either(low: mat4x4<f32>, high: mat4x4<f32>, is_high: bool) -> mat4x4<f32> {
  return mat4x4<f32>(
    select(low[0], high[0], is_high),
    select(low[1], high[1], is_high),
    select(low[2], high[2], is_high),
    select(low[3], high[3], is_high),
  );
}
fn either_totals(low: Totals, high: Totals, is_high: bool) -> Totals {
  return Totals(
    select(low.origin, high.origin, is_high), select(low.u, high.u, is_high), select(low.v, high.v, is_high),
  );
}
fn either_8(low: Totals8, high: Totals8, is_high: bool) -> Totals8 {
  return Totals8(
    either_totals(low.low, high.low, is_high),
    either_totals(low.high, high.high, is_high),
    select(low.pixels, high.pixels, is_high),
  );
}

// Four channels at a time, where STORES_IN_LOOPS in a loop: written out, stores and sums are most of what there is to compile.
fn store_8(
  sums: Sums8,
  pixels: vec4<u32>,
  valid: vec4<bool>,
  task: Task,
  first: u32,
  before: Totals8,
  b: u32,
  sublane: u32,
) -> Totals8 {
  var totals = before;
  totals.pixels += dot(select(vec4<f32>(0), vec4<f32>(1), valid), vec4<f32>(1));
  if (!STORES_IN_LOOPS) {
    let k = task.k0 + first;
    if (k < task.k_end) { totals.low = store_half(sums.low, pixels, valid, k, totals.low, b, sublane); }
    if (k + 4 < task.k_end) { totals.high = store_half(sums.high, pixels, valid, k + 4, totals.high, b, sublane); }
    return totals;
  }
  for (var half = 0u; half < quads_from(task, first); half++) {
    let is_high = half == 1;
    let own = either_totals(totals.low, totals.high, is_high);
    let k = task.k0 + first + 4 * half;
    let next = store_half(either(sums.low, sums.high, is_high), pixels, valid, k, own, b, sublane);
    totals.low = either_totals(next, totals.low, is_high);
    totals.high = either_totals(totals.high, next, is_high);
  }
  return totals;
}
fn store_16(
  low: Sums8,
  high: Sums8,
  pixels: vec4<u32>,
  valid: vec4<bool>,
  task: Task,
  before: Totals16,
  b: u32,
  sublane: u32,
) -> Totals16 {
  if (!STORES_IN_LOOPS) {
    return Totals16(
      store_8(low, pixels, valid, task, 0, before.low, b, sublane),
      store_8(high, pixels, valid, task, 8, before.high, b, sublane),
    );
  }
  var totals = before;
  for (var eight = 0u; eight < eights_of(task); eight++) {
    let is_high = eight == 1;
    let sums = Sums8(either(low.low, high.low, is_high), either(low.high, high.high, is_high));
    let own = either_8(totals.low, totals.high, is_high);
    let next = store_8(sums, pixels, valid, task, 8 * eight, own, b, sublane);
    totals.low = either_8(next, totals.low, is_high);
    totals.high = either_8(totals.high, next, is_high);
  }
  return totals;
}
fn store_half(
  sums: mat4x4<f32>,
  pixels: vec4<u32>,
  valid: vec4<bool>,
  k: u32,
  before: Totals,
  b: u32,
  sublane: u32,
) -> Totals {
  var totals = before;
  let channels = shared_out_channels(k / 4, sublane);
  let y = transpose(sums);
  // In loops the end is one that no compiler knows to be 4: unrolled they take long to compile.
  let end = select(4u, select(0u, 4u, any(valid)), STORES_IN_LOOPS);
  // The mean of what all lanes store for their first four pixels.
  if (NEEDS_ORIGIN && b == 0) {
    var first = vec4<f32>(0);
    for (var i = 0u; i < end; i++) {
      let one = one_of(y, pixels, valid, i);
      if (one.stored) { first += finish(one.sum, one.pixel, k / 4, channels, vec4<f32>(0)).value; }
    }
    let count = add_lanes(select(vec4<f32>(0), vec4<f32>(1), valid));
    totals.origin = add_lanes(first) / max(dot(count, vec4<f32>(1)), 1);
  }
  for (var i = 0u; i < end; i++) {
    let one = one_of(y, pixels, valid, i);
    if (one.stored) {
      let finished = finish(one.sum, one.pixel, k / 4, channels, totals.origin);
      out[one.pixel * (OC / 4) + k / 4] = finished.value;
      if (REDUCES) {
        totals.u += finished.u;
        totals.v += finished.v;
      }
    }
  }
  return totals;
}

// One of four pixels.
struct One { sum: vec4<f32>, pixel: u32, stored: bool }
fn one_of(sums: mat4x4<f32>, pixels: vec4<u32>, valid: vec4<bool>, i: u32) -> One {
  return One(
    select(select(sums[0], sums[1], i == 1), select(sums[2], sums[3], i == 3), i >= 2),
    select(select(pixels.x, pixels.y, i == 1), select(pixels.z, pixels.w, i == 3), i >= 2),
    select(select(valid.x, valid.y, i == 1), select(valid.z, valid.w, i == 3), i >= 2),
  );
}

// The sum over all lanes. Broadcasts from constant lanes are shuffles of a register; subgroupAdd would be a loop.
fn add_lanes(v: vec4<f32>) -> vec4<f32> {
  var sum = (subgroupBroadcast(v, 0u) + subgroupBroadcast(v, 1u)) + (subgroupBroadcast(v, 2u) + subgroupBroadcast(v, 3u));
  if (LANES == 8) {
    sum += (subgroupBroadcast(v, 4u) + subgroupBroadcast(v, 5u)) + (subgroupBroadcast(v, 6u) + subgroupBroadcast(v, 7u));
  }
  return sum;
}

// Of a task's channels in a kernel for 16: blocks of eight.
fn eights_of(task: Task) -> u32 {
  return (min(task.k_end - task.k0, 16) + 7) / 8;
}
// Quads of them from `first` on, two at most.
fn quads_from(task: Task, first: u32) -> u32 {
  let k = task.k0 + first;
  return select(0u, min((task.k_end - k + 3) / 4, 2), k < task.k_end);
}

// The partial result of a subgroup, eight channels of it; each lane writes a vec4 or none.
fn put_totals(totals: Totals8, task: Task, first: u32, lane: u32, sublane: u32) {
  let group = task.block.partial * (WORKGROUP / LANES) + lane / LANES;
  let pixels = add_lanes(vec4<f32>(totals.pixels)).x;
  for (var half = 0u; half < quads_from(task, first); half++) {
    let own = either_totals(totals.low, totals.high, half == 1);
    let u = add_lanes(own.u);
    let v = add_lanes(own.v);
    if (sublane < PARTIAL_ROWS) {
      let at = (group * PARTIAL_ROWS + sublane) * (OC / 4) + (task.k0 + first) / 4 + half;
      put_partial(at, partial_row(sublane, pixels, own.origin, u, v));
    }
  }
}
fn put_totals_16(totals: Totals16, task: Task, lane: u32, sublane: u32) {
  for (var eight = 0u; eight < eights_of(task); eight++) {
    put_totals(either_8(totals.low, totals.high, eight == 1), task, 8 * eight, lane, sublane);
  }
}
