// Charts, in the page's colours. Each is redrawn at most once a frame, and only when it has changed.

import uPlot from "uplot";
import type { Histogram } from "../../src/train/statistics.ts";
import { show } from "./words.ts";

export interface Line {
  side: 0 | 1;
  values: readonly (number | null)[];
  dotted?: boolean;
}

interface Axis {
  label: string;
  log?: boolean;
  /** Ticks at integers alone. */
  whole?: boolean;
  range?: readonly [number, number];
}

const color = (name: string) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** What a curve does that leaves its figure: a canvas does not draw to places that are too far off. */
const FAR = 50;

/** uPlot leaves gaps at null; a logarithm has no zero. */
function drawable(value: number | null, { log, range }: Axis): number | null {
  if (value === null) return null;
  if (range && !log) return value < FAR * range[1] ? value : FAR * range[1];
  return Number.isFinite(value) && (!log || value > 0) ? value : null;
}

/** Of a logarithmic axis: decades alone, five or so of them. */
function decades(_plot: uPlot, splits: number[]): (number | null)[] {
  const powers = splits.map((value) => Math.log10(value));
  const step = Math.max(1, Math.ceil((Math.max(...powers) - Math.min(...powers)) / 5));
  return splits.map((value, i) => {
    const power = Math.round(powers[i]!);
    return Math.abs(powers[i]! - power) < 1e-6 && power % step === 0 ? value : null;
  });
}

export class Chart {
  private plot: uPlot | null = null;
  private drawn = "";
  private dirty = false;
  private x: readonly number[] = [];
  private lines: readonly Line[] = [];
  private shape: { x: Axis; y: Axis; bars: boolean } | null = null;

  constructor(private readonly place: HTMLElement) {
    new ResizeObserver(() => this.resize()).observe(place);
    charts.push(this);
  }

  set(x: readonly number[], lines: readonly Line[], xAxis: Axis, yAxis: Axis, bars = false): void {
    Object.assign(this, { x, lines, shape: { x: xAxis, y: yAxis, bars }, dirty: true });
  }

  /** @returns whether there was anything to draw */
  draw(): boolean {
    if (!this.dirty || !this.shape || this.place.clientWidth === 0) return false;
    this.dirty = false;
    const { x, lines, shape } = this;
    const data = [
      x,
      ...lines.map(({ values }) => values.map((value) => drawable(value, shape.y))),
    ] as uPlot.AlignedData;
    const key = JSON.stringify([shape, lines.map(({ side, dotted }) => [side, dotted])]);
    if (this.plot && key === this.drawn) this.plot.setData(data);
    else {
      this.plot?.destroy();
      this.plot = new uPlot(this.options(shape, lines), data, this.place);
      this.drawn = key;
    }
    return true;
  }

  private options(shape: { x: Axis; y: Axis; bars: boolean }, lines: readonly Line[]): uPlot.Options {
    const axis = (of: Axis, vertical: boolean): uPlot.Axis => ({
      label: of.label,
      labelSize: 18,
      size: vertical ? 54 : 34,
      font: "12px system-ui, sans-serif",
      labelFont: "12px system-ui, sans-serif",
      stroke: color("--quiet"),
      grid: { stroke: color("--grid"), width: 1, ...(of.log ? { filter: decades } : {}) },
      ticks: { stroke: color("--grid"), width: 1, size: 4, ...(of.log ? { filter: decades } : {}) },
      values: (_plot, splits) => splits.map((value) => (value === null ? "" : show(value))),
      ...(of.log ? { filter: decades } : {}),
      ...(of.whole ? { incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 1e4, 1e5] } : {}),
      space: vertical ? 28 : 44,
    });
    const scale = (of: Axis): uPlot.Scale => ({
      time: false,
      distr: of.log ? 3 : 1,
      ...(of.range ? { range: [of.range[0], of.range[1]] as uPlot.Range.MinMax } : {}),
    });
    return {
      width: this.place.clientWidth,
      height: this.place.clientHeight,
      legend: { show: false },
      cursor: { show: false },
      scales: { x: scale(shape.x), y: scale(shape.y) },
      axes: [axis(shape.x, false), axis(shape.y, true)],
      series: [
        {},
        ...lines.map(({ side, dotted }): uPlot.Series => {
          const stroke = color(side === 0 ? "--a" : "--b");
          return {
            stroke,
            width: dotted ? 1.25 : 2,
            dash: dotted ? [3, 4] : undefined,
            // Before there is a line.
            points: { show: (plot) => plot.data[0].length === 1, size: 7, fill: stroke },
            spanGaps: false,
            ...(shape.bars
              ? { fill: stroke, paths: uPlot.paths.bars!({ size: [1, Number.POSITIVE_INFINITY], gap: 0 }) }
              : {}),
          };
        }),
      ],
    };
  }

  private resize(): void {
    if (this.plot) this.plot.setSize({ width: this.place.clientWidth, height: this.place.clientHeight });
    else this.dirty = this.shape !== null;
  }

  /** In other colours. */
  repaint(): void {
    this.drawn = "";
    this.dirty = this.shape !== null;
  }
}

const charts: Chart[] = [];

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const chart of charts) chart.repaint();
});

/** Draws one chart a frame, so that no frame is long. */
let turn = 0;
export function drawNext(): void {
  for (let tried = 0; tried < charts.length; tried += 1) {
    turn = (turn + 1) % charts.length;
    if (charts[turn]!.draw()) return;
  }
}

export function drawHistogram(chart: Chart, side: 0 | 1, { low, high, counts }: Histogram): void {
  const width = (high - low) / counts.length;
  const x = counts.map((_, i) => low + (i + 0.5) * width);
  // A bin of one would have no height on a logarithmic scale that begins at one.
  chart.set(
    x,
    [{ side, values: counts.map((count) => (count > 0 ? count : null)) }],
    { label: "∂L/∂w", range: [low, high] },
    { label: "weights", log: true, range: [0.5, 2000] },
    true,
  );
}

/** A row for each image, a column for each class: one colour pushes the logit down, the other up. Neither is a network's colour. */
export function drawHeat(canvas: HTMLCanvasElement, rows: readonly (readonly number[])[]): void {
  const columns = rows[0]?.length ?? 0;
  canvas.width = columns;
  canvas.height = rows.length;
  const context = canvas.getContext("2d")!;
  const image = context.createImageData(columns, rows.length);
  const largest = Math.max(...rows.flatMap((row) => row.map(Math.abs).filter(Number.isFinite)), 1e-30);
  rows.forEach((row, y) => {
    row.forEach((value, x) => {
      const strength = Number.isFinite(value) ? Math.sqrt(Math.min(1, Math.abs(value) / largest)) : 1;
      const [r, g, b] = value < 0 ? [27, 140, 70] : [140, 70, 170];
      image.data.set([r, g, b, Math.round(255 * strength)], 4 * (y * columns + x));
    });
  });
  context.putImageData(image, 0, 0);
}

/** Grey bytes, side × side. */
export function drawPixels(canvas: HTMLCanvasElement, pixels: ArrayLike<number>): void {
  const side = Math.sqrt(pixels.length);
  canvas.width = side;
  canvas.height = side;
  const context = canvas.getContext("2d")!;
  const image = context.createImageData(side, side);
  for (let i = 0; i < pixels.length; i += 1) image.data.set([pixels[i]!, pixels[i]!, pixels[i]!, 255], 4 * i);
  context.putImageData(image, 0, 0);
}
