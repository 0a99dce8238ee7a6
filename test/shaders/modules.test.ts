// Every module that the package ships compiles alone, and binds what its reflection says.

import { afterAll, describe, expect, it } from "vitest";
import { linkLibrary, wholeModules } from "../../scripts/link-wgsl.ts";
import { shaderFiles } from "../../scripts/shader-files.ts";
import { KernelCache } from "../../src/device/kernels.ts";
import { readSource, reflect, slotsOf } from "../../src/device/reflect.ts";
import * as shaders from "../../src/generated/shaders.ts";
import { testGpu } from "../helpers/gpu.ts";

const gpu = await testGpu();
const { device } = gpu;
const files = shaderFiles();
const library = linkLibrary(files);
const whole = Object.entries(wholeModules(files, library));
const canCompile = (source: string) => gpu.features.has("subgroups") || !/^enable subgroups/m.test(source);
const buffer = device.createBuffer({
  size: 65536,
  usage: GPUBufferUsage.STORAGE | GPUBufferUsage.UNIFORM,
});
const others: GPUBuffer[] = [];

afterAll(() => {
  for (const one of [buffer, ...others]) one.destroy();
});

/** What the device says of `work`; null if nothing. */
async function complaint(work: () => void): Promise<string | null> {
  device.pushErrorScope("validation");
  work();
  return (await device.popErrorScope())?.message ?? null;
}

describe("a module that ships", () => {
  it.each(whole)(
    "%s.wgsl compiles alone, and each entry point binds what is said of it",
    async (name, code) => {
      expect(code).not.toMatch(/\/\/#/);
      if (!canCompile(code)) return expect(code).toMatch(/subgroup/);
      const module = device.createShaderModule({ code });
      const { messages } = await module.getCompilationInfo();
      expect(messages.filter(({ type }) => type === "error").map(({ message }) => message)).toEqual([]);
      const reflection = reflect(readSource(code));
      expect(reflection.entries.length).toBeGreaterThan(0);
      // Sizes that only the caller knows have no default.
      const needed = [...code.matchAll(/^override (\w+): \w+;/gm)].map(([, one]) => [one!, 1] as const);
      const constants = Object.fromEntries(needed);
      for (const entryPoint of reflection.entries) {
        const found = await complaint(() => {
          const pipeline = device.createComputePipeline({
            layout: "auto",
            compute: { module, entryPoint, constants },
          });
          const slots = slotsOf([reflection], entryPoint)!;
          const written = slots.filter(({ access }) => access === "read_write").length;
          while (others.length < written)
            others.push(device.createBuffer({ size: 65536, usage: GPUBufferUsage.STORAGE }));
          let next = 0;
          device.createBindGroup({
            layout: pipeline.getBindGroupLayout(0),
            entries: slots.map(({ binding, access }) => ({
              binding,
              resource: { buffer: access === "read_write" ? others[next++]! : buffer },
            })),
          });
        });
        expect(found, `${name}.${entryPoint}`).toBeNull();
      }
    },
  );
});

describe("an error of the compiler", () => {
  it("names the file of shaders/ and the line in it, also of what is linked", async () => {
    const text = files.find(({ name }) => name === "nan")!.text;
    const line = 1 + text.split("\n").findIndex((one) => one.includes("fn are_nan"));
    const broken = shaders.pool2d.files.map((file) => {
      return file.name === "nan"
        ? { ...file, text: file.text.replace("are_nan(v: vec4", "are_nan(v: vec5") }
        : file;
    });
    const errors: Error[] = [];
    const cache = new KernelCache(device, (error) => errors.push(error));
    cache.get({ shader: { ...shaders.pool2d, files: broken }, entry: "max_forward" });
    await cache.settle();
    expect(errors).toHaveLength(1);
    expect(errors[0]!.message).toMatch(new RegExp(`shaders/lib/nan\\.wgsl:${line}\\b`));
    expect(errors[0]!.message).toMatch(/pool2d.*entry point max_forward/);
  });
});
