// Figures as SVG text, drawn on the server by Vega-Lite. Text and axes take the page's colour (`currentColor`), so that
// one figure serves light and dark pages.

import { logger, parse, Error as VegaErrorLevel, View } from "vega";
import { compile, type TopLevelSpec } from "vega-lite";

/** Okabe & Ito's colours: told apart by colour-blind readers, legible on white and on black. */
export const PALETTE = [
  ...["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#999999", "#c8b900"],
];

// So narrow that a phone 360 pixels wide shows the text of a figure at 11 pixels at least.
const WIDTH = 340;
const HEIGHT = 190;
const LABEL_SIZE = 13;
const TITLE_SIZE = 14;

const axis = {
  domainColor: "currentColor",
  gridColor: "currentColor",
  gridOpacity: 0.15,
  labelColor: "currentColor",
  labelOverlap: true,
  tickColor: "currentColor",
  titleColor: "currentColor",
  titleFontWeight: 400,
  labelFontSize: LABEL_SIZE,
  titleFontSize: LABEL_SIZE,
};

/** SVG of a Vega-Lite specification in this package's style. */
export async function renderSvg(spec: TopLevelSpec): Promise<string> {
  const styled = {
    background: "transparent",
    width: WIDTH,
    height: HEIGHT,
    // Axes and legends within the width: every figure has the same scale.
    autosize: { type: "fit-x", contains: "padding" },
    ...spec,
    config: {
      font: "system-ui, sans-serif",
      view: { stroke: null },
      axis,
      legend: {
        labelColor: "currentColor",
        titleColor: "currentColor",
        titleFontWeight: 400,
        orient: "top",
        labelLimit: 0,
        labelFontSize: LABEL_SIZE,
        titleFontSize: LABEL_SIZE,
        columnPadding: 12,
      },
      title: {
        color: "currentColor",
        anchor: "start",
        fontWeight: 600,
        fontSize: TITLE_SIZE,
        frame: "bounds",
      },
      header: { labelColor: "currentColor", titleColor: "currentColor" },
      range: { category: PALETTE },
      ...spec.config,
    },
  } as TopLevelSpec;
  // Vega-Lite warns of fit-y, which nobody asks for, where rows have a height each.
  const { spec: compiled } = compile(styled, { logger: logger(VegaErrorLevel) });
  const view = new View(parse(compiled), { renderer: "none", logLevel: VegaErrorLevel });
  try {
    const svg = await view.toSVG();
    // Sized by the page: the viewBox stays.
    return svg.replace(/^<svg([^>]*?) width="[^"]*" height="[^"]*"/, "<svg$1");
  } finally {
    view.finalize();
  }
}

/** A point of a line, with the band around it where there is one. */
export type Point = readonly [x: number, y: number, low?: number, high?: number];

export interface Series {
  label: string;
  points: readonly Point[];
  /** Default: a line, with points on it where there are few. */
  dashed?: boolean;
}

export interface AxesOptions {
  title: string;
  /** With units. */
  x: string;
  y: string;
  xScale?: "linear" | "log";
  yScale?: "linear" | "log";
  xDomain?: readonly [number, number];
  yDomain?: readonly [number, number];
  xFormat?: string;
  yFormat?: string;
}

const shown = (value: number, scale: string) => Number.isFinite(value) && (scale === "linear" || value > 0);

const SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹";
const powerOfTen = (exponent: number) =>
  `10${String(exponent)
    .replace("-", "⁻")
    .replace(/\d/g, (digit) => SUPERSCRIPTS[Number(digit)]!)}`;

/** A number beside an axis or a colour bar: written alike on all of them. */
function tickLabel(value: number): string {
  const size = Math.abs(value);
  if (size === 0 || (size >= 1e-3 && size < 1e4)) {
    return String(Number(value.toPrecision(6))).replace("-", "−");
  }
  return scientific(value);
}

/** `5·10⁻³`; 1 and 10 are told as they are. */
function scientific(value: number): string {
  if (value === 1 || value === 10) return String(value);
  const size = Math.abs(value);
  const exponent = Math.floor(Math.log10(size) + 1e-9);
  const mantissa = Number((value / 10 ** exponent).toPrecision(3));
  const power = powerOfTen(exponent);
  return (mantissa === 1 ? power : mantissa === -1 ? `−${power}` : `${mantissa}·${power}`).replace(/^-/, "−");
}

/** Values for ticks with their labels, as Vega's axes and legends take them. */
function labelled(values: readonly number[], label: (value: number) => string) {
  const names = Object.fromEntries(values.map((value) => [String(value), label(value)]));
  return { values: [...values], labelExpr: `(${JSON.stringify(names)})[toString(datum.value)]` };
}

/** Powers of ten, at most `most`; 1, 2 and 5 times them where a range spans fewer than two. */
function logTicks(low: number, high: number, most: number): number[] {
  const [first, last] = [Math.ceil(Math.log10(low) - 1e-9), Math.floor(Math.log10(high) + 1e-9)];
  // 10 ** −4 is not 1e-4, and would lie outside of a domain that begins there.
  const power = (exponent: number, times = 1) => Number(`${times}e${exponent}`);
  if (last - first < 2) {
    const all = [first - 1, first, first + 1, first + 2].flatMap((exponent) =>
      [1, 2, 5].map((times) => power(exponent, times)),
    );
    const within = all.filter((value) => value >= low * (1 - 1e-9) && value <= high * (1 + 1e-9));
    // A factor of two or three holds hardly one of them, and is almost linear.
    return within.length > 2 ? within.slice(0, most) : linearTicks(low, high, most, false);
  }
  const every = Math.ceil((last - first + 1) / most);
  const exponents: number[] = [];
  for (let exponent = first; exponent <= last; exponent += every) exponents.push(exponent);
  return exponents.map((exponent) => power(exponent));
}

/** Round values, at most about `most`; whole ones for whole numbers. */
function linearTicks(low: number, high: number, most: number, whole: boolean): number[] {
  if (!(high > low)) return [low];
  const rough = (high - low) / most;
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((times) => times * unit).find((size) => size >= rough * (1 - 1e-9))!;
  const size = whole ? Math.max(1, Math.round(step)) : step;
  const count = Math.floor(high / size + 1e-9) - Math.ceil(low / size - 1e-9) + 1;
  return Array.from({ length: count }, (_, i) =>
    Number(((Math.ceil(low / size - 1e-9) + i) * size).toPrecision(12)),
  );
}

/** Ticks of an axis or a colour bar. */
function ticksOf(scale: string, low: number, high: number, most: number, format?: string, whole = false) {
  if (!Number.isFinite(low) || !Number.isFinite(high)) return {};
  const values = scale === "log" ? logTicks(low, high, most) : linearTicks(low, high, most, whole);
  // On one axis, either all as powers of ten or none.
  const inPowers = scale === "log" && values.some((value) => value < 1e-2 || value >= 1e4);
  return labelled(values, (value) => {
    if (format === "%") return `${Number((100 * value).toPrecision(6))} %`;
    return inPowers ? scientific(value) : tickLabel(value);
  });
}

const MOST_TICKS = 6;

function channel(
  title: string,
  scale: string,
  values: readonly number[],
  domain?: readonly number[],
  format?: string,
) {
  const low = domain?.[0] ?? values.reduce((a, b) => Math.min(a, b), Number.POSITIVE_INFINITY);
  const high = domain?.[1] ?? values.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
  return {
    type: "quantitative" as const,
    title,
    scale: {
      type: scale as "linear",
      nice: false,
      ...(domain ? { domain: [...domain] } : scale === "log" ? {} : { zero: false }),
    },
    // Steps, layers and factors come in whole numbers.
    axis: ticksOf(scale, low, high, MOST_TICKS, format, scale === "linear" && values.every(Number.isInteger)),
  };
}

/** Two columns, unless their entries would run over the edge: a letter is about 7 pixels wide, a symbol with its margins 30. */
function legendColumns(labels: readonly string[]): number {
  const longest = Math.max(...labels.map((label) => label.length));
  return 2 * (7 * longest + 30) <= WIDTH - 60 ? 2 : 1;
}

/** A point with the range of what several seeds gave as its band; one seed has none. */
export function pointOf(x: number, y: number, seeds: readonly number[]): Point {
  const known = seeds.filter((value) => !Number.isNaN(value));
  return known.length > 1 ? [x, y, Math.min(...known), Math.max(...known)] : [x, y];
}

/**
 * One line a series, with a band where the points have one. Points that are not finite, or not positive on a log scale,
 * are left out; bands on a log scale end at the lowest value shown.
 */
export function lineChart(series: readonly Series[], options: AxesOptions): Promise<string> {
  const { title, x, y, xScale = "linear", yScale = "linear", xDomain, yDomain } = options;
  const values = series.flatMap(({ label, points, dashed }) =>
    points
      .filter(([px, py]) => shown(px, xScale) && shown(py, yScale))
      .map(([px, py, low, high]) => ({ series: label, px, py, low, high, dash: dashed ? "theory" : "data" })),
  );
  const floor = Math.min(...values.map(({ py }) => py)) / (yScale === "log" ? 2 : 1);
  for (const value of values) {
    if (value.low !== undefined && !shown(value.low, yScale)) value.low = yScale === "log" ? floor : value.py;
    if (value.high !== undefined && !Number.isFinite(value.high)) value.high = value.py;
  }
  const color = {
    field: "series",
    type: "nominal" as const,
    title: null,
    scale: { domain: series.map(({ label }) => label) },
    legend: { columns: legendColumns(series.map(({ label }) => label)), symbolOpacity: 1 },
  };
  const xs = values.map(({ px }) => px);
  const ys = values.map(({ py }) => py);
  const xChannel = channel(x, xScale, xs, xDomain, options.xFormat);
  const yChannel = channel(y, yScale, ys, yDomain, options.yFormat);
  const outside = (v: number, domain?: readonly [number, number]) =>
    domain !== undefined && (v < domain[0] || v > domain[1]);
  // Lines and points that lie on an edge are drawn whole; only what leaves the figure is cut off.
  const clip = values.some(
    ({ px, py, low = py, high = py }) =>
      outside(px, xDomain) || [py, low, high].some((each) => outside(each, yDomain)),
  );
  const hasBand = values.some(({ low }) => low !== undefined);
  const spec = {
    title,
    data: { values },
    layer: [
      ...(hasBand
        ? [
            {
              transform: [{ filter: "isValid(datum.low)" }],
              mark: { type: "area" as const, opacity: 0.2, clip },
              encoding: {
                x: { ...xChannel, field: "px" },
                y: { ...yChannel, field: "low" },
                y2: { field: "high" },
                color,
              },
            },
          ]
        : []),
      {
        mark: {
          type: "line" as const,
          strokeWidth: 2,
          clip,
          point: values.length <= 12 * series.length ? { size: 24 } : false,
        },
        encoding: {
          x: { ...xChannel, field: "px" },
          y: { ...yChannel, field: "py" },
          color,
          strokeDash: {
            field: "dash",
            type: "nominal" as const,
            scale: { domain: ["data", "theory"], range: [[], [5, 4]] },
            legend: null,
          },
        },
      },
    ],
  };
  return renderSvg(spec as TopLevelSpec);
}

export interface Bins {
  label: string;
  /** One more than counts. */
  edges: readonly number[];
  counts: readonly number[];
}

/** A histogram as bars, with curves over it. Empty bins have no bar; on a log axis bars stand on `baseline`. */
export function histogramChart(
  { label, edges, counts }: Bins,
  curves: readonly Series[],
  options: AxesOptions & { baseline?: number; color?: number },
): Promise<string> {
  const { title, x, y, xScale = "linear", yScale = "linear", xDomain, yDomain } = options;
  const baseline = options.baseline ?? (yScale === "log" ? 0.5 : 0);
  const values = counts
    .map((count, i) => ({ from: edges[i]!, to: edges[i + 1]!, count, baseline, series: label }))
    .filter(({ count }) => count > 0);
  const lines = curves.flatMap((curve) =>
    curve.points
      .filter(([px, py]) => shown(px, xScale) && shown(py, yScale))
      .map(([px, py]) => ({ series: curve.label, px, py })),
  );
  const names = [label, ...curves.map((curve) => curve.label)];
  const first = options.color ?? 0;
  const color = {
    field: "series",
    type: "nominal" as const,
    title: null,
    scale: { domain: names, range: names.map((_, i) => PALETTE[(first + i) % PALETTE.length]!) },
    legend: names.length > 1 ? { columns: legendColumns(names), symbolOpacity: 1 } : null,
  };
  const top = Math.max(...counts, ...lines.map(({ py }) => py));
  const yChannel = channel(
    y,
    yScale,
    counts,
    yDomain ?? (yScale === "log" ? [baseline, top * 1.3] : undefined),
    options.yFormat,
  );
  const xChannel = channel(x, xScale, edges, xDomain ?? [edges[0]!, edges.at(-1)!], options.xFormat);
  return renderSvg({
    title,
    layer: [
      {
        data: { values },
        mark: { type: "rect", opacity: lines.length > 0 ? 0.55 : 0.9, clip: true, aria: false },
        encoding: {
          x: { ...xChannel, field: "from" },
          x2: { field: "to" },
          y: { ...yChannel, field: "baseline" },
          y2: { field: "count" },
          color,
        },
      },
      {
        data: { values: lines },
        mark: { type: "line", strokeWidth: 2, clip: true },
        encoding: { x: { ...xChannel, field: "px" }, y: { ...yChannel, field: "py" }, color },
      },
    ],
  } as TopLevelSpec);
}

export interface HeatMapOptions {
  title: string;
  x: string;
  y: string;
  /** What the colours mean, with units. */
  color: string;
  /** Column and row names, in order. */
  columns: readonly (string | number)[];
  rows: readonly (string | number)[];
  /** `diverging` is symmetric about 0. */
  scale?: "linear" | "log" | "diverging";
  /** Ends of the colours; default the range of the values. Values outside take the colour of the end. */
  domain?: readonly [number, number];
  colorFormat?: string;
  /** Write each value into its cell. */
  text?: (value: number) => string;
}

/** `values[row][column]` as colours with a colour bar. Values that cannot be shown stay empty. */
export function heatMap(values: readonly (readonly number[])[], options: HeatMapOptions): Promise<string> {
  const { title, x, y, color, columns, rows, scale = "linear", text } = options;
  const type = scale === "log" ? "log" : "linear";
  const cells = values.flatMap((row, r) =>
    row.map((value, c) => ({ column: columns[c]!, row: rows[r]!, value, text: text?.(value) })),
  );
  const visible = cells.filter(({ value }) => shown(value, type));
  const numbers = visible.map(({ value }) => value);
  const largest = numbers.reduce((a, b) => Math.max(a, Math.abs(b)), 0);
  const domain =
    options.domain ??
    (scale === "diverging"
      ? [-largest, largest]
      : [
          numbers.reduce((a, b) => Math.min(a, b), Infinity),
          numbers.reduce((a, b) => Math.max(a, b), -Infinity),
        ]);
  const wide = (names: readonly unknown[]) => (names.length > 16 ? Math.ceil(names.length / 10) : 1);
  const ticks = (names: readonly (string | number)[]) => ({
    values: names.filter((_, i) => i % wide(names) === 0),
    labelAngle: 0,
    grid: false,
    domain: false,
    ticks: false,
  });
  const position = {
    x: {
      field: "column",
      type: "ordinal" as const,
      title: x,
      sort: null,
      scale: { domain: [...columns], padding: 0 },
      axis: ticks(columns),
    },
    y: {
      field: "row",
      type: "ordinal" as const,
      title: y,
      sort: null,
      scale: { domain: [...rows], padding: 0 },
      axis: ticks(rows),
    },
  };
  const spec = {
    title,
    data: { values: visible },
    layer: [
      {
        // Thousands of cells: to a screen reader the title, axes and caption say more than each of them.
        mark: { type: "rect" as const, aria: false },
        encoding: {
          ...position,
          color: {
            field: "value",
            type: "quantitative" as const,
            title: color,
            scale: {
              type,
              domain,
              clamp: true,
              scheme: scale === "diverging" ? "blueorange" : "viridis",
            },
            legend: {
              orient: "bottom",
              direction: "horizontal",
              gradientLength: WIDTH - 110,
              titleLimit: 200,
              labelOverlap: "parity" as const,
              ...ticksOf(type, domain[0]!, domain[1]!, 5, options.colorFormat),
            },
          },
        },
      },
      ...(text
        ? [
            {
              mark: { type: "text" as const, fontWeight: 600, fontSize: 13 },
              encoding: {
                ...position,
                text: { field: "text", type: "nominal" as const },
                // Dark on the bright end of viridis.
                color: {
                  condition: {
                    test: `datum.value > ${domain[0]! + 0.6 * (domain[1]! - domain[0]!)}`,
                    value: "black",
                  },
                  value: "white",
                },
              },
            },
          ]
        : []),
    ],
  };
  return renderSvg(spec as unknown as TopLevelSpec);
}
