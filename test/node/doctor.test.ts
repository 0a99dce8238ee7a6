import { describe, expect, it } from "vitest";
import { advise, type DoctorReport, examine, format } from "../../src/cli/doctor.ts";
import { runScript, withoutVulkan } from "./children.ts";

const command = `
  import { Command } from "${new URL("../../node_modules/commander/esm.mjs", import.meta.url)}";
  import { registerDoctor } from "./src/cli/doctor.ts";
  const program = new Command();
  registerDoctor(program);
  await program.parseAsync(["doctor", "--json", ...(process.env.DOCTOR_ARGS ?? "").split(" ").filter(Boolean)], { from: "user" });`;

describe("fusenorm doctor", () => {
  it("shows adapter, limits, features, toggles and measured speed", async () => {
    const steps: string[] = [];
    const report = await examine({}, (step) => steps.push(step));
    expect(report.error).toBeUndefined();
    expect(report.adapter!.name).not.toBe("");
    expect(report.limits!.maxComputeWorkgroupsPerDimension).toBeGreaterThanOrEqual(65_535);
    expect(report.features).toContain("core-features-and-limits");
    expect(report.toggles!.disable).toContain("timestamp_quantization");
    expect(report.copyBandwidth!.gbPerSecond).toBeGreaterThan(0.1);
    expect(report.matmul!.gflops).toBeGreaterThan(0.01);
    expect(steps).toHaveLength(3);
    const text = format(report);
    for (const part of [
      report.adapter!.name,
      "copy bandwidth",
      "GFLOP/s",
      "maxBufferSize",
      "−timestamp_quantization",
    ]) {
      expect(text).toContain(part);
    }
    expect(text).not.toContain("undefined");
  });

  it("finds the embedded adapter on a system without Vulkan, and says what would be faster", async () => {
    const { code, stdout, stderr } = await runScript(command, {
      ...withoutVulkan(),
      DOCTOR_ARGS: "--no-measure",
    });
    expect(code, stderr).toBe(0);
    const report = JSON.parse(stdout) as DoctorReport;
    expect(report.adapter).toMatchObject({ class: "swiftshader", foundThrough: "embedded SwiftShader" });
    expect(report.system).toMatchObject({ systemLoader: false, manifests: [] });
    expect(report.advice.join("\n")).toContain("npm run setup:lavapipe");
    expect(report.copyBandwidth).toBeUndefined();
  });

  it("ends with code 1 and the reason when there is no adapter as asked for", async () => {
    const { code, stdout } = await runScript(command, { DOCTOR_ARGS: "--adapter voodoo" });
    expect(code).toBe(1);
    const report = JSON.parse(stdout) as DoctorReport;
    expect(report.error).toContain('no adapter\'s name contains "voodoo"');
    expect(report.adapter).toBeUndefined();
    expect(format(report)).toMatch(/^adapter +none\nerror +adapter: no adapter's name/);
  });
});

describe("doctor's advice", () => {
  const bare: DoctorReport = {
    runtime: "Node v20",
    platform: "linux x64",
    system: {
      systemLoader: true,
      manifests: [],
      extraManifests: [],
      embedded: { manifest: "/m.json" },
      env: {},
    },
    advice: [],
  };
  const hardware: DoctorReport["adapter"] = {
    name: "Card",
    class: "hardware",
    vendor: "",
    architecture: "",
    device: "",
    driver: "",
    foundThrough: "",
  };

  it("has none for a GPU that lacks nothing", () => {
    expect(advise({ ...bare, adapter: hardware, features: ["timestamp-query"] })).toEqual([]);
  });

  it("lists no wider than the terminal is", () => {
    const features = Array.from({ length: 12 }, (_, i) => `feature-${i}`);
    const report = { ...bare, adapter: hardware, features };
    const widest = (columns?: number) =>
      Math.max(
        ...format(report, columns)
          .split("\n")
          .map((line) => line.length),
      );
    expect(widest(60)).toBeLessThanOrEqual(60);
    expect(widest()).toBeGreaterThan(60);
    expect(format({ ...bare, system: { ...bare.system!, embedded: { missing: "gone" } } })).toMatch(
      /^SwiftShader +not here$/m,
    );
  });

  it("names what is missing", () => {
    const advice = (change: Partial<DoctorReport>) => advise({ ...bare, ...change }).join("\n");
    const system = bare.system!;
    expect(advice({ adapter: hardware, features: [] })).toContain("Without timestamp-query");
    expect(
      advice({ error: "none", system: { ...system, systemLoader: false, manifests: ["/usr/x.json"] } }),
    ).toContain("install libvulkan1");
    expect(advice({ error: "the system's Vulkan drivers: no usable adapter" })).toContain("too old");
    expect(
      advice({ error: "none", system: { ...system, embedded: { missing: "embedded: gone" } } }),
    ).toContain("embedded: gone.");
    expect(advice({ error: "none", system: { ...system, env: { VK_DRIVER_FILES: "/x" } } })).toContain(
      "VK_DRIVER_FILES is set",
    );
    expect(advice({ adapter: { ...hardware, class: "lavapipe" } })).toContain("vendor's Vulkan driver");
    const slow = { ...hardware, class: "swiftshader" as const };
    const mesa = { ...system, manifests: ["/usr/share/vulkan/icd.d/lvp_icd.json"] };
    expect(advice({ adapter: slow })).toContain("npm run setup:lavapipe");
    expect(advice({ adapter: slow, system: mesa })).toMatch(/gave no adapter, as Mesa before 24/);
    const wished = { ...mesa, env: { FUSENORM_ADAPTER: "swiftshader" } };
    expect(advice({ adapter: slow, system: wished })).toContain("try without FUSENORM_ADAPTER");
  });
});
