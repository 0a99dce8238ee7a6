// Packed parameters: each starts at a block of 64 elements (256 bytes, 16 vec4s). `blocks` has a word for each block: its lower
// 7 bits are the number of its elements that belong to a parameter, the others the number of the parameter.

const BLOCK_VEC4S = 16u;

struct Size {
  vec4s: u32,
  first_block: u32, // of the buffers' parts that are bound
  run: u32, // vec4s side by side that an invocation takes; 0: invocations side by side take vec4s side by side
}

// The vec4s that one of `lanes` invocations goes over.
struct Walk { first: u32, end: u32, step: u32 }

fn walk_of(lane: u32, lanes: u32) -> Walk {
  if (size.run == 0u) { return Walk(lane, size.vec4s, lanes); }
  return Walk(lane * size.run, min((lane + 1u) * size.run, size.vec4s), 1u);
}

fn block_of(i: u32) -> u32 {
  return size.first_block + i / BLOCK_VEC4S;
}

fn parameter_of(block: u32) -> u32 {
  return block >> 7u;
}
