import { describe, expect, it } from "vitest";
import { relu } from "../../src/ops/activations.ts";
import { batchNorm } from "../../src/ops/batch-norm/batch-norm.ts";
import { convTranspose2d } from "../../src/ops/conv-transpose2d.ts";
import type { Tensor } from "../../src/tensor/tensor.ts";
import { checkOp, type OpCase } from "../helpers/check-op.ts";
import { withChoices } from "../helpers/choices.ts";
import { testGpu } from "../helpers/gpu.ts";
import { batchNormReference } from "../reference/batch-norm.ts";
import {
  convTranspose2dReference,
  convTranspose2dReferenceGrad,
  type ReferenceConvTranspose,
} from "../reference/conv2d.ts";

const plain: Omit<ReferenceConvTranspose, "x" | "weight"> = {
  ...{ stride: [1, 1], padding: [0, 0, 0, 0], dilation: [1, 1], outputPadding: [0, 0], groups: 1 },
};
const convolutions: Record<string, ReferenceConvTranspose> = {
  "one pixel": { ...plain, x: [1, 1, 1, 1], weight: [1, 1, 1, 1] },
  "3×3, vec4s": { ...plain, x: [2, 4, 5, 8], weight: [8, 3, 3, 4], padding: [1, 1, 1, 1] },
  "4×4, stride 2: the decoder's": {
    ...{ ...plain, x: [2, 4, 3, 8], weight: [8, 4, 4, 16], stride: [2, 2], padding: [1, 1, 1, 1] },
  },
  "3×3, stride 2, output padding": {
    ...{ ...plain, x: [1, 3, 4, 3], weight: [3, 3, 3, 5], stride: [2, 2], padding: [1, 1, 1, 1] },
    outputPadding: [1, 1],
  },
  "all different": {
    ...{ ...plain, x: [2, 3, 4, 6], weight: [6, 2, 3, 2], stride: [3, 2], padding: [1, 0, 2, 1] },
    ...{ outputPadding: [2, 1], dilation: [2, 1], groups: 3 },
  },
  "output padding above the stride, below the dilation": {
    ...{ ...plain, x: [1, 3, 3, 4], weight: [4, 2, 2, 4], dilation: [3, 2], outputPadding: [2, 1] },
  },
  "groups, vec4s": { ...plain, x: [1, 4, 4, 8], weight: [8, 2, 2, 4], stride: [2, 2], groups: 2 },
  depthwise: {
    ...{ ...plain, x: [2, 3, 3, 8], weight: [8, 3, 3, 1], stride: [2, 2], padding: [1, 1, 1, 1], groups: 8 },
  },
  "one row, a stride past the output": {
    ...{ ...plain, x: [1, 1, 5, 4], weight: [4, 3, 1, 4], stride: [1000, 2], dilation: [1, 1] },
  },
  "stride above the filter: pixels that nothing reaches": {
    ...{ ...plain, x: [1, 3, 3, 4], weight: [4, 2, 2, 3], stride: [3, 4] },
  },
  "1×1 to many channels": { ...plain, x: [2, 5, 5, 16], weight: [16, 1, 1, 32] },
};

function caseOf(label: string, c: ReferenceConvTranspose, bias: boolean): OpCase {
  const { stride, padding, dilation, outputPadding, groups } = c;
  const inputs = { x: c.x, weight: c.weight, ...(bias && { bias: [c.weight[3] * groups] }) };
  return {
    label: `${label}${bias ? ", bias" : ""}`,
    inputs,
    run: (t) =>
      convTranspose2d(t.x!, t.weight!, {
        ...{ bias: t.bias ?? null, stride, padding, dilation, outputPadding, groups },
      }),
    reference: (x) => convTranspose2dReference(c, x as never),
    referenceGrad: (x, dy) => ({ ...convTranspose2dReferenceGrad(c, x as never, dy) }),
  };
}

describe("convTranspose2d", () => {
  for (const [label, c] of Object.entries(convolutions)) {
    it(label, async () => {
      await checkOp([caseOf(label, c, false), caseOf(label, c, true)]);
    });
  }

  // A compiled tile takes a processor seconds: one of each kind.
  it.each(["4×4, stride 2: the decoder's", "depthwise"])(
    "by the kernels of a GPU: %s",
    { timeout: 300_000 },
    async (label) => {
      const gpu = await testGpu();
      const info = gpu.info as { class: string };
      const outer = info.class;
      info.class = "hardware";
      try {
        await checkOp(caseOf(label, convolutions[label]!, true));
      } finally {
        info.class = outer;
      }
    },
  );

  it("takes one number for both directions, and [vertical, horizontal]", async () => {
    const gpu = await testGpu();
    gpu.scope(() => {
      const x = gpu.zeros([1, 5, 6, 3]);
      const weight = gpu.zeros([3, 3, 3, 2]);
      expect(convTranspose2d(x, weight).shape).toEqual([1, 7, 8, 2]);
      const options = { stride: 2, padding: [1, 0], outputPadding: 1 } as const;
      expect(convTranspose2d(x, weight, options).shape).toEqual([1, 10, 14, 2]);
    });
  });

  it("worked by hand: a pixel adds its filter, 2 from that of its neighbour", async () => {
    const gpu = await testGpu();
    const x = gpu.tensor([1, 10], [1, 1, 2, 1]);
    const weight = gpu.tensor([1, 2, 3], [1, 1, 3, 1]);
    const y = convTranspose2d(x, weight, { stride: [1, 2] });
    expect([...(await y.read())]).toEqual([1, 2, 3 + 10, 20, 30]);
    for (const tensor of [x, weight, y]) tensor.dispose();
  });

  it("between batch-norms: what is pending is worked out, by whoever is chosen to", async () => {
    const gpu = await testGpu();
    const c = convolutions["4×4, stride 2: the decoder's"]!;
    const { stride, padding } = c;
    const norm = (x: Tensor) => batchNorm(x, null, null, { training: true });
    const normalised = (x: Float64Array, channels: number) => {
      const eps = 1e-5;
      return batchNormReference({ count: x.length / channels, channels, eps, relu: false }, { x });
    };
    const one: OpCase = {
      label: "batchNorm, relu, convTranspose2d, batchNorm",
      inputs: { x: c.x, weight: c.weight },
      run: (t) => norm(convTranspose2d(relu(norm(t.x!)), t.weight!, { stride, padding })),
      reference(x) {
        const active = normalised(x.x!, 8).map((v) => Math.max(v, 0));
        return normalised(convTranspose2dReference(c, { x: active, weight: x.weight! }), 16);
      },
    };
    for (const folding of ["all", "none"] as const) {
      const quick = () => true;
      await withChoices(gpu, { family: "software", folding, seed: 3, quick }, () => checkOp(one));
    }
  });

  it("says what is wrong", async () => {
    const gpu = await testGpu();
    gpu.scope(() => {
      const x = gpu.zeros([1, 4, 4, 6]);
      const weight = gpu.zeros([6, 3, 3, 2]);
      const call = (options: object) => () => convTranspose2d(x, weight, options);
      expect(() => convTranspose2d(x, gpu.zeros([4, 3, 3, 2]))).toThrow(
        "convTranspose2d: weight [K, R, S, C/groups] has K = 4",
      );
      expect(call({ outputPadding: 2, stride: 2 })).toThrow(
        "convTranspose2d: outputPadding is 2, stride 2, dilation 1; expected less than the stride or the dilation",
      );
      expect(call({ outputPadding: -1 })).toThrow("outputPadding is -1; expected a non-negative integer");
      expect(call({ padding: "same" })).toThrow('padding is "same"; expected a non-negative integer');
      expect(call({ groups: 4 })).toThrow("groups is 4, x has K = 6 channels");
      expect(call({ padding: 3 })).toThrow("an output of 0 pixels; expected 1 to");
      expect(call({ stride: 2 ** 40 })).toThrow("use smaller strides and dilations");
      expect(call({ bias: gpu.zeros([3]) })).toThrow("bias is [3], the output [1, 6, 6, 2]");
      expect(call({ stride: 0 })).toThrow("convTranspose2d: stride is 0; expected a positive integer");
    });
  });
});
