/**
 * Makes data/, the embedded sample, from the four files of Fashion-MNIST:
 *
 *     npx tsx scripts/make-sample.ts DIRECTORY
 *
 * The first 200 training and the first 50 test images of each class, in file order: the same bytes every time.
 */
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { balancedIndices, FASHION_MNIST_CLASSES, subset } from "../src/data/dataset.ts";
import { encodeIdx } from "../src/data/idx.ts";
import { embeddedDirectory, loadDataset } from "../src/node/datasets.ts";
import { writeFileAtomic } from "../src/node/files.ts";

const PER_CLASS = { train: 200, test: 50 };
const FILE_PREFIX = { train: "train", test: "t10k" };

const source = process.argv[2];
if (!source) {
  console.error("usage: npx tsx scripts/make-sample.ts DIRECTORY-OF-FASHION-MNIST");
  process.exit(2);
}
const splits = await loadDataset(source);
const out = embeddedDirectory();
for (const split of ["train", "test"] as const) {
  const sample = subset(splits[split], balancedIndices(splits[split], PER_CLASS[split]));
  const write = async (name: string, bytes: Uint8Array) => {
    const path = join(out, `${FILE_PREFIX[split]}-${name}-ubyte.gz`);
    await writeFileAtomic(path, gzipSync(bytes, { level: 9 }));
  };
  await write("images-idx3", encodeIdx([sample.count, sample.height, sample.width], sample.images));
  await write("labels-idx1", encodeIdx([sample.count], sample.labels));
}
await writeFileAtomic(join(out, "classes.txt"), `${FASHION_MNIST_CLASSES.join("\n")}\n`);
console.log(`wrote ${10 * (PER_CLASS.train + PER_CLASS.test)} images to ${out}`);
