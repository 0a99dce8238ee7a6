/** out [m, n] = a·b + bias in float64; a [m, k] or, transposed, [k, m]; b [k, n] or [n, k]. */
export function matmulReference(
  [m, n, k]: readonly [number, number, number],
  { a, b, bias }: { a: Float64Array; b: Float64Array; bias?: Float64Array },
  { transposeA = false, transposeB = false } = {},
): Float64Array {
  const out = new Float64Array(m * n);
  for (let i = 0; i < m; i += 1)
    for (let j = 0; j < n; j += 1) {
      let sum = bias ? bias[j]! : 0;
      for (let l = 0; l < k; l += 1) {
        sum += a[transposeA ? l * m + i : i * k + l]! * b[transposeB ? j * k + l : l * n + j]!;
      }
      out[i * n + j] = sum;
    }
  return out;
}
