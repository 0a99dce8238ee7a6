// Changes of a batch of images x [N, H, W, C], of which each has its own numbers, drawn on the host: [N, NUMBERS].
//
//   crop        y[n, i, j, c] = x[n, i + top, (flip ? W' − 1 − j : j) + left, c], 0 outside of x      numbers: top, left, flip
//   resize      y[n, p, q, c] = Σ w(p, i) · w(q, j) · x[n, i, j, c], w a triangle as wide as two pixels of the coarser grid,
//               its weights within x scaled to a sum of 1: bilinear, without aliases where it makes images smaller
//   grey_mean   grey[n] = mean of the grey of brightness · x
//   jitter      brightness, contrast and saturation, each result cut to 0 … 1:                        numbers: b, k, s
//               v ← b · v,  v ← k · v + (1 − k) · grey[n],  v ← s · v + (1 − s) · the pixel's grey
//   erase       x[n, i, j, c] ← VALUE in a rectangle                                                  numbers: top, left, height, width
//   normalise   x[n, i, j, c] ← (x − mean[c]) / std[c]
//   mix         y[n] = λ · x[n] + (1 − λ) · x[partner]                                                numbers: λ, partner
//   mix_labels  y[n, k] = λ · [k = label[n]] + (1 − λ) · [k = label[partner]]
//
// jitter, erase and normalise change x in place. One invocation owns one pixel, in resize, normalise, mix and mix_labels one element,
// in grey_mean one workgroup an image: its lanes' sums are added in a tree, with a barrier before each level.

override WORKGROUP_SIZE: u32 = 64;
override VALUE: f32 = 0.0;

struct Sizes {
  batch: u32,
  height: u32, // of x
  width: u32,
  channels: u32, // in mix_labels the classes
  out_height: u32,
  out_width: u32,
}

@group(0) @binding(0) var<storage, read_write> y: array<f32>;
@group(0) @binding(1) var<uniform> sizes: Sizes;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read> numbers: array<f32>;
@group(0) @binding(4) var<storage, read> grey: array<f32>;
@group(0) @binding(5) var<storage, read> moments: array<f32>; // mean [C], std [C]
@group(0) @binding(6) var<storage, read> labels: array<u32>;

var<workgroup> sums: array<f32, WORKGROUP_SIZE>;

fn cut(value: f32) -> f32 {
  return clamp(value, 0.0, 1.0);
}

// Of a pixel with one channel or three: the weights of ITU-R BT.601.
fn grey_of(first: f32, second: f32, third: f32) -> f32 {
  if (sizes.channels == 1u) { return first; }
  return 0.299 * first + 0.587 * second + 0.114 * third;
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn crop(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let each = sizes.out_height * sizes.out_width;
  let count = sizes.batch * each;
  for (var pixel = id.x; pixel < count; pixel += groups.x * WORKGROUP_SIZE) {
    let image = pixel / each;
    let within = pixel % each;
    let j = within % sizes.out_width;
    let mirrored = select(j, sizes.out_width - 1u - j, numbers[3u * image + 2u] > 0.0);
    // Unsigned: a row above the image wraps to a large number, and fails the test below.
    let row = within / sizes.out_width + u32(i32(numbers[3u * image]));
    let column = mirrored + u32(i32(numbers[3u * image + 1u]));
    let inside = row < sizes.height && column < sizes.width;
    let source = ((image * sizes.height + row) * sizes.width + column) * sizes.channels;
    for (var c = 0u; c < sizes.channels; c++) {
      var value = 0.0;
      if (inside) { value = x[source + c]; }
      y[pixel * sizes.channels + c] = value;
    }
  }
}

// Where a pixel of the result lies among those of x along one axis, and how far it reaches.
struct Taps { centre: f32, reach: f32, first: u32, end: u32 }

fn taps(at: u32, length: u32, out_length: u32) -> Taps {
  let ratio = f32(length) / f32(out_length);
  let reach = max(ratio, 1.0);
  let centre = (f32(at) + 0.5) * ratio;
  let first = u32(max(floor(centre - reach + 0.5), 0.0));
  let end = min(u32(floor(centre + reach + 0.5)), length);
  return Taps(centre, reach, first, end);
}

fn weight(along: Taps, at: u32) -> f32 {
  return max(1.0 - abs(f32(at) + 0.5 - along.centre) / along.reach, 0.0);
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn resize(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let count = sizes.batch * sizes.out_height * sizes.out_width * sizes.channels;
  for (var element = id.x; element < count; element += groups.x * WORKGROUP_SIZE) {
    let c = element % sizes.channels;
    let pixel = element / sizes.channels;
    let image = pixel / (sizes.out_height * sizes.out_width);
    let down = taps(pixel / sizes.out_width % sizes.out_height, sizes.height, sizes.out_height);
    let across = taps(pixel % sizes.out_width, sizes.width, sizes.out_width);
    var total = 0.0;
    var weights = 0.0;
    for (var i = down.first; i < down.end; i++) {
      let row = (image * sizes.height + i) * sizes.width;
      for (var j = across.first; j < across.end; j++) {
        let w = weight(down, i) * weight(across, j);
        total += w * x[(row + j) * sizes.channels + c];
        weights += w;
      }
    }
    y[element] = total / weights;
  }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn grey_mean(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let each = sizes.height * sizes.width;
  let last = sizes.channels - 1u;
  for (var image = group.x; image < sizes.batch; image += groups.x) {
    let brightness = numbers[3u * image];
    var sum = 0.0;
    for (var pixel = lane; pixel < each; pixel += WORKGROUP_SIZE) {
      let source = (image * each + pixel) * sizes.channels;
      let second = cut(brightness * x[source + min(1u, last)]);
      sum += grey_of(cut(brightness * x[source]), second, cut(brightness * x[source + last]));
    }
    sums[lane] = sum;
    for (var step = WORKGROUP_SIZE / 2u; step > 0u; step /= 2u) {
      workgroupBarrier();
      if (lane < step) { sums[lane] += sums[lane + step]; }
    }
    if (lane == 0u) { y[image] = sums[0] / f32(each); }
    workgroupBarrier();
  }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn jitter(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let each = sizes.height * sizes.width;
  let count = sizes.batch * each;
  let last = sizes.channels - 1u;
  for (var pixel = id.x; pixel < count; pixel += groups.x * WORKGROUP_SIZE) {
    let image = pixel / each;
    let brightness = numbers[3u * image];
    let contrast = numbers[3u * image + 1u];
    let saturation = numbers[3u * image + 2u];
    let at = pixel * sizes.channels;
    for (var c = 0u; c < sizes.channels; c++) {
      let bright = cut(brightness * y[at + c]);
      y[at + c] = cut(contrast * bright + (1.0 - contrast) * grey[image]);
    }
    let own = grey_of(y[at], y[at + min(1u, last)], y[at + last]);
    for (var c = 0u; c < sizes.channels; c++) {
      y[at + c] = cut(saturation * y[at + c] + (1.0 - saturation) * own);
    }
  }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn erase(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let each = sizes.height * sizes.width;
  let count = sizes.batch * each;
  for (var pixel = id.x; pixel < count; pixel += groups.x * WORKGROUP_SIZE) {
    let image = pixel / each;
    let within = pixel % each;
    // Unsigned: what lies above or left of the rectangle wraps to a large number.
    let row = within / sizes.width - u32(numbers[4u * image]);
    let column = within % sizes.width - u32(numbers[4u * image + 1u]);
    if (row < u32(numbers[4u * image + 2u]) && column < u32(numbers[4u * image + 3u])) {
      for (var c = 0u; c < sizes.channels; c++) { y[pixel * sizes.channels + c] = VALUE; }
    }
  }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn normalise(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let count = sizes.batch * sizes.height * sizes.width * sizes.channels;
  for (var element = id.x; element < count; element += groups.x * WORKGROUP_SIZE) {
    let c = element % sizes.channels;
    y[element] = (y[element] - moments[c]) / moments[sizes.channels + c];
  }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn mix(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let each = sizes.height * sizes.width * sizes.channels;
  let count = sizes.batch * each;
  for (var element = id.x; element < count; element += groups.x * WORKGROUP_SIZE) {
    let image = element / each;
    let share = numbers[2u * image];
    let partner = u32(numbers[2u * image + 1u]);
    y[element] = share * x[element] + (1.0 - share) * x[partner * each + element % each];
  }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn mix_labels(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let count = sizes.batch * sizes.channels;
  for (var element = id.x; element < count; element += groups.x * WORKGROUP_SIZE) {
    let image = element / sizes.channels;
    let k = element % sizes.channels;
    let share = numbers[2u * image];
    let partner = u32(numbers[2u * image + 1u]);
    y[element] = select(0.0, share, labels[image] == k) + select(0.0, 1.0 - share, labels[partner] == k);
  }
}
