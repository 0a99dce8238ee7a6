// Mean and variance of values that come in any order and of any size. A part of batch_norm.wgsl and group_norm.wgsl.
//
// A mean is kept as origin + offset. The origin is a float32 near it, so that x - origin is exact where |mean| is large against
// the deviations; the offset is what is missing, and small. The origin moves along with the mean, block by block (`recentred`),
// so it never stays with an outlier: what rounding x - origin costs is, over all x, a few units in the last place of the mean of
// |x|, whichever value came first. Blocks and then partial results are merged after Chan, Golub & LeVeque 1979.
//
// Squares are averaged, not summed. Where they leave float32's range all the same (`unsafe_squares`: deviations near 1e19, or
// below 3e-14 where eps is so small that it would matter) whoever measures does it once more in units of a power of two near the
// largest |x|, which scales exactly. An infinite value, or NaN, makes the deviation NaN and the mean what a plain sum gives; NaN
// is looked for by its bits, since WGSL may assume that there is none.

// Measure again below 1e-27 also: only where eps is so small that it would matter.
override SMALL_EPS: bool = false;

const LARGE_BITS = 0x7f800000u; // the exponent of infinity and NaN

fn is_special(v: vec4<f32>) -> vec4<bool> {
  return (bitcast<vec4<u32>>(v) & vec4<u32>(LARGE_BITS)) == vec4<u32>(LARGE_BITS);
}

// Whether a variance left the range where squares are good.
fn unsafe_squares(variance: vec4<f32>) -> vec4<bool> {
  return is_special(variance) | (vec4<bool>(SMALL_EPS) & (variance < vec4<f32>(1e-27)));
}

// A power of two such that size * scale is near 1, within what leaves room for squares and for eps.
fn scale_for(size: vec4<f32>) -> vec4<f32> {
  let exponent = clamp(bitcast<vec4<u32>>(size) >> vec4<u32>(23), vec4<u32>(77), vec4<u32>(207));
  let scale = bitcast<vec4<f32>>((vec4<u32>(254) - exponent) << vec4<u32>(23));
  return select(scale, vec4<f32>(1), size == vec4<f32>(0));
}

// 1 / scale for powers of two, exactly (division may be off by 2.5 ulp).
fn inverse_power(scale: vec4<f32>) -> vec4<f32> {
  return bitcast<vec4<f32>>(vec4<u32>(0x7f000000u) - bitcast<vec4<u32>>(scale));
}

// 1 / sqrt(v): inverseSqrt may be off by 2 ulp, one Newton step makes it good.
fn refined_inverse_sqrt(v: f32) -> f32 {
  let r = inverseSqrt(v);
  return r * (1.5 - 0.5 * v * r * r);
}

// v, as it is. No algebra of a compiler's sees through it.
fn opaque(v: vec4<f32>) -> vec4<f32> {
  let bits = bitcast<vec4<u32>>(v);
  let magnitude = min(bits & vec4<u32>(0x7fffffffu), vec4<u32>(0x7fc00000u)); // changes nothing but NaN
  return bitcast<vec4<f32>>(magnitude | (bits & vec4<u32>(0x80000000u)));
}

// v but for its last bit, for less. (x - origin) - offset, say, is then not made x - (origin + offset), as compilers may and some do.
fn curtailed(v: vec4<f32>) -> vec4<f32> {
  return bitcast<vec4<f32>>(bitcast<vec4<u32>>(v) & vec4<u32>(0xfffffffeu));
}

// a - b, of numbers that may be large against it.
fn difference(a: vec4<f32>, b: vec4<f32>) -> vec4<f32> {
  return curtailed(a - b);
}

struct Mean { origin: vec4<f32>, offset: vec4<f32> }

// The same mean with an origin next to it.
fn recentred(origin: vec4<f32>, offset: vec4<f32>) -> Mean {
  let next = curtailed(origin + offset);
  return Mean(next, difference(origin, next) + offset);
}

// The same at the end, with the origin that comes nearest: equal values have no offset.
fn settled(origin: f32, offset: f32) -> vec2<f32> {
  let next = opaque(vec4<f32>(origin + offset)).x;
  return vec2<f32>(next, (origin - next) + offset);
}

// Count, mean and standard deviation (biased) of four sets of values.
struct Tally { count: vec4<f32>, origin: vec4<f32>, offset: vec4<f32>, deviation: vec4<f32> }

// What is looked up of values that gave unsafe squares: the bits of the largest |x|, and their sum in some unit.
struct Extent { largest: vec4<u32>, total: vec4<f32> }

fn extended(e: Extent, x: vec4<f32>) -> Extent {
  return Extent(max(e.largest, bitcast<vec4<u32>>(x) & vec4<u32>(0x7fffffffu)), e.total + x * 5.4210109e-20);
}

// The tally, but where there is an infinite value or NaN.
fn with_specials(t: Tally, e: Extent) -> Tally {
  let special = e.largest >= vec4<u32>(LARGE_BITS);
  return Tally(
    t.count,
    select(t.origin, e.total, special),
    select(t.offset, vec4<f32>(0), special),
    select(t.deviation, bitcast<vec4<f32>>(e.largest | vec4<u32>(0x7fc00000u)), special),
  );
}

// The union of two sets of values, in units where squares stay in range. The origin lies between theirs, and differences to it
// are taken of quarters, so that nothing overflows.
fn combine(a: Tally, b: Tally) -> Tally {
  let count = a.count + b.count;
  let weight = b.count / max(count, vec4<f32>(1));
  let rest = 1 - weight;
  let origin = curtailed(a.origin * rest + b.origin * weight);
  let quarter = opaque(origin * 0.25);
  let qa = difference(opaque(a.origin * 0.25), quarter) + a.offset * 0.25;
  let qb = difference(opaque(b.origin * 0.25), quarter) + b.offset * 0.25;
  let scale = scale_for(max(abs(qb - qa), max(a.deviation, b.deviation)));
  let da = a.deviation * scale;
  let db = b.deviation * scale;
  let d = 4 * ((qb - qa) * scale);
  let offset = 4 * (qa + (qb - qa) * weight); // exactly that of both, if they are equal
  let variance = da * da * rest + db * db * weight + d * d * (weight * rest);
  return Tally(
    count,
    origin,
    select(offset, vec4<f32>(0), is_special(origin)),
    sqrt(variance) * inverse_power(scale),
  );
}
