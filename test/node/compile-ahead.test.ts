import { describe, expect, it } from "vitest";
import type { KernelSpec } from "../../src/device/kernels.ts";
import { RecipeTrainer, shaders, sum } from "../../src/index.ts";
import { CompileAhead, type Compiler, compilerOn, compilesLate } from "../../src/node/compile-ahead.ts";
import { loadDataset } from "../../src/node/index.ts";
import { requestAdapter, requestGpu } from "../../src/node/request.ts";
import { runScript } from "./children.ts";

const spec = (number: number): KernelSpec => ({
  shader: shaders.memory,
  entry: "copy",
  constants: { WORKGROUP_SIZE: number },
});

/** Compilers that write down what they get, and take a turn of the event loop for each. `meet`: called for each kernel before that. */
function compilers(count: number, meet: (number: number) => void = () => {}) {
  const done: number[] = [];
  let opened = 0;
  let closed = 0;
  const open = async (): Promise<Compiler> => {
    opened += 1;
    return {
      async compile({ constants }) {
        const number = Number(constants?.WORKGROUP_SIZE);
        meet(number);
        await turn();
        done.push(number);
      },
      close: () => {
        closed += 1;
      },
    };
  };
  return { ahead: new CompileAhead(open, count), done, counts: () => ({ opened, closed }) };
}

const turn = () => new Promise((resolve) => setTimeout(resolve, 1));

/** More turns than any of the compilers here take, however slowly they go by. */
const settled = async () => {
  for (let i = 0; i < 60; i += 1) await turn();
};

describe("CompileAhead", () => {
  it("takes the later half of what comes at once, the last one first", async () => {
    const { ahead, done, counts } = compilers(1);
    for (let i = 0; i < 10; i += 1) ahead.add(spec(i));
    await settled();
    expect(done).toEqual([9, 8, 7, 6, 5]);
    expect(counts()).toEqual({ opened: 1, closed: 0 });
    for (let i = 20; i < 25; i += 1) ahead.add(spec(i));
    await settled();
    expect(done.slice(5)).toEqual([24, 23]);
    expect(counts().opened).toBe(1);
  });

  it("leaves a kernel that comes alone to the device that asked, and opens nothing for it", async () => {
    const { ahead, done, counts } = compilers(3);
    for (let i = 0; i < 3; i += 1) {
      ahead.add(spec(i));
      await settled();
    }
    expect(done).toEqual([]);
    expect(counts()).toEqual({ opened: 0, closed: 0 });
  });

  it("shares among several, each kernel once", async () => {
    const { ahead, done, counts } = compilers(3);
    for (let i = 0; i < 20; i += 1) ahead.add(spec(i));
    await settled();
    expect([...done].sort((a, b) => a - b)).toEqual([5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19]);
    expect(counts().opened).toBe(3);
  });

  it("leaves WGSL of users alone", async () => {
    const { ahead, done } = compilers(1);
    const source = "@compute @workgroup_size(1) fn main() {}";
    for (let i = 0; i < 4; i += 1) ahead.add({ shader: { name: "own", source }, entry: "main" });
    await settled();
    expect(done).toEqual([]);
  });

  it("ends where a compiler fails, and is closed when what is at work has ended", async () => {
    const failing = compilers(2, (number) => {
      if (number === 9) throw new Error("lost");
    });
    for (let i = 0; i < 10; i += 1) failing.ahead.add(spec(i));
    await settled();
    expect(failing.done.length).toBeLessThan(3);
    failing.ahead.add(spec(30));
    failing.ahead.add(spec(31));
    await settled();
    expect(failing.done).not.toContain(31);
    expect(failing.counts()).toEqual({ opened: 2, closed: 2 });

    const closing = compilers(1, () => {
      closing.ahead.close();
      expect(closing.counts()).toEqual({ opened: 1, closed: 0 });
    });
    for (let i = 0; i < 10; i += 1) closing.ahead.add(spec(i));
    await settled();
    expect(closing.counts()).toEqual({ opened: 1, closed: 1 });
    expect(closing.done).toEqual([9]);
  });
});

describe("requestGpu", () => {
  it("compiles ahead on lavapipe: the same losses, and the process ends by itself", async () => {
    const script = (env: Record<string, string>) =>
      runScript(
        `
        import { RecipeTrainer } from "./src/index.ts";
        import { loadDataset, requestGpu } from "./src/node/index.ts";
        const gpu = await requestGpu();
        const recipe = { depth: 8, width: 4, batchSize: 4, maxSteps: 2, lr: 0.1, logEvery: 1 };
        const trainer = new RecipeTrainer(gpu, await loadDataset("embedded"), recipe);
        const losses = [];
        await trainer.run({ evaluate: false, onLog: ({ loss }) => losses.push(loss) });
        trainer.dispose();
        gpu.destroy();
        console.log(JSON.stringify(losses));`,
        env,
      );
    const [ahead, alone] = [
      await script({ FUSENORM_COMPILE_AHEAD: "on" }),
      await script({ FUSENORM_COMPILE_AHEAD: "off" }),
    ];
    expect(ahead.code, ahead.stderr).toBe(0);
    expect(JSON.parse(ahead.stdout)).toHaveLength(2);
    expect(ahead.stdout).toBe(alone.stdout);
  });
});

describe("submits while kernels are due", () => {
  it("wait for each other, eight of them at most, and come as ever afterwards", async () => {
    const gpu = await requestGpu({ flushEvery: 4 });
    const listener = { add() {}, isDue: true, close() {} };
    gpu.tellNewKernels(listener);
    const numbers = Float32Array.from({ length: 60 }, (_, i) => Math.sin(i));
    const copies = (count: number) => {
      const before = gpu.stats.submits;
      for (let i = 0; i < count; i += 1) sum(x); // one dispatch each
      return gpu.stats.submits - before;
    };
    const x = gpu.tensor(numbers, [60]);
    expect(copies(31)).toBe(0);
    expect(copies(1)).toBe(1);
    listener.isDue = false;
    expect(copies(8)).toBe(2);
    gpu.destroy();
  });
});

describe("compilerOn", () => {
  it("compiles every kernel of a training step, without running it", async () => {
    const { adapter } = await requestAdapter();
    const gpu = await requestGpu();
    const specs: KernelSpec[] = [];
    gpu.tellNewKernels({ add: (one) => void specs.push(one), isDue: false, close() {} });
    const recipe = { depth: 8, width: 8, batchSize: 4, maxSteps: 1, lr: 0.1 };
    const trainer = new RecipeTrainer(gpu, await loadDataset("embedded"), recipe);
    await trainer.run({ evaluate: false });
    trainer.dispose();
    gpu.destroy();
    expect(specs.length).toBeGreaterThan(30);
    const compiler = await compilerOn(adapter);
    for (const one of specs) await compiler.compile(one);
    await expect(compiler.compile({ ...specs[0]!, entry: "nothing" })).rejects.toThrow("nothing");
    compiler.close();
    await new Promise((resolve) => setTimeout(resolve, 50));
    await expect(compiler.compile(specs[0]!)).rejects.toThrow("lost");
  });

  it("is for lavapipe with Mesa's cache alone", () => {
    expect(compilesLate("llvmpipe (LLVM 19.1.7, 256 bits)", {})).toBe(true);
    expect(compilesLate("llvmpipe (LLVM 19.1.7, 256 bits)", { MESA_SHADER_CACHE_DISABLE: "true" })).toBe(
      false,
    );
    expect(compilesLate("llvmpipe (LLVM 19.1.7, 256 bits)", { FUSENORM_COMPILE_AHEAD: "off" })).toBe(false);
    expect(compilesLate("SwiftShader Device (Subzero)", {})).toBe(false);
    expect(compilesLate("NVIDIA H100", {})).toBe(false);
  });
});
