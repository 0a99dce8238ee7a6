import { expect, it } from "vitest";
import { EXPERIMENTS } from "../../src/experiments/index.ts";
import { LiveView } from "../../src/experiments/serve.ts";

it("shows curves as they grow, and the report at the end", async () => {
  const view = new LiveView("live", EXPERIMENTS);
  const url = await view.listen(0);
  try {
    const key = { experiment: "learning-rates", configuration: { label: "batch lr 0.1" }, seed: 0 };
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
    expect(shown).toContain("Learning rates with and without batch-norm");
    expect(shown).toContain("<svg");

    const events = await fetch(`${url}events`);
    const reader = events.body!.getReader();
    let heard = "";
    view.cellDone();
    while (!heard.includes("data: new")) heard += new TextDecoder().decode((await reader.read()).value);
    await reader.cancel();

    expect((await fetch(`${url}report`)).status).toBe(404);
    view.finished("<p>the report</p>");
    expect(await (await fetch(`${url}report`)).text()).toContain("the report");
    expect((await fetch(`${url}nothing`)).status).toBe(404);

    const second = new LiveView("second", EXPERIMENTS);
    await expect(second.listen(Number(new URL(url).port))).rejects.toThrow(
      /--serve \d+: .*pass another port/,
    );
  } finally {
    await view.close();
  }
});
