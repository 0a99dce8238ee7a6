import { describe, expect, it } from "vitest";
import { namesInRefusal, requestAdapter } from "../../src/node/request.ts";
import { runScript, withoutVulkan } from "./children.ts";

const compute = `
  import { requestAdapter, requestGpu } from "./src/node/request.ts";
  const { class: kind, route } = await requestAdapter();
  const gpu = await requestGpu();
  const x = gpu.full([5], 3);
  const values = [...(await x.read())];
  x.dispose();
  gpu.destroy();
  console.log(JSON.stringify({ kind, route, values, drivers: process.env.VK_DRIVER_FILES ?? null }));
  process.on("exit", () => console.log("ended by itself"));`;

describe("requestGpu", () => {
  it("computes, and the process ends by itself with code 0 after destroy()", async () => {
    const { code, stdout, stderr } = await runScript(compute);
    expect(code, stderr).toBe(0);
    expect(stdout).toContain('"values":[3,3,3,3,3]');
    expect(stdout).toContain("ended by itself");
  });

  it("survives the garbage collector, and a process that ends with a live device", async () => {
    const { code, stdout, stderr } = await runScript(
      `
      import { setFlagsFromString } from "node:v8";
      import { runInNewContext } from "node:vm";
      import { requestGpu } from "./src/node/request.ts";
      setFlagsFromString("--expose-gc");
      const gc = runInNewContext("gc");
      const gpu = await requestGpu();
      for (let i = 0; i < 5; i += 1) {
        gc();
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
      console.log([...(await gpu.full([2], 7).read())].join());`,
    );
    expect(code, stderr).toBe(0);
    expect(stdout).toBe("7,7\n");
  });

  it("brings loader and driver to a system without Vulkan, and leaves the environment as it was", async () => {
    const { code, stdout, stderr } = await runScript(compute, withoutVulkan());
    expect(code, stderr).toBe(0);
    expect(JSON.parse(stdout.split("\n")[0]!)).toEqual({
      kind: "swiftshader",
      route: "embedded SwiftShader",
      values: [3, 3, 3, 3, 3],
      drivers: null,
    });
  });

  it("obeys FUSENORM_ADAPTER, by class and by name", async () => {
    for (const wish of ["swiftshader", "subzero"]) {
      const { code, stdout, stderr } = await runScript(compute, { FUSENORM_ADAPTER: wish });
      expect(code, stderr).toBe(0);
      expect(JSON.parse(stdout.split("\n")[0]!)).toMatchObject({ kind: "swiftshader" });
    }
  });

  it("ends with the reason and the names there are when the wish can't be met", async () => {
    const { code, stderr } = await runScript(compute, { FUSENORM_ADAPTER: "voodoo" });
    expect(code).toBe(1);
    expect(stderr).toMatch(/DeviceError: adapter: no adapter's name contains "voodoo"; found .*SwiftShader/);
  });

  it("says so when the package webgpu is absent", async () => {
    // A loader hook in place of an installation without optional dependencies.
    const { code, stderr } = await runScript(`
      import { register } from "node:module";
      const hook = \`export const resolve = (name, context, next) => {
        if (name !== "webgpu") return next(name, context);
        throw Object.assign(new Error("Cannot find package 'webgpu'"), { code: "ERR_MODULE_NOT_FOUND" });
      };\`;
      register("data:text/javascript," + encodeURIComponent(hook));
      const { requestGpu } = await import("./src/node/request.ts");
      await requestGpu();`);
    expect(code).toBe(1);
    expect(stderr).toMatch(/DeviceError: adapter: the package `webgpu`.*npm install webgpu/);
  });

  it("answers requests made at once, and refusals among them", async () => {
    const results = await Promise.allSettled([
      requestAdapter(),
      requestAdapter({ adapter: "voodoo" }),
      requestAdapter({ adapter: "swiftshader" }),
    ]);
    const outcomes = results.map((result) =>
      result.status === "fulfilled" ? result.value.class : (result.reason as Error).message,
    );
    expect(outcomes).toEqual([expect.any(String), expect.stringMatching(/voodoo/), "swiftshader"]);
    expect(results[0]!.status).toBe("fulfilled");
  });
});

it("installNavigatorGpu gives other libraries the same adapter, time and again", async () => {
  const { code, stdout, stderr } = await runScript(
    `
    import { installNavigatorGpu } from "./src/node/request.ts";
    await installNavigatorGpu();
    for (let i = 0; i < 2; i += 1) {
      const adapter = await navigator.gpu.requestAdapter({ powerPreference: "low-power" });
      const device = await adapter.requestDevice();
      console.log(adapter.info.architecture, device instanceof GPUDevice, typeof navigator.userAgent);
      device.destroy();
    }`,
    withoutVulkan(),
  );
  expect(code, stderr).toBe(0);
  expect(stdout).toBe("swiftshader true string\nswiftshader true string\n");
});

it("namesInRefusal reads Dawn's list", () => {
  const message =
    "no suitable backends found\nAvailable adapters:\n * backend: 'vulkan', name: 'A (B, 2 bits)'\n * backend: 'vulkan', name: 'It's C'";
  expect(namesInRefusal(message)).toEqual(["A (B, 2 bits)", "It's C"]);
  expect(namesInRefusal("something else")).toEqual([]);
});
