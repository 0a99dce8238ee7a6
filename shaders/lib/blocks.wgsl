// Packed parameters: each starts at a block of 64 elements (256 bytes, 16 vec4s). `blocks` has a word for each block: its lower
// 7 bits are the number of its elements that belong to a parameter, the others the number of the parameter.

const BLOCK_VEC4S = 16u;

struct Size {
  vec4s: u32,
  first_block: u32, // of the buffers' parts that are bound
}

fn block_of(i: u32) -> u32 {
  return size.first_block + i / BLOCK_VEC4S;
}

fn parameter_of(block: u32) -> u32 {
  return block >> 7u;
}
