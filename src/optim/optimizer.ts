import type { BufferRange } from "../device/buffers.ts";
import type { Grid } from "../device/commands.ts";
import { ShapeError, UsageError } from "../errors.ts";
import type { Gpu } from "../gpu.ts";
import { showByToString } from "../inspect.ts";
import { checkState, type StateDict } from "../nn/module.ts";
import { checkOptions, isPlain, optionNames, show } from "../options.ts";
import type { Tensor } from "../tensor/tensor.ts";
import {
  BLOCK_BYTES,
  checkIterable,
  checkParameter,
  gradientRuns,
  gridOf,
  Packed,
  rangeOf,
  type Slot,
  walkOf,
} from "./packed.ts";

/** Parameters with options of their own; the optimizer's where there is none. */
export interface ParameterGroup {
  params: Iterable<Tensor>;
  lr?: number;
  weightDecay?: number;
}

/** What an optimizer is made for: tensors, as `module.parameters()` gives, or groups of them. */
export type Parameters = Iterable<Tensor> | Iterable<ParameterGroup>;

/** A group of an optimizer that exists. */
export interface OptimizerGroup {
  readonly params: readonly Tensor[];
  /** May be set at any time, also under a captured step. */
  lr: number;
  readonly weightDecay: number;
}

/** What every update kernel binds. `range` gives the run's part of a packed buffer. */
export interface Update {
  readonly slots: readonly Slot[];
  readonly bindings: {
    readonly w: BufferRange;
    readonly grad: BufferRange | Tensor;
    readonly rates: Tensor;
    readonly blocks: Tensor;
    readonly size: ReturnType<typeof walkOf>;
  };
  readonly grid: Grid;
  range(state: Tensor): BufferRange;
}

const GROUP_OPTIONS = optionNames<ParameterGroup>({ params: 0, lr: 0, weightDecay: 0 });

/** The bits that a state has before a parameter's first step, where they are not those of 0. */
const ZERO = 0;

/** What every optimizer does for those who train by it. */
export abstract class Optimizer {
  /** The groups, in the order in which they were given; one if parameters were given alone. */
  abstract readonly paramGroups: readonly OptimizerGroup[];
  /**
   * The learning rate; may be set anew at any time, also under a captured step. Groups that were given a rate of their own keep
   * their ratio to it, so that one schedule moves all: `optimizer.lr = schedule(step)`.
   */
  abstract lr: number;

  constructor() {
    showByToString(this);
  }

  /** One line: the parameters and rates of each group. */
  abstract toString(): string;

  /** Updates every parameter that has a gradient. */
  abstract step(): void;

  /** Drops the gradients; the next `backward` starts from nothing. */
  abstract zeroGrad(): void;

  /**
   * The state of the parameters that have had a step, for `loadStateDict`: `exp_avg.0` and so on, PyTorch's name and the number of
   * the parameter. Learning rates are the caller's to keep.
   */
  abstract stateDict(): Promise<StateDict>;

  /**
   * Goes on from `stateDict()` of an optimizer of the same parameters; one without a state has had no step there.
   * @throws ShapeError before anything is written
   */
  abstract loadStateDict(state: StateDict): void;

  /** What `loadStateDict` checks. @throws ShapeError */
  abstract checkStateDict(state: StateDict): void;

  /** Gives state and gradients back; the parameters live on. */
  abstract dispose(): void;
}

/**
 * What the rules have in common: the parameters moved into one packed buffer (the tensors stay the same handles), gradients
 * and float32 state in others of the same layout, so that a step is one dispatch. Parameters without a gradient are
 * left alone, as in PyTorch. Rates, and counts of steps where a rule has them, live on the GPU: a captured step goes on counting.
 */
export abstract class PackedOptimizer extends Optimizer {
  readonly paramGroups: readonly OptimizerGroup[];
  protected readonly gpu: Gpu;
  protected readonly packed: Packed;
  /** By parameter: learning rate, weight decay. */
  private readonly rates: Tensor;
  private readonly states = new Map<string, { whole: Tensor; parts: readonly Tensor[]; initial: number }>();
  private readonly groupRates: number[];
  private readonly groupOf: number[] = [];
  private readonly initial: { lr: number; groups: readonly number[] };
  private rate: number;

  toString(): string {
    const told = this.paramGroups.map(
      ({ params: { length }, lr }) => `${length} parameter${length === 1 ? "" : "s"}, lr ${lr}`,
    );
    return `${this.name} (${told.join("; ")})`;
  }

  /**
   * @param name the class's, for messages
   * @param check refuses parameters that the rule is not made for
   */
  protected constructor(
    protected readonly name: string,
    parameters: Parameters,
    defaults: { lr: number; weightDecay: number },
    check: (i: number, parameter: Tensor) => void = () => {},
  ) {
    super();
    checkRate(name, "lr", defaults.lr);
    checkRate(name, "weightDecay", defaults.weightDecay);
    const groups = checkGroups(name, parameters, defaults);
    const all = groups.flatMap(({ params }) => params);
    for (const [i, parameter] of all.entries()) check(i, parameter);
    this.gpu = all[0]!.gpu;
    this.rate = defaults.lr;
    this.groupRates = groups.map(({ lr }) => lr);
    this.initial = { lr: defaults.lr, groups: [...this.groupRates] };
    this.packed = new Packed(name, all);
    this.rates = this.gpu.keep(this.gpu.zeros([all.length, 2]));
    const rateOf = (i: number) => this.groupRates[i]!;
    const setRate = (i: number, value: number) => {
      checkRate(name, "lr", value);
      this.writeRates(this.groupRates.map((rate, j) => (i === j ? value : rate)));
    };
    this.paramGroups = groups.map(({ params, weightDecay }, i) => {
      for (const _ of params) this.groupOf.push(i);
      return {
        ...{ params, weightDecay },
        get lr() {
          return rateOf(i);
        },
        set lr(value) {
          setRate(i, value);
        },
      };
    });
    this.writeRates(this.groupRates, true);
  }

  get lr(): number {
    return this.rate;
  }

  set lr(value: number) {
    checkRate(this.name, "lr", value);
    const { lr, groups } = this.initial;
    this.writeRates(groups.map((own) => (own === lr ? value : (value * own) / lr)));
    this.rate = value;
  }

  private writeRates(rates: readonly number[], always = false): void {
    if (!always && rates.every((rate, i) => rate === this.groupRates[i])) return;
    for (const [i, rate] of rates.entries())
      checkRate(this.name, rates.length > 1 ? `group ${i}'s lr` : "lr", rate);
    this.rates.write(this.groupOf.flatMap((group) => [rates[group]!, this.paramGroups[group]!.weightDecay]));
    for (const [i, rate] of rates.entries()) this.groupRates[i] = rate;
  }

  /** A state of each parameter, kept under `name` in `stateDict`, all words of it `initial` before the first step. */
  protected newState(name: string, initial = ZERO): Tensor {
    const whole = this.packed.newState();
    if (initial !== ZERO) this.gpu.fillRange(whole.range, initial);
    const parts = this.packed.slots.map(({ byteOffset, parameter }) =>
      whole.part(byteOffset, parameter.shape),
    );
    this.states.set(name, { whole, parts, initial });
    return whole;
  }

  step(): void {
    const { packed, rates } = this;
    const { values, gradients, blocks } = packed;
    packed.check();
    const runs = gradientRuns(
      this.name,
      packed.slots.map(({ parameter }) => parameter),
    );
    for (const { slots, grad } of runs) {
      const range = (state: Tensor) => rangeOf(state, slots);
      const vec4s = Math.ceil((grad ?? range(values)).byteLength / 16);
      const size = walkOf(this.gpu, vec4s, slots[0]!.byteOffset / BLOCK_BYTES);
      const bindings = { w: range(values), grad: grad ?? range(gradients), rates, blocks, size };
      this.update({ slots, bindings, grid: gridOf(this.gpu, vec4s), range });
    }
  }

  /** Dispatches the rule for some neighbours. */
  protected abstract update(update: Update): void;

  zeroGrad(): void {
    for (const { parameter } of this.packed.slots) parameter.zeroGrad();
  }

  /** The state of the parameters that have had a step: see `Optimizer.stateDict`. */
  async stateDict(): Promise<StateDict> {
    const state: StateDict = {};
    for (const { index, parameter } of this.packed.slots) {
      for (const [name, { parts, initial }] of this.states) {
        const data = (await parts[index]!.read()) as Float32Array;
        const [bits] = new Uint32Array(data.buffer, data.byteOffset, 1);
        if (initial !== ZERO && bits === initial) continue;
        state[`${name}.${index}`] = { shape: parameter.shape, dtype: "float32", data };
      }
    }
    return state;
  }

  /** Goes on from `stateDict()`: see `Optimizer.loadStateDict`. @throws ShapeError before anything is written */
  loadStateDict(state: StateDict): void {
    this.checkStateDict(state);
    for (const [name, { parts, initial }] of this.states) {
      for (const [i, part] of parts.entries()) {
        const theirs = state[`${name}.${i}`];
        if (theirs) part.write(theirs.data);
        else this.gpu.fillRange(part.overwrite(), initial);
      }
    }
  }

  /** What `loadStateDict` checks. @throws ShapeError */
  checkStateDict(state: StateDict): void {
    const op = `${this.name}.loadStateDict`;
    if (!isPlain(state)) {
      throw new ShapeError(`${op}: state is ${show(state)}; expected what stateDict() gave`);
    }
    const known = new Map<string, Tensor>();
    for (const [name, { parts }] of this.states) {
      for (const [i, part] of parts.entries()) known.set(`${name}.${i}`, part);
    }
    for (const [name, theirs] of Object.entries(state)) {
      const ours = known.get(name);
      if (ours) checkState(op, name, theirs, ours);
      else if (!this.isOtherState(name, theirs)) {
        const last = this.packed.slots.length - 1;
        const names = [...this.states.keys()].map((own) => `${own}.0 to ${own}.${last}`);
        throw new ShapeError(
          `${op}: ${name} is unexpected; ${
            names.length > 0
              ? `expected ${names.join(", ")}, of an optimizer of the same parameters`
              : "this optimizer has no momentum, and so no state"
          }`,
        );
      }
    }
    for (const { index } of this.packed.slots) {
      const names = [...this.states.keys()];
      const missing = names.filter((name) => !Object.hasOwn(state, `${name}.${index}`));
      if (missing.length > 0 && missing.length < names.length) {
        throw new ShapeError(
          `${op}: ${missing[0]}.${index} is missing, ${names.find((name) => !missing.includes(name))}.${index} is there; expected all of ` +
            `${names.join(", ")}, or none for a parameter without a step`,
        );
      }
    }
  }

  /** Whether a class takes a state of this name that is none of the parameters' shape. @throws ShapeError if it is wrong */
  protected isOtherState(_name: string, _theirs: unknown): boolean {
    return false;
  }

  /** Gives state and gradients back; the parameters live on. */
  dispose(): void {
    this.packed.dispose();
    this.rates.dispose();
    for (const { whole, parts } of this.states.values()) {
      for (const tensor of [whole, ...parts]) tensor.dispose();
    }
  }
}

function checkRate(op: string, name: string, value: unknown): void {
  if (!Number.isFinite(value) || (value as number) < 0)
    throw new UsageError(`${op}: ${name} is ${show(value)}; expected a finite number of at least 0`);
  if (!Number.isFinite(Math.fround(value as number)))
    throw new UsageError(`${op}: ${name} is ${show(value)}; expected a number that float32 holds`);
}

interface Group {
  params: Tensor[];
  lr: number;
  weightDecay: number;
}

function checkGroups(
  op: string,
  parameters: Parameters,
  defaults: { lr: number; weightDecay: number },
): Group[] {
  checkIterable(op, parameters);
  const list = [...(parameters as Iterable<unknown>)];
  if (!list.some(isPlain)) return [{ ...defaults, params: checkedTensors(op, list, list) }];
  const seen = new Set<Tensor>();
  const groups = list.map((group, i) => {
    const where = `group ${i}`;
    checkOptions(op, group, GROUP_OPTIONS, where);
    const {
      params,
      lr = defaults.lr,
      weightDecay = defaults.weightDecay,
    } = group as unknown as ParameterGroup;
    checkIterable(`${op}, ${where}`, params);
    checkRate(op, `${where}'s lr`, lr);
    checkRate(op, `${where}'s weightDecay`, weightDecay);
    if (defaults.lr === 0 && lr !== 0) {
      throw new UsageError(
        `${op}: ${where}'s lr is ${lr}, the optimizer's 0; expected a rate above 0, since groups keep their ratio to it`,
      );
    }
    return { params: [...params], lr, weightDecay };
  });
  const all = groups.flatMap(({ params }) => params);
  for (const { params } of groups) {
    for (const tensor of params) {
      if (seen.has(tensor)) {
        throw new UsageError(`${op}: ${show(tensor)} is in the groups twice; expected each parameter once`);
      }
      seen.add(tensor);
    }
  }
  checkedTensors(op, all, all);
  return groups;
}

function checkedTensors(op: string, list: readonly unknown[], all: readonly unknown[]): Tensor[] {
  if (all.length === 0) {
    throw new UsageError(`${op}: got no parameters; expected at least one tensor with requiresGrad`);
  }
  const tensors = [...new Set(list)];
  for (const [i, parameter] of tensors.entries()) checkParameter(op, i, parameter, all[0]);
  return tensors as Tensor[];
}
