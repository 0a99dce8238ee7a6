// What the page says: in sentences, from numbers alone.

import type { Failure, Reading, Side } from "./messages.ts";
import type { Limits } from "./rate-search.ts";
import { RATES, type Settings, STANDS, stopOf, titleOf } from "./settings.ts";

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

export interface FailureText {
  title: string;
  where: string;
  why: string;
}

export function tellFailure(failure: Failure, settings: Settings): FailureText {
  const { side, kind, step, rate, loss, layer, growth } = failure;
  const name = nameOf(settings, side);
  if (kind === "stuck") {
    return {
      title: `${name} is stuck since step ${step}`,
      where: `At rate ${rate} its loss is ${show(loss)}: it gives every image the same answer, because nothing that differs between images reaches its last layer any more.`,
      why:
        "A step was so large that it pushed the layers’ inputs below zero for every image, where a ReLU passes nothing on and no gradient comes back: " +
        "there is no way out. Batch-norm puts every channel back around zero, so that some of it always passes.",
    };
  }
  const last = growth.length - 2;
  const widest = Number.isFinite(growth[last])
    ? `by layer ${last + 1} they are ${show(growth[last]!)} times as wide.`
    : `by layer ${last + 1} their variance is more than a float32 can hold.`;
  const first =
    layer === null
      ? ""
      : `Layer ${layer} is the first whose activations are over ten times as wide as at the start` +
        `${Number.isFinite(growth[layer - 1]) ? ` (${show(growth[layer - 1]!)} times)` : ""}; `;
  return {
    title: `${name} blew up at step ${step}`,
    where: `At rate ${rate} the loss of this mini-batch is ${show(loss)}. ${first}${widest}`,
    why:
      "One large step makes every layer’s weights a little larger. Each layer passes on what it was given, enlarged, and the enlargements multiply with depth; " +
      "the gradients that come back are larger still, and so is the next step. Batch-norm puts every channel back to mean 0 and variance 1 " +
      "after each layer, so that nothing adds up: that is why it allows larger rates.",
  };
}

/** Of one network: its latest readings, smoothed, and how many steps it has made at this rate. */
export interface Progress {
  reading: Reading | null;
  stepsAtRate: number;
  failure: Failure | null;
}

/** A network that has learned something. */
const LEARNS = 0.2;

export interface NextMove {
  sentence: string;
  /** On the button; null where there is nothing to press. */
  action: { label: string; rate?: number; again?: true } | null;
}

/** The next thing to try. */
export function nextMove(
  settings: Settings,
  rate: number,
  progress: readonly [Progress, Progress],
): NextMove {
  const failed = progress.filter(({ failure }) => failure);
  const larger = RATES[Math.min(RATES.length - 1, stopOf(rate) + 4)]!;
  const smaller = RATES[Math.max(0, stopOf(rate) - 4)]!;
  if (failed.length === 2) {
    return {
      sentence: `No network stands a rate of ${rate}. Start again with a smaller one.`,
      action: { label: `Start again at ${smaller}`, rate: smaller, again: true },
    };
  }
  if (failed.length === 1) {
    const { side } = failed[0]!.failure!;
    const other = progress[side === 0 ? 1 : 0];
    if (other.stepsAtRate < 25 || rate >= 3) {
      return {
        sentence: `${nameOf(settings, side === 0 ? 1 : 0)} goes on at the same rate. Watch its loss come down again, then start again with other layers.`,
        action: { label: "Start again at 0.03", rate: 0.03, again: true },
      };
    }
    return {
      sentence: `The other goes on. How far does it go? Now raise the rate to ${larger}.`,
      action: { label: `Raise it to ${larger}`, rate: larger },
    };
  }
  const learns = progress.map(({ reading }) => reading !== null && reading.accuracy >= LEARNS);
  const enough = progress.every(({ stepsAtRate }) => stepsAtRate >= 30);
  if (learns[0] && learns[1] && enough) {
    return {
      sentence: `Both are learning. Now raise the rate to ${larger}.`,
      action: { label: `Raise it to ${larger}`, rate: larger },
    };
  }
  if (enough && !learns[0] && !learns[1] && progress[0].stepsAtRate > 150) {
    return {
      sentence: `At ${rate} neither gets anywhere. Try ${rate < 0.03 ? larger : smaller}.`,
      action: { label: `Take ${rate < 0.03 ? larger : smaller}`, rate: rate < 0.03 ? larger : smaller },
    };
  }
  return {
    sentence: "Both start from the same weights. Give them a moment to learn; then you raise the rate.",
    action: null,
  };
}

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
