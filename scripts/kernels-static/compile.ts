// The child of `npm run kernels:static`: encodes workloads on the null driver, which writes down each kernel's machine code, and
// notes the dispatches. One process for one family of GPUs and one subgroup size, which are in its environment (see machine.ts).
//   tsx compile.ts FOLDER WORKLOAD,… KERNEL=VARIANT…

import { requestGpu } from "../../src/node/index.ts";
import { type Launch, writeCompiled } from "./compiled.ts";
import { watchPipelines } from "./watch.ts";
import { workloads } from "./workloads.ts";

const [folder, names, ...variants] = process.argv.slice(2) as [string, string, ...string[]];
const gpu = await requestGpu({ adapter: "hardware" });
const { device } = gpu;
for (const choice of variants) {
  const [kernel, variant] = choice.split("=") as [string, string | undefined];
  gpu.variants.force(kernel, variant ?? null);
}

const { kernels, of } = watchPipelines(device, folder, (label, entry) => label.replace(`.${entry}`, ""));
const launches: Launch[] = [];
// A dispatch's workgroups that do what rides along are none of its kernel's loop.
let riding = 0;
const ride = gpu.riders.ride.bind(gpu.riders);
gpu.riders.ride = (rider) =>
  ride({
    ...rider,
    divide(lanes) {
      const divided = rider.divide(lanes);
      riding = divided.workgroups;
      return divided;
    },
  });
for (const workload of names.split(",")) {
  const work = workloads[workload]!(gpu);
  gpu.commands.observe(
    ({ kernel, grid, label, flops, bytes, serves }) => {
      launches.push({
        workload,
        file: of(kernel.pipeline).file,
        op: label,
        work: flops > 0 ? (serves[0]?.key ?? "") : "",
        workgroups: grid.reduce((product: number, n) => product * (n ?? 1), 1) - riding,
        flops,
        bytes,
      });
      riding = 0;
    },
    () => {
      work();
      gpu.flush(); // runs what waits for what comes after it
    },
    { execute: false },
  );
  await gpu.sync();
}
writeCompiled(folder, gpu.info.description, { kernels, launches });
gpu.destroy();
