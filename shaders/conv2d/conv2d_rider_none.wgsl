// Nothing rides along with the gradients of weights; part of conv2d_tile.wgsl.

//#fills rider as rider_none

// Whether a workgroup does the rider's work.
fn is_riders(index: u32) -> bool {
  return false;
}

fn ride_along(index: u32, lane: u32) {}

// Which of the workgroups that do the module's own work it is otherwise.
fn carried(index: u32) -> u32 {
  return index;
}
