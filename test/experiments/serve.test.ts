import { request as httpRequest } from "node:http";
import { connect, type Socket } from "node:net";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { UsageError } from "../../src/errors.ts";
import { LiveView } from "../../src/experiments/serve.ts";

const key = {
  experiment: "learning-rates",
  configuration: { measure: "training", label: "batch lr 0.1" },
  seed: 0,
};

it("shows the report as it grows, and the curves of the cells that run", async () => {
  const asked: boolean[] = [];
  const view = new LiveView("live", async (isLast) => {
    asked.push(isLast);
    return [`<section id="part">${asked.length}</section>`];
  });
  const url = await view.listen(0);
  try {
    view.cellStarted(key, 7);
    for (const [step, loss] of [
      [1, 2.3],
      [2, 1.9],
      [3, 1.1],
    ] as const)
      view.point(key, "loss", step, loss);
    const page = await (await fetch(url)).text();
    expect(page).toContain("EventSource");
    const shown = await (await fetch(`${url}view`)).text();
    expect(shown).toContain("learning-rates: batch lr 0.1, seed 0 (0 of 7 cells done)");
    expect(shown).toContain('<section id="part">1</section>');
    expect(shown).toMatch(/>learning-rates<\/text>/);
    expect(shown).toContain("<svg");

    const events = await fetch(`${url}events`);
    const reader = events.body!.getReader();
    let heard = "";
    view.cellDone();
    while (!heard.includes("data: new")) heard += new TextDecoder().decode((await reader.read()).value);
    await reader.cancel();
    expect(await (await fetch(`${url}view`)).text()).toContain("(1 of 7 cells done)");

    expect((await fetch(`${url}report`)).status).toBe(404);
    view.finished("<p>the report</p>");
    expect(await (await fetch(`${url}report`)).text()).toContain("the report");
    expect((await fetch(`${url}nothing`)).status).toBe(404);
    const last = await (await fetch(`${url}view`)).text();
    expect(last).toContain("finished");
    expect(last).not.toContain("<svg");
    // Drawn once a notice, and once more when nothing is to come.
    expect(asked.slice(0, -1).every((isLast) => !isLast)).toBe(true);
    expect(asked.at(-1)).toBe(true);

    const second = new LiveView("second");
    await expect(second.listen(Number(new URL(url).port))).rejects.toThrow(
      /^reproduce: --serve \d+: the port is taken; pass another port, or 0 for any$/,
    );
    await second.close();
    for (const port of [-1, 65536, 99999, 1.5, Number.NaN, "8110" as never]) {
      await expect(second.listen(port)).rejects.toThrow(UsageError);
      await expect(second.listen(port)).rejects.toThrow(/an integer from 0 to 65535/);
    }
  } finally {
    await view.close();
  }
});

describe("the live view survives", () => {
  const view = new LiveView("live");
  let port = 0;
  const surprises: unknown[] = [];
  const surprise = (error: unknown) => void surprises.push(error);
  beforeAll(async () => {
    process.on("uncaughtException", surprise).on("unhandledRejection", surprise);
    port = Number(new URL(await view.listen(0)).port);
    view.point(key, "loss", 1, 2);
  });
  afterAll(async () => {
    await view.close();
    process.off("uncaughtException", surprise).off("unhandledRejection", surprise);
  });

  const answered = (heard: string) => heard.includes("\r\n\r\n");
  /** What comes back for `text` until `enough`, or the other side closes, or `quiet` ms pass without a byte. */
  function raw(text: string, enough: (heard: string) => boolean = answered, quiet = 10_000): Promise<string> {
    return new Promise((resolve) => {
      const socket = connect(port, "127.0.0.1", () => socket.write(text, "latin1"));
      let heard = "";
      socket.on("data", (chunk) => {
        heard += chunk.toString("latin1");
        if (enough(heard)) socket.destroy();
      });
      socket.setTimeout(quiet, () => socket.destroy());
      socket.on("error", () => {});
      socket.on("close", () => resolve(heard));
    });
  }
  const statusOf = (reply: string) => Number(/^HTTP\/1\.1 (\d+)/.exec(reply)?.[1]);
  const get = (path: string, headers: Record<string, string | string[]> = {}, method = "GET") =>
    new Promise<{ status: number; body: string; headers: NodeJS.Dict<string | string[]> }>(
      (resolve, reject) => {
        const request = httpRequest(
          { port, host: "127.0.0.1", path, headers, method, agent: false },
          (reply) => {
            let body = "";
            reply.on("data", (chunk) => {
              body += chunk;
            });
            reply.on("end", () => resolve({ status: reply.statusCode!, body, headers: reply.headers }));
          },
        );
        request.on("error", reject).end();
      },
    );
  async function expectAlive() {
    expect((await get("/view")).status).toBe(200);
    expect(surprises).toEqual([]);
  }

  it("any path", async () => {
    const cases: [string, number][] = [
      ["//", 404],
      ["///view", 404],
      ["//evil.example/", 404],
      ["/%00", 404],
      ["/%", 404],
      ["/%ff%fe", 404],
      ["/\\", 404],
      ["/..%2f..%2fetc/passwd", 404],
      ["/view/../view", 404],
      ["/?x", 200],
      ["/view?a=b?c#d", 200],
      ["/__proto__", 404],
      [`/${"a".repeat(8000)}`, 404],
      ["http://", 403],
      ["http://[", 403],
      ["http://evil.example/view", 403],
      ["http://localhost:1/view", 200],
      ["HTTP://127.0.0.1", 200],
      ["http://localhost@evil.example/", 403],
      ["ftp://localhost/", 404],
      ["*", 404],
      ["view", 404],
    ];
    for (const [path, status] of cases) {
      expect([
        path,
        statusOf(await raw(`GET ${path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n`)),
      ]).toEqual(
        // Node's own parser refuses some before we see them.
        [path, expect.toSatisfy((got: number) => got === status || (status >= 400 && got === 400))],
      );
    }
    await expectAlive();
  });

  it("any method, and answers GET and HEAD alone", async () => {
    for (const method of ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"]) {
      const reply = await get("/view", {}, method);
      expect([method, reply.status, reply.headers.allow]).toEqual([method, 405, "GET, HEAD"]);
    }
    const host = "Host: localhost\r\n";
    expect(await raw(`OPTIONS * HTTP/1.1\r\n${host}\r\n`)).toMatch(/^HTTP\/1\.1 405[\s\S]*allow: GET, HEAD/i);
    expect(await raw(`CONNECT localhost:80 HTTP/1.1\r\n${host}\r\n`)).toMatch(
      /^HTTP\/1\.1 405[\s\S]*allow: GET, HEAD/i,
    );
    expect(statusOf(await raw(`BREW / HTTP/1.1\r\n${host}\r\n`))).toBe(400);
    const upgrade = await raw(
      `GET /view HTTP/1.1\r\n${host}Connection: upgrade\r\nUpgrade: websocket\r\n\r\n`,
    );
    expect([200, 400]).toContain(statusOf(upgrade));
    const found = { "/": 200, "/view": 200, "/events": 200, "/report": 404, "/none": 404 };
    for (const [path, status] of Object.entries(found)) {
      const reply = await raw(`HEAD ${path} HTTP/1.1\r\n${host}Connection: close\r\n\r\n`, () => false);
      expect([path, statusOf(reply), reply.split("\r\n\r\n")[1]]).toEqual([path, status, ""]);
    }
    await expectAlive();
  });

  it("other names for this machine, and refuses them", async () => {
    const own = [
      `localhost:${port}`,
      "localhost",
      "LOCALHOST",
      "127.0.0.1",
      `127.0.0.1:${port}`,
      "[::1]",
      "[::1]:9",
    ];
    for (const host of own) expect([host, (await get("/", { host })).status]).toEqual([host, 200]);
    const others = [
      "evil.example",
      `evil.example:${port}`,
      "localhost.evil.example",
      "127.0.0.1.evil.example",
      "localhost:80@evil.example",
      "localhost:",
      "localhost:1234567",
      "127.0.0.2",
      "0.0.0.0",
      "[::]",
      "localhost.",
    ];
    for (const host of others) {
      const { status, body } = await get("/view", { host });
      expect([host, status]).toEqual([host, 403]);
      expect(body).not.toContain("svg");
    }
    for (const origin of [`http://localhost:${port}`, "http://127.0.0.1", "https://[::1]:1"]) {
      expect([origin, (await get("/view", { origin })).status]).toEqual([origin, 200]);
    }
    for (const origin of [
      "http://evil.example",
      "null",
      "http://localhost.evil.example",
      "file://",
      "localhost",
      "",
    ]) {
      expect([origin, (await get("/view", { origin })).status]).toEqual([origin, 403]);
    }
    const twice = "GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\nConnection: close\r\n\r\n";
    expect([400, 403]).toContain(statusOf(await raw(twice)));
    expect(statusOf(await raw("GET / HTTP/1.1\r\n\r\n"))).toBe(400);
    expect(statusOf(await raw("GET / HTTP/1.1\r\nHost:\r\n\r\n"))).toBe(403);
    const late = `GET / HTTP/1.1\r\nHost: localhost\r\n${"X:y\r\n".repeat(3000)}Origin: http://evil.example\r\n\r\n`;
    expect(statusOf(await raw(late))).toBe(403);
    expect(statusOf(await raw("GET / HTTP/1.0\r\n\r\n"))).toBe(403);
    expect(statusOf(await raw("GET / HTTP/1.0\r\nHost: localhost\r\n\r\n"))).toBe(200);
    await expectAlive();
  });

  it("what is no request, or half of one", async () => {
    const host = "Host: localhost\r\n";
    expect(statusOf(await raw("\u0000\u0001\u0002\r\n\r\n"))).toBe(400);
    expect(statusOf(await raw("\u0016\u0003\u0001\u0002\u0000\u0001\u0000"))).toBe(400); // TLS
    expect(statusOf(await raw("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))).toBe(400);
    expect(statusOf(await raw(`GET / HTTP/1.1\r\n${host}X: ${"a".repeat(100_000)}\r\n\r\n`))).toBe(400);
    expect(statusOf(await raw(`GET / HTTP/1.1\r\n${host}${"X: y\r\n".repeat(10_000)}\r\n`))).toBe(400);
    expect(
      statusOf(await raw(`GET / HTTP/1.1\r\n${host}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n`)),
    ).toBe(400);
    expect(statusOf(await raw(`POST /view HTTP/1.1\r\n${host}Content-Length: 1000000000\r\n\r\nabc`))).toBe(
      405,
    );
    expect(statusOf(await raw(`POST /view HTTP/1.1\r\n${host}Expect: a miracle\r\n\r\n`))).toBe(417);
    expect(await raw("GET / HT", answered, 50)).toBe("");
    expect(await raw("", answered, 50)).toBe("");
    // Several at once on one connection, the last one cut.
    const twenty = `GET /view HTTP/1.1\r\n${host}\r\n`.repeat(20);
    const all = (heard: string) => heard.match(/HTTP\/1\.1 200/g)?.length === 20;
    expect(all(await raw(`${twenty}GET`, all))).toBe(true);
    await expectAlive();
  });

  it("many connections at once, and ends with them open", async () => {
    const busy = new LiveView("busy");
    const at = Number(new URL(await busy.listen(0)).port);
    const sockets: Socket[] = [];
    let opened = 0;
    let closed = 0;
    for (let i = 0; i < 300; i += 1) {
      const socket = connect(at, "127.0.0.1", () => {
        opened += 1;
        socket.write(
          i % 3 === 0
            ? "GET /ev"
            : `GET /${i % 3 === 1 ? "events" : "view"} HTTP/1.1\r\nHost: localhost\r\n\r\n`,
        );
      });
      socket.on("error", () => {});
      socket.resume(); // one that has something left to read does not close
      socket.on("close", () => {
        closed += 1;
      });
      sockets.push(socket);
    }
    while (opened < 300) await new Promise((resolve) => setTimeout(resolve, 5));
    await busy.close();
    while (closed < 300) await new Promise((resolve) => setTimeout(resolve, 5));
    await busy.close();
    expect(surprises).toEqual([]);
  });

  it("a page that stops reading: it is dropped", async () => {
    const inside = view as unknown as {
      listeners: Set<{ writableLength: number }>;
      broadcast(text: string): void;
    };
    expect(inside.listeners.size).toBe(0);
    const socket = connect(port, "127.0.0.1", () =>
      socket.write("GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    );
    socket.on("error", () => {});
    socket.pause();
    while (inside.listeners.size === 0) await new Promise((resolve) => setTimeout(resolve, 5));
    const text = `: ${"x".repeat(8000)}\n\n`;
    let waiting = 0;
    for (let sent = 0; inside.listeners.size > 0; sent += 1) {
      expect(sent).toBeLessThan(20_000); // 160 MB: far above what the system buffers
      inside.broadcast(text);
      for (const { writableLength } of inside.listeners) waiting = Math.max(waiting, writableLength);
      if (sent % 16 === 0) await new Promise((resolve) => setImmediate(resolve));
    }
    expect(waiting).toBeLessThan(64 * 1024);
    socket.destroy();
    await expectAlive();
  });

  it("a drawing that fails, and says so", async () => {
    const broken = new LiveView("broken", async () => {
      throw new Error("no title");
    });
    const url = await broken.listen(0);
    const reply = await fetch(`${url}view`);
    expect([reply.status, await reply.text()]).toEqual([500, "no title\n"]);
    expect((await fetch(url)).status).toBe(200);
    await broken.close();
    expect(surprises).toEqual([]);
  });

  it("with headers that keep other sites out", async () => {
    const { headers, body } = await get("/");
    expect(headers).toMatchObject({
      "x-content-type-options": "nosniff",
      "x-frame-options": "DENY",
      "cross-origin-resource-policy": "same-origin",
      "referrer-policy": "no-referrer",
      "cache-control": "no-store",
    });
    expect(headers["access-control-allow-origin"]).toBeUndefined();
    // The hash in the policy is that of the script on the page.
    const script = /<script type="module">([\s\S]*)<\/script>/.exec(body)![1]!;
    const digest = Buffer.from(await crypto.subtle.digest("SHA-256", new TextEncoder().encode(script)));
    expect(headers["content-security-policy"]).toContain(`'sha256-${digest.toString("base64")}'`);
  });
});
