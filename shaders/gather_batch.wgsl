// A training batch out of a data set of bytes: gather, pad-crop, mirror, normalise, in one pass.
//
//   images[b, y, x, c] = table[c, pixels[i, y', x', c]]        i = indices[b]
//   labels_out[b]      = labels[i]
//
// with y' = y + dy − PAD, x' = (flip ? WIDTH − 1 − x : x) + dx − PAD, byte 0 outside of the image, and
// (dy, dx, flip) the hash of (seed, epoch, i) that src/data/augment.ts computes on the host, bit for bit.
//
// Layouts: pixels [count, HEIGHT, WIDTH, CHANNELS] and labels [count] as bytes, four to a word; table
// [CHANNELS, 256]; images [batch, HEIGHT, WIDTH, CHANNELS]. A data set larger than one
// binding comes in chunks, one dispatch each: a chunk holds the images first … first + count − 1 and writes only those.
// One invocation owns one pixel, all channels. No barriers.

override WORKGROUP_SIZE: u32 = 64;
override HEIGHT: u32;
override WIDTH: u32;
override CHANNELS: u32;
override PAD: u32 = 0;
override FLIP: bool = false;

struct Chunk { first: u32, count: u32, batch: u32, seed: u32 }

@group(0) @binding(0) var<storage, read_write> images: array<f32>;
@group(0) @binding(0) var<storage, read_write> labels_out: array<u32>;
@group(0) @binding(1) var<storage, read> pixels: array<u32>;
@group(0) @binding(2) var<storage, read> indices: array<u32>;
@group(0) @binding(3) var<uniform> chunk: Chunk;
@group(0) @binding(4) var<storage, read> epoch: array<u32>;
@group(0) @binding(5) var<storage, read> table: array<f32>;

// PCG-RXS-M-XS as a hash: Jarzynski & Olano, "Hash functions for GPU rendering" (JCGT 2020).
fn pcg(x: u32) -> u32 {
  let state = x * 747796405u + 2891336453u;
  let word = ((state >> ((state >> 28u) + 4u)) ^ state) * 277803737u;
  return (word >> 22u) ^ word;
}

fn byte_at(index: u32) -> u32 {
  return (pixels[index >> 2u] >> (8u * (index & 3u))) & 255u;
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn forward(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let count = chunk.batch * HEIGHT * WIDTH;
  for (var pixel = id.x; pixel < count; pixel += groups.x * WORKGROUP_SIZE) {
    let image = pixel / (HEIGHT * WIDTH);
    let index = indices[image];
    if (index < chunk.first || index - chunk.first >= chunk.count) { continue; }
    let h = pcg(index + pcg(epoch[0] + pcg(chunk.seed)));
    let choices = 2u * PAD + 1u;
    let within = pixel % (HEIGHT * WIDTH);
    let x = within % WIDTH;
    let mirrored = select(x, WIDTH - 1u - x, FLIP && (pcg(h) & 1u) == 1u);
    // Unsigned: a row above the image wraps to a large number, and fails the test below.
    let row = within / WIDTH + (((h & 0xffffu) * choices) >> 16u) - PAD;
    let column = mirrored + (((h >> 16u) * choices) >> 16u) - PAD;
    let inside = row < HEIGHT && column < WIDTH;
    let source = (((index - chunk.first) * HEIGHT + row) * WIDTH + column) * CHANNELS;
    for (var c = 0u; c < CHANNELS; c++) {
      var value = 0u;
      if (inside) { value = byte_at(source + c); }
      images[pixel * CHANNELS + c] = table[c * 256u + value];
    }
  }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn labels(@builtin(global_invocation_id) id: vec3<u32>) {
  if (id.x >= chunk.batch) { return; }
  let index = indices[id.x];
  if (index < chunk.first || index - chunk.first >= chunk.count) { return; }
  labels_out[id.x] = byte_at(index - chunk.first);
}
