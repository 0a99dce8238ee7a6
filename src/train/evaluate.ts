import { noGrad } from "../autograd/tape.ts";
import { DataError, UsageError } from "../errors.ts";
import type { Gpu } from "../gpu.ts";
import { Module } from "../nn/module.ts";
import { accuracy } from "../ops/accuracy.ts";
import { scale } from "../ops/elementwise/elementwise.ts";
import { softmaxCrossEntropy } from "../ops/softmax/softmax-cross-entropy.ts";
import { checkFunction, checkInstance, checkOptions, isPlain, optionNames, show } from "../options.ts";
import { checkGpu, checkTensor } from "../tensor/check.ts";
import { formatShape } from "../tensor/shape.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { type BatchLoader, checkBatch, isLoader } from "./feed.ts";
import { type TestMetrics, testName } from "./run-state.ts";

/** Of what a model gave for a batch and the batch's labels: a tensor of one number. */
export type Criterion = (output: Tensor, labels: Tensor) => Tensor;

/** How outputs are judged. */
export interface Criteria<K extends string = "accuracy"> {
  /** A mean over the batch. Default `softmaxCrossEntropy`. */
  loss?: Criterion;
  /** By name: each a sum over the rows of a batch, which is divided by their number. Default `{ accuracy }`. */
  metrics?: Record<K, Criterion>;
}

const OPTIONS = optionNames<Criteria>({ loss: 0, metrics: 0 });

/** Of other numbers of a reading, or of what callbacks are told with it. */
const TAKEN = ["step", "epoch", "loss", "maxLoss", "lr", "totalSteps", "imagesPerSecond", "secondsLeft"];

const crossEntropy: Criterion = (output, labels) => softmaxCrossEntropy(output, labels);

/**
 * A label that a network has no logit for can't be seen from the host: its loss would be NaN.
 * @throws UsageError for logits of fewer classes than the images have
 */
export function checkClasses(op: string, loss: Criterion, output: Tensor, classes: number | undefined): void {
  if (loss !== crossEntropy && loss !== softmaxCrossEntropy) return;
  if (classes === undefined || output.rank !== 2 || output.shape[1]! >= classes) return;
  throw new UsageError(
    `${op}: the model gives ${formatShape(output.shape)} for a batch, the images have ${classes} classes; expected a logit for each, ` +
      `such as a last layer of ${classes} outputs`,
  );
}

/** The criteria with their defaults. @throws UsageError */
export function checkedCriteria(
  op: string,
  { loss = crossEntropy, metrics = { accuracy } }: Criteria<string>,
): Required<Criteria<string>> {
  checkFunction(op, "loss", loss);
  if (!isPlain(metrics)) {
    throw new UsageError(`${op}: metrics is ${show(metrics)}; expected functions by name: { accuracy }`);
  }
  const testNames = new Set(["testLoss"]);
  for (const [name, metric] of Object.entries(metrics)) {
    checkFunction(op, `metrics.${name}`, metric);
    if (!/^[a-z]\w*$/i.test(name) || TAKEN.includes(name)) {
      throw new UsageError(
        `${op}: a metric has the name ${show(name)}; expected letters and digits, and another than ${TAKEN.slice(0, -1).join(", ")} and ${TAKEN.at(-1)}`,
      );
    }
    if (testNames.has(testName(name))) {
      throw new UsageError(
        `${op}: a metric has the name ${show(name)}, and so would be ${testName(name)} in evaluations, which there is already; expected another`,
      );
    }
    testNames.add(testName(name));
  }
  return { loss, metrics };
}

/** @throws ShapeError, UsageError unless a criterion gave one number. */
export function checkNumberTensor(op: string, what: string, value: unknown): Tensor {
  checkTensor(op, `what ${what} gave`, value);
  if (value.size !== 1) {
    throw new UsageError(`${op}: ${what} gave ${formatShape(value.shape)}; expected one number`);
  }
  return value;
}

/**
 * Mean loss and metrics over every batch of `loader`, in inference mode: `testLoss`, `testAccuracy`. The modes of the model's
 * layers are afterwards as they were.
 */
export async function evaluate<K extends string = "accuracy">(
  gpu: Gpu,
  model: Module,
  loader: BatchLoader,
  criteria: Criteria<K> = {},
): Promise<{ testLoss: number } & TestMetrics<K>> {
  checkGpu("evaluate", gpu);
  checkInstance("evaluate", "model", model, Module);
  if (!isLoader(loader)) {
    throw new UsageError(
      `evaluate: loader is ${show(loader)}; expected a DataLoader, or another object with batchSize, batchesPerEpoch and epoch()`,
    );
  }
  checkOptions("evaluate", criteria, OPTIONS);
  const { loss, metrics } = checkedCriteria("evaluate", criteria as Criteria<string>);
  const sums: [string, Tensor][] = [];
  const sumOf = (name: string) => {
    const sum = gpu.keep(gpu.zeros([1]));
    sums.push([name, sum]);
    return sum;
  };
  const lossSum = sumOf("testLoss");
  const metricSums = Object.entries(metrics).map(([name, metric]) => {
    return { name, metric, sum: sumOf(testName(name)) };
  });
  const modes = [...model.modules()].map(([, module]) => [module, module.training] as const);
  model.eval();
  let count = 0;
  let batches = 0;
  try {
    for await (const given of loader.epoch(0)) {
      const batch = checkBatch(given);
      const { images, shape, labels: values, labelShape = [values.length] } = batch;
      const rows = shape[0]!;
      noGrad(() =>
        gpu.scope(() => {
          const dtype = values instanceof Uint32Array ? "uint32" : "float32";
          const labels = gpu.tensor(values, labelShape, { dtype });
          const output = model.forward(gpu.tensor(images, shape));
          const mean = checkNumberTensor("evaluate", "loss", loss(output, labels));
          gpu.accumulate(lossSum, scale(mean, rows));
          for (const { name, metric, sum } of metricSums) {
            gpu.accumulate(sum, checkNumberTensor("evaluate", `metrics.${name}`, metric(output, labels)));
          }
        }),
      );
      count += rows;
      batches += 1;
    }
    if (batches < loader.batchesPerEpoch) {
      throw new DataError(
        `evaluate: the loader's epoch ended with batch ${batches}; expected ${loader.batchesPerEpoch} batches, as its batchesPerEpoch says`,
      );
    }
    const result: Record<string, number> = {};
    for (const [name, sum] of sums) result[name] = (await sum.item()) / count;
    return result as { testLoss: number } & TestMetrics<K>;
  } finally {
    for (const [module, training] of modes) module.training = training;
    for (const [, sum] of sums) sum.dispose();
  }
}
