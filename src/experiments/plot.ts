// Figures as SVG text, drawn on the server by Vega-Lite. Text and axes take the page's colour (`currentColor`), so that
// one figure serves light and dark pages.

import { parse, Error as VegaErrorLevel, View } from "vega";
import { compile, type TopLevelSpec } from "vega-lite";

/** Okabe & Ito's colours: told apart by colour-blind readers, legible on white and on black. */
export const PALETTE = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];

const axis = {
  domainColor: "currentColor",
  gridColor: "currentColor",
  gridOpacity: 0.15,
  labelColor: "currentColor",
  tickColor: "currentColor",
  titleColor: "currentColor",
};

/** SVG of a Vega-Lite specification in this package's style. */
export async function renderSvg(spec: TopLevelSpec): Promise<string> {
  const styled = {
    background: "transparent",
    ...spec,
    config: {
      font: "system-ui, sans-serif",
      view: { stroke: null },
      axis,
      legend: {
        labelColor: "currentColor",
        titleColor: "currentColor",
        orient: "top" as const,
        labelLimit: 260,
      },
      title: { color: "currentColor", anchor: "start" as const, fontWeight: 600 as const },
      header: { labelColor: "currentColor", titleColor: "currentColor" },
      range: { category: PALETTE },
      ...spec.config,
    },
  } as TopLevelSpec;
  const view = new View(parse(compile(styled).spec), { renderer: "none", logLevel: VegaErrorLevel });
  try {
    const svg = await view.toSVG();
    // Sized by the page: the viewBox stays.
    return svg.replace(/^<svg([^>]*?) width="[^"]*" height="[^"]*"/, "<svg$1");
  } finally {
    view.finalize();
  }
}

export interface Series {
  label: string;
  points: readonly (readonly [x: number, y: number])[];
}

export interface LineChartOptions {
  title: string;
  /** With units. */
  x: string;
  y: string;
  xScale?: "linear" | "log";
  yScale?: "linear" | "log";
  yDomain?: readonly [number, number];
  yFormat?: string;
}

/** One line a series. Points that are not finite, or not positive on a log scale, are left out. */
export function lineChart(series: readonly Series[], options: LineChartOptions): Promise<string> {
  const { title, x, y, xScale = "linear", yScale = "linear", yDomain, yFormat } = options;
  const shown = (value: number, scale: string) => Number.isFinite(value) && (scale === "linear" || value > 0);
  const values = series.flatMap(({ label, points }) =>
    points
      .filter(([px, py]) => shown(px, xScale) && shown(py, yScale))
      .map(([px, py]) => ({ series: label, px, py })),
  );
  return renderSvg({
    width: 460,
    height: 260,
    title,
    data: { values },
    mark: { type: "line", strokeWidth: 2, clip: true, point: values.length <= 6 * series.length },
    encoding: {
      x: { field: "px", type: "quantitative", title: x, scale: { type: xScale } },
      y: {
        field: "py",
        type: "quantitative",
        title: y,
        scale: { type: yScale, ...(yDomain ? { domain: [...yDomain] } : { zero: false }) },
        axis: yFormat ? { format: yFormat } : {},
      },
      color: {
        field: "series",
        type: "nominal",
        title: null,
        scale: { domain: series.map(({ label }) => label) },
        legend: { columns: 2 },
      },
    },
  });
}
