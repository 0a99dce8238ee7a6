// What CI tests on SwiftShader in Node. The op tests meet SwiftShader in Chromium's pages (test/browser), with Chromium's Dawn, as
// they meet lavapipe in Node; here are the cases that pages leave out, and what of the core, the optimizers and the shaders works
// with kernels. Arguments and the number of pipelines are the host's work, the same on any adapter: lavapipe's run has them.

import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { TOO_LARGE } from "../test/browser/too-large.ts";
import { root } from "./lib/package.ts";

const RUNS = [
  ["test/core", "test/shaders", "test/optim", "--exclude=test/core/{arguments,pipelines}.test.ts"],
  ["test/ops", `--testNamePattern=${TOO_LARGE.source}`],
];

for (const args of RUNS) {
  const { status, error } = spawnSync(join(root, "node_modules/.bin/vitest"), ["run", ...args], {
    ...{ cwd: root, stdio: "inherit" },
    env: { ...process.env, FUSENORM_ADAPTER: "swiftshader" },
  });
  if (error) throw error;
  if (status !== 0) process.exit(status ?? 1);
}
