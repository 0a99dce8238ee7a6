// The live view: the report's page as cells come in, and before it the curves of the cells that run. Everything is drawn here; the
// page only fetches what is there when the server says that something is new, and puts in what has changed.

import { createHash } from "node:crypto";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { UsageError } from "../errors.ts";
import type { CellKey } from "./cells.ts";
import { escapeHtml, htmlPage } from "./page.ts";
import { lineChart } from "./plot.ts";

/** Time between two notices to the page, so that drawing costs little beside training. */
const NOTICE_MS = 1000;
/** Notices without news, so that neither end takes the stream for dead. */
const KEEP_ALIVE_MS = 10_000;
/** A connection on which nothing moves for so long is closed. */
const SILENCE_MS = 30_000;
/** What may wait for a page that does not read its notices: it is dropped then, and comes back by itself if it lives. */
const BACKLOG_BYTES = 16 * 1024;
const CONNECTIONS = 64;
/** Curves drawn of one experiment, the latest ones: more than these nobody can tell apart. */
const SHOWN_CURVES = 6;

const SCRIPT = `
const view = document.getElementById("view");
const refresh = async () => {
  const reply = await fetch("view");
  if (!reply.ok) return;
  const next = document.createElement("template");
  next.innerHTML = await reply.text();
  for (const part of [...next.content.children]) {
    const old = document.getElementById(part.id);
    if (!old) view.append(part);
    else if (old.outerHTML !== part.outerHTML) {
      const open = old.querySelector("details")?.open;
      old.replaceWith(part);
      if (open && part.querySelector("details")) part.querySelector("details").open = true;
    }
  }
};
const events = new EventSource("events");
events.onmessage = refresh;
events.onerror = () => {
  const state = document.getElementById("state");
  if (state) state.textContent = "The run has ended, or cannot be reached.";
};
await refresh();
`;

const SECURITY_HEADERS = {
  "cache-control": "no-store",
  // Only the script above runs, and only this server is asked for anything. Charts carry their own styles.
  "content-security-policy":
    `default-src 'none'; script-src 'sha256-${createHash("sha256").update(SCRIPT).digest("base64")}'; style-src 'unsafe-inline'; ` +
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  "cross-origin-opener-policy": "same-origin",
  "cross-origin-resource-policy": "same-origin",
  "referrer-policy": "no-referrer",
  "x-content-type-options": "nosniff",
  "x-frame-options": "DENY",
};

const LOOPBACK = "(?:localhost|127\\.0\\.0\\.1|\\[::1\\])(?::\\d{1,5})?";
const LOOPBACK_HOST = new RegExp(`^${LOOPBACK}$`, "i");
const LOOPBACK_ORIGIN = new RegExp(`^https?://${LOOPBACK}$`, "i");

interface Curve {
  cell: string;
  name: string;
  points: [number, number][];
}

/** @returns `port`. @throws UsageError unless it is one: 0 takes any that is free. */
export function checkPort(port: number): number {
  if (!Number.isInteger(port) || port < 0 || port > 65535) {
    throw new UsageError(
      `reproduce: --serve ${port}: a port is an integer from 0 to 65535; pass another, or 0 for any that is free`,
    );
  }
  return port;
}

/**
 * Serves the state of one run on the loopback. Any page in the reader's browser, and any program on the machine, can send it
 * requests: whatever comes, the run goes on. It answers those who ask for it by a name of the loopback (another name that leads
 * here is a page of another site that pretends to be this one), and nobody's pages but its own.
 */
export class LiveView {
  private readonly curves = new Map<string, Map<string, Curve>>();
  private readonly listeners = new Set<ServerResponse>();
  private server: Server | null = null;
  private timers: NodeJS.Timeout[] = [];
  private changed = false;
  private drawn: Promise<string> | null = null;
  private now = "starting";
  private running: string | null = null;
  private done = 0;
  private total = 0;
  private report: string | null = null;

  /** @param growing the report so far, in elements with an id each */
  constructor(
    private readonly title: string,
    private readonly growing?: (isLast: boolean) => Promise<string[]>,
  ) {}

  /** @returns the page's address. @throws UsageError if the port is none, or taken; 0 takes any. */
  async listen(port: number): Promise<string> {
    checkPort(port);
    const server = createServer({
      maxHeaderSize: 16 * 1024,
      headersTimeout: SILENCE_MS,
      requestTimeout: SILENCE_MS,
    });
    server.maxHeadersCount = 0; // their size is bounded; past a count Node drops them, and with them what is checked below
    server.maxConnections = CONNECTIONS;
    server.setTimeout(SILENCE_MS);
    server.on("request", (request, response) => {
      response.on("error", () => response.destroy());
      this.answer(request, response).catch((error: Error) => {
        if (response.headersSent) response.destroy();
        else plain(response, 500, error.message);
      });
    });
    const last = (status: string, socket: NodeJS.WritableStream & { writable: boolean; destroy(): void }) => {
      socket.on("error", () => socket.destroy());
      if (!socket.writable) return socket.destroy();
      socket.end(`HTTP/1.1 ${status}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n`);
    };
    server.on("connect", (_request, socket) => last("405 Method Not Allowed\r\nallow: GET, HEAD", socket));
    // What is not HTTP at all, or ends in the middle.
    server.on("clientError", (_error, socket) => last("400 Bad Request", socket));
    await new Promise<void>((resolve, reject) => {
      server.once("error", (error: NodeJS.ErrnoException) =>
        reject(
          new UsageError(
            `reproduce: --serve ${port}: ${error.code === "EADDRINUSE" ? "the port is taken" : error.message}; pass another port, or 0 for any`,
            { cause: error },
          ),
        ),
      );
      server.listen(port, "127.0.0.1", resolve);
    });
    server.removeAllListeners("error").on("error", () => {}); // of accepting one connection, as when files run out
    this.server = server;
    this.timers = [
      setInterval(() => this.notify(), NOTICE_MS),
      setInterval(() => this.broadcast(": still here\n\n"), KEEP_ALIVE_MS),
    ];
    return `http://127.0.0.1:${(server.address() as AddressInfo).port}/`;
  }

  cellStarted({ experiment, configuration, seed }: CellKey, total: number): void {
    this.now = `${experiment}: ${configuration.label}, seed ${seed}`;
    this.running = experiment;
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
    // A legend has room for a few words: the label of a training says all of its settings.
    const { norm, lr } = configuration as { norm?: string; lr?: number };
    const name = lr === undefined ? configuration.label : `${norm}, rate ${lr}`;
    const cell = `${name}${seed > 0 ? `, seed ${seed}` : ""}`;
    const key = `${configuration.label} ${seed} ${curve}`;
    const entry = ofExperiment.get(key) ?? { cell, name: curve, points: [] };
    ofExperiment.set(key, entry);
    if (ofExperiment.size > SHOWN_CURVES) ofExperiment.delete(ofExperiment.keys().next().value!);
    entry.points.push([x, y]);
    this.changed = true;
  }

  /** From now on the page is the report. */
  finished(reportHtml: string): void {
    this.report = reportHtml;
    this.now = "finished";
    this.running = null;
    this.changed = true;
    this.notify();
  }

  async close(): Promise<void> {
    for (const timer of this.timers.splice(0)) clearInterval(timer);
    const { server } = this;
    this.server = null;
    if (!server) return;
    const closed = new Promise((resolve) => server.close(resolve));
    for (const listener of this.listeners) listener.end();
    // What was said arrives before the connections end, however slow or silent the other side is.
    setImmediate(() => server.closeAllConnections());
    await closed;
  }

  private notify(): void {
    if (!this.changed) return;
    this.changed = false;
    this.drawn = null;
    this.broadcast("data: new\n\n");
  }

  private broadcast(text: string): void {
    for (const listener of this.listeners) {
      if (listener.writableLength > BACKLOG_BYTES) listener.destroy();
      else listener.write(text);
    }
  }

  private async answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    request.resume(); // a body is of no interest
    const { path, host } = target(request.url ?? "");
    const hosts = [...(request.headersDistinct.host ?? []), ...(host === null ? [] : [host])];
    const origins = request.headersDistinct.origin ?? [];
    if (hosts.length === 0 || !hosts.every((name) => LOOPBACK_HOST.test(name))) {
      return plain(response, 403, "This page answers to localhost, 127.0.0.1 and [::1] alone.");
    }
    if (!origins.every((origin) => LOOPBACK_ORIGIN.test(origin))) {
      return plain(response, 403, "This page answers to none of other sites.");
    }
    if (request.method !== "GET" && request.method !== "HEAD") {
      response.setHeader("allow", "GET, HEAD");
      return plain(response, 405, "This page can be read only.");
    }
    const html = (body: string) => send(response, 200, "text/html; charset=utf-8", body);
    if (path === "/") {
      html(htmlPage(this.title, `<main id="view"></main><script type="module">${SCRIPT}</script>`));
    } else if (path === "/view") {
      // However many ask, it is drawn once a notice.
      this.drawn ??= this.view();
      html(await this.drawn);
    } else if (path === "/report" && this.report !== null) html(this.report);
    else if (path === "/events") {
      response.writeHead(200, { ...SECURITY_HEADERS, "content-type": "text/event-stream" });
      if (request.method === "HEAD") return void response.end();
      response.write("retry: 2000\n\n");
      this.listeners.add(response);
      response.on("close", () => this.listeners.delete(response));
    } else plain(response, 404, "not found");
  }

  /** The part of the page that changes: elements with an id each. */
  private async view(): Promise<string> {
    const done = this.total > 0 ? ` (${this.done} of ${this.total} cells done)` : "";
    const link = this.report ? ` · <a href="report">the page to keep</a>` : "";
    const state = `<p><span id="state">${escapeHtml(this.now)}${done}</span>${link}</p>`;
    const parts = (await this.growing?.(this.report !== null)) ?? [];
    return [`<div id="now">${state}${await this.latestCurves()}</div>`, ...parts].join("\n");
  }

  /** The curves of the experiment whose cells run. */
  private async latestCurves(): Promise<string> {
    const curves = [...(this.curves.get(this.running ?? "")?.values() ?? [])];
    if (curves.length === 0) return "";
    // Diverged runs would press all others flat: what is far above the rest is drawn at the edge.
    let smallest = Number.POSITIVE_INFINITY;
    for (const { points } of curves) for (const [, y] of points) if (y > 0 && y < smallest) smallest = y;
    const isLoss = curves.every(({ name }) => name === "loss");
    const svg = await lineChart(
      curves.map(({ cell, name, points }) => ({
        label: name === "loss" ? cell : `${cell}: ${name}`,
        points: points.map(([x, y]) => [x, Math.min(y, 1e3 * smallest)] as const),
      })),
      {
        title: this.running ?? "",
        x: isLoss ? "step" : "x",
        y: isLoss ? "loss" : "value",
        yScale: "log",
        xScale: isLoss ? "linear" : "log",
      },
    );
    return `<div class="figures"><figure>${svg}</figure></div>`;
  }
}

/** Path of a request, without its query, and the host that it names: `GET http://localhost/view` is as good as `GET /view`. */
function target(url: string): { path: string; host: string | null } {
  const absolute = /^https?:\/\/([^/?#]*)([^?#]*)/i.exec(url);
  return absolute
    ? { path: absolute[2] || "/", host: absolute[1]! }
    : { path: url.split("?")[0]!, host: null };
}

function send(response: ServerResponse, status: number, type: string, body: string): void {
  const headers: Record<string, string | number> = {
    ...SECURITY_HEADERS,
    "content-type": type,
    "content-length": Buffer.byteLength(body),
  };
  if (status !== 200) headers.connection = "close"; // and whatever body is still to come is not waited for
  response.writeHead(status, headers).end(body); // Node leaves the body out where HEAD asked
}

function plain(response: ServerResponse, status: number, text: string): void {
  send(response, status, "text/plain; charset=utf-8", `${text}\n`);
}
