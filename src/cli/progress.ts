import { MultiBar, Presets, type SingleBar } from "cli-progress";
import type { RunCallbacks } from "../train/callbacks.ts";

/** After so long without a reading people wonder whether anything happens. */
const PATIENCE_MS = 5000;

/** One bar a run: loss, accuracy, images/s, time left. Where output is no terminal, one line a reading of ten. */
export class TrainingProgress {
  private readonly bars = process.stderr.isTTY
    ? new MultiBar(
        {
          format: "{label} {bar} {value}/{total} │ loss {loss} │ acc {accuracy} │ {rate} img/s │ {left} left",
          stream: process.stderr,
          hideCursor: true,
        },
        Presets.rect,
      )
    : null;
  private patience: NodeJS.Timeout | undefined;

  /** Callbacks that draw the progress of one run of `totalSteps`, of which `startStep` are done. */
  follow(label: string, totalSteps: number, startStep = 0): Pick<RunCallbacks, "onLog" | "onEval"> {
    const fields = { label, loss: "–", accuracy: "–", rate: "–", left: "–" };
    const bar: SingleBar | undefined = this.bars?.create(totalSteps, startStep, fields);
    let readings = 0;
    clearTimeout(this.patience);
    this.patience = setTimeout(() => {
      bar?.update({ left: "compiling, –" });
      if (!bar) console.error(`${label}: the kernels are being compiled; the first steps take longest`);
    }, PATIENCE_MS).unref();
    return {
      onLog: ({ step, loss, accuracy, imagesPerSecond, secondsLeft }) => {
        clearTimeout(this.patience);
        const shown = {
          loss: Number.isFinite(loss) ? loss.toPrecision(4) : "not finite",
          accuracy: `${(100 * accuracy).toFixed(1)} %`,
          rate: imagesPerSecond.toPrecision(3),
          left: formatSeconds(secondsLeft),
        };
        bar?.update(step, shown);
        if (!bar && (readings++ % 10 === 0 || step === totalSteps)) {
          const { loss: l, accuracy: a, rate, left } = shown;
          console.error(`${label} step ${step}/${totalSteps} loss ${l} acc ${a} ${rate} img/s ${left} left`);
        }
      },
      onEval: ({ step, testAccuracy }) => {
        if (!bar)
          console.error(`${label} step ${step}/${totalSteps} test acc ${(100 * testAccuracy).toFixed(1)} %`);
      },
    };
  }

  stop(): void {
    clearTimeout(this.patience);
    this.bars?.stop();
  }
}

export function formatSeconds(seconds: number): string {
  if (!Number.isFinite(seconds)) return "–";
  if (seconds < 90) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 90 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}
