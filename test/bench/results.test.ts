import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { runMain } from "../../bench/command.ts";
import { suiteTable } from "../../bench/gpu-suite-table.ts";
import { AGREEMENT, compareNumbers } from "../../bench/lib/peers.ts";
import { comparisonTable, htmlReport, markdownReport } from "../../bench/lib/report.ts";
import {
  adapterSlug,
  type BenchResults,
  checkResults,
  compareResults,
  readResults,
} from "../../bench/lib/results.ts";
import type { CaseResult } from "../../bench/lib/runner.ts";

function oneCase(id: string, copies: number, ms: number): CaseResult {
  return {
    id,
    group: id.slice(0, id.lastIndexOf("/")),
    name: id.slice(id.lastIndexOf("/") + 1),
    wall: { median: ms, min: ms, max: ms, spread: 0.1, runs: 5 },
    speedup: 2,
    gpuMs: 1,
    dispatches: 3,
    bytes: 1e6,
    gbPerSecond: 5,
    copies,
    ofCopy: 0.9,
    gflopPerSecond: null,
    heldBytes: 1e6,
    peakBytes: 2e6,
    kernels: [],
  };
}

function run(cases: CaseResult[]): BenchResults {
  return {
    schema: "fusenorm-bench/1",
    date: "2026-01-01T00:00:00.000Z",
    environment: {
      version: "0.1.0",
      node: "v20",
      platform: "linux x64",
      processor: "a processor",
      cores: 2,
      adapter: {
        name: "llvmpipe (LLVM 19)",
        vendor: "mesa",
        architecture: "",
        description: "",
        class: "software",
      },
    },
    quick: true,
    copy: { gbPerSecond: 10, bytes: 2 ** 26 },
    groups: [
      {
        id: "batch_norm/forward/relu/8x8x8x8",
        suite: "batch_norm",
        title: "BN+ReLU forward 8×8×8×8",
        where: "somewhere",
        baseline: "unfused",
        tensorBytes: 16384,
        copyGbPerSecond: 10,
        cases,
      },
    ],
    missing: [],
  };
}

const id = (name: string) => `batch_norm/forward/relu/8x8x8x8/${name}`;

describe("comparison with an earlier run", () => {
  const old = run([oneCase(id("unfused"), 10, 10), oneCase(id("fused"), 2, 2), oneCase(id("gone"), 1, 1)]);

  it("calls slower what costs more copies, not what took longer on a slower machine", () => {
    const now = run([oneCase(id("unfused"), 10.5, 30), oneCase(id("fused"), 3, 2), oneCase(id("new"), 1, 1)]);
    const { changes, onlyOld, onlyNew } = compareResults(old, now, 1.25);
    expect(changes.map((change) => [change.id, change.regressed])).toEqual([
      [id("fused"), true],
      [id("unfused"), false],
    ]);
    expect(changes[0]!.copies).toBeCloseTo(1.5);
    expect(changes[1]!.wall).toBeCloseTo(3);
    expect([onlyOld, onlyNew]).toEqual([[id("gone")], [id("new")]]);
    const text = comparisonTable({ changes, onlyOld, onlyNew }, 1.25);
    expect(text).toMatch(/fused\s+slower\s+1\.50×/);
    expect(text).toContain("not in this run: 1 cases");
  });

  it("finds nothing between a run and itself", () => {
    expect(compareResults(old, old, 1.0001).changes.some(({ regressed }) => regressed)).toBe(false);
  });
});

describe("results files", () => {
  it("are refused unless whole", () => {
    expect(() => checkResults({ schema: "other/1" }, "x.json")).toThrow(
      /x\.json has schema "other\/1"; expected/,
    );
    expect(() => checkResults(null, "x.json")).toThrow(/schema null/);
    expect(() => checkResults({ ...run([]), groups: undefined }, "x.json")).toThrow(
      /no groups or no adapter/,
    );
    const broken = run([{ ...oneCase(id("fused"), 1, 1), copies: Number.NaN }]);
    expect(() => checkResults(JSON.parse(JSON.stringify(broken)), "x.json")).toThrow(/fused.*lacks finite/);
    expect(
      checkResults(JSON.parse(JSON.stringify(run([oneCase(id("fused"), 1, 1)]))), "x").groups,
    ).toHaveLength(1);
  });

  it("are named after the adapter without its versions", () => {
    expect(adapterSlug("llvmpipe (LLVM 19.1.7, 256 bits)")).toBe("llvmpipe");
    expect(adapterSlug("llvmpipe: Mesa 25.0.7")).toBe("llvmpipe");
    expect(adapterSlug("NVIDIA H100 80GB HBM3")).toBe("nvidia-h100-80gb-hbm3");
  });

  it("say on every page that no GPU was at work", async () => {
    const results = run([oneCase(id("unfused"), 10, 10), oneCase(id("fused"), 2, 2)]);
    expect(markdownReport(results)).toContain(
      "software adapter: 2 cores of a a processor did the work, no GPU",
    );
    const html = await htmlReport(results);
    expect(html).toContain("Software adapter.");
    expect(html.match(/<svg/g)).toHaveLength(2);
    expect(html).toContain("2.00×");
  });

  it("show a second comparison, and memory, where there is any", async () => {
    const results = run([oneCase(id("unfused"), 10, 10), oneCase(id("fused"), 2, 2)]);
    expect(markdownReport(results)).not.toContain("and over");
    expect(markdownReport(results)).not.toContain("memory");
    results.groups[0]!.cases[1]!.over = { name: "elementwise", speedup: 1.25 };
    const row = { title: "a step", bytes: 3e9, planBytes: 1e9, residentBytes: 1e6 };
    results.memory = [
      { ...row, id: "1", name: "unfused", dispatches: 300, peakBytes: 2e9 },
      { ...row, id: "2", name: "fused", dispatches: 100, peakBytes: 9e8 },
    ];
    const text = markdownReport(results);
    expect(text).toContain("| 2.00× | elementwise 1.25× |");
    expect(text).toContain("| a step | fused | 100 | 33 % | 3.00 GB | 900.0 MB | 45 % | 1.00 GB | 1.0 MB |");
    expect(await htmlReport(results)).toContain("<h2>memory</h2>");
  });
});

describe("agreement of contenders", () => {
  it("is judged by result", () => {
    const errors = compareNumbers(["y", "dx"], [[1, 2], [3]], [[1, 2.001], [3]]);
    expect(errors.y).toBeGreaterThan(0);
    expect(errors.y).toBeLessThan(AGREEMENT);
    expect(errors.dx).toBe(0);
    expect(compareNumbers(["y", "dx"], [[1]], [[1], [2]]).dx).toBe(Number.POSITIVE_INFINITY);
  });
});

describe("the table of gpu:suite", () => {
  it("puts PyTorch's times beside ours", () => {
    const wall = { median: 2, min: 2, max: 2, spread: 0, runs: 5 };
    const table = suiteTable(
      [{ work: "w", wall, gpuMs: 1, gflopPerSecond: 15000 }],
      [
        { work: "w", mode: "eager", precision: "fp32", ms: 4 },
        { work: "w", mode: "compile", precision: "fp32", ms: null, error: "no compiler" },
      ],
    );
    expect(table.split("\n")[2]).toMatch(
      /w\s+2\.00\s+1\.00\s+15\.00\s+4\.00\s+failed\s+–\s+–\s+2\.00×\s+4\.00×/,
    );
  });
});

describe("npm run bench", () => {
  let folder: string;
  const errors: string[] = [];
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), "fusenorm-bench-"));
    errors.length = 0;
    vi.spyOn(console, "error").mockImplementation((...text) => void errors.push(text.join(" ")));
    vi.spyOn(console, "log").mockImplementation(() => {});
    vi.spyOn(process.stderr, "write").mockImplementation((text) => {
      errors.push(String(text));
      return true;
    });
  });
  afterEach(() => {
    vi.restoreAllMocks();
    rmSync(folder, { recursive: true });
    process.exitCode = undefined;
  });

  const outcome = async (...argv: string[]) => {
    process.exitCode = undefined;
    await runMain([...argv, "--out", folder]);
    const code = process.exitCode;
    process.exitCode = undefined;
    return { code: code ?? 0, text: errors.join("\n") };
  };

  it.each([
    [["--compare", "nowhere.json"], /nowhere\.json does not exist/],
    [["--threshold", "0.9"], /--threshold is 0\.9; expected a ratio above 1/],
    [["--rounds", "0"], /0 is below 1/],
    [["--call-ms", "soon"], /"soon" is not a finite number/],
    [["--fliter", "x"], /unknown option '--fliter'/],
    [["--filter", "batch_norm sideways"], /none of the \d+ groups.*ids are like batch_norm\/forward/],
    [["memmory"], /'memmory' is invalid for argument 'suites'.*training_step, memory, scaling/],
  ])("%j is an error that says what to do, and writes nothing", async (argv, message) => {
    const { code, text } = await outcome(...argv);
    expect(text).toMatch(message);
    expect(code).not.toBe(0);
    expect(readdirSync(folder)).toEqual([]);
  });

  it("refuses a file that no run wrote before anything is measured", async () => {
    const path = join(folder, "other.json");
    writeFileSync(path, "{ not json");
    const { code, text } = await outcome("--compare", path);
    expect(text).toMatch(/other\.json is not JSON/);
    expect(code).toBe(1);
  });

  it("counts memory by itself, and leaves the results of everything alone", async () => {
    const { code } = await outcome("memory", "--batch", "2");
    expect(code).toBe(0);
    const json = readdirSync(folder).find((file) => file.endsWith("-memory.json"))!;
    const { groups, memory } = readResults(join(folder, json));
    expect(groups).toEqual([]);
    const [unfused, elementwise, fused] = memory!;
    expect(memory!.map(({ name }) => name)).toEqual(["unfused", "elementwise", "fused"]);
    expect(elementwise!.dispatches).toBeLessThan(unfused!.dispatches / 2);
    expect(elementwise!.peakBytes).toBeLessThan(unfused!.peakBytes);
    expect(fused!.peakBytes).toBeLessThanOrEqual(elementwise!.peakBytes);
    expect(fused!.residentBytes).toBe(unfused!.residentBytes);
  });

  it("tells how a step's cost grows with the work, if that is asked for", async () => {
    const words = ["--filter", "scaling batch", "--quick", "--rounds", "1", "--call-ms", "1"];
    const { code } = await outcome(...words);
    expect(code).toBe(0);
    const json = readdirSync(folder).find((file) => file.endsWith("-scaling.json"))!;
    const { groups, scaling } = readResults(join(folder, json));
    expect(groups).toEqual([]);
    const [small, large] = scaling!;
    expect([small!.batch, large!.batch, scaling!.length]).toEqual([2, 8, 2]);
    // The work is four times as much, and so is most of the memory; the dispatches are hardly more.
    expect(large!.flops / small!.flops).toBeCloseTo(4, 3);
    expect(large!.dispatches / small!.dispatches).toBeLessThan(1.2);
    expect(large!.peakBytes / small!.peakBytes).toBeGreaterThan(2);
    expect(small!.ms).toBeGreaterThan(0);
    const html = readFileSync(join(folder, json.replace("json", "html")), "utf8");
    expect(html).toContain("as batch grows");
  });

  it("measures, writes JSON, Markdown, HTML and traces, and compares", async () => {
    const words = ["--filter", "batch_norm forward+backward relu 2x8x8x64", "--batch", "2", "--quick"];
    const first = await outcome(...words, "--rounds", "2", "--call-ms", "1", "--profile");
    expect(first.text).not.toMatch(/failed/);
    expect(first.code).toBe(0);
    const json = readdirSync(folder).find((file) => file.endsWith(".json"))!;
    const path = join(folder, json);
    expect(readdirSync(folder).sort()).toEqual(
      [json, json.replace("json", "md"), json.replace("json", "html"), "profiles"].sort(),
    );
    const results = readResults(path);
    const [unfused, fused] = results.groups[0]!.cases;
    expect([unfused!.name, fused!.name]).toEqual(["unfused", "fused"]);
    expect(unfused!.speedup).toBe(1);
    expect(fused!.dispatches).toBeLessThan(unfused!.dispatches);
    expect(fused!.bytes).toBeLessThan(unfused!.bytes / 2);
    expect(fused!.heldBytes).toBeLessThan(unfused!.heldBytes!);

    const traces = join(folder, "profiles", json.replace(".json", ""));
    const trace = JSON.parse(readFileSync(join(traces, readdirSync(traces)[0]!), "utf8"));
    expect(trace.traceEvents.length).toBeGreaterThan(0);

    // Against a run that claims to have been a thousand times as fast, however busy the machine.
    for (const one of results.groups[0]!.cases) one.copies /= 1000;
    const earlier = join(folder, "earlier.json");
    writeFileSync(earlier, JSON.stringify(results));
    const second = await outcome(...words, "--rounds", "2", "--call-ms", "1", "--compare", earlier);
    expect(second.text).toMatch(/2 of 2 cases cost over 1\.25×/);
    expect(second.code).toBe(2);
  });
});
