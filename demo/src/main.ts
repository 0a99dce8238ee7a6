// The page: shows what the worker (or a recorded run) says, and passes on what the visitor wants.

import { Chart, drawHeat, drawHistogram, drawNext, drawPixels } from "./charts.ts";
import { showKernels } from "./kernels-table.ts";
import type {
  Failure,
  FromWorker,
  Landscape,
  LayerMoments,
  Look,
  Reading,
  Sample,
  Side,
  ToWorker,
} from "./messages.ts";
import { RatesPanel } from "./rates-panel.ts";
import { playRecording } from "./recording.ts";
import {
  BATCH_SIZES,
  DEPTHS,
  fromHash,
  NORMS,
  RATES,
  type Settings,
  STANDS,
  stopOf,
  titleOf,
  toHash,
} from "./settings.ts";
import { setUpTryIt } from "./try-it.ts";
import {
  learnsAt,
  type NextMove,
  nextMove,
  type Progress,
  percent,
  recordedMove,
  shortName,
  show,
  tellFailure,
  tellPair,
} from "./words.ts";

const SIDES: readonly Side[] = [0, 1];
/** Share of a new reading in the curves. */
const SMOOTHING = 0.15;
/** Points of a curve at most: after that every second one goes. */
const MOST_POINTS = 600;

/** What is told of the networks of one run. */
const OF_A_RUN: ReadonlySet<FromWorker["type"]> = new Set([
  "step",
  "look",
  "failure",
  "landscape",
  "search",
  "answer",
]);

const element = <T extends HTMLElement = HTMLElement>(id: string) => document.getElementById(id) as T;

interface Curve {
  steps: number[];
  loss: [(number | null)[], (number | null)[]];
  accuracy: [(number | null)[], (number | null)[]];
}

class Page {
  private settings: Settings = fromHash(location.hash);
  private playing = false;
  private live = true;
  /** A recorded run that has ended. */
  private over = false;
  private samples: Sample[] = [];
  private classNames: string[] = [];
  private curve: Curve = { steps: [], loss: [[], []], accuracy: [[], []] };
  private smooth: [Reading | null, Reading | null] = [null, null];
  /** The step that was told last, and of which networks. */
  private told: { step: number; readings: readonly [Reading | null, Reading | null] } = {
    step: -1,
    readings: [null, null],
  };
  private latest: [Look | null, Look | null] = [null, null];
  /** The number of the run that was asked for last, and of the one that is shown. */
  private asked = 0;
  private begun = 0;
  private landscapes: [Landscape | null, Landscape | null] = [null, null];
  private failures: [Failure | null, Failure | null] = [null, null];
  private stepsAtRate: [number, number] = [0, 0];
  private learns: [boolean, boolean] = [false, false];
  /** Whether another rate was chosen since the run began. */
  private moved = false;
  private readonly rates = new RatesPanel(
    () => this.tell({ type: "search" }),
    () => this.tell({ type: "stop-search" }),
  );
  private move: NextMove = { sentence: "", action: null };
  private every = 1;
  private readonly charts = {
    loss: new Chart(element("loss-chart")),
    accuracy: new Chart(element("accuracy-chart")),
    std: new Chart(element("std-chart")),
    mean: new Chart(element("mean-chart")),
    landscape: new Chart(element("landscape-chart")),
    histograms: [new Chart(element("histogram-0")), new Chart(element("histogram-1"))],
  };
  private readonly worker: Worker | null = null;
  private readonly tryIt: ReturnType<typeof setUpTryIt>;

  constructor() {
    if (navigator.gpu) {
      this.worker = new Worker(new URL("./worker.ts", import.meta.url), { type: "module" });
      this.worker.addEventListener("message", ({ data }: MessageEvent<FromWorker>) => this.hear(data));
    }
    this.tryIt = setUpTryIt(
      (pixels) => this.tell({ type: "ask", pixels }),
      () => this.samples,
    );
    // Where the page is a part of the site.
    element("docs").hidden = !location.pathname.endsWith("/demo/");
    this.setUpControls();
    this.begin(true);
    this.showTwins();
    this.showNext();
    if (!this.worker) void this.complain("gpu", "there is no navigator.gpu.");
    const frame = () => {
      drawNext();
      requestAnimationFrame(frame);
    };
    requestAnimationFrame(frame);
  }

  private tell(message: ToWorker): void {
    if (this.live) this.worker?.postMessage(message);
  }

  private begin(play: boolean): void {
    history.replaceState(null, "", toHash(this.settings) || location.pathname + location.search);
    this.showSettings();
    this.asked += 1;
    this.tell({ type: "begin", run: this.asked, settings: this.settings, play });
  }

  private change(part: Partial<Settings>): void {
    this.settings = { ...this.settings, ...part };
    this.begin(true);
  }

  private setRate(rate: number): void {
    if (rate === this.settings.rate) return;
    this.settings = { ...this.settings, rate };
    this.stepsAtRate = [0, 0];
    this.moved = true;
    history.replaceState(null, "", toHash(this.settings) || location.pathname + location.search);
    this.showSettings();
    this.tell({ type: "rate", rate });
    this.showNext();
  }

  private setUpControls(): void {
    // On a phone the figures come first.
    const narrow = matchMedia("(max-width: 760px)");
    const fold = () => {
      element<HTMLDetailsElement>("choices").open = !narrow.matches;
    };
    narrow.addEventListener("change", fold);
    fold();
    const rate = element<HTMLInputElement>("rate");
    rate.max = String(RATES.length - 1);
    rate.addEventListener("input", () => this.setRate(RATES[Number(rate.value)]!));
    const fill = (
      id: string,
      options: readonly (readonly [string, string])[],
      chosen: (value: string) => void,
    ) => {
      const menu = element<HTMLSelectElement>(id);
      for (const [value, text] of options) menu.add(new Option(text, value));
      menu.addEventListener("change", () => chosen(menu.value));
    };
    const norms = NORMS.map(({ norm, name }) => [norm, name] as const);
    for (const side of SIDES) {
      fill(`norm-${side}`, norms, (value) => {
        const { norm } = NORMS.find((one) => one.norm === value)!;
        const [a, b] = this.settings.norms;
        this.change({ norms: side === 0 ? [norm, b] : [a, norm] });
      });
    }
    const numbers = (list: readonly number[]) => list.map((one) => [String(one), String(one)] as const);
    fill("depth", numbers(DEPTHS), (value) => this.change({ depth: Number(value) }));
    fill("batch", numbers(BATCH_SIZES), (value) => this.change({ batchSize: Number(value) }));
    const seed = element<HTMLInputElement>("seed");
    seed.addEventListener("change", () => this.change({ seed: fromHash(`#seed=${seed.value}`).seed }));
    element("play").addEventListener("click", () => this.toggle());
    element("step").addEventListener("click", () => this.tell({ type: "step" }));
    element("reset").addEventListener("click", () => this.begin(true));
    element("landscape").addEventListener("click", () => this.tell({ type: "landscape" }));
    element("measure").addEventListener("click", () => this.tell({ type: "kernels" }));
    element("do-next").addEventListener("click", () => this.doNext());
    addEventListener("keydown", (event) => {
      const field = (event.target as HTMLElement).closest("input:not([type=range]), select, textarea");
      if (field || event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
      const act = {
        p: () => this.toggle(),
        s: () => this.tell({ type: "step" }),
        r: () => this.begin(true),
        f: () => element("search").click(),
      }[event.key.toLowerCase()];
      act?.();
    });
    addEventListener("hashchange", () => {
      this.settings = fromHash(location.hash);
      this.begin(true);
    });
  }

  private toggle(): void {
    this.tell({ type: this.playing ? "pause" : "play" });
  }

  private doNext(): void {
    if (!this.live) {
      void this.play();
      return;
    }
    const { action } = this.move;
    if (!action) return;
    if (action.search) element("search").click();
    else if (action.change) this.change(action.change);
    else if (action.rate) {
      this.setRate(action.rate);
      this.tell({ type: "play" });
    }
  }

  private hear(message: FromWorker): void {
    if (this.live && this.isOfAnOlderRun(message)) return;
    switch (message.type) {
      case "ready":
        this.samples = message.samples;
        this.classNames = message.classNames;
        element("device").textContent =
          `${this.live ? "Training on" : "Recorded on"} ${message.adapter.name}${
            message.adapter.class === "software"
              ? ", a processor that does a GPU’s work: a real GPU is far faster"
              : ""
          }.`;
        this.showSamples();
        break;
      case "begin":
        this.begun = message.run;
        // On a live page the settings are the visitor's, who may have moved the slider meanwhile.
        if (!this.live) this.settings = { ...message.settings };
        this.forget();
        break;
      case "playing":
        this.playing = message.playing;
        element("play").textContent = message.playing ? "Pause" : "Play";
        this.showNext();
        break;
      case "step":
        this.count(message.step, message.rate, message.readings);
        break;
      case "look":
        this.showLook(message.look);
        break;
      case "failure":
        this.fail(message.failure);
        break;
      case "search":
        this.rates.hear(message.search);
        this.showNext();
        break;
      case "landscape":
        this.landscapes[message.landscape.side] = message.landscape;
        this.showLandscape();
        break;
      case "answer":
        this.tryIt.show(
          message.answer,
          this.classNames,
          this.settings.norms.map(titleOf) as [string, string],
        );
        break;
      case "kernels":
        showKernels(message.progress, message.results);
        break;
      case "error":
        void this.complain(message.what, message.message);
        break;
    }
  }

  /** Whether networks tell this that the visitor has left: their beginning, or anything before the beginning that is waited for. */
  private isOfAnOlderRun(message: FromWorker): boolean {
    if (message.type === "begin") return message.run !== this.asked;
    return OF_A_RUN.has(message.type) && this.begun !== this.asked;
  }

  private forget(): void {
    this.curve = { steps: [], loss: [[], []], accuracy: [[], []] };
    this.smooth = [null, null];
    this.told = { step: -1, readings: [null, null] };
    this.latest = [null, null];
    this.landscapes = [null, null];
    this.failures = [null, null];
    this.stepsAtRate = [0, 0];
    this.learns = [false, false];
    this.moved = false;
    this.every = 1;
    this.rates.quit();
    // What went wrong was of other networks; that there is no WebGPU remains true.
    if (this.live) element("notice").hidden = true;
    element("count").textContent = "step 0";
    element("failures").replaceChildren();
    for (const side of SIDES) {
      for (const id of ["loss", "accuracy", "test"]) element(`${id}-${side}`).textContent = "–";
      element(`histogram-text-${side}`).textContent = "";
    }
    element("landscape-chart").hidden = true;
    this.showSettings();
    this.showTwins();
    this.showNext();
  }

  private count(step: number, rate: number, readings: readonly [Reading | null, Reading | null]): void {
    if (!this.live && rate !== this.settings.rate) {
      this.settings = { ...this.settings, rate };
      this.stepsAtRate = [0, 0];
      this.showSettings();
    }
    element("count").textContent = `step ${step}`;
    const before = this.told.step === step ? this.told.readings : [null, null];
    this.told = { step, readings };
    for (const side of SIDES) {
      const reading = readings[side];
      if (!reading || before[side]) continue;
      const old = this.smooth[side];
      const mix = (was: number, now: number) => (Number.isFinite(now) ? was + SMOOTHING * (now - was) : now);
      // A blow-up is not smoothed away.
      const jump = !old || reading.loss > 3 * old.loss + 3;
      this.smooth[side] = jump
        ? reading
        : { loss: mix(old.loss, reading.loss), accuracy: mix(old.accuracy, reading.accuracy) };
      this.learns[side] = learnsAt(this.smooth[side]!.accuracy, this.learns[side]);
      if (rate === this.settings.rate) this.stepsAtRate[side] += 1;
      if (this.stepsAtRate[side] === STANDS) {
        this.rates.marks.stood(this.settings, side);
        this.rates.show(this.settings);
      }
    }
    if (step % this.every === 0) {
      if (this.curve.steps.at(-1) !== step) this.curve.steps.push(step);
      const last = this.curve.steps.length - 1;
      for (const side of SIDES) {
        const here = readings[side] && this.smooth[side];
        this.curve.loss[side][last] = here?.loss ?? null;
        this.curve.accuracy[side][last] = here ? 100 * here.accuracy : null;
      }
      if (this.curve.steps.length > MOST_POINTS) this.thin();
    }
    const both = (of: [(number | null)[], (number | null)[]]) =>
      SIDES.map((side) => ({ side, values: of[side] }));
    const { steps, loss, accuracy } = this.curve;
    // Room for what is to come, so that the axis does not move with each step.
    const end = Math.max(50, 2 ** Math.ceil(Math.log2(Math.max(1, step) / 50)) * 50);
    // A curve that blows up leaves the figure, so that the other can still be read.
    const highest = Math.max(
      ...SIDES.flatMap((side) => loss[side].filter((value) => value !== null && value < 10) as number[]),
    );
    this.charts.loss.set(
      steps,
      both(loss),
      { label: "step", whole: true, range: [0, end] },
      { label: "loss", range: [0, highest > 6 ? 10 : highest > 3 ? 6 : 3] },
    );
    this.charts.accuracy.set(
      steps,
      both(accuracy),
      { label: "step", whole: true, range: [0, end] },
      { label: "% right", range: [0, 100] },
    );
    this.showTwins();
    this.showNext();
  }

  private thin(): void {
    const half = <T>(list: T[]) => list.filter((_, i) => i % 2 === 0);
    const { curve } = this;
    curve.steps = half(curve.steps);
    for (const side of SIDES) {
      curve.loss[side] = half(curve.loss[side]);
      curve.accuracy[side] = half(curve.accuracy[side]);
    }
    this.every *= 2;
  }

  private fail(failure: Failure): void {
    const { side } = failure;
    this.failures[side] = failure;
    this.rates.marks.broke(this.settings, side, failure.rate);
    this.rates.show(this.settings);
    const { title, where, why } = tellFailure(failure, this.settings);
    const box = document.createElement("div");
    box.className = `failure ${side === 0 ? "a" : "b"}`;
    const heading = document.createElement("h2");
    heading.textContent = title;
    box.append(
      heading,
      ...[where, why].map((text) => Object.assign(document.createElement("p"), { textContent: text })),
    );
    element("failures").append(box);
    this.showTwins();
    this.showNext();
  }

  private showLook(look: Look): void {
    const { side } = look;
    this.latest[side] = look;
    const lines = (pick: (moments: LayerMoments) => number) =>
      SIDES.flatMap((one) => {
        const { layers: now, start } = this.latest[one] ?? {};
        return now && start
          ? [
              { side: one, values: start.map(pick), dotted: true },
              { side: one, values: now.map(pick) },
            ]
          : [];
      });
    const layers = look.layers.map((_, i) => i + 1);
    const x = { label: "layer", whole: true, range: [1, layers.length] as const };
    this.charts.std.set(
      layers,
      lines(({ std }) => std),
      x,
      { label: "standard deviation", log: true },
    );
    this.charts.mean.set(
      layers,
      lines(({ mean }) => mean),
      x,
      { label: "|mean|", log: true },
    );
    for (const [id, what] of [
      ["std-chart", "std"],
      ["mean-chart", "mean"],
    ] as const) {
      const told = SIDES.flatMap((one) => {
        const found = this.latest[one];
        if (!found) return [];
        const [from, to] = [found.layers[0]!, found.layers.at(-2)!];
        return [
          `${titleOf(this.settings.norms[one])}: ${show(from[what])} at the first layer, ${show(to[what])} at the last convolution.`,
        ];
      });
      element(id).ariaLabel =
        `${what === "std" ? "Standard deviation" : "Mean"} of activations by layer. ${told.join(" ")}`;
    }
    const { gradient } = look;
    element(`histogram-text-${side}`).textContent = gradient
      ? `Layer ${gradient.layer}: standard deviation ${show(gradient.std)}, kurtosis ${show(gradient.kurtosis)} (normal: 3)`
      : "No gradient that can be shown: it is zero, or not finite.";
    if (gradient) drawHistogram(this.charts.histograms[side]!, side, gradient.histogram);
    drawHeat(element<HTMLCanvasElement>(`heat-${side}`), look.logitGradients);
    element(`test-${side}`).textContent = percent(look.testAccuracy);
    look.answers.forEach((probabilities, i) => {
      const best = probabilities.indexOf(Math.max(...probabilities));
      const line = document.querySelector(`#answers [data-answer="${i}-${side}"]`);
      if (!line) return;
      const right = this.samples[i]?.label === best;
      const known = Number.isFinite(probabilities[0]);
      line.children[0]!.textContent = known
        ? `${right ? "✓" : "✗"}\u00a0${this.classNames[best]}`
        : "✗ no answer";
      line.children[1]!.textContent = known ? percent(probabilities[best]!) : "";
    });
  }

  private showLandscape(): void {
    const found = SIDES.flatMap((side) => this.landscapes[side] ?? []);
    const alphas = found[0]?.alphas ?? [];
    element("landscape-chart").hidden = false;
    const told = found.map(({ side, loss, losses }) => {
      const best = losses.reduce((least, value, i) => (value < losses[least]! ? i : least), 0);
      const helps = losses[best]! < loss;
      return `${titleOf(this.settings.norms[side])}: ${helps ? `lowest after a step of ${show(alphas[best]!)}, ${show(losses[best]! / loss)} of what it was` : "no step helps"}.`;
    });
    element("landscape-chart").ariaLabel = `Loss after one step of each size. ${told.join(" ")}`;
    this.charts.landscape.set(
      alphas,
      found.map(({ side, loss, losses }) => ({ side, values: losses.map((value) => value / loss) })),
      { label: "step size α", log: true },
      { label: "loss / loss before", log: true, range: [0.05, 1e4] },
    );
  }

  private showSamples(): void {
    element("answers").replaceChildren(
      ...this.samples.map(({ pixels, label }, i) => {
        const card = document.createElement("div");
        card.className = "sample";
        const canvas = document.createElement("canvas");
        canvas.role = "img";
        canvas.ariaLabel = `Test image ${i + 1}`;
        drawPixels(canvas, pixels);
        const name = Object.assign(document.createElement("b"), { textContent: this.classNames[label]! });
        const lines = SIDES.map((side) => {
          const line = document.createElement("div");
          line.className = `answer ${side === 0 ? "a" : "b"}`;
          line.dataset.answer = `${i}-${side}`;
          line.append(
            Object.assign(document.createElement("span"), { textContent: "…" }),
            document.createElement("span"),
          );
          return line;
        });
        card.append(canvas, name, ...lines);
        return card;
      }),
    );
  }

  private showSettings(): void {
    const { rate, norms, depth, batchSize, seed } = this.settings;
    const slider = element<HTMLInputElement>("rate");
    slider.value = String(stopOf(rate));
    slider.ariaValueText = String(rate);
    element("rate-value").textContent = String(rate);
    for (const side of SIDES) {
      element<HTMLSelectElement>(`norm-${side}`).value = norms[side];
      element(`title-${side}`).textContent = titleOf(norms[side]);
    }
    element("which").textContent = tellPair(norms);
    for (const legend of document.querySelectorAll(".legend")) {
      legend.replaceChildren(...SIDES.map((side) => this.nameTag(side)));
    }
    document.querySelectorAll(".whose").forEach((place, i) => {
      place.replaceChildren(this.nameTag((i % 2) as Side));
    });
    element<HTMLSelectElement>("depth").value = String(depth);
    element<HTMLSelectElement>("batch").value = String(batchSize);
    element<HTMLInputElement>("seed").value = String(seed);
    this.rates.show(this.settings);
  }

  /** Of one network, in its colour. */
  private nameTag(side: Side): HTMLElement {
    const tag = document.createElement("span");
    tag.className = side === 0 ? "a" : "b";
    tag.textContent = shortName(this.settings.norms[side]);
    return tag;
  }

  private showTwins(): void {
    for (const side of SIDES) {
      const [reading, failure] = [this.smooth[side], this.failures[side]];
      if (reading) {
        element(`loss-${side}`).textContent = show(reading.loss);
        element(`accuracy-${side}`).textContent = percent(reading.accuracy);
      }
      const state = failure
        ? `${failure.kind === "diverged" ? "Blew up" : "Stuck"} at step ${failure.step}, rate ${failure.rate}`
        : !reading
          ? "Getting ready …"
          : this.learns[side]
            ? "Learning"
            : "Guessing";
      const place = element(`state-${side}`);
      if (place.textContent !== state) place.textContent = state;
      place.closest(".twin")!.classList.toggle("failed", failure !== null);
    }
  }

  private showNext(): void {
    const progress = SIDES.map(
      (side): Progress => ({
        learns: this.learns[side],
        stepsAtRate: this.stepsAtRate[side],
        failure: this.failures[side],
      }),
    ) as [Progress, Progress];
    this.move = this.live
      ? nextMove(this.settings, progress, {
          moved: this.moved,
          searched: SIDES.every((side) => this.rates.marks.limits(this.settings, side)),
          searching: this.rates.searching,
          paused: !this.playing && this.told.step >= 0,
        })
      : recordedMove(this.over);
    const { sentence, action } = this.move;
    const text = element("next");
    // A screen reader speaks when it changes, not at every step.
    if (text.textContent !== sentence) text.textContent = sentence;
    const button = element<HTMLButtonElement>("do-next");
    button.hidden = action === null;
    if (action && button.textContent !== action.label) button.textContent = action.label;
  }

  /** The recorded run, from its beginning. */
  private async play(): Promise<void> {
    this.over = false;
    await playRecording((said) => this.hear(said));
    this.over = true;
    this.showNext();
  }

  private async complain(what: "gpu" | "other", message: string): Promise<void> {
    const notice = element("notice");
    notice.hidden = false;
    const [title, text] = [document.createElement("h2"), document.createElement("p")];
    title.textContent = what === "gpu" ? "No WebGPU here: this is a recorded run" : "Something went wrong";
    text.textContent =
      what === "gpu"
        ? "To train the networks yourself, open this page in a recent Chrome, Edge, Safari 26 or Firefox, over https, with hardware acceleration turned on. " +
          `The browser says: ${message}`
        : message;
    notice.replaceChildren(title, text);
    if (what !== "gpu") return;
    this.live = false;
    for (const id of ["try-title", "kernels-title"]) element(id).closest("section")!.hidden = true;
    for (const control of document.querySelectorAll<HTMLInputElement>(
      ".controls :is(button, select, input), #landscape",
    )) {
      control.disabled = true;
    }
    await this.play();
  }
}

new Page();
