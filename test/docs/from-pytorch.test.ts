// docs/guide/from-pytorch.md: what it says is here is here, and the tests that it names exist and mention it.

import { existsSync, readFileSync } from "node:fs";
import { afterAll, describe, expect, it } from "vitest";
import { codeOf, isIn, nameOf, ourNames, root, rowsOf } from "./tables.ts";

const PAGE = "docs/guide/from-pytorch.md";

describe("coming from PyTorch", async () => {
  const ours = await ourNames();
  afterAll(() => ours.dispose());
  const rows = rowsOf(PAGE, 3);

  it("has its tables", () => {
    expect(rows.length).toBeGreaterThan(60);
  });

  it.each(rows.map(({ line, cells }) => ({ line, title: cells[1]!, cells })))(
    "$line: $title",
    ({ cells }) => {
      const [, here, tests] = cells as [string, string, string];
      const files = codeOf(tests).map((name) => `${root}test/${name}.test.ts`);
      expect(files.length).toBeGreaterThan(0);
      expect(files.filter((file) => !existsSync(file))).toEqual([]);
      const text = files.map((file) => readFileSync(file, "utf8")).join("\n");
      expect(codeOf(here).length).toBeGreaterThan(0);
      for (const code of codeOf(here)) {
        if (code.startsWith("fusenorm/")) {
          const { exports } = JSON.parse(readFileSync(`${root}package.json`, "utf8"));
          expect(Object.keys(exports)).toContain(code.replace("fusenorm", "."));
          continue;
        }
        const name = nameOf(code);
        if (name !== null) expect(isIn(ours.roots, name), name).toBe(true);
        // An option is mentioned as it is written.
        const word = name === null ? code : `\\b${name.split(".").at(-1)}\\b`;
        expect(new RegExp(word).test(text), code).toBe(true);
      }
    },
  );

  it("leaves no layer, optimizer and schedule out", () => {
    const index = readFileSync(`${root}src/index.ts`, "utf8");
    const exported = [...index.matchAll(/export \{([^}]*)\} from "\.\/(?:nn|optim)\//g)]
      .flatMap(([, list]) => list!.split(","))
      .map((name) => name.trim())
      .filter((name) => name && !name.startsWith("type "));
    expect(exported.length).toBeGreaterThan(50);
    const named = new Set(rows.flatMap(({ cells }) => codeOf(cells[1]!).map((code) => nameOf(code))));
    // What every optimizer is, and how weights start, which is an option there.
    const others = ["Optimizer", "initWeights"];
    expect(exported.filter((name) => !named.has(name) && !others.includes(name))).toEqual([]);
  });

  it("would notice", () => {
    for (const name of ["reluu", "gpu.tensr", "BatchNorm2d.resetStats", "tensor.numpy"]) {
      expect(isIn(ours.roots, name)).toBe(false);
    }
    expect(nameOf("new BatchNorm2d(gpu, channels, { frozen: true })")).toBe("BatchNorm2d");
    expect(nameOf('norm: "batch"')).toBe(null);
  });
});
