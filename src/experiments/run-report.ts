import type { AdapterSummary } from "../device/adapter.ts";
import type { TrainHistory } from "../train/run-state.ts";
import { escapeHtml, htmlFigures, htmlPage, htmlTable } from "./page.ts";
import { lineChart } from "./plot.ts";

/** One training run and its name in legends and tables. */
export interface LabelledRun {
  label: string;
  history: TrainHistory;
}

export const RUN_TABLE_HEAD = ["run", "steps", "train loss", "train accuracy", "test accuracy", "outcome"];

/** A row of figures by run, for terminal and page. */
export function runRow({ label, history }: LabelledRun): string[] {
  const last = history.log.at(-1);
  const test = history.evals.at(-1);
  const percent = (share: number | undefined) =>
    share === undefined ? "–" : `${(100 * share).toFixed(1)} %`;
  return [
    label,
    String(last?.step ?? 0),
    last ? (Number.isFinite(last.loss) ? last.loss.toPrecision(4) : "not finite") : "–",
    percent(last?.accuracy),
    percent(test?.testAccuracy),
    history.divergedAt === null ? "finished" : `diverged at step ${history.divergedAt}`,
  ];
}

/** Loss and accuracy curves of some runs, and their table. `summary` is plain text. */
export async function runReport(
  title: string,
  runs: readonly LabelledRun[],
  adapter: AdapterSummary,
  summary = "",
): Promise<string> {
  const figures = await Promise.all([
    lineChart(
      runs.map(({ label, history }) => ({
        label,
        points: history.log.map(({ step, loss }) => [step, loss] as const),
      })),
      { title: "Training loss", x: "step", y: "cross-entropy (nats)", yScale: "log" },
    ),
    lineChart(
      runs.map(({ label, history }) => ({
        label,
        points: history.log.map(({ step, accuracy }) => [step, accuracy] as const),
      })),
      { title: "Training accuracy", x: "step", y: "share classified right", yDomain: [0, 1], yFormat: "%" },
    ),
    lineChart(
      runs.map(({ label, history }) => ({
        label,
        points: history.evals.map(({ step, testAccuracy }) => [step, testAccuracy] as const),
      })),
      { title: "Test accuracy", x: "step", y: "share classified right", yDomain: [0, 1], yFormat: "%" },
    ),
  ]);
  return htmlPage(
    title,
    `${summary ? `<p>${escapeHtml(summary)}</p>` : ""}
${htmlFigures(figures)}
<h2>Runs</h2>
${htmlTable(RUN_TABLE_HEAD, runs.map(runRow))}
<p class="note">Adapter: ${escapeHtml(adapter.name)} (${adapter.class}).</p>`,
  );
}
