// The public surface, for browsers and Node alike. In Node, `fusenorm/node` adds `requestGpu`, files and downloads.

export { enableGrad, isRecording, noGrad } from "./autograd/tape.ts";
export * from "./data/index.ts";
export * from "./errors.ts";
export type { Grid } from "./gpu/commands.ts";
export {
  type AdapterSummary,
  type Binding,
  type BufferRange,
  type DebugOptions,
  Gpu,
  type GpuOptions,
  type GpuRequestOptions,
  type GpuStats,
} from "./gpu/device.ts";
export type { KernelSpec } from "./gpu/kernel.ts";
export type { Plan } from "./gpu/plan.ts";
export type { KernelTiming } from "./gpu/profiler.ts";
export { type Init, initWeights } from "./nn/init.ts";
export * from "./nn/layers.ts";
export {
  BasicBlock,
  ResNetCifar,
  type ResNetCifarOptions,
  type ResNetNorm,
  resnetCifar,
} from "./nn/models/resnet.ts";
export { Module, type StateDict } from "./nn/module.ts";
export { customOp, defineOp, type Op, type OpContext, type OpDefinition } from "./ops/define-op.ts";
export type { DType } from "./tensor/dtype.ts";
export { Random, type Seed } from "./tensor/random.ts";
export type { Shape } from "./tensor/shape.ts";
export { Tensor, type TensorData, type TensorOptions } from "./tensor/tensor.ts";
export { type Checkpoint, decodeCheckpoint, encodeCheckpoint } from "./train/checkpoint.ts";
export {
  defaultTrainOptions,
  type EvalEntry,
  evaluate,
  type LogEntry,
  type RunCallbacks,
  Trainer,
  type TrainHistory,
  type TrainOptions,
  type TrainProgress,
} from "./train/trainer.ts";
