import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { imageDataset } from "../../src/data/dataset.ts";
import { DataError } from "../../src/errors.ts";
import {
  checkSeeds,
  listCells,
  parseShard,
  RunDirectory,
  type RunManifest,
  shardFromEnvironment,
  shardOf,
} from "../../src/experiments/cells.ts";
import {
  type Configuration,
  defineExperiment,
  defineMeasurement,
  type Finding,
  judge,
  PRESETS,
} from "../../src/experiments/experiment.ts";
import { EXPERIMENTS, selectExperiments } from "../../src/experiments/index.ts";
import { buildReport, overall, reportHtml, reportJson, verdictText } from "../../src/experiments/report.ts";
import { limitData, type RunnerOptions, runCells } from "../../src/experiments/runner.ts";
import { fromJson, toJson } from "../../src/json.ts";

const temporary = () => new RunDirectory(mkdtempSync(join(tmpdir(), "fusenorm-cells-")));

interface Toy extends Configuration {
  factor: number;
}

/** An experiment that needs no GPU; `ran` lists what it did. */
function toy(ran: string[], fail?: string, id = "toy") {
  const times = defineMeasurement<Toy, { value: number }>({
    id: "times",
    async run({ onPoint }, { label, factor }, seed) {
      if (`${label} ${seed}` === fail) throw new Error("killed");
      ran.push(`${label} ${seed}`);
      onPoint("curve", seed, factor);
      return { value: factor === 3 ? Number.POSITIVE_INFINITY : factor * seed };
    },
    work: () => ({ flop: 0, passes: 0, programs: [] }),
  });
  return defineExperiment<Toy, { value: number }>({
    id,
    title: "A toy",
    source: "§ 0",
    claim: "Products grow.",
    about: "Multiplies.",
    measurements: [times],
    configurations: () =>
      [1, 2, 3].map((factor) => ({ measure: "times", label: `factor ${factor}`, factor })),
    repeats: ({ factor }, seeds) => (factor === 3 ? 1 : seeds),
    verdict(cells) {
      const finding: Finding = {
        criterion: "five cells",
        measured: `${cells.length} <cells>`,
        verdict: judge(cells.length === 5),
      };
      return [finding];
    },
    compare: () => [{ what: "a <number>", paper: "7", mark: "R", ours: "8" }],
    exhibit: async () => ({ figures: [{ svg: "<svg></svg>", caption: "none" }] }),
  });
}

const manifest: RunManifest = { preset: "quick", dataset: "toy data", seeds: 2, experiments: ["toy"] };
const image = imageDataset({
  name: "toy",
  images: new Uint8Array(4),
  labels: new Uint8Array(1),
  height: 2,
  width: 2,
  channels: 1,
  classNames: ["a"],
});
const gpu = {
  info: { name: "no adapter", vendor: "", architecture: "", description: "", class: "software" },
  trim() {},
};

function run(directory: RunDirectory, experiment = toy([]), options: Partial<RunnerOptions> = {}) {
  return runCells({
    gpu: gpu as unknown as RunnerOptions["gpu"],
    data: { train: image, test: image },
    directory,
    manifest,
    experiments: [experiment],
    shard: { index: 0, count: 1 },
    ...options,
  });
}

describe("JSON of cells", () => {
  it("keeps NaN, infinities and arrays of numbers", () => {
    const value = {
      a: [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, 1.5],
      b: "#other",
      c: null,
    };
    expect(fromJson(toJson(value))).toEqual(value);
    expect(fromJson(toJson(Float32Array.of(1, Number.NaN)))).toEqual([1, Number.NaN]);
  });
});

describe("shards", () => {
  it("cover every cell of every preset exactly once", () => {
    for (const preset of PRESETS) {
      const all = listCells(EXPERIMENTS, { preset, seeds: 2 });
      const directory = temporary();
      const files = all.map((key) => directory.fileOf(key));
      expect(new Set(files).size).toBe(all.length);
      const dealt = [0, 1, 2].flatMap((index) => shardOf(all, { index, count: 3 }));
      expect(dealt.map((key) => directory.fileOf(key)).sort()).toEqual(files.sort());
    }
  });

  it("come from the option or the scheduler", () => {
    expect(parseShard("2/8")).toEqual({ index: 2, count: 8 });
    for (const bad of ["8/8", "1", "-1/3", "a/b", "0/0"]) expect(() => parseShard(bad)).toThrow(/--shard is/);
    expect(shardFromEnvironment({})).toBeNull();
    expect(shardFromEnvironment({ JOB_COMPLETION_INDEX: "3", JOB_COMPLETIONS: "5" })).toEqual({
      index: 3,
      count: 5,
    });
    expect(
      shardFromEnvironment({
        SLURM_ARRAY_TASK_ID: "4",
        SLURM_ARRAY_TASK_MIN: "1",
        SLURM_ARRAY_TASK_COUNT: "10",
      }),
    ).toEqual({ index: 3, count: 10 });
    expect(() => shardFromEnvironment({ JOB_COMPLETION_INDEX: "3" })).toThrow(/JOB_COMPLETIONS is not set/);
  });
});

describe("a run", () => {
  it("goes on after a crash without the cells that are there", async () => {
    const directory = temporary();
    const first: string[] = [];
    await expect(run(directory, toy(first, "factor 1 1"))).rejects.toThrow("killed");
    expect(first).toEqual(["factor 1 0", "factor 2 0", "factor 3 0"]);
    const second: string[] = [];
    const skipped: boolean[] = [];
    await run(directory, toy(second), { onDone: ({ kept }) => skipped.push(kept) });
    expect(second).toEqual(["factor 1 1", "factor 2 1"]);
    expect(skipped).toEqual([true, true, true, false, false]);
  });

  it("goes on with more seeds from the cells that are there", async () => {
    const directory = temporary();
    const ran: string[] = [];
    await directory.writeManifest(manifest, ["toy"]);
    await run(directory, toy(ran));
    const more = { ...manifest, seeds: 3 };
    await directory.writeManifest(more, ["toy"]);
    await run(directory, toy(ran), { manifest: more });
    expect(ran.slice(5)).toEqual(["factor 1 2", "factor 2 2"]);
    expect(directory.manifestThere(["toy"])).toEqual(more);
    expect((await buildReport(directory, more, [toy([])])).sections[0]).toMatchObject({
      missing: [],
      cells: Array.from({ length: 7 }, () => ({ dataset: "toy data" })),
    });
  });

  it("runs what two experiments ask for once, and tells each when all of it is there", async () => {
    const directory = temporary();
    const ran: string[] = [];
    const finished: string[] = [];
    const other = toy(ran, undefined, "other");
    const both = [toy(ran), { ...other, configurations: () => other.configurations("quick").slice(0, 2) }];
    await run(directory, both[0], { experiments: both, onExperiment: ({ id }) => void finished.push(id) });
    expect(ran).toHaveLength(5);
    expect(finished.sort()).toEqual(["other", "toy"]);
    const report = await buildReport(directory, manifest, both);
    expect(report.sections.map(({ cells }) => cells.length)).toEqual([5, 4]);
  });

  it("writes nothing of a cell that was interrupted", async () => {
    const directory = temporary();
    const abort = new AbortController();
    await run(directory, toy([]), { signal: abort.signal, onPoint: () => abort.abort() });
    expect(directory.hasCells).toBe(false);
  });

  it("is merged from its shards", async () => {
    const directory = temporary();
    await directory.writeManifest(manifest, ["toy"]);
    for (const index of [1, 0]) {
      const before = await buildReport(directory, manifest, [toy([])]);
      expect(before.sections[0]!.missing).toHaveLength(index === 1 ? 5 : 3);
      expect(before.sections[0]!.verdict).toBe("does not hold");
      await run(directory, toy([]), { shard: { index, count: 2 } });
    }
    const report = await buildReport(directory, directory.readManifest(["toy"]), [toy([])]);
    expect(report.sections[0]).toMatchObject({ missing: [], verdict: "holds" });
    expect(report.sections[0]!.cells.map(({ data }) => data)).toEqual([
      { value: 0 },
      { value: 0 },
      { value: Number.POSITIVE_INFINITY },
      { value: 1 },
      { value: 2 },
    ]);
    expect(verdictText(report, 100)).toMatch(/toy +holds +0 s\n {2}✓ five cells\n {4}→ 5 <cells>/);
    const html = reportHtml(report);
    expect(html).toContain("5 &lt;cells&gt;");
    expect(html).toContain("a &lt;number&gt;");
    expect(html).toContain("7 (R)");
    expect(html).not.toMatch(/<script|src="http/);
    const json = fromJson(reportJson(report)) as {
      experiments: { cells: string[] }[];
      cells: Record<string, { data: unknown }>;
    };
    expect(json.experiments[0]!.cells[2]).toBe("times: factor 3, seed 0");
    expect(json.cells["times: factor 3, seed 0"]!.data).toEqual({ value: Number.POSITIVE_INFINITY });
  });

  it("refuses cells of other settings, of another run, and broken ones", async () => {
    const directory = temporary();
    await run(directory);
    const key = listCells([toy([])], manifest)[0]!;
    const other = { ...key, configuration: { ...key.configuration, factor: 7 } };
    expect(directory.has(other as typeof key)).toBe(false);
    expect(() => directory.read(key, { ...manifest, dataset: "CIFAR-10" })).toThrow(
      /dataset is "toy data"; expected "CIFAR-10", as in the rest of this run/,
    );
    await directory.writeManifest(manifest, ["toy"]);
    await expect(directory.writeManifest({ ...manifest, seeds: 1 }, ["toy"])).rejects.toThrow(
      /has 2 seeds, this one 1; expected as many or more/,
    );
    await expect(directory.writeManifest({ ...manifest, preset: "paper" }, ["toy"])).rejects.toThrow(
      /has preset quick, this one paper/,
    );
    const file = directory.fileOf(key);
    writeFileSync(file, readFileSync(file, "utf8").slice(0, -10));
    expect(() => directory.read(key, manifest)).toThrow(/can't be read as JSON/);
    expect(() => temporary().readManifest(["toy"])).toThrow(/no run.json/);
  });

  it("refuses edited cells before it runs any, naming file and field", async () => {
    const directory = temporary();
    await run(directory);
    const keys = listCells([toy([])], manifest);
    const key = keys.at(-1)!;
    const file = directory.fileOf(key);
    const text = readFileSync(file, "utf8");
    const cell = JSON.parse(text);
    const without = (field: string) =>
      Object.fromEntries(Object.entries(cell).filter(([name]) => name !== field));
    const cases: [unknown, RegExp][] = [
      [{ ...cell, format: "fusenorm-cell-1" }, /format is "fusenorm-cell-1"; expected fusenorm-cell-3/],
      [{ ...cell, preset: "paper" }, /preset is "paper"; expected "quick"/],
      [{ ...cell, dataset: 3 }, /dataset is 3/],
      [{ ...cell, compileSeconds: -1 }, /compileSeconds is -1/],
      [{ ...cell, seed: 7 }, /seed is 7; expected 1/],
      [{ ...cell, seed: "1" }, /seed is "1"/],
      [{ ...cell, configuration: { ...cell.configuration, factor: 9 } }, /made with other settings/],
      [{ ...cell, configuration: null }, /configuration is null/],
      [{ ...cell, seconds: "#NaN" }, /seconds is NaN; expected a finite number/],
      [{ ...cell, seconds: -1 }, /seconds is -1/],
      [{ ...cell, adapter: "GPU" }, /adapter is "GPU"/],
      [{ ...cell, adapter: { ...cell.adapter, class: "magic" } }, /adapter is/],
      [
        { ...cell, data: { value: 4 } },
        /data has the SHA-256 [0-9a-f]{64}, the file's sha256 is "[0-9a-f]{57}..."; it was changed/,
      ],
      [{ ...cell, data: { value: "#NaN" } }, /data has the SHA-256/],
      [{ ...cell, data: {} }, /data has the SHA-256/],
      [{ ...cell, sha256: 0 }, /sha256 is 0;/],
      [[cell], /it holds \[.*; expected an object/],
      [null, /it holds null/],
      ...["format", "preset", "dataset", "seed", "seconds", "compileSeconds", "adapter", "data"].map(
        (field): [unknown, RegExp] => [without(field), new RegExp(`: ${field} is missing; expected`)],
      ),
      [without("configuration"), /configuration is undefined/],
      [without("sha256"), /sha256 is undefined;/],
    ];
    for (const [edited, message] of cases) {
      writeFileSync(file, JSON.stringify(edited));
      const ran: string[] = [];
      rmSync(directory.fileOf(keys[0]!), { force: true });
      const again = run(directory, toy(ran));
      await expect(again).rejects.toThrow(DataError);
      await expect(again).rejects.toThrow(message);
      await expect(again).rejects.toThrow(file);
      await expect(buildReport(directory, manifest, [toy([])])).rejects.toThrow(message);
      expect(ran).toEqual([]);
    }
    writeFileSync(file, text);
    await run(directory);
    expect((await buildReport(directory, manifest, [toy([])])).sections[0]!.missing).toEqual([]);
  });

  it("refuses an edited run.json, naming the field", async () => {
    const directory = temporary();
    const file = join(directory.path, "run.json");
    const ids = ["toy", "other"];
    const good = { format: "fusenorm-reproduce-2", ...manifest };
    const cases: [unknown, RegExp][] = [
      [{ ...good, format: undefined }, /format is missing/],
      [{ ...good, preset: "slow" }, /preset is "slow"; expected one of first-look, quick, standard, paper/],
      [{ ...good, preset: undefined }, /preset is missing/],
      [{ ...good, dataset: "" }, /dataset is ""/],
      [{ ...good, dataset: undefined }, /dataset is missing/],
      ...[1e9, 0, -1, 1.5, "3", null, [], "#Infinity", "#NaN"].map((seeds): [unknown, RegExp] => [
        { ...good, seeds },
        /seeds is .*; expected an integer from 1 to 1000/,
      ]),
      [{ ...good, experiments: [] }, /experiments is \[\]/],
      [{ ...good, experiments: "toy" }, /experiments is "toy"; expected some of toy, other/],
      [{ ...good, experiments: ["toy", "none"] }, /experiments\[1\] is "none"; expected one of toy, other/],
      [{ ...good, experiments: ["toy", "toy"] }, /experiments\[1\] is "toy"; .*each once/],
      [{ ...good, experiments: [{}] }, /experiments\[0\] is/],
      [
        { ...good, shards: 3 },
        /shards is 3; expected preset, dataset, images, seeds, experiments, network and longer alone/,
      ],
      [{ ...good, network: "resnet50" }, /network is "resnet50"; expected one of resnetCifar/],
      ...["32", "32x32x2", "0x8x3", ["8x8x3"], 7].map((images): [unknown, RegExp] => [
        { ...good, images },
        /images is .*; expected height, width and channels, as 32x32x3/,
      ]),
      [{ ...good, longer: 0 }, /longer is 0; expected an integer from 1/],
      [[], /it holds \[\]; expected an object/],
      [7, /it holds 7/],
    ];
    for (const [edited, message] of cases) {
      writeFileSync(file, JSON.stringify(edited));
      expect(() => directory.readManifest(ids)).toThrow(DataError);
      expect(() => directory.readManifest(ids)).toThrow(message);
      expect(() => directory.readManifest(ids)).toThrow(file);
      await expect(directory.writeManifest(manifest, ids)).rejects.toThrow(message);
      expect(JSON.stringify(JSON.parse(readFileSync(file, "utf8")))).toBe(JSON.stringify(edited));
    }
    for (const text of ["", "{", "[".repeat(1e6)]) {
      writeFileSync(file, text);
      expect(() => directory.readManifest(ids)).toThrow(/can't be read as JSON/);
    }
    rmSync(file);
    mkdirSync(file);
    expect(() => directory.readManifest(ids)).toThrow(DataError);
    rmSync(file, { recursive: true });
    await directory.writeManifest({ ...manifest, network: "resnetCifar", longer: 1 }, ids);
    await directory.writeManifest({ ...manifest, experiments: ["other"] }, ids);
    await expect(directory.writeManifest({ ...manifest, network: "vgg16" }, ids)).rejects.toThrow(
      /has network resnetCifar, this one vgg16/,
    );
    await expect(directory.writeManifest({ ...manifest, longer: 4 }, ids)).rejects.toThrow(
      /has longer 1, this one 4/,
    );
    await expect(directory.writeManifest({ ...manifest, images: "32x24x3" }, ids)).rejects.toThrow(
      /has images of a size of their own, this one 32x24x3; expected the same/,
    );
    expect(directory.readManifest(ids)).toEqual({ ...manifest, experiments: ["toy", "other"] });
    const sized = temporary();
    await sized.writeManifest({ ...manifest, images: "32x24x3" }, ids);
    expect(sized.readManifest(ids).images).toBe("32x24x3");
    await expect(sized.writeManifest({ ...manifest, images: "32x24x1" }, ids)).rejects.toThrow(
      /has images 32x24x3, this one 32x24x1; expected the same/,
    );
    expect(() => checkSeeds(1e9)).toThrow(/--seeds is 1000000000; expected an integer from 1 to 1000/);
  });

  it("tells cells that this version can't judge", async () => {
    const directory = temporary();
    await run(directory);
    const broken = { ...toy([]), verdict: () => ([] as string[][])[0]!.join() as never };
    await expect(buildReport(directory, manifest, [broken])).rejects.toThrow(DataError);
    await expect(buildReport(directory, manifest, [broken])).rejects.toThrow(
      /toy: its cells can't be judged/,
    );
  });

  it("knows its experiments", () => {
    expect(EXPERIMENTS).toHaveLength(12);
    expect(selectExperiments(["sgd-noise", "divergence"]).map(({ id }) => id)).toEqual([
      "divergence",
      "sgd-noise",
    ]);
    expect(() => selectExperiments(["nothing"])).toThrow(
      /no experiment "nothing"; expected some of learning-rates/,
    );
  });

  it("takes no more images than the preset wants, of each class alike", () => {
    const count = 1000;
    const labels = Uint8Array.from({ length: count }, (_, i) => i % 2);
    const large = imageDataset({
      name: "large",
      images: new Uint8Array(count),
      labels,
      height: 1,
      width: 1,
      channels: 1,
      classNames: ["a", "b"],
    });
    expect(limitData({ train: large, test: large }, "quick")).toMatchObject({
      train: { count: 400 },
      test: { count: 100 },
    });
    expect(limitData({ train: large, test: large }, "paper").train.count).toBe(count);
  });
});

describe("verdicts", () => {
  it("are as weak as their weakest clause, and need numbers", () => {
    const of = (...verdicts: Finding["verdict"][]) =>
      overall(verdicts.map((verdict) => ({ criterion: "", measured: "", verdict })));
    expect(of("holds", "holds")).toBe("holds");
    expect(of("holds", "inconclusive")).toBe("inconclusive");
    expect(of("inconclusive", "does not hold")).toBe("does not hold");
    expect(of()).toBeNull();
    expect(judge(true, 1, Number.NaN)).toBe("inconclusive");
    expect(judge(false, 1)).toBe("does not hold");
  });
});
