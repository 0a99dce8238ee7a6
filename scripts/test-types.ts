// Compiles a consumer of the packed package with several versions of TypeScript, `skipLibCheck` off, with the DOM and without.
// The compilers come from npm, into a folder of their own.

import { execFileSync, spawnSync } from "node:child_process";
import { mkdirSync, realpathSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { packPackages, root } from "./lib/package.ts";

const VERSIONS = ["5.7", "5.9", "7"];

const CORE = `import { batchNorm, conv2d, Gpu, SGD, type Tensor } from "fusenorm";
export async function step(): Promise<number> {
  const gpu: Gpu = await Gpu.request();
  const x: Tensor = gpu.tensor([1, 2, 3, 4], [1, 2, 2, 1]);
  const w = gpu.tensor(new Float32Array(9), [1, 3, 3, 1], { requiresGrad: true });
  const y = batchNorm(conv2d(x, w, { padding: 1 }), null, null, { training: true, activation: "relu" });
  new SGD([w], { lr: 0.1 }).step();
  // @ts-expect-error: there is no such option
  conv2d(x, w, { paddings: 1 });
  return y.item();
}
`;
/** WebGPU's own types are there in full: of the DOM's library, or of @webgpu/types. */
const WEBGPU = `import { Gpu } from "fusenorm";
declare const device: GPUDevice;
export const limit: number = Gpu.fromDevice(device).limits.maxBufferSize;
// @ts-expect-error: a device has no such method
device.createBuffers();
`;
const NODE = `import { loadDataset, requestGpu } from "fusenorm/node";
export const end = async () => (await requestGpu({ adapter: "lavapipe" })).destroy();
export const images: Promise<number> = loadDataset("embedded").then(({ train }) => train.count);
`;

/** Parts of the core, and what it takes to write an experiment of one's own. */
const PARTS = `import { type Batch, imageDataset } from "fusenorm/data";
import { decodeNpy, type Safetensors } from "fusenorm/formats";
import { type Experiment, EXPERIMENTS } from "fusenorm/experiments";
export const ids: string[] = EXPERIMENTS.map(({ id }: Experiment) => id);
export { type Batch, decodeNpy, imageDataset, type Safetensors };
`;

const FILES = { "core.mts": CORE, "webgpu.mts": WEBGPU, "node.mts": NODE, "parts.mts": PARTS };
type File = keyof typeof FILES;

interface Case {
  lib: string[];
  types: string[];
  files: File[];
  bundler?: boolean;
  only?: (version: string) => boolean;
}

const DOM = ["ES2023", "DOM"];
/** TypeScript 7 has WebGPU in the DOM's library; before, it comes from @webgpu/types, which clashes with that. */
const hasWebGpu = (version: string) => Number(version) >= 6;
const CASES: Case[] = [
  { lib: ["ES2023"], types: [], files: ["core.mts", "parts.mts"] },
  { lib: ["ES2023"], types: ["node"], files: ["core.mts", "node.mts"] },
  { lib: DOM, types: [], files: ["core.mts"] },
  { lib: DOM, types: [], files: ["core.mts", "parts.mts"], bundler: true },
  { lib: DOM, types: ["node"], files: ["core.mts", "node.mts"] },
  { lib: DOM, types: [], files: ["core.mts", "webgpu.mts"], only: hasWebGpu },
  {
    lib: DOM,
    types: ["@webgpu/types", "node"],
    files: ["core.mts", "webgpu.mts", "node.mts"],
    only: (v) => !hasWebGpu(v),
  },
];

const packed = await packPackages();
try {
  const { folder } = packed;
  for (const name of ["@types/node", "@webgpu/types"]) {
    mkdirSync(dirname(join(folder, "node_modules", name)), { recursive: true });
    symlinkSync(realpathSync(join(root, "node_modules", name)), join(folder, "node_modules", name));
  }
  for (const [file, text] of Object.entries(FILES)) writeFileSync(join(folder, file), text);
  for (const version of VERSIONS) {
    const home = join(folder, `typescript-${version}`);
    mkdirSync(home);
    writeFileSync(join(home, "package.json"), "{}");
    execFileSync("npm", ["install", "--no-save", "--no-audit", "--no-fund", `typescript@${version}`], {
      cwd: home,
      stdio: "ignore",
    });
    let compiled = 0;
    for (const { lib, types, files, bundler = false, only = () => true } of CASES) {
      if (!only(version)) continue;
      const compilerOptions = {
        ...{ noEmit: true, strict: true, skipLibCheck: false, target: "ES2023", lib, types },
        ...(bundler ? { module: "ESNext", moduleResolution: "bundler" } : { module: "NodeNext" }),
      };
      const project = join(folder, "tsconfig.json");
      writeFileSync(project, JSON.stringify({ compilerOptions, files }));
      const run = spawnSync(
        process.execPath,
        [join(home, "node_modules/typescript/bin/tsc"), "-p", project],
        { encoding: "utf8" },
      );
      compiled += 1;
      if (run.status === 0) continue;
      console.error(
        `TypeScript ${version}, lib ${lib}, types [${types}]${bundler ? ", bundler" : ""}:\n${run.stdout}${run.stderr}`,
      );
      process.exitCode = 1;
    }
    console.log(`TypeScript ${version}: ${compiled} projects compiled`);
  }
} finally {
  packed.remove();
}
