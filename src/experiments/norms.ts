// What else keeps a network's activations in order: the same questions, asked of other norms and of networks that need none.

import type { ResNetNorm } from "../nn/models/resnet.ts";
import { type Cell, type Configuration, defineExperiment, type Preset } from "./experiment.ts";
import {
  ALIGNED_LAYERS,
  type AlignmentData,
  type AlignmentSettings,
  alignments,
  byLayer,
} from "./gradient-alignment.ts";
import { growth, type MomentsData, type MomentsSettings, moments } from "./moments-by-depth.ts";
import { SWEPT, TRAINING } from "./presets.ts";
import { largestStableRate, showLearning, showLimit, sweepFigure } from "./rates.ts";
import { DEEP, NORM_LABELS, ofNorm } from "./setup.ts";
import { logGrid, show } from "./statistics.ts";
import {
  sweepCells,
  type TrainingCell,
  type TrainingData,
  type TrainingResult,
  training,
} from "./training.ts";

/** The networks compared: one list. */
const NORMS = [
  "batch",
  "layer",
  "group",
  "instance",
  "weight",
  "fixup",
  "skipinit",
  "none",
] as const satisfies ResNetNorm[];
/** Those of `learning-rates` have their own grids. */
const OTHERS = NORMS.filter((norm) => norm !== "batch" && norm !== "none");

const RATES: Record<Preset, number[]> = {
  "first-look": [0.1, 1],
  quick: logGrid(1e-3, 100, 1),
  standard: logGrid(1e-3, 100, 2),
  paper: logGrid(1e-4, 100, 4),
};

type Settings = TrainingCell | MomentsSettings | AlignmentSettings;
type Data = TrainingData | MomentsData | AlignmentData;

const ofMeasure = <C extends Settings, D>(cells: readonly Cell<Settings, Data>[], measure: C["measure"]) =>
  cells.filter(({ configuration }) => configuration.measure === measure) as unknown as Cell<C, D>[];

const split = (cells: readonly Cell<Settings, Data>[]) => ({
  swept: ofMeasure<TrainingCell, TrainingData>(cells, "training") as TrainingResult[],
  looked: ofMeasure<MomentsSettings, MomentsData>(cells, "moments"),
  aligned: ofMeasure<AlignmentSettings, AlignmentData>(cells, "alignment"),
});

export const norms = defineExperiment<Settings, Data>({
  id: "norms",
  title: "Other norms, and none",
  source: "appendix, and what its readers ask next",
  claim: "No finding of the paper: a table.",
  about:
    "The largest stable rate, the growth of the activations and the alignment of the gradients of the same network with batch, layer, group, " +
    "instance and weight normalisation, with Fixup and SkipInit, and with nothing.",
  measurements: [training, moments, alignments],

  configurations(preset) {
    const swept = sweepCells(TRAINING[preset], {
      batch: SWEPT[preset].batch,
      none: SWEPT[preset].none,
      ...Object.fromEntries(OTHERS.map((norm) => [norm, RATES[preset]])),
    });
    const looked = NORMS.flatMap((norm) =>
      (["moments", "alignment"] as const).map(
        (measure): Configuration & Settings => ({ measure, label: norm, norm, ...DEEP[preset] }) as never,
      ),
    );
    return [...swept, ...looked];
  },

  repeats: ({ measure }, seeds) => (measure === "training" ? seeds : Math.min(seeds, 2)),

  verdict: () => [],
  compare: () => [],

  async exhibit(cells) {
    const { swept, looked, aligned } = split(cells);
    if (cells.length === 0) return { figures: [] };
    const rows = NORMS.map((norm) => {
      const [mine, seen, pairs] = [ofNorm(swept, norm), ofNorm(looked, norm), ofNorm(aligned, norm)];
      const { decades, r2 } = seen.length > 0 ? growth(seen) : { decades: Number.NaN, r2: Number.NaN };
      const ratios = byLayer(pairs, ({ ratio }) => ratio).map(({ value }) =>
        Number.isNaN(value) ? "–" : show(value),
      );
      return [
        NORM_LABELS[norm],
        mine.length > 0 ? showLimit(largestStableRate(mine)) : "missing",
        mine.length > 0 ? showLearning(mine) : "missing",
        seen.length > 0 ? `${show(decades, 2)} (R² ${show(r2, 2)})` : "missing",
        pairs.length > 0 ? ratios.join(", ") : "missing",
      ];
    });
    return {
      figures: swept.length > 0 ? [await sweepFigure(swept)] : [],
      tables: [
        {
          caption: `Growth is of log₁₀ variance over all convolutions, before any norm; alignment is Σ|d| / |Σd| at layers ${ALIGNED_LAYERS.join(", ")}`,
          head: ["network", "largest stable rate", "largest that learns", "growth in decades", "alignment"],
          rows,
        },
      ],
      notes: [
        "Branches of Fixup and SkipInit begin as zeros: their gradients at initialisation are those of an almost linear network, and those inside a branch are zero (no ratio).",
      ],
    };
  },
});
