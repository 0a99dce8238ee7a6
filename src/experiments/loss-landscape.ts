// How far one may go along the gradient before the loss rises again.

import { crossEntropy, type Landscape, probe } from "../train/probes.ts";
import {
  type Cell,
  type Configuration,
  defineExperiment,
  judge,
  missing,
  type Preset,
} from "./experiment.ts";
import { lineChart, type Point } from "./plot.ts";
import { disposeBatch, NORM_LABELS, shrinkImages, trainingBatch, youngNetwork } from "./setup.ts";
import { geometricMean, logGrid, show } from "./statistics.ts";

interface Settings extends Configuration {
  norm: "batch" | "none";
  stage: "initialisation" | "early training";
  depth: number;
  width: number;
  batchSize: number;
  shrink: number;
  batches: number;
  alphas: number[];
  /** Training before the probe, at a rate that is stable for this network; 0 at initialisation. */
  steps: number;
  lr: number;
}

interface Data {
  /** One a batch. */
  landscapes: Landscape[];
}

interface PresetSettings {
  network: Pick<Settings, "depth" | "width" | "batchSize" | "shrink">;
  batches: number;
  alphas: number[];
  steps: number;
  rates: Record<"batch" | "none", number>;
}

const PRESETS: Record<Preset, PresetSettings> = {
  quick: {
    network: { depth: 110, width: 8, batchSize: 32, shrink: 2 },
    batches: 2,
    alphas: logGrid(1e-5, 100, 2),
    steps: 8,
    // Without batch-norm a third of the paper's rate: at its own, this narrow network soon predicts a constant.
    rates: { batch: 0.1, none: 0.00003 },
  },
  standard: {
    network: { depth: 110, width: 16, batchSize: 128, shrink: 1 },
    batches: 4,
    alphas: logGrid(1e-6, 1000, 4),
    steps: 390,
    rates: { batch: 0.1, none: 0.0001 },
  },
  paper: {
    network: { depth: 110, width: 16, batchSize: 128, shrink: 1 },
    batches: 8,
    alphas: logGrid(1e-6, 1000, 8),
    steps: 5 * 390,
    rates: { batch: 0.1, none: 0.0001 },
  },
};

/** Where a landscape's loss is back at its start beyond its lowest point, and where it has grown tenfold. */
export interface Reach {
  /** Interpolated in log α; the last α where the loss never came back. NaN if it never fell. */
  falls: number;
  diverges: number;
  /** Neither end is known: the grid ends first. */
  open: boolean;
}

export function reachOf({ loss, alphas, losses }: Landscape): Reach {
  const relative = losses.map((value) => (Number.isFinite(value) ? value / loss : Number.POSITIVE_INFINITY));
  const lowest = relative.indexOf(Math.min(...relative));
  if (!(relative[lowest]! < 1)) return { falls: Number.NaN, diverges: Number.NaN, open: false };
  const crossing = (level: number) => {
    const after = relative.findIndex((value, i) => i > lowest && value > level);
    if (after < 0) return Number.POSITIVE_INFINITY;
    const [a, b] = [Math.log(relative[after - 1]!), Math.log(Math.min(relative[after]!, 1e30))];
    const t = (Math.log(level) - a) / (b - a);
    return alphas[after - 1]! * (alphas[after]! / alphas[after - 1]!) ** t;
  };
  const last = alphas.at(-1)!;
  return {
    falls: Math.min(crossing(1), last),
    diverges: Math.min(crossing(10), last),
    open: !Number.isFinite(crossing(10)),
  };
}

export const lossLandscape = defineExperiment<Settings, Data>({
  id: "loss-landscape",
  title: "Loss along the gradient",
  source: "§ 3.1, Fig. 3",
  about:
    "One gradient step of every size α on a batch, and the loss on the same batch after it, relative to before: at initialisation and after " +
    "some training.",

  configurations(preset) {
    const { network, batches, alphas, steps, rates } = PRESETS[preset];
    return (["initialisation", "early training"] as const).flatMap((stage) =>
      (["batch", "none"] as const).map(
        (norm): Settings => ({
          label: `${norm} ${stage}`,
          norm,
          stage,
          ...network,
          batches,
          alphas,
          steps: stage === "initialisation" ? 0 : steps,
          lr: rates[norm],
        }),
      ),
    );
  },

  async run({ gpu, data, onPoint, signal }, settings, seed) {
    const { batchSize, shrink, batches, alphas } = settings;
    const small = shrinkImages(data, shrink);
    const { model, dispose } = await youngNetwork(gpu, small, settings, seed, signal);
    try {
      const landscapes: Landscape[] = [];
      for (let index = 0; index < batches; index += 1) {
        const batch = trainingBatch(gpu, small, batchSize, seed + 1000, { index });
        try {
          const result = await probe.landscape(
            model,
            crossEntropy(model, batch.images, batch.labels),
            alphas,
          );
          landscapes.push(result);
          result.losses.forEach((value, i) => {
            onPoint(`batch ${index + 1}`, alphas[i]!, value / result.loss);
          });
        } finally {
          disposeBatch(batch);
        }
      }
      return { landscapes };
    } finally {
      dispose();
    }
  },

  async report(cells) {
    const stages = ["initialisation", "early training"] as const;
    const text = {
      range: (stage: string) =>
        `At ${stage} the loss falls up to a step at least ten times larger with batch-norm`,
      divergence: (stage: string) =>
        `At ${stage} the tenfold loss is reached at a larger step with batch-norm`,
    };
    const findings = stages.flatMap((stage) => {
      const of = (norm: string) =>
        cells
          .filter(({ configuration }) => configuration.norm === norm && configuration.stage === stage)
          .flatMap(({ data }) => data.landscapes.map(reachOf));
      const [batch, none] = [of("batch"), of("none")];
      if (batch.length === 0 || none.length === 0)
        return [missing(text.range(stage)), missing(text.divergence(stage))];
      const average = (reaches: Reach[], pick: (reach: Reach) => number) => geometricMean(reaches.map(pick));
      const clause = (criterion: string, factor: number, pick: (reach: Reach) => number) => {
        const values = [average(batch, pick), average(none, pick)] as const;
        const open = batch.some((reach) => reach.open) ? "at least " : "";
        return {
          criterion,
          measured: `α up to ${open}${show(values[0])} with, ${show(values[1])} without: ${open}${show(values[0] / values[1])} times`,
          verdict: none.some((reach) => reach.open)
            ? "inconclusive"
            : judge(values[0] > factor * values[1], ...values),
        } as const;
      };
      return [
        clause(text.range(stage), 10, (reach) => reach.falls),
        clause(text.divergence(stage), 1, (reach) => reach.diverges),
      ];
    });
    const figures = [];
    for (const stage of stages) {
      const group = cells.filter(({ configuration }) => configuration.stage === stage);
      if (group.length === 0) continue;
      figures.push({
        svg: await lineChart(
          (["batch", "none"] as const).map((norm) => ({
            label: NORM_LABELS[norm],
            points: envelope(group, norm),
          })),
          {
            title:
              stage === "initialisation"
                ? "At initialisation"
                : `After ${group[0]!.configuration.steps} steps`,
            x: "step size α",
            y: "L(w − α∇L) / L(w)",
            xScale: "log",
            yScale: "log",
            yDomain: [0.1, 100],
          },
        ),
        caption: "Geometric mean over batches and seeds; the band is their range.",
      });
    }
    return { findings, figures };
  },
});

function envelope(cells: readonly Cell<Settings, Data>[], norm: string): Point[] {
  const landscapes = cells
    .filter(({ configuration }) => configuration.norm === norm)
    .flatMap(({ data }) => data.landscapes);
  return (landscapes[0]?.alphas ?? []).map((alpha, i): Point => {
    const relative = landscapes.map(({ loss, losses }) =>
      Number.isFinite(losses[i]!) ? losses[i]! / loss : 1e30,
    );
    return [alpha, geometricMean(relative), Math.min(...relative), Math.max(...relative)];
  });
}
