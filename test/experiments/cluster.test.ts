// The Kubernetes manifest against the API's own schema. That lets unknown fields pass: the compiler does not.

import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { Job } from "kubernetes-models/batch/v1";
import { describe, expect, it } from "vitest";
import { parse } from "yaml";
import { shardFromEnvironment } from "../../src/experiments/cells.ts";

type Manifest = ConstructorParameters<typeof Job>[0] & Record<string, unknown>;
const read = () =>
  parse(readFileSync("examples/cluster/kubernetes-job.yaml", "utf8")) as NonNullable<Manifest>;
const validate = (manifest: Manifest) => new Job(manifest).validate();

/** What the compiler says of the manifest as a literal of the API's type; "" if nothing. */
function compile(manifest: unknown): string {
  const folder = mkdtempSync(resolve("test/experiments/manifest-"));
  const file = join(folder, "manifest.ts");
  writeFileSync(
    file,
    `import type { IJob } from "kubernetes-models/batch/v1";\nexport const job: IJob = ${JSON.stringify(manifest)};\n`,
  );
  const flags = ["--noEmit", "--strict", "--skipLibCheck", "--module", "nodenext", "--ignoreConfig"];
  try {
    execFileSync("npx", ["tsc", ...flags, file], { encoding: "utf8", stdio: "pipe" });
    return "";
  } catch (error) {
    return (error as { stdout: string }).stdout;
  } finally {
    rmSync(folder, { recursive: true });
  }
}

describe("the Kubernetes manifest", () => {
  it("is a Job by the API's schema", () => validate(read()));

  it.each<[string, (job: NonNullable<Manifest>) => unknown]>([
    ["completions", (job) => Object.assign(job.spec!, { completions: "eight" })],
    ["completionMode", (job) => Object.assign(job.spec!, { completionMode: "Indexes" })],
    ["name", (job) => Reflect.deleteProperty(job.spec!.template.spec!.containers[0]!, "name")],
  ])("is refused with a wrong %s", (_, change) => {
    const job = read();
    change(job);
    expect(() => validate(job)).toThrow();
  });

  it("has no field that the API does not know", () => {
    expect(compile(read())).toBe("");
    const job = read();
    Object.assign(job.spec!, { completionsMode: "Indexed" });
    expect(compile(job)).toContain("completionsMode");
  });

  it("tells each pod how many there are", () => {
    const { completions, template } = read().spec!;
    const { value } = template.spec!.containers[0]!.env!.find(({ name }) => name === "JOB_COMPLETIONS")!;
    expect(value).toBe(String(completions));
    const shard = shardFromEnvironment({ JOB_COMPLETION_INDEX: "7", JOB_COMPLETIONS: value });
    expect(shard).toEqual({ index: 7, count: completions });
  });
});
