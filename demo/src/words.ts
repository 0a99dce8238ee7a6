// What the page says: in sentences, from numbers alone.

import type { ResNetNorm } from "../../src/nn/models/resnet.ts";
import type { Failure, Side } from "./messages.ts";
import type { Limits } from "./rate-search.ts";
import { DEFAULTS, DEPTHS, NORMS, RATES, type Settings, STANDS, stopOf, titleOf } from "./settings.ts";

export const percent = (share: number): string => `${Math.round(100 * share)} %`;

const SUPERSCRIPTS: Record<string, string> = Object.fromEntries(
  [..."0123456789-"].map((sign, i) => [sign, [..."⁰¹²³⁴⁵⁶⁷⁸⁹⁻"][i]!]),
);

/** Three digits, powers of ten where a number is long. */
export function show(value: number): string {
  if (Number.isNaN(value)) return "not a number";
  if (!Number.isFinite(value)) return value > 0 ? "infinite" : "−infinite";
  const size = Math.abs(value);
  if (size >= 1e5 || (size > 0 && size < 1e-3)) {
    const [digits, power] = value.toExponential(1).split("e") as [string, string];
    const factor = digits === "1.0" ? "" : `${digits.replace(/\.0$/, "")}·`;
    return `${factor}10${[...String(Number(power))].map((sign) => SUPERSCRIPTS[sign]).join("")}`;
  }
  return String(Number(value.toPrecision(3)));
}

/** Something of one twin, at the beginning of a sentence. */
function nameOf({ norms }: Settings, side: Side): string {
  const same = norms[0] === norms[1];
  return same
    ? `The ${side === 0 ? "left" : "right"} network`
    : `The network ${titleOf(norms[side]).replace(/^W/, "w")}`;
}

/** In a legend, and in a sentence after "has". */
export const shortName = (norm: ResNetNorm): string =>
  norm === "none" ? "no norm" : NORMS.find((one) => one.norm === norm)!.name;

/** What the two networks differ in. */
export function tellPair(norms: Settings["norms"]): string {
  const [a, b] = norms.map(shortName);
  if (a === b) return norms[0] === "none" ? "Neither has a norm." : `Both have ${a}.`;
  if (norms.includes("none")) return `One has ${norms[0] === "none" ? b : a}.`;
  return `One has ${a}, the other ${b}.`;
}

export interface FailureText {
  title: string;
  where: string;
  why: string;
}

/** Put each channel or group back to mean 0 and variance 1 after every layer, and then scale and shift it by what they learn. */
const NORMALISE_ALL: readonly ResNetNorm[] = ["batch", "layer", "group", "instance"];

export function tellFailure(failure: Failure, settings: Settings): FailureText {
  const { side, kind, step, rate, loss } = failure;
  const name = nameOf(settings, side);
  const normed = NORMALISE_ALL.includes(settings.norms[side]);
  if (kind === "stuck") {
    return {
      title: `${name} is stuck since step ${step}`,
      where: `At rate ${rate} its loss is ${show(loss)}: it gives every image the same answer, because nothing that differs between images reaches its last layer any more.`,
      why: normed
        ? "Its norm puts every channel back around zero, but then multiplies and shifts it by two numbers that are learned, too. A step was so large that it pushed " +
          "these below zero for every image, where a ReLU passes nothing on and no gradient comes back: there is no way out."
        : "A step was so large that it pushed the layers’ inputs below zero for every image, where a ReLU passes nothing on and no gradient comes back: " +
          "there is no way out. Batch-norm puts every channel back around zero, so that some of it still passes at far larger rates.",
    };
  }
  return {
    title: `${name} blew up at step ${step}`,
    where: `At rate ${rate} the loss of this mini-batch is ${show(loss)}. ${tellGrowth(failure)}`,
    why: normed
      ? "Its norm puts every channel back to mean 0 and variance 1, so that nothing multiplies from layer to layer. But the scales that it learns, and the " +
        "classifier, have no norm behind them: at this rate each step goes too far, the gradients that come back are larger, and so is the next step."
      : "One large step makes every layer’s weights a little larger. Each layer passes on what it was given, enlarged, and the enlargements multiply with depth; " +
        "the gradients that come back are larger still, and so is the next step. Batch-norm puts every channel back to mean 0 and variance 1 " +
        "after each layer, so that nothing adds up: that is why it allows larger rates.",
  };
}

/** At which layer activations left what they were at the start, and how far they have come by the last convolution. */
function tellGrowth({ layer, growth }: Failure): string {
  const times = (i: number) =>
    Number.isFinite(growth[i])
      ? `${show(growth[i]!)} times as wide as at the start`
      : "wider than a float32 can tell";
  const last = growth.findLastIndex((one, i) => one !== null && i < growth.length - 1);
  if (layer === null) return last < 0 ? "" : `The activations of layer ${last + 1} are ${times(last)}.`;
  const first = layer - 1;
  const begins = `Layer ${layer} is the first whose activations are over ten times as wide as at the start`;
  if (!Number.isFinite(growth[first])) return `${begins}: they are ${times(first)}.`;
  return `${begins} (${show(growth[first]!)} times)${last > first ? `; those of layer ${last + 1} are ${times(last)}` : ""}.`;
}

/** Of one network: whether it learns, and how many steps it has made at this rate. */
export interface Progress {
  learns: boolean;
  stepsAtRate: number;
  failure: Failure | null;
}

/** Of the run: what the next move depends on beside the networks. */
export interface Situation {
  /** Whether the visitor has chosen another rate since the run began. */
  moved: boolean;
  /** Whether the largest rates of both networks are known, and whether they are being looked for. */
  searched: boolean;
  searching: boolean;
  /** Whether it was stopped after some steps. */
  paused: boolean;
}

/**
 * Whether a network has learned something, by its smoothed accuracy: guessing gives 0.1. Between the two bounds it stays what it was, so that the page
 * does not change its mind with each mini-batch.
 */
export const learnsAt = (accuracy: number, before: boolean): boolean => accuracy >= (before ? 0.15 : 0.2);

export interface NextMove {
  sentence: string;
  /** On the button; null where there is nothing to press. `change` starts fresh networks, `rate` alone goes on with these. */
  action: { label: string; rate?: number; change?: Partial<Settings>; search?: true } | null;
}

/** Steps that a network is watched for before the next move, and after which one that does not learn is given up. */
const WATCHED = 25;
const PATIENCE = 150;

/** The next thing to try. */
export function nextMove(
  settings: Settings,
  progress: readonly [Progress, Progress],
  situation: Situation,
): NextMove {
  if (situation.searching) {
    return { sentence: "Watch the search: its marks will stand below the slider.", action: null };
  }
  const failed = progress.filter(({ failure }) => failure);
  if (failed.length === 2) return afterwards("Both networks have failed.", settings, situation);
  const move =
    failed.length === 1
      ? moveOfOne(settings, progress, situation)
      : moveOfBoth(settings, progress, situation);
  if (situation.paused && move.action === null) {
    return { sentence: "Paused: press Play to go on, or take one step at a time.", action: null };
  }
  return move;
}

const largerThan = (rate: number) => RATES[Math.min(RATES.length - 1, stopOf(rate) + 4)]!;
const smallerThan = (rate: number) => RATES[Math.max(0, stopOf(rate) - 4)]!;

/** One has failed, and the other goes on. */
function moveOfOne(
  settings: Settings,
  progress: readonly [Progress, Progress],
  situation: Situation,
): NextMove {
  const side = progress[0].failure ? 1 : 0;
  const { learns, stepsAtRate } = progress[side];
  const name = nameOf(settings, side);
  const larger = largerThan(settings.rate);
  if (stepsAtRate < WATCHED || (!learns && stepsAtRate < PATIENCE)) {
    return { sentence: `${name} goes on at the same rate: watch whether its loss comes down.`, action: null };
  }
  if (learns && larger > settings.rate) {
    return {
      sentence: `${name} still learns. How far does it go? Now raise the rate to ${larger}.`,
      action: { label: `Raise it to ${larger}`, rate: larger },
    };
  }
  const end = learns
    ? `${name} learns even at ${settings.rate}.`
    : `${name} has not blown up, but gets nowhere at ${settings.rate}.`;
  return afterwards(end, settings, situation);
}

/** Neither has failed. */
function moveOfBoth(
  settings: Settings,
  progress: readonly [Progress, Progress],
  situation: Situation,
): NextMove {
  const { rate } = settings;
  const [larger, smaller] = [largerThan(rate), smallerThan(rate)];
  const learn = progress.filter(({ learns }) => learns).length;
  const steps = Math.min(...progress.map(({ stepsAtRate }) => stepsAtRate));
  const raise = { label: `Raise it to ${larger}`, rate: larger };
  if (learn === 2 && steps >= STANDS) {
    return larger > rate
      ? { sentence: `Both are learning. Now raise the rate to ${larger}.`, action: raise }
      : afterwards(`Both learn even at ${rate}.`, settings, situation);
  }
  if (steps > PATIENCE && learn === 1) {
    const name = nameOf(settings, progress[0].learns ? 0 : 1);
    return larger > rate
      ? {
          sentence: `${name} learns, and the other gets nowhere. Now raise the rate to ${larger}.`,
          action: raise,
        }
      : afterwards(`${name} learns even at ${rate}, and the other gets nowhere.`, settings, situation);
  }
  if (steps > PATIENCE && learn === 0) {
    const other = rate < DEFAULTS.rate ? larger : smaller;
    return {
      sentence: `Neither gets anywhere at ${rate}. Start again at ${other}.`,
      action: { label: `Start again at ${other}`, change: { rate: other } },
    };
  }
  return {
    sentence: situation.moved
      ? `The rate is ${rate} now: watch what becomes of the losses.`
      : "Give both a moment to learn; then you raise the rate.",
    action: null,
  };
}

/** Where this run has shown what it can: the largest rates, then more layers, then another norm. */
function afterwards(end: string, settings: Settings, { searched }: Situation): NextMove {
  if (!searched) {
    return {
      sentence: `${end} Now find the largest rates that they stand.`,
      action: { label: "Find them", search: true },
    };
  }
  const { rate } = DEFAULTS;
  const deeper = DEPTHS.find((depth) => depth > settings.depth);
  if (deeper !== undefined) {
    return {
      sentence: `${end} What does depth do? Start again with ${deeper} layers.`,
      action: { label: `Take ${deeper} layers`, change: { depth: deeper, rate } },
    };
  }
  const [left, right] = settings.norms;
  if (left === "layer" || right === "layer") {
    return { sentence: `${end} Now choose any two norms, and compare them.`, action: null };
  }
  const { depth } = DEFAULTS;
  return {
    sentence: `${end} Is it batch-norm alone? Put layer norm beside it.`,
    action: { label: "Take layer norm", change: { norms: ["batch", "layer"], depth, rate } },
  };
}

/** Where there is no WebGPU. */
export const recordedMove = (over: boolean): NextMove =>
  over
    ? { sentence: "That was the recorded run.", action: { label: "Play it again" } }
    : { sentence: "A recorded run: watch the two part when its rate is raised.", action: null };

/** What a search is trying. */
export function tellTrial(settings: Settings, trial: number, rates: readonly (number | null)[]): string {
  const tried = rates.flatMap((rate, side) =>
    rate === null ? [] : [`${rate} for ${nameOf(settings, side as Side).replace(/^T/, "t")}`],
  );
  return `Trial ${trial}: ${tried.join(", ")}. Training waits meanwhile.`;
}

/** What a search has found; nothing where there was none. */
export function tellLimits(settings: Settings, limits: readonly (Limits | null)[]): string {
  const sentences = limits.flatMap((found, side) =>
    found ? [`${nameOf(settings, side as Side)} ${tellLimit(found)}.`] : [],
  );
  if (sentences.length === 0) return "";
  const [a, b] = limits.map((found) => found?.stands ?? null);
  if (a && b && a !== b) sentences.push(`That is ${show(Math.max(a / b, b / a))} times as much.`);
  return [...sentences, `(${STANDS} steps from the start at each rate.)`].join(" ");
}

function tellLimit({ stands, stable, open }: Limits): string {
  const top = RATES.at(-1)!;
  const diverges = open
    ? `does not diverge up to ${top}`
    : `diverges at ${RATES[stable === null ? 0 : stopOf(stable) + 1]}`;
  if (stands === top) return `stands every rate up to ${top}`;
  if (stands === null) {
    return `stands none of these rates: it ${stable === null ? "" : "gets stuck, and "}${diverges}`;
  }
  if (stands === stable) return `stands ${stands}, and ${diverges}`;
  return `stands ${stands}; above that it gets stuck, and ${diverges}`;
}
