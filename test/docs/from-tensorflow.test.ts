// docs/guide/from-tensorflow.md: what it says of TensorFlow.js is in its packages, and what it says is here is here.

import * as tfcore from "@tensorflow/tfjs-core";
import "@tensorflow/tfjs-backend-cpu";
import * as tflayers from "@tensorflow/tfjs-layers";
import { afterAll, describe, expect, it } from "vitest";
import { codeOf, isIn, nameOf, ourNames, rowsOf } from "./tables.ts";

const PAGE = "docs/guide/from-tensorflow.md";

describe("coming from TensorFlow.js", async () => {
  const ours = await ourNames();
  afterAll(() => ours.dispose());
  // As the package `@tensorflow/tfjs` puts them together.
  const tf = { ...tfcore, ...tflayers };
  const optimizer = tfcore.train.sgd(0.1);
  const theirs = [
    { tf, optimizer, t: tfcore.scalar(1), model: tflayers.sequential(), layer: tflayers.layers.flatten() },
  ];

  it.each(rowsOf(PAGE, 3).map(({ line, cells }) => ({ line, title: cells[0]!, cells })))(
    "$line: $title",
    ({ cells }) => {
      const [there, here] = cells as [string, string, string];
      expect(codeOf(there).length).toBeGreaterThan(0);
      for (const code of codeOf(there)) expect(isIn(theirs, nameOf(code)!), code).toBe(true);
      const names = codeOf(here)
        .filter((code) => !code.startsWith("fusenorm/"))
        .map((code) => nameOf(code)!);
      expect(names.length).toBeGreaterThan(0);
      for (const name of names) expect(name.startsWith(".") || isIn(ours.roots, name), name).toBe(true);
    },
  );

  it("has its defaults right", async () => {
    const norm = tflayers.layers.batchNormalization().getConfig();
    expect([norm.momentum, norm.epsilon]).toEqual([0.99, 1e-3]);
    const { padding, kernelSize } = tflayers.layers.conv2d({ filters: 2, kernelSize: 3 }).getConfig();
    expect(padding).toBe("valid");
    expect(kernelSize).toEqual([3, 3]);
    const conv = tflayers.layers.conv2d({ filters: 2, kernelSize: [3, 5], inputShape: [8, 8, 4] });
    tflayers.sequential({ layers: [conv] });
    expect(conv.getWeights()[0]!.shape).toEqual([3, 5, 4, 2]);
    expect(tfcore.memory()).toHaveProperty("numTensors");
    // One-hot labels come first: with logits there the loss would be another.
    const [labels, logits] = [tfcore.tensor2d([[1, 0]]), tfcore.tensor2d([[3, 0]])];
    const [loss] = await tfcore.losses.softmaxCrossEntropy(labels, logits).data();
    expect(loss).toBeCloseTo(Math.log(1 + Math.exp(-3)), 5);
  });

  it("would notice", () => {
    for (const name of ["tf.tensr", "tf.layers.conv", "t.read", "optimizer.step"]) {
      expect(isIn(theirs, name)).toBe(false);
    }
  });
});
