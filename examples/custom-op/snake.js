// An op of one's own, with its own kernels, inside a network that learns a sine.
import { readFile } from "node:fs/promises";
import { AdamW, customOp, Linear, Module, mseLoss, Sequential } from "fusenorm";
import { requestGpu } from "fusenorm/node";

const source = await readFile(new URL("./snake.wgsl", import.meta.url), "utf8");
const shader = { name: "snake", source };
const snake = customOp({
  name: "snake",
  inputs: { x: "..." },
  infer: ({ x }) => ({ out: x, count: x.reduce((a, b) => a * b, 1) }),
  forward(ctx, { x }, { out: shape, count }) {
    const out = ctx.empty(shape);
    ctx.run({ shader, entry: "forward" }, [out, x, null, new Uint32Array([count])], [Math.ceil(count / 64)]);
    return { out, saved: { x } };
  },
  backward(ctx, dy, { x }, { count }) {
    const dx = ctx.grad("x");
    ctx.run({ shader, entry: "grad_x" }, [dx, x, dy, new Uint32Array([count])], [Math.ceil(count / 64)]);
    return { x: dx };
  },
});
class Snake extends Module {
  forward(x) {
    return snake({ x }, {});
  }
}

const steps = Number(process.argv[2] ?? 300);
const gpu = await requestGpu();
const model = new Sequential(new Linear(gpu, 1, 32), new Snake(), new Linear(gpu, 32, 1));
const optimizer = new AdamW(model.parameters(), { lr: 0.02 });
const points = Float32Array.from({ length: 128 }, (_, i) => i / 16 - 4);
const x = gpu.tensor(points, [128, 1]);
const y = gpu.tensor(points.map(Math.sin), [128, 1]);
for (let step = 1; step <= steps; step += 1) {
  const loss = gpu.scope(() => {
    optimizer.zeroGrad();
    const loss = mseLoss(model.forward(x), y);
    loss.backward();
    optimizer.step();
    return loss;
  });
  if (step % 10 === 0) console.log(`step ${step}: loss ${(await loss.item()).toFixed(5)}`);
  loss.dispose();
}
gpu.destroy();
