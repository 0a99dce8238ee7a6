// One self-contained HTML page: no script, no network, light and dark by the reader's preference.

const STYLE = `
:root { color-scheme: light dark; --line: color-mix(in srgb, currentColor 20%, transparent); }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.6rem; line-height: 1.2; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
.figures { margin-top: 1.5rem; display: grid; align-items: start; grid-template-columns: repeat(auto-fill, minmax(min(100%, 22rem), 1fr)); gap: 1.5rem; }
figure { margin: 0; max-width: 32rem; } figure svg { width: 100%; height: auto; display: block; }
.mark-rect path { shape-rendering: crispEdges; }
figcaption, .note { font-size: .9rem; opacity: .8; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .35rem .9rem .35rem 0; border-bottom: 1px solid var(--line); white-space: nowrap; }
.wrap td { white-space: normal; vertical-align: top; }
a { color: inherit; }
.findings { list-style: none; padding: 0; display: grid; gap: .8rem; }
.findings li { display: grid; grid-template-columns: 9.5rem 1fr; gap: .3rem 1rem; align-items: start; }
@media (max-width: 40rem) { .findings li { grid-template-columns: 1fr; } .scroll td:first-child { white-space: normal; } .wide { display: none; }
  table { font-size: .9rem; } th, td { padding-right: .6rem; } }
.verdict { --tone: #888; display: inline-block; justify-self: start; padding: 0 .6rem; border-radius: 1rem; white-space: nowrap;
  font-size: .9rem; border: 1px solid var(--tone); background: color-mix(in srgb, var(--tone) 18%, transparent); }
.verdict.holds { --tone: #009e73; } .verdict.does-not-hold { --tone: #d55e00; } .verdict.inconclusive { --tone: #e69f00; }
`;

export function escapeHtml(text: string): string {
  return text.replace(/[&<>"]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[c]!);
}

/** A whole page; `body` is HTML. */
export function htmlPage(title: string, body: string): string {
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escapeHtml(title)}</title><style>${STYLE}</style></head>
<body><h1>${escapeHtml(title)}</h1>
${body}
</body></html>
`;
}

/** @param style `wrap` breaks long lines, which scroll otherwise */
export function htmlTable(
  head: readonly string[],
  rows: readonly (readonly string[])[],
  style: "wrap" | "" = "",
): string {
  const row = (cells: readonly string[], tag: string) =>
    `<tr>${cells.map((cell) => `<${tag}>${escapeHtml(cell)}</${tag}>`).join("")}</tr>`;
  return `<div class="scroll"><table${style && ` class="${style}"`}><thead>${row(head, "th")}</thead><tbody>${rows.map((r) => row(r, "td")).join("")}</tbody></table></div>`;
}

export function htmlFigures(svgs: readonly string[]): string {
  return `<div class="figures">${svgs.map((svg) => `<figure>${svg}</figure>`).join("\n")}</div>`;
}

/** The same table for a terminal. */
export function textTable(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const widths = head.map((cell, i) => Math.max(cell.length, ...rows.map((row) => row[i]!.length)));
  const line = (cells: readonly string[]) =>
    cells
      .map((cell, i) => cell.padEnd(widths[i]!))
      .join("  ")
      .trimEnd();
  return [line(head), widths.map((width) => "─".repeat(width)).join("  "), ...rows.map(line)].join("\n");
}
