import { ShapeError, UsageError } from "../errors.ts";
import type { StateDict } from "../nn/module.ts";
import { isPlain, show } from "../options.ts";
import { formatShape } from "../tensor/shape.ts";
import { Optimizer, type OptimizerGroup } from "./optimizer.ts";

/**
 * Several optimizers as one, each with parameters of its own, for what takes one optimizer: `Trainer`, `learningRateFinder`, a loop.
 *
 * ```ts
 * const [weights, rest] = decayGroups(model);
 * const optimizer = new JointOptimizer([
 *   new Muon(weights.params, { lr: 1e-3, adjustLr: "match_rms_adamw" }),
 *   new AdamW(rest.params, { lr: 1e-3, weightDecay: 0 }),
 * ]);
 * ```
 *
 * `lr` is that of the first one; when it is set, the others keep the ratio to it that they had when they were joined. State:
 * `0.momentum_buffer.0`, the number of the optimizer before its own names. `dispose` disposes of the optimizers.
 * @throws UsageError for an empty list, what is no optimizer, or a parameter that two of them have
 */
export class JointOptimizer extends Optimizer {
  /** Those of the first optimizer, then those of the second, and so on. */
  readonly paramGroups: readonly OptimizerGroup[];
  private readonly optimizers: readonly Optimizer[];
  private readonly initial: readonly number[];

  constructor(optimizers: Iterable<Optimizer>) {
    super();
    this.optimizers = checkedOptimizers(optimizers);
    this.paramGroups = this.optimizers.flatMap(({ paramGroups }) => paramGroups);
    this.initial = this.optimizers.map(({ lr }) => lr);
  }

  toString(): string {
    return `JointOptimizer (${this.optimizers.join(", ")})`;
  }

  get lr(): number {
    return this.optimizers[0]!.lr;
  }

  set lr(value: number) {
    const start = this.initial[0]!;
    const groups = this.paramGroups;
    const before = [...this.optimizers, ...groups].map((one) => ({ one, lr: one.lr }));
    try {
      for (const [i, optimizer] of this.optimizers.entries()) {
        const own = this.initial[i]!;
        optimizer.lr = own === start ? value : (value * own) / start;
      }
    } catch (error) {
      // One of them refuses its rate, or is being captured: none has changed.
      for (const { one, lr } of before) if (one.lr !== lr) one.lr = lr;
      throw error;
    }
  }

  step(): void {
    for (const optimizer of this.optimizers) optimizer.step();
  }

  zeroGrad(): void {
    for (const optimizer of this.optimizers) optimizer.zeroGrad();
  }

  async stateDict(): Promise<StateDict> {
    const all: StateDict = {};
    for (const [i, optimizer] of this.optimizers.entries()) {
      for (const [name, state] of Object.entries(await optimizer.stateDict())) all[`${i}.${name}`] = state;
    }
    return all;
  }

  loadStateDict(state: StateDict): void {
    this.checkStateDict(state);
    const parts = this.partsOf(state);
    for (const [i, optimizer] of this.optimizers.entries()) optimizer.loadStateDict(parts[i]!);
  }

  checkStateDict(state: StateDict): void {
    const parts = this.partsOf(state);
    for (const [i, optimizer] of this.optimizers.entries()) optimizer.checkStateDict(parts[i]!);
  }

  /** The state of each optimizer, by its own names. @throws ShapeError for a name of none */
  private partsOf(state: StateDict): StateDict[] {
    const op = "JointOptimizer.loadStateDict";
    if (!isPlain(state)) {
      throw new ShapeError(`${op}: state is ${show(state)}; expected what stateDict() gave`);
    }
    const parts: StateDict[] = this.optimizers.map(() => ({}));
    for (const [name, one] of Object.entries(state)) {
      const [, number, own] = /^(\d+)\.(.+)$/s.exec(name) ?? [];
      const part = number === undefined ? undefined : parts[Number(number)];
      if (!part) {
        throw new ShapeError(
          `${op}: ${show(name)} is unexpected; expected names that begin with the number of one of ${parts.length} optimizers, such as 0.`,
        );
      }
      part[own!] = one;
    }
    return parts;
  }

  dispose(): void {
    for (const optimizer of this.optimizers) optimizer.dispose();
  }
}

function checkedOptimizers(given: unknown): Optimizer[] {
  const refuse = (is: string, expected: string): never => {
    throw new UsageError(`JointOptimizer: ${is}; expected ${expected}`);
  };
  if (typeof given !== "object" || typeof (given as never)?.[Symbol.iterator] !== "function") {
    return refuse(`optimizers is ${show(given)}`, "a list, such as [new Muon(…), new AdamW(…)]");
  }
  const list = [...(given as Iterable<unknown>)];
  if (list.length === 0) refuse("got no optimizers", "at least one");
  const seen = new Map<unknown, number>();
  for (const [i, optimizer] of list.entries()) {
    if (!(optimizer instanceof Optimizer)) {
      return refuse(`optimizer ${i} is ${show(optimizer)}`, "an optimizer, such as new AdamW(…)");
    }
    for (const parameter of optimizer.paramGroups.flatMap(({ params }) => params)) {
      const other = seen.get(parameter);
      if (other !== undefined) {
        refuse(
          `optimizers ${other} and ${i} both have a parameter of shape ${formatShape(parameter.shape)}`,
          "each parameter in one of them",
        );
      }
      seen.set(parameter, i);
    }
  }
  const optimizers = list as Optimizer[];
  const rates = optimizers.map(({ lr }) => lr);
  if (rates[0] === 0 && rates.some((lr) => lr !== 0)) {
    refuse(
      `optimizer 0 has the rate 0, another ${rates.find((lr) => lr !== 0)}`,
      "a rate above 0 of the first, since the others keep their ratio to it",
    );
  }
  return optimizers;
}
