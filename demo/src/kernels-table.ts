// The table of what was measured, and its JSON for the clipboard.

import type { KernelResults } from "./kernels.ts";
import { percent, show } from "./words.ts";

const COLUMNS = ["how", "time (ms)", "speed-up", "dispatches", "GB/s", "of a copy"];
let latest = "";

const element = (id: string) => document.getElementById(id)!;
const cell = (tag: "td" | "th", text: string, more: Record<string, unknown> = {}) =>
  Object.assign(document.createElement(tag), { textContent: text, ...more });

function tableOf({ groups, copy, environment }: KernelResults): HTMLTableElement {
  const table = document.createElement("table");
  const { name, class: kind } = environment.adapter;
  table.createCaption().textContent = `${name}${kind === "software" ? " (a processor, not a GPU)" : ""}. A copy of ${show(copy.bytes / 2 ** 20)} MiB: ${show(copy.gbPerSecond)} GB/s.`;
  const head = table.createTHead().insertRow();
  head.append(...COLUMNS.map((text) => cell("th", text, { scope: "col" })));
  for (const group of groups) {
    const body = table.createTBody();
    const heading = cell("th", "", { scope: "rowgroup", colSpan: COLUMNS.length });
    // It stays in sight where the table scrolls.
    heading.append(Object.assign(document.createElement("span"), { textContent: group.title }));
    body.insertRow().append(heading);
    for (const one of group.cases) {
      body
        .insertRow()
        .append(
          cell("th", one.name, { scope: "row", className: "name" }),
          cell("td", show(one.wall.median)),
          cell("td", one.name === group.baseline ? "–" : `${show(one.speedup)} ×`),
          cell("td", String(one.dispatches)),
          cell("td", show(one.gbPerSecond)),
          cell("td", percent(one.ofCopy)),
        );
    }
  }
  return table;
}

export function showKernels(progress: number, results: KernelResults | null): void {
  const state = element("kernels-state");
  (element("measure") as HTMLButtonElement).disabled = results === null;
  // Not in the output, which a screen reader would read out at each round.
  const share = element("kernels-progress");
  share.textContent = results ? "" : `Measuring: ${percent(progress)}`;
  if (!results) {
    state.textContent = "";
    return;
  }
  const failed = results.missing.map(({ id, reason }) => `${id}: ${reason}`).join("; ");
  state.textContent = failed && `Not measured: ${failed}`;
  latest = JSON.stringify(results, null, 1);
  for (const id of ["kernels", "kernels-words"]) element(id).hidden = false;
  element("kernels").tabIndex = 0; // it scrolls on narrow screens
  element("kernels").replaceChildren(tableOf(results));
  const button = element("copy-results") as HTMLButtonElement;
  button.hidden = false;
  button.onclick = async () => {
    try {
      await navigator.clipboard.writeText(latest);
      state.textContent = "Copied.";
    } catch {
      state.textContent = "The browser does not let this page write to the clipboard.";
    }
  };
}
