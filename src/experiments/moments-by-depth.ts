// Without batch-norm, activations grow with depth from the start.

import { Conv2d } from "../nn/layers.ts";
import { isCifarNetwork } from "../train/networks.ts";
import { probe } from "../train/probes.ts";
import {
  type Cell,
  type Configuration,
  defineExperiment,
  defineMeasurement,
  judge,
  missing,
} from "./experiment.ts";
import { lineChart, type Point } from "./plot.ts";
import {
  atInitialisation,
  convolutionNames,
  lacking,
  type NetworkSettings,
  NORM_LABELS,
  ofNorm,
  withNetwork,
} from "./setup.ts";
import { fitLine, mean, sampleStd, show } from "./statistics.ts";
import { networkWork } from "./work.ts";

export interface MomentsSettings extends Configuration, NetworkSettings {
  measure: "moments";
}

/** Of one layer's channels: mean and spread of ln |mean| and of ln std. */
interface LayerSummary {
  /** From 1; the classifier comes last. */
  layer: number;
  name: string;
  /** ln of the mean over channels. */
  logMean: number;
  /** Standard deviation over channels of the logarithm. */
  logMeanSpread: number;
  logStd: number;
  logStdSpread: number;
}

export interface MomentsData {
  /** What each convolution gives, before its batch-norm where it has one, and the logits. */
  layers: LayerSummary[];
}

/** Channels that are zero throughout have no logarithm, and are left out. */
const logSpread = (values: readonly number[]) => sampleStd(values.filter((value) => value > 0).map(Math.log));

export const moments = defineMeasurement<MomentsSettings, MomentsData>({
  id: "moments",

  run: (context, settings, seed) =>
    withNetwork(context, settings, seed, async (model, { images }) => {
      const names = [...convolutionNames(model), "classifier"];
      const found = await probe.activations(model, images, {
        layers: (name, module) => (module instanceof Conv2d || name === "classifier") && names.includes(name),
      });
      const layers = found.map(({ name, mean: means, variance }) => {
        const magnitudes = Array.from(means, Math.abs);
        const stds = Array.from(variance, Math.sqrt);
        return {
          layer: names.indexOf(name) + 1,
          name,
          logMean: Math.log(mean(magnitudes)),
          logMeanSpread: logSpread(magnitudes),
          logStd: Math.log(mean(stds)),
          logStdSpread: logSpread(stds),
        };
      });
      return { layers: layers.sort((a, b) => a.layer - b.layer) };
    }),

  // Each measured layer is also read, and its moments worked out.
  work: (settings, image) => networkWork(settings, image, { forwards: 3 }),
});

const CRITERIA = {
  growth:
    "Without batch-norm the logarithm of the channels' variance grows linearly with depth: by at least two decades, R² ≥ 0.8",
  flat: "With batch-norm the variance at layers 6, 18 … 102, before their batch-norm, stays within one decade",
  anew: "With batch-norm the saw-tooth starts anew at both later stages: it falls by at least half of its rise in the stage before",
};

type Result = Cell<MomentsSettings, MomentsData>;

/** Mean over cells of a number of each layer. */
function averaged(cells: readonly Result[], pick: (layer: LayerSummary) => number) {
  return (cells[0]?.data.layers ?? []).map(({ layer }, i) => ({
    layer,
    value: mean(cells.map(({ data }) => pick(data.layers[i]!))),
  }));
}

/** Growth of log₁₀ variance over all convolutions. */
export function growth(cells: readonly Result[]): { decades: number; r2: number } {
  const stds = averaged(cells, ({ logStd }) => logStd).slice(0, -1);
  const fit = fitLine(
    stds.map(({ layer }) => layer),
    stds.map(({ value }) => (2 * value) / Math.LN10),
  );
  return { decades: fit.slope * (stds.length - 1), r2: fit.r2 };
}

/** ln std of the first convolutions of the blocks of each of the three stages. */
function stagesOf(cells: readonly Result[]): number[][] {
  const perStage = (cells[0]!.configuration.depth - 2) / 3;
  const first = averaged(cells, ({ logStd }) => logStd).filter(({ layer }) => layer % 2 === 0);
  return [0, 1, 2].map((stage) =>
    first
      .filter(({ layer }) => layer > 1 + stage * perStage && layer <= 1 + (stage + 1) * perStage)
      .map(({ value }) => value),
  );
}

export const momentsByDepth = defineExperiment<MomentsSettings, MomentsData>({
  id: "moments-by-depth",
  title: "Activations by depth at initialisation",
  source: "§ 3.2, Fig. 5",
  claim:
    "Without batch-norm means and variances of the channels grow exponentially with depth from the start; with it they do not.",
  about:
    "Mean and standard deviation of each channel over one batch before any training, of what each convolution gives before its batch-norm " +
    "(after it, flatness could not fail), and of the logits.",
  measurements: [moments],

  configurations: (preset) => atInitialisation("moments", preset, {}),

  verdict(cells) {
    const absent = lacking(cells);
    if (absent) return Object.values(CRITERIA).map((criterion) => missing(criterion, absent));
    const [batch, none] = [ofNorm(cells, "batch"), ofNorm(cells, "none")];
    const { decades, r2 } = growth(none);
    const stages = stagesOf(batch);
    const stds = averaged(batch, ({ logStd }) => logStd);
    const all = stds.filter(({ layer }) => FIGURE_LAYERS.includes(layer)).map(({ value }) => value);
    const { network = "resnetCifar" } = batch[0]!.configuration;
    const shallow = FIGURE_LAYERS.filter((layer) => !stds.some((entry) => entry.layer === layer));
    const span = (2 * (Math.max(...all) - Math.min(...all))) / Math.LN10;
    const third = (values: readonly number[], end: "first" | "last") => {
      const count = Math.ceil(values.length / 3);
      return mean(end === "first" ? values.slice(0, count) : values.slice(-count));
    };
    const falls = [1, 2].map((stage) => {
      const [before, after] = [stages[stage - 1]!, stages[stage]!];
      const rise = third(before, "last") - third(before, "first");
      return { rise, fall: third(before, "last") - third(after, "first") };
    });
    return [
      {
        criterion: CRITERIA.growth,
        measured: `${show(decades)} decades over ${none[0]!.data.layers.length - 1} layers, R² = ${show(r2, 2)}`,
        verdict: judge(decades >= 2 && r2 >= 0.8, decades, r2),
      },
      shallow.length > 0
        ? missing(CRITERIA.flat, `layers ${shallow.join(", ")}: the network has fewer`)
        : {
            criterion: CRITERIA.flat,
            measured: `${show(span, 2)} decades`,
            verdict: judge(span <= 1, span),
          },
      !isCifarNetwork(network)
        ? missing(CRITERIA.anew, `three stages of one length each: ${network} has none`)
        : {
            criterion: CRITERIA.anew,
            measured: falls
              .map(
                ({ rise, fall }, i) =>
                  `stage ${i + 2}: ln std falls by ${show(fall, 2)} after a rise of ${show(rise, 2)}`,
              )
              .join("; "),
            verdict: judge(
              falls.every(({ rise, fall }) => rise > 0 && fall >= rise / 2),
              ...falls.flatMap(({ rise, fall }) => [rise, fall]),
            ),
          },
    ];
  },

  compare(cells) {
    const stds = averaged(ofNorm(cells, "batch"), ({ logStd }) => logStd);
    const at = (layer: number) => {
      const found = stds.find((entry) => entry.layer === layer);
      return found ? show(found.value, 2) : "–";
    };
    const ends = (pick: (layer: LayerSummary) => number) => {
      const none = averaged(ofNorm(cells, "none"), pick);
      return none.length > 0 ? `${show(none[5]!.value, 2)} … ${show(none.at(-1)!.value, 2)}` : "–";
    };
    return [
      {
        what: `ln std at layers ${FIGURE_LAYERS.join(", ")}, with batch-norm`,
        paper: PAPER_STDS.map((value) => show(value)).join(", "),
        mark: "F",
        ours: FIGURE_LAYERS.map(at).join(", "),
      },
      {
        what: "ln std from layer 6 to 110, without",
        paper: "−1.2 … 3",
        mark: "F",
        ours: ends((l) => l.logStd),
      },
      {
        what: "ln of mean |mean| from layer 6 to 110, without",
        paper: "−1.5 … 3.5",
        mark: "F",
        ours: ends((l) => l.logMean),
      },
    ];
  },

  async exhibit(cells) {
    const drawn = (pick: (l: LayerSummary) => number, spread: (l: LayerSummary) => number) =>
      (["batch", "none"] as const)
        .map((norm) => ofNorm(cells, norm))
        .filter((group) => group.length > 0)
        .map((group) => {
          const spreads = averaged(group, spread);
          const points = averaged(group, pick).map(
            ({ layer, value }, i): Point => [
              layer,
              value,
              value - spreads[i]!.value,
              value + spreads[i]!.value,
            ],
          );
          // First convolutions of blocks alone, as in the paper, and the logits.
          return {
            label: NORM_LABELS[group[0]!.configuration.norm],
            points: points.filter(([layer]) => layer % 2 === 0),
          };
        });
    if (cells.length === 0) return { figures: [] };
    const paper = {
      label: "paper, with batch-norm",
      dashed: true,
      points: FIGURE_LAYERS.map((layer, i): Point => [layer, PAPER_STDS[i]!]),
    };
    const caption =
      "First convolution of each block, and the classifier; mean over seeds, the band is one standard deviation over channels.";
    return {
      figures: [
        {
          svg: await lineChart(
            drawn(
              (l) => l.logMean,
              (l) => l.logMeanSpread,
            ),
            { title: "Means of the channels", x: "layer", y: "ln of mean |mean|" },
          ),
          caption,
        },
        {
          svg: await lineChart(
            [
              ...drawn(
                (l) => l.logStd,
                (l) => l.logStdSpread,
              ),
              paper,
            ],
            { title: "Standard deviations of the channels", x: "layer", y: "ln std" },
          ),
          caption,
        },
      ],
    };
  },
});

const FIGURE_LAYERS = [6, 18, 30, 42, 54, 66, 78, 90, 102];
const PAPER_STDS = [0.1, 0.6, 0.9, 0.05, 0.65, 0.95, 0, 0.55, 0.9];
