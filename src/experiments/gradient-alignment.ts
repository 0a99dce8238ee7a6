// Without batch-norm the summands of a weight's gradient agree in sign, so that they do not cancel.

import { alignment, crossEntropy, type LayerAlignment } from "../train/probes.ts";
import {
  type Cell,
  type Configuration,
  defineExperiment,
  defineMeasurement,
  judge,
  missing,
} from "./experiment.ts";
import { lineChart, pointOf } from "./plot.ts";
import {
  atInitialisation,
  convolutionAt,
  lacking,
  type NetworkSettings,
  NORM_LABELS,
  ofNorm,
  withNetwork,
} from "./setup.ts";
import { geometricMean, show } from "./statistics.ts";
import { networkWork } from "./work.ts";

export interface AlignmentSettings extends Configuration, NetworkSettings {
  measure: "alignment";
}

export interface AlignmentData {
  layers: (LayerAlignment & { layer: number })[];
}

/** The layers of the paper's table, of 110. */
export const ALIGNED_LAYERS = [18, 54, 90];

export const alignments = defineMeasurement<AlignmentSettings, AlignmentData>({
  id: "alignment",
  run: (context, settings, seed) =>
    withNetwork(context, settings, seed, async (model, { images, labels }) => {
      const layers = new Map(
        ALIGNED_LAYERS.map((layer) => convolutionAt(model, layer)).map(({ name, layer }) => [name, layer]),
      );
      const results = await alignment(model, crossEntropy(model, images, labels), {
        layers: (name) => layers.has(name),
      });
      return { layers: results.map((result) => ({ ...result, layer: layers.get(result.name)! })) };
    }),
  work: (settings, image) => networkWork(settings, image, { steps: 1.2 }),
});

const CRITERIA = {
  larger: "At each of the three layers Σ|d| / |Σd| is at least ten times larger with batch-norm than without",
  aligned: "Without batch-norm it is at most 5 at each of them: the summands hardly cancel",
};

type Result = Cell<AlignmentSettings, AlignmentData>;

/** Geometric mean over seeds of a number of each layer. */
export function byLayer(
  cells: readonly Result[],
  pick: (layer: LayerAlignment) => number,
): { layer: number; value: number }[] {
  return (cells[0]?.data.layers ?? []).map(({ layer }, i) => ({
    layer,
    value: geometricMean(cells.map(({ data }) => pick(data.layers[i]!))),
  }));
}

/** Of the paper's table: with batch-norm, without. */
const PAPER = [
  [18, "251.8", "1.7"],
  [54, "112.8", "2.6"],
  [90, "40.7", "2.1"],
] as const;

export const gradientAlignment = defineExperiment<AlignmentSettings, AlignmentData>({
  id: "gradient-alignment",
  title: "Alignment of the gradient's summands",
  source: "§ 3.3, Table 1",
  claim: "Without batch-norm the gradients of images and pixels hardly cancel, so that their sum is large.",
  about:
    "The gradient of a kernel entry is a sum over images and pixels, Σd. a = Σ|d| is what it would be if no summand cancelled " +
    "another, b = |Σd| what it is; both averaged over a layer's kernel entries.",
  measurements: [alignments],

  configurations: (preset) => atInitialisation("alignment", preset, {}),

  verdict(cells) {
    const absent = lacking(cells);
    if (absent) return Object.values(CRITERIA).map((criterion) => missing(criterion, absent));
    const ratio = (norm: "batch" | "none") => byLayer(ofNorm(cells, norm), (layer) => layer.ratio);
    const [batch, none] = [ratio("batch"), ratio("none")];
    const numbers = [...batch, ...none].map(({ value }) => value);
    return [
      {
        criterion: CRITERIA.larger,
        measured: none
          .map(({ layer, value }, i) => {
            const larger = batch[i]!.value;
            return `layer ${layer}: ${show(larger)} with, ${show(value)} without (${show(larger / value)} times)`;
          })
          .join("; "),
        verdict: judge(
          none.every(({ value }, i) => batch[i]!.value >= 10 * value),
          ...numbers,
        ),
      },
      {
        criterion: CRITERIA.aligned,
        measured: `at most ${show(Math.max(...none.map(({ value }) => value)))}`,
        verdict: judge(
          none.every(({ value }) => value <= 5),
          ...none.map(({ value }) => value),
        ),
      },
    ];
  },

  compare(cells) {
    const ours = (norm: "batch" | "none", i: number) => {
      const value = byLayer(ofNorm(cells, norm), (layer) => layer.ratio)[i]?.value;
      return value === undefined ? "–" : show(value);
    };
    return PAPER.map(([layer, batch, none], i) => ({
      what: `a / b at layer ${layer}, with batch-norm and without`,
      paper: `${batch}, ${none}`,
      mark: "R",
      ours: `${ours("batch", i)}, ${ours("none", i)}`,
    }));
  },

  async exhibit(cells) {
    const norms = (["batch", "none"] as const).filter((norm) => ofNorm(cells, norm).length > 0);
    if (norms.length === 0) return { figures: [] };
    return {
      figures: [
        {
          svg: await lineChart(
            norms.map((norm) => ({
              label: NORM_LABELS[norm],
              points: byLayer(ofNorm(cells, norm), (l) => l.ratio).map(({ layer, value }, i) =>
                pointOf(
                  layer,
                  value,
                  ofNorm(cells, norm).map(({ data }) => data.layers[i]!.ratio),
                ),
              ),
            })),
            { title: "How far the summands cancel", x: "layer", y: "Σ|d| / |Σd|", yScale: "log" },
          ),
          caption:
            "1 would mean that all summands of an entry have one sign. Geometric mean over seeds; the band is their range.",
        },
      ],
      tables: [
        {
          caption: "Averages over kernel entries",
          head: ["layer", "network", "a = Σ|d|", "b = |Σd|", "a / b"],
          rows: norms.flatMap((norm) => {
            const mine = ofNorm(cells, norm);
            const columns = (["magnitude", "total", "ratio"] as const).map((field) =>
              byLayer(mine, (l) => l[field]),
            );
            return columns[0]!.map(({ layer }, i) => [
              String(layer),
              NORM_LABELS[norm],
              ...columns.map((column) => show(column[i]!.value)),
            ]);
          }),
        },
      ],
    };
  },
});
