// The deeper a network without batch-norm, the smaller its rates have to be.

import type { ResNetNorm } from "../nn/models/resnet.ts";
import { defineExperiment, type Finding, judge, missing, type Preset } from "./experiment.ts";
import { lineChart, type Point } from "./plot.ts";
import { SWEPT, TRAINING } from "./presets.ts";
import { largestStableRate, showLearning, showLimit, sweepFigure } from "./rates.ts";
import { NORM_LABELS, ofNorm } from "./setup.ts";
import {
  sweepCells,
  type TrainingCell,
  type TrainingData,
  type TrainingResult,
  training,
} from "./training.ts";

const DEPTHS = [20, 56, 110];

/** Beyond the rates of the deep networks: shallow ones without batch-norm take larger ones. */
const MORE: Record<Preset, number[]> = {
  "first-look": [10],
  quick: [10, 100],
  standard: [3.16, 10],
  paper: [1.78, 3.16, 5.62, 10],
};

const CRITERIA = {
  none: "Without batch-norm the largest stable rate falls with depth: never rises, and is at least ten times smaller at 110 layers than at 20",
  batch:
    "With batch-norm it does not fall with depth: at 110 layers it is at least a third of what it is at 20",
};

const limits = (cells: readonly TrainingResult[], norm: ResNetNorm) =>
  DEPTHS.map((depth) => {
    const mine = ofNorm(cells, norm).filter(({ configuration }) => configuration.depth === depth);
    return { depth, cells: mine, ...largestStableRate(mine) };
  });

const told = (list: ReturnType<typeof limits>) =>
  list.map((limit) => `depth ${limit.depth}: ${limit.cells.length > 0 ? showLimit(limit) : "–"}`).join(", ");

function absentOf(list: ReturnType<typeof limits>, norm: ResNetNorm): string | null {
  const depths = list.filter(({ cells }) => cells.length === 0).map(({ depth }) => depth);
  return depths.length > 0 ? `sweeps ${NORM_LABELS[norm]} at depth ${depths.join(", ")}` : null;
}

export const depth = defineExperiment<TrainingCell, TrainingData>({
  id: "depth",
  title: "Rates by depth",
  source: "appendix",
  claim: "Shallower networks without batch-norm take larger rates; with it depth matters little.",
  about:
    "The largest rate of a log grid that does not diverge in the first steps, of networks of 20, 56 and 110 layers, with batch-norm and without.",
  measurements: [training],

  configurations: (preset) =>
    [...DEPTHS].reverse().flatMap((layers) =>
      sweepCells(
        TRAINING[preset],
        {
          batch: SWEPT[preset].batch,
          none: [...SWEPT[preset].none, ...(layers === 20 ? MORE[preset] : [])],
        },
        layers,
      ),
    ),

  verdict(cells): Finding[] {
    const none = limits(cells, "none");
    const batch = limits(cells, "batch");
    const [shallow, , deep] = none;
    const [shallowBatch, , deepBatch] = batch;
    const absent = absentOf(none, "none");
    const absentBatch = absentOf(batch, "batch");
    const ratio = shallow!.rate / deep!.rate;
    const falls = none.every(({ rate }, i) => i === 0 || rate <= none[i - 1]!.rate) && ratio >= 10;
    const kept = deepBatch!.rate / shallowBatch!.rate;
    const atMost = deepBatch!.next / shallowBatch!.rate;
    return [
      absent
        ? missing(CRITERIA.none, absent)
        : {
            criterion: CRITERIA.none,
            measured: told(none),
            // An open end at 110 hides its limit; one at 20 only hides that the ratio is larger.
            verdict:
              deep!.open || (shallow!.open && !falls)
                ? "inconclusive"
                : judge(falls, ...none.map(({ rate }) => rate)),
          },
      absentBatch
        ? missing(CRITERIA.batch, absentBatch)
        : {
            criterion: CRITERIA.batch,
            measured: told(batch),
            verdict:
              shallowBatch!.open || (kept < 1 / 3 && atMost >= 1 / 3)
                ? "inconclusive"
                : judge(kept >= 1 / 3, ...batch.map(({ rate }) => rate)),
          },
    ];
  },

  compare: (cells) => [
    {
      what: "largest stable rate without batch-norm by depth",
      paper: "larger in shallower networks",
      mark: "R",
      ours: told(limits(cells, "none")),
    },
  ],

  async exhibit(cells) {
    const norms = (["batch", "none"] as const).filter((norm) => ofNorm(cells, norm).length > 0);
    if (norms.length === 0) return { figures: [] };
    const sweeps = DEPTHS.map((layers) =>
      cells.filter(({ configuration }) => configuration.depth === layers),
    ).filter((group) => group.length > 0);
    return {
      figures: [
        {
          svg: await lineChart(
            norms.map((norm) => ({
              label: NORM_LABELS[norm],
              points: limits(cells, norm).map(({ depth: layers, rate }): Point => [layers, rate]),
            })),
            { title: "Largest stable rate", x: "depth", y: "learning rate", yScale: "log" },
          ),
          caption: "Of the grid; in every seed.",
        },
        ...(await Promise.all(sweeps.map((group) => sweepFigure(group)))),
      ],
      tables: [
        {
          caption: "Largest rates",
          head: ["depth", "network", "does not diverge", "learns"],
          rows: norms.flatMap((norm) =>
            limits(cells, norm).map((limit) => [
              String(limit.depth),
              NORM_LABELS[norm],
              limit.cells.length > 0 ? showLimit(limit) : "–",
              showLearning(limit.cells),
            ]),
          ),
        },
      ],
    };
  },
});
