import { installNavigatorGpu } from "../../src/node/request.ts";
import { describeWork, type Work, workData } from "../lib/work.ts";

const found = await installNavigatorGpu();
console.log(found.name);
const which = process.argv[2]!;
const c =
  which === "tfjs"
    ? await (await import("./tfjs.ts")).tfjs(found.name)
    : which === "jax"
      ? await (await import("./jax.ts")).jax(found.name)
      : await (await import("./ort.ts")).onnxRuntime();
const works: Work[] = [
  { op: "batch_norm", pass: "forward", shape: [32, 32, 32, 32] },
  { op: "batch_norm", pass: "forward+backward", shape: [32, 32, 32, 32] },
  { op: "conv2d", pass: "forward", shape: [32, 32, 32, 16], outChannels: 16 },
  { op: "conv2d", pass: "forward+backward", shape: [32, 32, 32, 16], outChannels: 16 },
  { op: "resnet_step", depth: 20, batch: 32, size: 32, classes: 10 },
];
for (const work of works) {
  if (process.argv[3] && !describeWork(work).includes(process.argv[3])) continue;
  if (c.refuses(work)) {
    console.log(describeWork(work), c.refuses(work));
    continue;
  }
  const p = await c.prepare(work, workData(work));
  const r = await p.result();
  await p.run(1);
  const t: number[] = [];
  for (let i = 0; i < 5; i++) {
    const t0 = performance.now();
    await p.run(work.op === "resnet_step" ? 1 : 3);
    t.push((performance.now() - t0) / (work.op === "resnet_step" ? 1 : 3));
  }
  console.log(
    describeWork(work),
    t.map((v) => v.toFixed(1)).join(" "),
    r.map((a) => `${a.length}:${[...a.slice(0, 3)].map((v) => v.toFixed(5))}`).join(" | "),
  );
  p.dispose();
}
process.exit(0);
