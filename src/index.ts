/**
 * The public surface, for browsers and Node alike. In Node, `fusenorm/node` adds `requestGpu`, files and downloads.
 * @module fusenorm
 */

export { checkpoint } from "./autograd/checkpoint.ts";
export { enableGrad, isRecording, noGrad } from "./autograd/tape.ts";
export { type AutotuneOptions, autotune, type TunedChoice } from "./autotune.ts";
export * from "./data/index.ts";
export type { AdapterSummary } from "./device/adapter.ts";
export type { Binding } from "./device/bindings.ts";
export type { BufferRange } from "./device/buffers.ts";
export type { Grid } from "./device/commands.ts";
export type { KernelSpec } from "./device/kernels.ts";
export type { KernelTiming } from "./device/profiler.ts";
export * from "./errors.ts";
export * from "./formats/index.ts";
/** The package's WGSL modules, for `gpu.run`, `customOp` and kernels of your own that link them. */
export * as shaders from "./generated/shaders.ts";
export {
  type DebugOptions,
  type DispatchNote,
  Gpu,
  type GpuOptions,
  type GpuRequestOptions,
  type GpuStats,
} from "./gpu.ts";
export {
  BatchNorm1d,
  BatchNorm2d,
  type BatchNorm2dOptions,
  type BatchNormTail,
  freezeBatchNorm,
} from "./nn/batch-norm.ts";
export {
  Dropout,
  Dropout2d,
  type DropoutLayerOptions,
  StochasticDepth,
} from "./nn/dropout.ts";
export { type FoldedBatchNorms, foldBatchNorm } from "./nn/fold.ts";
export { type Init, initWeights, manualSeed } from "./nn/init.ts";
export {
  AdaptiveAvgPool2d,
  AvgPool2d,
  Conv2d,
  type Conv2dLayerOptions,
  ConvTranspose2d,
  type ConvTranspose2dLayerOptions,
  Flatten,
  GELU,
  GlobalAvgPool2d,
  Hardswish,
  Identity,
  type InitOptions,
  LeakyReLU,
  Linear,
  LogSoftmax,
  MaxPool2d,
  ReLU,
  ReLU6,
  Sequential,
  Sigmoid,
  SiLU,
  Softmax,
  Softplus,
  Tanh,
  Upsample,
} from "./nn/layers.ts";
export type { ImageKind, ImageNetworkOptions } from "./nn/models/image-options.ts";
export { type MobileNetV2, type MobileNetV2Options, mobilenetV2 } from "./nn/models/mobilenet.ts";
export {
  type BasicBlock,
  type PreActBlock,
  plainCifar,
  preactResnetCifar,
  type ResNetCifar,
  type ResNetCifarOptions,
  type ResNetCifarSettings,
  type ResNetNorm,
  type ResNetShortcut,
  resnetCifar,
} from "./nn/models/resnet.ts";
export {
  type ResNet,
  type ResNetOptions,
  resnet18,
  resnet34,
  resnet50,
} from "./nn/models/resnet-imagenet.ts";
export { type VGG, type VGGOptions, vgg11, vgg13, vgg16 } from "./nn/models/vgg.ts";
export { type ForwardHook, type LoadOptions, type LoadReport, Module, type StateDict } from "./nn/module.ts";
export {
  GroupNorm,
  type GroupNormOptions,
  InstanceNorm2d,
  type InstanceNorm2dOptions,
  LayerNorm,
  type LayerNormOptions,
} from "./nn/norms.ts";
export type { LayerSummary, Summary } from "./nn/summary.ts";
export { weightNorm } from "./nn/weight-norm.ts";
export { accuracy } from "./ops/accuracy.ts";
export {
  type Activation,
  type GeluOptions,
  gelu,
  hardSwish,
  type LeakyReluOptions,
  leakyRelu,
  relu,
  relu6,
  silu,
} from "./ops/activations.ts";
export { adaptiveAvgPool2d, type OutputSize } from "./ops/adaptive-pool2d.ts";
export { type BatchNormOptions, batchNorm } from "./ops/batch-norm/batch-norm.ts";
export { batchNormComposed } from "./ops/batch-norm/composed.ts";
export {
  batchNormStatistics,
  mergeStatistics,
  type SyncBatchNormOptions,
  syncBatchNorm,
} from "./ops/batch-norm/statistics.ts";
export { cast } from "./ops/cast.ts";
export { concat, concatChannels } from "./ops/concat.ts";
export { type ConvTranspose2dOptions, convTranspose2d } from "./ops/conv-transpose2d.ts";
export { type Conv2dOptions, conv2d } from "./ops/conv2d/conv2d.ts";
export {
  customOp,
  customOp as defineOp,
  type Op,
  type OpContext,
  type OpDefinition,
} from "./ops/define-op.ts";
export {
  type DropoutOptions,
  dropout,
  dropout2d,
  type StochasticDepthMode,
  type StochasticDepthOptions,
  stochasticDepth,
} from "./ops/dropout.ts";
export { eq, ge, gt, le, lt, ne, where } from "./ops/elementwise/compare.ts";
export {
  add,
  div,
  expand,
  maximum,
  minimum,
  mul,
  normalize,
  scale,
  sub,
} from "./ops/elementwise/elementwise.ts";
export {
  type BatchNormBuffers,
  type BatchNormBytes,
  type BatchNormGradientBuffers,
  batchNormBytes,
  type EncodeBatchNormOptions,
  encodeBatchNorm,
  encodeBatchNormBackward,
} from "./ops/encode/batch-norm.ts";
export {
  type Conv2dBuffers,
  type Conv2dBytes,
  type Conv2dGradInputBuffers,
  type Conv2dGradWeightBuffers,
  type Conv2dShapes,
  conv2dBytes,
  type EncodeConv2dOptions,
  encodeConv2d,
  encodeConv2dGradInput,
  encodeConv2dGradWeight,
} from "./ops/encode/conv2d.ts";
export {
  type EncodeBuffer,
  type EncodeOptions,
  type EncodeTarget,
  releaseEncoders,
} from "./ops/encode/encoding.ts";
export { groupNorm } from "./ops/group-norm/group-norm.ts";
export { layerNorm } from "./ops/group-norm/layer-norm.ts";
export { type InterpolateOptions, interpolate } from "./ops/interpolate.ts";
export * from "./ops/layout.ts";
export { linear } from "./ops/linear.ts";
export {
  type BceWithLogitsOptions,
  bceWithLogits,
  type HuberLossOptions,
  huberLoss,
  type LossOptions,
  l1Loss,
  mseLoss,
  type SmoothL1LossOptions,
  smoothL1Loss,
} from "./ops/losses.ts";
export { type MatmulOptions, matmul } from "./ops/matmul/matmul.ts";
export { pad, pad2d } from "./ops/pad.ts";
export { permute, transpose } from "./ops/permute.ts";
export {
  type AvgPool2dOptions,
  avgPool2d,
  globalAvgPool2d,
  type MaxPool2dOptions,
  maxPool2d,
  type Pool2dOptions,
} from "./ops/pool2d.ts";
export { argmax, argmin, max, min } from "./ops/reduce/extremes.ts";
export { mean, type ReduceAxesOptions, sum, type VarianceOptions, variance } from "./ops/reduce/reduce.ts";
export { flatten, reshape } from "./ops/reshape.ts";
export { slice } from "./ops/slice.ts";
export { logSoftmax, softmax } from "./ops/softmax/softmax.ts";
export { type SoftmaxCrossEntropyOptions, softmaxCrossEntropy } from "./ops/softmax/softmax-cross-entropy.ts";
export { type SubsampleOptions, subsample } from "./ops/subsample.ts";
export {
  abs,
  clamp,
  exp,
  log,
  neg,
  pow,
  rsqrt,
  type SoftplusOptions,
  sigmoid,
  softplus,
  sqrt,
  tanh,
} from "./ops/unary.ts";
export { Adam, type AdamOptions, AdamW } from "./optim/adam.ts";
export { EMA, type EMAOptions, type ImageBatch, SWA, updateBatchNorm } from "./optim/average.ts";
export { type ClipGradNormOptions, clipGradNorm, clipGradValue } from "./optim/clip.ts";
export {
  type LearningRateFinderOptions,
  type LearningRateRange,
  learningRateFinder,
} from "./optim/finder.ts";
export { decayGroups } from "./optim/groups.ts";
export { JointOptimizer } from "./optim/joint.ts";
export { Muon, type MuonOptions } from "./optim/muon.ts";
export { Optimizer, type OptimizerGroup, type ParameterGroup, type Parameters } from "./optim/optimizer.ts";
export { RMSprop, type RMSpropOptions } from "./optim/rmsprop.ts";
export {
  constant,
  cosine,
  multiStep,
  type OneCycleOptions,
  type OnPlateauOptions,
  oneCycle,
  onPlateau,
  polynomial,
  type Schedule,
  stepDecay,
  warmup,
} from "./optim/schedule.ts";
export { SGD, type SGDOptions } from "./optim/sgd.ts";
export type { Plan } from "./plan.ts";
export type { DType } from "./tensor/dtype.ts";
export { newGenerator } from "./tensor/generator.ts";
export { Random, type Seed } from "./tensor/random.ts";
export type { Shape } from "./tensor/shape.ts";
export { Tensor, type TensorData, type TensorOptions } from "./tensor/tensor.ts";
export {
  type BestCheckpoint,
  type BestCheckpointOptions,
  bestCheckpoint,
  type EarlyStoppingOptions,
  earlyStopping,
  type MonitorOptions,
  type RunCallbacks,
  type TrainerCallback,
  type TrainProgress,
} from "./train/callbacks.ts";
export { type Checkpoint, decodeCheckpoint, encodeCheckpoint } from "./train/checkpoint.ts";
export { type Criteria, type Criterion, evaluate } from "./train/evaluate.ts";
export type { BatchLoader, HostBatch } from "./train/feed.ts";
export { csvLog, jsonLinesLog, type LogWriter } from "./train/logs.ts";
export type { NetworkName } from "./train/networks.ts";
export * from "./train/probes.ts";
export { type RecipeStart, RecipeTrainer } from "./train/recipe.ts";
export {
  type DeviceLoss,
  type RecoveredRun,
  type RecoveryOptions,
  trainThroughLosses,
} from "./train/recovery.ts";
export type { EvalEntry, LogEntry, TestMetrics, TrainHistory } from "./train/run-state.ts";
export {
  argmaxCounts,
  describe,
  type Histogram,
  histogram,
  median,
  orderStatistic,
  rowCosines,
  squaredDistance,
  type TensorStatistics,
} from "./train/statistics.ts";
export { defaultTrainOptions, type TrainOptions } from "./train/train-options.ts";
export { Trainer } from "./train/trainer.ts";
export type { TrainerData, TrainerOptions, TrainerSchedule } from "./train/trainer-options.ts";
export type {} from "./webgpu-names.ts";
