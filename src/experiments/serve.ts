// The live view: a page that shows curves as they grow. Figures are drawn here, in the report's style; the page only
// fetches them when the server says that something is new.

import { createServer, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { UsageError } from "../errors.ts";
import type { CellKey } from "./cells.ts";
import type { Experiment } from "./experiment.ts";
import { escapeHtml, htmlPage } from "./page.ts";
import { lineChart } from "./plot.ts";

/** Time between two notices to the page, so that drawing costs little beside training. */
const NOTICE_MS = 1000;

const SCRIPT = `<script type="module">
const view = document.getElementById("view");
const refresh = async () => { const reply = await fetch("view"); if (reply.ok) view.innerHTML = await reply.text(); };
const events = new EventSource("events");
events.onmessage = refresh;
events.onerror = () => { document.getElementById("state").textContent = "The run has ended, or cannot be reached."; };
await refresh();
</script>`;

interface Curve {
  cell: string;
  name: string;
  points: [number, number][];
}

/** Serves the state of one run on the loopback. */
export class LiveView {
  private readonly curves = new Map<string, Map<string, Curve>>();
  private readonly listeners = new Set<ServerResponse>();
  private server: Server | null = null;
  private timer: NodeJS.Timeout | null = null;
  private changed = false;
  private now = "starting";
  private done = 0;
  private total = 0;
  private report: string | null = null;

  constructor(
    private readonly title: string,
    private readonly experiments: readonly Experiment[],
  ) {}

  /** @returns the page's address. @throws UsageError if the port is taken; 0 takes any. */
  async listen(port: number): Promise<string> {
    const server = createServer((request, response) => {
      const path = new URL(request.url ?? "/", "http://localhost").pathname;
      this.answer(path, response).catch((error: Error) => {
        response.writeHead(500, { "content-type": "text/plain" }).end(error.message);
      });
    });
    await new Promise<void>((resolve, reject) => {
      server.once("error", (error) =>
        reject(
          new UsageError(`reproduce: --serve ${port}: ${error.message}; pass another port, or 0 for any`),
        ),
      );
      server.listen(port, "127.0.0.1", resolve);
    });
    this.server = server;
    this.timer = setInterval(() => this.notify(), NOTICE_MS);
    return `http://127.0.0.1:${(server.address() as AddressInfo).port}/`;
  }

  cellStarted({ experiment, configuration, seed }: CellKey, total: number): void {
    this.now = `${experiment}: ${configuration.label}, seed ${seed}`;
    this.total = total;
    this.changed = true;
  }

  cellDone(): void {
    this.done += 1;
    this.changed = true;
  }

  point({ experiment, configuration, seed }: CellKey, curve: string, x: number, y: number): void {
    const ofExperiment = this.curves.get(experiment) ?? new Map<string, Curve>();
    this.curves.set(experiment, ofExperiment);
    const cell = `${configuration.label}${seed > 0 ? `, seed ${seed}` : ""}`;
    const key = `${cell} ${curve}`;
    const entry = ofExperiment.get(key) ?? { cell, name: curve, points: [] };
    ofExperiment.set(key, entry);
    entry.points.push([x, y]);
    this.changed = true;
  }

  /** From now on the page is the report. */
  finished(reportHtml: string): void {
    this.report = reportHtml;
    this.now = "finished";
    this.changed = true;
    this.notify();
  }

  async close(): Promise<void> {
    if (this.timer) clearInterval(this.timer);
    for (const listener of this.listeners) listener.end();
    const { server } = this;
    if (server) await new Promise((resolve) => server.close(resolve));
  }

  private notify(): void {
    if (!this.changed) return;
    this.changed = false;
    for (const listener of this.listeners) listener.write("data: new\n\n");
  }

  private async answer(path: string, response: ServerResponse): Promise<void> {
    const html = (body: string) =>
      response
        .writeHead(200, { "content-type": "text/html; charset=utf-8", "cache-control": "no-store" })
        .end(body);
    if (path === "/") html(htmlPage(this.title, `<main id="view"></main>${SCRIPT}`));
    else if (path === "/view") html(await this.view());
    else if (path === "/report" && this.report) html(this.report);
    else if (path === "/events") {
      response.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-store" });
      response.write("retry: 2000\n\n");
      this.listeners.add(response);
      response.on("close", () => this.listeners.delete(response));
    } else response.writeHead(404, { "content-type": "text/plain" }).end("not found");
  }

  /** The part of the page that changes. */
  private async view(): Promise<string> {
    const head = `<p id="state">${escapeHtml(this.now)}${this.total > 0 ? ` (${this.done} of ${this.total} cells done)` : ""}</p>`;
    const link = this.report ? `<p><a href="report">The report</a></p>` : "";
    const sections: string[] = [];
    for (const { id, title } of this.experiments) {
      const curves = [...(this.curves.get(id)?.values() ?? [])];
      if (curves.length === 0) continue;
      // The latest ones: more than these nobody can tell apart.
      const shown = curves.slice(-6);
      // Diverged runs would press all others flat: what is far above the rest is drawn at the edge.
      const smallest = Math.min(
        ...shown.flatMap(({ points }) => points.map(([, y]) => (y > 0 ? y : Infinity))),
      );
      const svg = await lineChart(
        shown.map(({ cell, name, points }) => ({
          label: name === "loss" ? cell : `${cell}: ${name}`,
          points: points.map(([x, y]) => [x, Math.min(y, 1e3 * smallest)] as const),
        })),
        {
          title,
          x: shown.every(({ name }) => name === "loss") ? "step" : "x",
          y: shown.every(({ name }) => name === "loss") ? "loss" : "value",
          yScale: "log",
          xScale: shown.every(({ name }) => name === "loss") ? "linear" : "log",
        },
      );
      sections.push(`<figure>${svg}</figure>`);
    }
    return `${head}${link}<div class="figures">${sections.reverse().join("\n")}</div>`;
  }
}
