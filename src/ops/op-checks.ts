// What `defineOp` checks of an op: its definition when it is made; its inputs, and what its parts return, at each call.

import { ShapeError, UsageError } from "../errors.ts";
import type { Gpu } from "../gpu.ts";
import { checkArray, checkOptions, isPlain, optionNames, show } from "../options.ts";
import { checkTensor, type TensorRule } from "../tensor/check.ts";
import { checkDType, type DType } from "../tensor/dtype.ts";
import { formatShape, type Shape, sameShape } from "../tensor/shape.ts";
import { Tensor } from "../tensor/tensor.ts";
import type { Gradients, InputShapes, Inputs, OpDefinition, Saved, ShapesOf } from "./define-op.ts";
import { nchwHint } from "./nchw.ts";

/** `batch_norm` is the name in kernels and profiles, `batchNorm` in what users call and in messages. */
export function publicNameOf({ name }: { name: string }): string {
  return name.replace(/_([a-z])/g, (_, letter: string) => letter.toUpperCase());
}

const DEFINITION = optionNames<OpDefinition<InputShapes, unknown, { out: Shape }, Saved>>({
  ...{ name: 0, inputs: 0, dtypes: 0, infer: 0, forward: 0, backward: 0, sink: 0, passes: 0 },
});

/** What is checked of an op: its definition here and now; and later its inputs, and what its parts return. */
export function checksOf<I extends InputShapes, P, Plan extends { out: Shape }, S extends Saved>(
  definition: OpDefinition<I, P, Plan, S>,
) {
  checkOptions("customOp", definition, DEFINITION, "definition");
  const { name, inputs: patterns, forward, infer, backward } = definition;
  if (typeof name !== "string" || name === "") {
    throw new UsageError(`customOp: name is ${show(name)}; expected a string that is not empty`);
  }
  const publicName = publicNameOf(definition);
  const parts: [string, unknown][] = Object.entries({ infer, forward, ...(backward && { backward }) });
  for (const [part, value] of parts) {
    if (typeof value !== "function") {
      throw new UsageError(
        `${publicName}: ${part} is ${show(value)}; expected a function (see OpDefinition)`,
      );
    }
  }
  if (!isPlain(patterns) || Object.keys(patterns).length === 0) {
    throw new UsageError(
      `${publicName}: inputs is ${show(patterns)}; expected the shape of at least one input, such as { x: "N H W C" }`,
    );
  }
  for (const [input, pattern] of Object.entries(patterns)) {
    if (typeof pattern !== "string" || !/^(\.\.\.|[\w/]+( +[\w/]+)*)\??$/.test(pattern)) {
      throw new UsageError(
        `${publicName}: inputs.${input} is ${show(pattern)}; expected letters such as "N H W C", or "..." for any rank, ` +
          "with a ? at the end if it may be null",
      );
    }
  }
  checkOptions(publicName, definition.dtypes ?? {}, Object.keys(patterns), "dtypes");
  for (const dtypes of Object.values(definition.dtypes ?? {})) {
    checkArray(publicName, "dtypes", dtypes, "element types");
    for (const dtype of dtypes) checkDType(publicName, dtype);
  }
  const names = Object.keys(patterns);
  const letters = names
    .map((input) => [input, patterns[input]!.replace("?", "").trim().split(/\s+/)] as const)
    .filter(([, some]) => some[0] !== "...");
  const rules = names.map((input) => {
    const pattern = patterns[input]!;
    const any = pattern.startsWith("...");
    const orNull = pattern.endsWith("?");
    return {
      dtypes: definition.dtypes?.[input],
      shape: any ? undefined : symbols(pattern),
      orNull,
    } as TensorRule;
  });

  return {
    /** The first one. @throws ShapeError, UseAfterDisposeError */
    inputs(inputs: Inputs<I>): Tensor {
      checkOptions(publicName, inputs, names, "inputs");
      let first = -1;
      for (let i = 0; i < names.length; i += 1) {
        const input: unknown = inputs[names[i]!];
        if (input === null && rules[i]!.orNull) continue;
        checkTensor(publicName, names[i]!, input, rules[i]);
        if (first < 0) first = i;
        else if (input.gpu !== (inputs[names[first]!] as Tensor).gpu) {
          throw new ShapeError(
            `${publicName}: ${names[i]} is on another Gpu than ${names[first]}; expected all inputs on one`,
          );
        }
      }
      if (first < 0) throw new ShapeError(`${publicName}: no input tensor was given`);
      return inputs[names[first]!] as Tensor;
    },

    /** The size of each letter. @throws ShapeError */
    dims: (shapes: ShapesOf<I>) => bindDims(publicName, patterns, letters, shapes),

    /** @throws ShapeError for an output that no tensor can have, before anything is computed. */
    plan(plan: Plan, { gpu, dtype }: Tensor): void {
      if (plan === null || typeof plan !== "object") {
        throw new UsageError(`${publicName}: infer returned ${show(plan)}; expected { out: shape }`);
      }
      gpu.checkSize(publicName, plan.out, dtype, "output");
    },

    /** @throws UsageError unless forward gave what `OpDefinition` asks for. */
    result(result: { out: Tensor; saved: S }, plan: Plan, inputs: Inputs<I>, gpu: Gpu) {
      const wrong = (what: string, expected: string) =>
        new UsageError(`${publicName}: forward returned ${what}; expected ${expected}`);
      if (!isPlain(result)) throw wrong(show(result), "{ out, saved }");
      const { out, saved } = result;
      if (!(out instanceof Tensor)) throw wrong(`out ${show(out)}`, "a Tensor, such as ctx.empty(plan.out)");
      if (out.isDisposed) throw wrong("an out that is disposed", "a live tensor");
      if (out.gpu !== gpu) throw wrong("an out on another Gpu", "one on the Gpu of its inputs");
      if (!sameShape(out.shape, plan.out)) {
        throw wrong(`out ${formatShape(out.shape)}`, `${formatShape(plan.out)}, which infer promised`);
      }
      const same = names.find((input) => inputs[input] === out);
      if (same) throw wrong(`its input ${same} as out`, `another handle: ${same}.alias()`);
      if (out.node)
        throw wrong("the result of another op as out", "out cut off from the graph: out.detach()");
      if (!isPlain(saved)) throw wrong(`saved ${show(saved)}`, "an object: what backward needs, or {}");
      return result;
    },

    /**
     * `given`: the gradient that backward got, and what was saved.
     * @throws UsageError unless backward gave one gradient, or null, for each input, each by a handle of its own.
     */
    gradients(
      grads: Gradients<I>,
      given: readonly Tensor[],
      shapes: ShapesOf<I>,
      dtypes: readonly (DType | undefined)[],
      gpu: Gpu,
    ): Gradients<I> {
      const wrong = (what: string, expected: string) =>
        new UsageError(`${publicName}: backward returned ${what}; expected ${expected}`);
      const all = () => `one gradient, or null, for each of ${names.join(", ")}`;
      if (!isPlain(grads)) throw wrong(show(grads), all());
      for (const key in grads) if (!names.includes(key)) throw wrong(`a gradient of "${key}"`, all());
      for (let i = 0; i < names.length; i += 1) {
        const grad: unknown = grads[names[i]!];
        if (grad === null) continue;
        const problem = gradientProblem(grad, shapes[names[i]!] ?? null, dtypes[i], gpu);
        if (problem) throw wrong(`a gradient of ${names[i]} that is ${problem[0]}`, problem[1]);
        const other = names.slice(0, i).find((name) => grads[name] === grad);
        if (other !== undefined || given.includes(grad as Tensor)) {
          const whose = other === undefined ? "the one it got, or a saved tensor" : `also that of ${other}`;
          throw wrong(`a gradient of ${names[i]} that is ${whose}`, "another handle: alias() gives one");
        }
      }
      return grads;
    },
  };
}

/** What is wrong with a gradient, and what is expected; null if nothing is. */
function gradientProblem(
  grad: unknown,
  shape: Shape | null,
  dtype: DType | undefined,
  gpu: Gpu,
): [what: string, expected: string] | null {
  if (!(grad instanceof Tensor)) return [show(grad), "a Tensor or null"];
  if (grad.isDisposed) return ["disposed", "a live tensor"];
  if (grad.gpu !== gpu) return ["on another Gpu", "one on the Gpu of the inputs"];
  if (shape === null) return [show(grad), "null, as the input was null"];
  if (!sameShape(grad.shape, shape)) return [formatShape(grad.shape), formatShape(shape)];
  if (grad.dtype !== dtype) return [grad.dtype, `${dtype}, as the input`];
  return null;
}

/** Gives each letter the size that its first input has, and holds the other inputs to it. */
function bindDims(
  op: string,
  inputs: InputShapes,
  letters: readonly (readonly [input: string, letters: readonly string[]])[],
  shapes: Record<string, Shape | null>,
): Record<string, number> {
  const dims: Record<string, number> = {};
  const boundBy: Record<string, string> = {};
  for (const [name, some] of letters) {
    const shape = shapes[name];
    if (!shape) continue;
    some.forEach((letter, axis) => {
      const size = shape[axis]!;
      if (dims[letter] === undefined) {
        dims[letter] = size;
        boundBy[letter] = name;
      } else if (dims[letter] !== size) {
        const first = boundBy[letter]!;
        // A map's last letter is its channels.
        const isMap = letters.find(([input]) => input === first)![1].indexOf(letter) === 3;
        const hint = isMap ? nchwHint(first, shapes[first]!, size) : "";
        throw new ShapeError(
          `${op}: ${name} ${symbols(inputs[name]!)} has ${letter} = ${size}, ${first} ${symbols(inputs[first]!)} ` +
            `has ${letter} = ${dims[letter]}; expected ${name} with ${letter} = ${dims[letter]}, got ${formatShape(shape)}${hint}`,
        );
      }
    });
  }
  return dims;
}

function symbols(pattern: string): string {
  return `[${pattern.replace("?", "").trim().split(/\s+/).join(", ")}]`;
}
