// The networks of bench:peers, as lists of blocks, are those of the package.

import { expect, it } from "vitest";
import { folded, networkParameters, unitsOf } from "../../bench/lib/networks.ts";
import { optimizerSuite } from "../../bench/optimizer.bench.ts";
import { mobilenetV2 } from "../../src/nn/models/mobilenet.ts";
import { resnet18 } from "../../src/nn/models/resnet-imagenet.ts";
import { testGpu } from "../helpers/gpu.ts";

const gpu = await testGpu();

it.each([
  ["resnet18", resnet18],
  ["mobilenetV2", mobilenetV2],
] as const)("%s has the same parameters in the same order, and a norm for each unit", (name, make) => {
  const model = make(gpu, { images: "cifar" });
  const { parameters, running } = networkParameters(name, 10);
  expect(parameters.map(({ shape }) => shape)).toEqual(model.parameters().map(({ shape }) => [...shape]));
  expect(running).toHaveLength(unitsOf(name).length);
  if (name === "resnet18") {
    const [group] = optimizerSuite.groups(gpu, { quick: true, variants: false, batch: 0 });
    expect(group!.tensorBytes).toBe(4 * model.parameters().reduce((sum, { size }) => sum + size, 0));
  }
  // By hand: the second channel of the first unit.
  const [conv, gamma, beta] = parameters as [
    (typeof parameters)[0],
    (typeof parameters)[0],
    (typeof parameters)[0],
  ];
  const [{ weight, bias }] = folded(name, parameters, running) as [ReturnType<typeof folded>[0]];
  const factor = gamma.data[1]! / Math.sqrt(running[0]!.variance[1]! + 1e-5);
  expect(weight.data[27 + 4]).toBeCloseTo(conv.data[27 + 4]! * factor, 5);
  expect(bias[1]).toBeCloseTo(beta.data[1]! - running[0]!.mean[1]! * factor, 5);
  model.dispose();
});
