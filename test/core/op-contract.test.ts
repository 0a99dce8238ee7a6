// What customOp refuses: definitions that are none, and forwards and backwards that do not keep the contract.

import { describe, expect, it } from "vitest";
import { FusenormError, UsageError } from "../../src/errors.ts";
import { requestGpu } from "../../src/node/request.ts";
import { customOp } from "../../src/ops/define-op.ts";
import { mul } from "../../src/ops/elementwise/elementwise.ts";
import type { Tensor } from "../../src/tensor/tensor.ts";
import { testGpu } from "../helpers/gpu.ts";

// biome-ignore lint/suspicious/noExplicitAny: the definitions here are wrong on purpose
type Loose = any;

/** The identity, by a copy; `parts` replaces some of it. */
const definition = (parts: Loose = {}): Loose => ({
  name: "same_again",
  inputs: { x: "...", y: "...?" },
  infer: ({ x }: Loose) => ({ out: x }),
  forward: (ctx: Loose, _inputs: Loose, plan: Loose) => ({ out: ctx.empty(plan.out), saved: {} }),
  backward: (ctx: Loose) => ({ x: ctx.grad("x"), y: null }),
  ...parts,
});

describe("customOp", () => {
  it.each<[string, Loose, RegExp]>([
    ["nothing", undefined, /^customOp: definition is undefined; expected/],
    ["a function", () => 1, /^customOp: definition is a function|^customOp: definition is the function/],
    ["no name", definition({ name: undefined }), /^customOp: name is undefined/],
    ["an empty name", definition({ name: "" }), /^customOp: name is ""/],
    ["no infer", definition({ infer: undefined }), /^sameAgain: infer is undefined; expected a function/],
    ["no forward", definition({ forward: null }), /^sameAgain: forward is null/],
    ["a backward that is none", definition({ backward: 5 }), /^sameAgain: backward is 5/],
    ["no inputs", definition({ inputs: {} }), /^sameAgain: inputs is \{\}/],
    ["inputs as a list", definition({ inputs: ["x"] }), /^sameAgain: inputs is \["x"\]/],
    ["a shape that is none", definition({ inputs: { x: [2, 3] } }), /^sameAgain: inputs\.x is \[2, 3\]/],
    ["a shape without letters", definition({ inputs: { x: "N, C" } }), /^sameAgain: inputs\.x is "N, C"/],
    ["types of no input", definition({ dtypes: { z: ["uint32"] } }), /there is no option "z"/],
    [
      "an unknown type",
      definition({ dtypes: { x: ["float64"] } }),
      /dtype is "float64"; .*did you mean "float32"/,
    ],
    ["a type that is no list", definition({ dtypes: { x: "uint32" } }), /^sameAgain: dtypes is "uint32"/],
    [
      "an unknown part",
      definition({ forwards: () => 1 }),
      /there is no option "forwards"; did you mean "forward"/,
    ],
  ])("refuses a definition with %s", (_what, given, message) => {
    expect(() => customOp(given)).toThrow(message);
    expect(() => customOp(given)).toThrow(FusenormError);
  });

  it("refuses what a forward must not return, and frees what it made", async () => {
    const gpu = await testGpu();
    const other = await requestGpu();
    const x = gpu.keep(gpu.full([2, 3], 0.5));
    const elsewhere = other.zeros([2, 3]);
    const wrong: [Loose, RegExp][] = [
      [(ctx: Loose) => ctx.empty([2, 3]), /forward returned a Tensor \[2, 3\]; expected \{ out, saved \}/],
      [() => undefined, /forward returned undefined/],
      [() => ({ out: [1, 2], saved: {} }), /forward returned out \[1, 2\]; expected a Tensor/],
      [
        (ctx: Loose) => ({ out: ctx.empty([3, 2]), saved: {} }),
        /out \[3, 2\]; expected \[2, 3\], which infer promised/,
      ],
      [(ctx: Loose) => ({ out: ctx.empty([2, 3]) }), /forward returned saved undefined/],
      [
        (_: Loose, inputs: Loose) => ({ out: inputs.x, saved: {} }),
        /its input x as out; expected .*x\.alias\(\)/,
      ],
      [() => ({ out: elsewhere, saved: {} }), /an out on another Gpu/],
      [
        (ctx: Loose) => {
          const out = ctx.empty([2, 3]);
          out.dispose();
          return { out, saved: {} };
        },
        /an out that is disposed/,
      ],
    ];
    const before = gpu.stats.liveBuffers;
    for (const [forward, message] of wrong) {
      const op = customOp(definition({ forward })) as Loose;
      expect(() => op({ x, y: null }, {})).toThrow(message);
      expect(() => op({ x, y: null }, {})).toThrow(/^sameAgain: /);
      expect(() => op({ x, y: null }, {})).toThrow(UsageError);
      expect(gpu.stats.liveBuffers).toBe(before);
    }
    x.dispose();
    other.destroy();
  });

  it("refuses an infer without an output, or with one that no buffer holds, before forward runs", async () => {
    const gpu = await testGpu();
    const x = gpu.keep(gpu.full([2, 3], 0.5));
    for (const out of [undefined, 5, [0], [1.5], [1e6, 1e6]]) {
      let ran = false;
      const forward = () => {
        ran = true;
      };
      const op = customOp(definition({ infer: () => ({ out }), forward })) as Loose;
      expect(() => op({ x, y: null }, {})).toThrow(/^sameAgain: output/);
      expect(ran).toBe(false);
    }
    const nothing = customOp(definition({ infer: () => null })) as Loose;
    expect(() => nothing({ x, y: null }, {})).toThrow(/^sameAgain: infer returned null/);
    x.dispose();
  });

  it("refuses inputs that are missing, unknown or wrong", async () => {
    const gpu = await testGpu();
    const op = customOp(definition()) as Loose;
    const x = gpu.keep(gpu.full([2, 3], 0.5));
    expect(() => op(x, {})).toThrow(/^sameAgain: inputs is a Tensor \[2, 3\]; expected an object of x, y/);
    expect(() => op({ y: null }, {})).toThrow(/^sameAgain: x is undefined; expected a Tensor/);
    expect(() => op({ x, y: null, z: x }, {})).toThrow(/^sameAgain: there is no option "z"/);
    expect(() => op({ x, y: 5 }, {})).toThrow(/^sameAgain: y is 5; expected a Tensor, or null/);
    x.dispose();
  });

  it("refuses a gradient by a handle that is somebody else's, and takes others on the same elements", async () => {
    const gpu = await testGpu();
    const [x, y] = [0.5, 2].map((value) => gpu.keep(gpu.full([2, 3], value, { requiresGrad: true })));
    const ones = gpu.keep(gpu.full([2, 3], 1));
    const forward = (ctx: Loose, inputs: Loose, plan: Loose) => ({
      out: ctx.empty(plan.out),
      saved: { of: inputs.x, list: [[inputs.y]] },
    });
    const run = (backward: Loose) =>
      gpu.scope(() => (customOp(definition({ forward, backward })) as Loose)({ x, y }, {}).backward(ones));
    const before = gpu.stats.liveBuffers;
    const given = /a gradient of \w that is the one it got, or a saved tensor; expected another handle/;
    expect(() => run((_: Loose, grad: Tensor) => ({ x: grad, y: null }))).toThrow(given);
    expect(() => run((_: Loose, _grad: Tensor, { of }: Loose) => ({ x: of, y: null }))).toThrow(given);
    expect(() => run((_: Loose, _grad: Tensor, { list }: Loose) => ({ x: null, y: list[0][0] }))).toThrow(
      given,
    );
    const twice = (ctx: Loose) => {
      const both = ctx.grad("x");
      return { x: both, y: both };
    };
    expect(() => run(twice)).toThrow(/a gradient of y that is also that of x; expected another handle/);
    expect([x!.grad, y!.grad]).toEqual([null, null]);
    run((_: Loose, grad: Tensor, { list }: Loose) => ({ x: list[0][0].alias(), y: grad.alias() }));
    x!.grad!.fill(5);
    expect([...(await y!.grad!.read())]).toEqual(Array(6).fill(1));
    expect([...(await ones.read())]).toEqual(Array(6).fill(1));
    for (const t of [x, y]) t!.zeroGrad();
    expect(gpu.stats.liveBuffers).toBe(before);
    for (const t of [x, y, ones]) t!.dispose();
  });

  it("holds and watches saved tensors in lists", async () => {
    const gpu = await testGpu();
    const op = customOp(
      definition({
        forward: (ctx: Loose, { x }: Loose, plan: Loose) => {
          const made = ctx.empty(plan.out);
          gpu.copyRange(x.range, made.range);
          return { out: ctx.empty(plan.out), saved: { list: [[made], x, 5] } };
        },
        backward: (_: Loose, grad: Tensor, { list }: Loose) => {
          expect(list[2]).toBe(5);
          return { x: mul(grad, mul(list[0][0], list[1])).detach(), y: null };
        },
      }),
    ) as Loose;
    const before = gpu.stats.liveBuffers;
    const leaf = () => gpu.keep(gpu.full([2, 3], 3, { requiresGrad: true }));
    const [x, ones] = [leaf(), gpu.keep(gpu.full([2, 3], 1))];
    const [first, late] = [op({ x, y: null }, {}), op({ x, y: null }, {})];
    first.backward(ones);
    expect([...(await x.grad!.read())]).toEqual(Array(6).fill(9));
    x.fill(4);
    expect(() => late.backward(ones)).toThrow(/sameAgain backward: list\[1\] was overwritten/);
    for (const t of [first, late, x, ones]) t.dispose();
    expect(gpu.stats.liveBuffers).toBe(before);
  });

  it("refuses gradients that are missing, too many, or of another shape or type, and frees what there is", async () => {
    const gpu = await testGpu();
    const x = gpu.keep(gpu.full([2, 3], 0.5, { requiresGrad: true }));
    const loose = gpu.keep(gpu.zeros([2, 3]));
    loose.dispose();
    const wrong: [(ctx: Loose) => unknown, RegExp][] = [
      [
        (ctx) => ctx.grad("x"),
        /backward returned a Tensor \[2, 3\]; expected one gradient, or null, for each of x, y/,
      ],
      [() => undefined, /backward returned undefined/],
      [(ctx) => ({ x: ctx.grad("x") }), /a gradient of y that is undefined; expected a Tensor or null/],
      [(ctx) => ({ x: ctx.grad("x"), y: null, z: null }), /a gradient of "z"/],
      [() => ({ x: 1, y: null }), /a gradient of x that is 1/],
      [(ctx) => ({ x: ctx.empty([3, 2]), y: null }), /a gradient of x that is \[3, 2\]; expected \[2, 3\]/],
      [
        (ctx) => ({ x: ctx.empty([2, 3], "float16"), y: null }),
        /a gradient of x that is float16; expected float32/,
      ],
      [
        (ctx) => ({ x: ctx.grad("x"), y: ctx.empty([2, 3]) }),
        /a gradient of y that is a Tensor .*; expected null/,
      ],
      [() => ({ x: loose, y: null }), /a gradient of x that is disposed/],
    ];
    const before = gpu.stats.liveBuffers;
    for (const [backward, message] of wrong) {
      const op = customOp(definition({ backward })) as Loose;
      gpu.scope(() => {
        const y: Tensor = op({ x, y: null }, {});
        expect(() => y.backward(gpu.full([2, 3], 1))).toThrow(message);
      });
      expect(gpu.stats.liveBuffers).toBe(before);
      expect(x.grad).toBe(null);
    }
    x.dispose();
  });
});
