import { imageDataset } from "../../src/data/dataset.ts";
import { generator } from "./numbers.ts";

/** Small images whose class is where the bright square is: learnable in a few steps. */
export function squares(name: string, count: number, seed: number) {
  const next = generator(seed);
  const images = new Uint8Array(count * 64);
  const labels = Uint8Array.from({ length: count }, (_, i) => {
    const label = Math.floor(4 * next());
    for (let p = 0; p < 64; p += 1) {
      const inside = Math.floor(p / 32) === Math.floor(label / 2) && Math.floor((p % 8) / 4) === label % 2;
      images[i * 64 + p] = 60 * next() + (inside ? 120 : 0);
    }
    return label;
  });
  return imageDataset({ name, images, labels, height: 8, width: 8, channels: 1, classNames: [..."abcd"] });
}
