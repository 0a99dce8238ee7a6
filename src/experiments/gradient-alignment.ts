// Without batch-norm the summands of a weight's gradient agree in sign, so that they do not cancel.

import { alignment, crossEntropy, type LayerAlignment } from "../train/probes.ts";
import { type Configuration, defineExperiment, judge, missing } from "./experiment.ts";
import { lineChart } from "./plot.ts";
import {
  convolutionAt,
  DEEP,
  disposeBatch,
  freshNetwork,
  type NetworkSettings,
  NORM_LABELS,
  trainingBatch,
} from "./setup.ts";
import { geometricMean, show } from "./statistics.ts";

interface Settings extends Configuration, NetworkSettings {
  norm: "batch" | "none";
}

interface Data {
  layers: (LayerAlignment & { layer: number })[];
}

/** The layers of the paper's table, of 110. */
const LAYERS = [18, 54, 90];

export const gradientAlignment = defineExperiment<Settings, Data>({
  id: "gradient-alignment",
  title: "Alignment of the gradient's summands",
  source: "§ 3.3, Table 1",
  about:
    "The gradient of a kernel entry is a sum over images and pixels, Σd. a = Σ|d| is what it would be if no summand cancelled " +
    "another, b = |Σd| what it is; both averaged over a layer's kernel entries.",

  configurations: (preset) =>
    (["batch", "none"] as const).map((norm) => ({ label: norm, norm, ...DEEP[preset] })),

  async run({ gpu, data }, settings, seed) {
    const model = freshNetwork(gpu, data, settings, seed);
    const batch = trainingBatch(gpu, data, settings.batchSize, seed);
    try {
      const layers = new Map(
        LAYERS.map((layer) => convolutionAt(model, layer)).map(({ name, layer }) => [name, layer]),
      );
      const results = await alignment(model, crossEntropy(model, batch.images, batch.labels), {
        layers: (name) => layers.has(name),
      });
      return { layers: results.map((result) => ({ ...result, layer: layers.get(result.name)! })) };
    } finally {
      disposeBatch(batch);
      model.dispose();
    }
  },

  async report(cells) {
    const criterion =
      "At each of the three layers a / b is at least three times larger with batch-norm than without";
    const of = (norm: string) => cells.filter(({ configuration }) => configuration.norm === norm);
    const [batch, none] = [of("batch"), of("none")];
    if (batch.length === 0 || none.length === 0) return { findings: [missing(criterion)], figures: [] };
    const average = (group: typeof cells, i: number, pick: (layer: LayerAlignment) => number) =>
      geometricMean(group.map(({ data }) => pick(data.layers[i]!)));
    const rows = batch[0]!.data.layers.map(({ layer }, i) => ({
      layer,
      with: average(batch, i, (l) => l.ratio),
      without: average(none, i, (l) => l.ratio),
      cells: [batch, none].map((group) => [
        average(group, i, (l) => l.magnitude),
        average(group, i, (l) => l.total),
      ]),
    }));
    return {
      findings: [
        {
          criterion,
          measured: rows
            .map(
              (row) =>
                `layer ${row.layer}: ${show(row.with)} with, ${show(row.without)} without (${show(row.with / row.without)} times)`,
            )
            .join("; "),
          verdict: judge(
            rows.every((row) => row.with >= 3 * row.without),
            ...rows.flatMap((row) => [row.with, row.without]),
          ),
        },
      ],
      figures: [
        {
          svg: await lineChart(
            [
              { label: NORM_LABELS.batch, points: rows.map((row) => [row.layer, row.with] as const) },
              { label: NORM_LABELS.none, points: rows.map((row) => [row.layer, row.without] as const) },
            ],
            { title: "How far the summands cancel", x: "layer", y: "Σ|d| / |Σd|", yScale: "log" },
          ),
          caption: "1 would mean that all summands of an entry have one sign. Geometric mean over seeds.",
        },
      ],
      tables: [
        {
          caption: "Averages over kernel entries",
          head: ["layer", "batch-norm", "a = Σ|d|", "b = |Σd|", "a / b"],
          rows: rows.flatMap((row) =>
            (["with", "without"] as const).map((norm, i) => [
              String(row.layer),
              norm,
              show(row.cells[i]![0]!),
              show(row.cells[i]![1]!),
              show(row[norm]),
            ]),
          ),
        },
      ],
    };
  },
});
