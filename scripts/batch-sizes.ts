// `npx tsx scripts/batch-sizes.ts [COUNT] [CLASS]`: a prediction and a training step for COUNT (10,000) different batch sizes,
// in random order, and what is kept of them meanwhile: nothing of it may grow with their number. CLASS (hardware,
// software) takes the kernels of that class of adapter.

import { requestGpu } from "../src/node/index.ts";
import { MOST_IMAGES, SmallNetwork } from "../test/helpers/batch-sizes.ts";
import { generator } from "../test/helpers/numbers.ts";

const count = Number(process.argv[2] ?? MOST_IMAGES);
const gpu = await requestGpu();
if (process.argv[3]) (gpu.info as { class: string }).class = process.argv[3];
const network = new SmallNetwork(gpu);

const next = generator(1);
const sizes = Array.from({ length: MOST_IMAGES }, (_, i) => i + 1);
for (let i = sizes.length - 1; i > 0; i -= 1) {
  const j = Math.floor(next() * (i + 1));
  [sizes[i], sizes[j]] = [sizes[j]!, sizes[i]!];
}

const megabytes = (bytes: number) => `${Math.round(bytes / 2 ** 20)} MB`;
for (let done = 1; done <= count; done += 1) {
  network.run(sizes[done - 1]!).dispose();
  if (done % 100 === 0) await gpu.sync();
  if ([1, 10, 100].includes(done) || done % 500 === 0) {
    const { pipelines, liveBuffers, pooledBuffers, pooledBytes } = gpu.stats;
    const { rss, heapUsed } = process.memoryUsage();
    console.log(
      `${done} sizes: ${pipelines} pipelines, ${liveBuffers} live buffers, ${pooledBuffers} pooled (${megabytes(pooledBytes)}), ` +
        `RSS ${megabytes(rss)}, heap ${megabytes(heapUsed)}`,
    );
  }
}
network.dispose();
gpu.destroy();
