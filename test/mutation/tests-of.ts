// Which tests `npm run mutate` runs for each module of shaders/, the most specific first. Of these files only the tests
// that use the module are run.

const conv2d = ["test/ops/conv2d.test.ts"];
const fused = ["test/ops/conv2d_fused_tile.test.ts", "test/ops/conv2d_fused_subgroup.test.ts"];
const activations = ["test/ops/activations.test.ts"];
const order = "test/ops/order.test.ts";
const batchNorm = [
  "test/ops/batch_norm.test.ts",
  order,
  "test/ops/batch_norm_folded.test.ts",
  "test/fusion/fusion.test.ts",
];

export const testsOf: Record<string, readonly string[]> = {
  accuracy: ["test/ops/accuracy.test.ts"],
  activation: activations,
  activation_gelu: activations,
  activation_gelu_tanh: activations,
  activation_hard_swish: activations,
  activation_leaky_relu: activations,
  activation_none: ["test/ops/batch_norm.test.ts"],
  activation_relu: activations,
  activation_relu6: activations,
  activation_silu: activations,
  alignment: ["test/train/probes.test.ts"],
  batch_norm: batchNorm,
  batch_norm_f16: ["test/ops/batch_norm.test.ts", order],
  batch_norm_f32: batchNorm,
  batch_norm_statistics: ["test/ops/batch_norm_statistics.test.ts", order],
  cast: ["test/ops/cast.test.ts"],
  conv2d: [...conv2d, ...fused, order],
  conv2d_depthwise: conv2d,
  conv2d_dy_gradient: fused,
  conv2d_dy_plain: [...fused, ...conv2d],
  conv2d_input_gradient: fused,
  conv2d_input_normalise: fused,
  conv2d_input_plain: [...fused, ...conv2d],
  conv2d_output_bias: [...fused, ...conv2d],
  conv2d_output_gradient: fused,
  conv2d_output_plain: [...fused, ...conv2d],
  conv2d_output_statistics: [...fused, order],
  conv2d_subgroup: [fused[1]!, ...conv2d],
  conv2d_tile: [fused[0]!, ...conv2d],
  copy: ["test/ops/copy.test.ts"],
  elementwise: ["test/ops/elementwise.test.ts"],
  gather_batch: ["test/data/loader.test.ts", "test/data/device-dataset.test.ts"],
  group_norm: ["test/ops/group_norm.test.ts", order],
  load_normalised: ["test/ops/pool2d.test.ts", "test/ops/reduce.test.ts"],
  load_plain: ["test/ops/pool2d.test.ts", "test/ops/reduce.test.ts"],
  matmul: ["test/ops/matmul.test.ts", "test/ops/linear.test.ts"],
  matmul_subgroup: ["test/ops/matmul.test.ts"],
  matmul_tile: ["test/ops/matmul.test.ts"],
  memory: ["test/core/memory.test.ts", "test/core/gpu.test.ts"],
  moments: ["test/ops/group_norm.test.ts", "test/ops/batch_norm.test.ts", order],
  pool2d: ["test/ops/pool2d.test.ts", order],
  probe: ["test/train/probes.test.ts"],
  reduce: ["test/ops/reduce.test.ts", order],
  sgd: ["test/optim/sgd.test.ts"],
  softmax: ["test/ops/softmax.test.ts", order],
  softmax_cross_entropy: ["test/ops/softmax_cross_entropy.test.ts", order],
  strided: ["test/ops/shapes.test.ts", "test/ops/elementwise.test.ts"],
  subsample: ["test/ops/subsample.test.ts"],
};
