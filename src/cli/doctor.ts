import type { Command } from "commander";
import { FusenormError } from "../errors.ts";
import { Gpu } from "../gpu.ts";
import { type AdapterClass, isLavapipe, type Survey, survey } from "../node/adapters.ts";
import { type NodeAdapter, requestAdapter } from "../node/request.ts";
import { examples, helpWidth } from "./help.ts";
import { type CopyBandwidth, type MatmulRate, measureCopyBandwidth, measureMatmul } from "./measure.ts";
import { addAdapterOption, addJsonOption } from "./options.ts";

export interface DoctorOptions {
  json?: boolean;
  adapter?: string;
  /** False skips the measurements. */
  measure?: boolean;
}

/** What `fusenorm doctor --json` prints. */
export interface DoctorReport {
  /** `Node v22.23.3`, `Bun 1.4.5`, `Deno 2.9.6`. */
  runtime: string;
  platform: string;
  /** What was there to search; Linux only. */
  system?: Survey;
  /** Why there is no adapter, or why it does not work. */
  error?: string;
  adapter?: {
    name: string;
    class: AdapterClass;
    vendor: string;
    architecture: string;
    device: string;
    driver: string;
    foundThrough: string;
  };
  limits?: Record<string, number>;
  features?: string[];
  toggles?: { enable: readonly string[]; disable: readonly string[] };
  copyBandwidth?: CopyBandwidth;
  matmul?: MatmulRate;
  advice: string[];
}

const SHOWN_LIMITS = [
  "maxBufferSize",
  "maxStorageBufferBindingSize",
  "maxStorageBuffersPerShaderStage",
  "maxComputeInvocationsPerWorkgroup",
  "maxComputeWorkgroupStorageSize",
  "maxComputeWorkgroupSizeX",
  "maxComputeWorkgroupsPerDimension",
  "minSubgroupSize",
  "maxSubgroupSize",
] as const;

/** Finds the adapter as every command does, and says what it is, what it can do and what would be better. */
export async function examine(
  options: DoctorOptions = {},
  onStep: (step: string) => void = () => {},
): Promise<DoctorReport> {
  const report: DoctorReport = {
    runtime: runtime(),
    platform: `${process.platform} ${process.arch}`,
    advice: [],
  };
  if (process.platform === "linux") report.system = await survey();
  let gpu: Gpu | undefined;
  try {
    onStep("looking for an adapter");
    const found = await requestAdapter({ adapter: options.adapter });
    describe(report, found);
    gpu = await Gpu.fromAdapter(found.adapter);
    if (options.measure !== false) {
      onStep("measuring copy bandwidth");
      report.copyBandwidth = await measureCopyBandwidth(gpu);
      onStep("measuring matmul");
      report.matmul = await measureMatmul(gpu);
    }
  } catch (error) {
    if (!(error instanceof FusenormError)) throw error;
    report.error = error.message;
  } finally {
    gpu?.destroy();
  }
  report.advice = advise(report);
  return report;
}

function runtime(): string {
  const { bun, deno } = process.versions as Record<string, string | undefined>;
  return bun ? `Bun ${bun}` : deno ? `Deno ${deno}` : `Node ${process.version}`;
}

function describe(report: DoctorReport, { adapter, name, class: kind, route, toggles }: NodeAdapter): void {
  const { info, limits, features } = adapter;
  report.adapter = {
    name,
    class: kind,
    vendor: info.vendor,
    architecture: info.architecture,
    device: info.device,
    driver: info.description,
    foundThrough: route,
  };
  const figures: Record<string, number> = {};
  for (const limit of SHOWN_LIMITS) {
    const value =
      (limits as unknown as Record<string, number | undefined>)[limit] ??
      (info as unknown as Record<string, number | undefined>)[
        limit.replace("minSubgroup", "subgroupMin").replace("maxSubgroup", "subgroupMax")
      ];
    if (value !== undefined) figures[limit] = value;
  }
  report.limits = figures;
  report.features = [...(features as unknown as Iterable<string>)].sort();
  report.toggles = toggles;
}

/** What to do, for what was found. */
export function advise({ error, adapter, system, platform, features }: DoctorReport): string[] {
  const advice: string[] = [];
  const linux = system !== undefined;
  if (error && linux && !adapter) {
    if (!system.systemLoader && system.manifests.length > 0) {
      advice.push(
        "There are Vulkan drivers but no Vulkan loader: install libvulkan1 (Debian, Ubuntu) or vulkan-loader.",
      );
    }
    if (error.includes("no usable adapter")) {
      advice.push(
        "A Vulkan driver is installed, but gave Dawn no adapter: its GPU may be absent, or it may be too old (Mesa before 24).",
      );
    }
    if ("missing" in system.embedded) advice.push(`${system.embedded.missing}.`);
    for (const name of ["FUSENORM_ADAPTER", "VK_DRIVER_FILES", "VK_ICD_FILENAMES"]) {
      if (system.env[name]) advice.push(`${name} is set, to "${system.env[name]}": try without.`);
    }
  }
  if (adapter?.class === "swiftshader") {
    const wish = system?.env.FUSENORM_ADAPTER;
    const remedy = !system?.manifests.some(isLavapipe)
      ? "`npm run setup:lavapipe` in a checkout, or install mesa-vulkan-drivers 24 or newer."
      : wish
        ? `it is installed, so try without FUSENORM_ADAPTER, which is "${wish}".`
        : "the one that is installed gave no adapter, as Mesa before 24 does.";
    advice.push(`This is the slowest adapter. Mesa's lavapipe is 4 to 5 times as fast: ${remedy}`);
  }
  if (adapter && adapter.class !== "hardware") {
    advice.push(
      linux
        ? "The processor does the GPU's work. If this machine has a GPU, install its vendor's Vulkan driver (in a container: make the driver's files and /dev nodes visible)."
        : `The processor does the GPU's work. If this machine (${platform}) has a GPU, install its vendor's driver.`,
    );
  }
  if (features && !features.includes("timestamp-query")) {
    advice.push("Without timestamp-query, benchmarks and the profiler use wall-clock times.");
  }
  return advice;
}

/** Columns of the names of rows. */
const LABEL = 18;
/** Lists are no wider than this, however wide the terminal is. */
const WIDEST_LIST = 90;

/** The report as text for a terminal of so many columns. */
export function format(report: DoctorReport, columns = LABEL + WIDEST_LIST): string {
  const lines: string[] = [];
  const row = (label: string, value: string) => lines.push(`${label.padEnd(LABEL)}${value}`);
  const width = Math.min(columns - LABEL, WIDEST_LIST);
  const list = (values: readonly string[]) => {
    const rows: string[] = [];
    for (const value of values) {
      const last = rows.at(-1);
      if (last !== undefined && last.length + value.length + 2 <= width)
        rows[rows.length - 1] = `${last}, ${value}`;
      else rows.push(value);
    }
    return rows.join(`\n${" ".repeat(LABEL)}`) || "none";
  };
  const { adapter, system, limits, copyBandwidth, matmul } = report;
  if (adapter) {
    row("adapter", adapter.name);
    row("driver", adapter.driver);
    row("class", adapter.class === "hardware" ? "hardware" : `software (${adapter.class})`);
    row("found through", adapter.foundThrough);
  } else {
    row("adapter", "none");
  }
  if (report.error) row("error", report.error);
  row("system", `${report.platform}, ${report.runtime}`);
  if (system) {
    row("Vulkan loader", system.systemLoader ? "the system's" : "the system has none");
    row("drivers", list([...system.manifests, ...system.extraManifests]));
    row("SwiftShader", "missing" in system.embedded ? "not here" : system.embedded.manifest);
    for (const [name, value] of Object.entries(system.env)) row(name, value);
  }
  if (limits) {
    for (const [index, [name, value]] of Object.entries(limits).entries()) {
      row(index === 0 ? "limits" : "", `${name.padEnd(36)}${value.toLocaleString("en")}`);
    }
  }
  if (report.features) row("features", list(report.features));
  if (report.toggles) {
    row(
      "toggles",
      list([...report.toggles.enable.map((t) => `+${t}`), ...report.toggles.disable.map((t) => `−${t}`)]),
    );
  }
  if (copyBandwidth) {
    const { gbPerSecond, bytes, workgroups, workgroupSize } = copyBandwidth;
    row(
      "copy bandwidth",
      `${gbPerSecond.toPrecision(3)} GB/s read and written (${bytes / 2 ** 20} MiB, ${workgroups} workgroups of ${workgroupSize})`,
    );
  }
  if (matmul) {
    row(
      "matmul",
      `${matmul.gflops.toPrecision(3)} GFLOP/s (float32, ${matmul.size} × ${matmul.size} × ${matmul.size})`,
    );
  }
  if (report.advice.length > 0) lines.push("", ...report.advice.map((advice) => `• ${advice}`));
  return lines.join("\n");
}

export function registerDoctor(program: Command): void {
  const command = program
    .command("doctor")
    .description(
      "show the GPU adapter, its limits, features and measured speed, and what to do when something is missing",
    )
    .option("--no-measure", "leave the measurements out")
    .action(async (options: DoctorOptions) => {
      const showSteps = !options.json && process.stderr.isTTY;
      const report = await examine(options, (step) => {
        if (showSteps) process.stderr.write(`\r\u001b[K${step} …`);
      });
      if (showSteps) process.stderr.write("\r\u001b[K");
      console.log(
        options.json ? JSON.stringify(report, null, 2) : format(report, helpWidth(process.stdout.columns)),
      );
      if (report.error) process.exitCode = 1;
    });
  addAdapterOption(command);
  addJsonOption(command, "the report");
  examples(command, ["fusenorm doctor", "fusenorm doctor --adapter swiftshader --no-measure --json"]);
}
