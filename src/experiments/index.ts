/**
 * The experiments of *Understanding Batch Normalization*: what each one measures, cell by cell, and how it judges what came out. Needs the
 * packages `vega`, `vega-lite` and `ml-matrix`. `fusenorm reproduce` of `fusenorm-cli` runs them all, and goes on where it was stopped.
 * @module fusenorm/experiments
 */

import { UsageError } from "../errors.ts";
import { nearest, show } from "../options.ts";
import { bnLastLayer } from "./bn-last-layer.ts";
import { depth } from "./depth.ts";
import { divergence } from "./divergence.ts";
import type { Experiment } from "./experiment.ts";
import { gradientAlignment } from "./gradient-alignment.ts";
import { gradientHistogram } from "./gradient-histogram.ts";
import { learningRates } from "./learning-rates.ts";
import { logitGradients } from "./logit-gradients.ts";
import { lossLandscape } from "./loss-landscape.ts";
import { momentsByDepth } from "./moments-by-depth.ts";
import { norms } from "./norms.ts";
import { randomMatrices } from "./random-matrices.ts";
import { sgdNoise } from "./sgd-noise.ts";

export type {
  Cell,
  CellCheckpoint,
  CellContext,
  Comparison,
  Configuration,
  Exhibit,
  Experiment,
  Figure,
  Finding,
  Mark,
  Measurement,
  Preset,
  Verdict,
} from "./experiment.ts";

/** In the order of the paper. */
export const EXPERIMENTS: readonly Experiment[] = [
  learningRates,
  gradientHistogram,
  lossLandscape,
  divergence,
  momentsByDepth,
  logitGradients,
  gradientAlignment,
  randomMatrices,
  bnLastLayer,
  sgdNoise,
  depth,
  norms,
];

/** The experiments of these ids, in the order of the paper; all of them for none. @throws UsageError for an unknown id */
export function selectExperiments(ids: readonly string[]): Experiment[] {
  const known = EXPERIMENTS.map(({ id }) => id);
  const unknown = ids.find((id) => !known.includes(id));
  if (unknown !== undefined) {
    const near = nearest(unknown, known);
    throw new UsageError(
      `reproduce: there is no experiment ${show(unknown)}; expected some of ${known.join(", ")}${near ? ` (did you mean ${near}?)` : ""}`,
    );
  }
  return EXPERIMENTS.filter(({ id }) => ids.length === 0 || ids.includes(id));
}
