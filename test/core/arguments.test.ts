// Every public function, constructor and method, called with wrong things in place of each argument and each option.

import { afterAll, describe, expect, it } from "vitest";
import { requestGpu } from "../../src/node/request.ts";
import { publicCalls, publicNames } from "../helpers/public-calls.ts";
import { tryAll, wrongThings } from "../helpers/wrong-things.ts";

describe("arguments", async () => {
  const gpu = await requestGpu({ debug: { poison: true } });
  const other = await requestGpu();
  afterAll(() => {
    gpu.destroy();
    other.destroy();
  });
  const things = wrongThings(gpu, other);
  const entries = publicCalls(gpu);

  it("has every public function, constructor and method in its table", () => {
    expect(
      publicNames().filter((name) => !(name in entries) && name !== "customOp" && name !== "defineOp"),
    ).toEqual([]);
  });

  it.each(Object.keys(entries))(
    "%s refuses what it can't take, by name and value, and leaves nothing",
    async (name) => {
      const problems: string[] = [];
      await tryAll(gpu, name, entries[name]!, things, problems);
      expect(problems).toEqual([]);
    },
  );
});
