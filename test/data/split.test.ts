import { describe, expect, it } from "vitest";
import { DataError, imageDataset, randomSplit, subset } from "../../src/index.ts";

/** Image i is the bytes 2i and 2i + 1, of class i mod 3. */
const all = (count: number) =>
  imageDataset({
    ...{ name: "all", height: 1, width: 2, channels: 1, classNames: ["a", "b", "c"] },
    images: Uint8Array.from({ length: 2 * count }, (_, i) => i),
    labels: Uint8Array.from({ length: count }, (_, i) => i % 3),
  });

describe("randomSplit", () => {
  it.each([
    [[0.9, 0.1], 100, [90, 10]],
    // Floats that fall short: 0.7 · 10 is 7, and 0.29 · 100 is 29.
    [[0.7, 0.3], 10, [7, 3]],
    [[0.29, 0.71], 100, [29, 71]],
    // As PyTorch: 11 · 0.3 is 3, thrice, 11 · 0.1 is 1, and the image that is left goes to the first part.
    [[0.3, 0.3, 0.3, 0.1], 11, [4, 3, 3, 1]],
    [[1 / 3, 1 / 3, 1 / 3], 8, [3, 3, 2]],
    [[1], 5, [5]],
    [[3, 4], 7, [3, 4]],
  ])("gives parts of %j of %i images", (lengths, count, expected) => {
    const whole = all(count);
    const parts = randomSplit(whole, lengths);
    expect(parts.map((part) => part.count)).toEqual(expected);
    // Each image once, with its own label and second byte.
    const indices = parts.map(({ images }) =>
      [...images].filter((_, i) => i % 2 === 0).map((byte) => byte / 2),
    );
    expect(indices.flat().sort((a, b) => a - b)).toEqual([...all(count).labels.keys()]);
    parts.forEach((part, i) => {
      expect(part).toEqual(subset(whole, indices[i]!, `all, part ${i + 1}`));
    });
  });

  it("has as many parts as lengths, for the compiler, too", () => {
    const [train, test] = randomSplit(all(10), [0.7, 0.3]);
    expect([train.count, test.count]).toEqual([7, 3]);
    const lengths: number[] = [4, 6];
    expect(randomSplit(all(10), lengths).map(({ count }) => count)).toEqual(lengths);
  });

  it("shuffles by the seed alone", () => {
    const orders = [{}, { seed: 0 }, { seed: 1 }].map((options) =>
      randomSplit(all(60), [0.5, 0.5], options).map(({ images }) => [...images]),
    );
    expect(orders[0]).toEqual(orders[1]);
    expect(orders[1]).not.toEqual(orders[2]);
    const [first] = orders[0]!;
    expect([...first!].sort((a, b) => a - b)).not.toEqual(first);
  });

  it.each([
    [[0.5, 0.4]],
    [[3, 3]],
    [[3.5, 3.5]],
    [[8, -1]],
    [[0.999, 0.001], /which leaves part 2 without an image/],
    [[]],
    ["half" as never],
    [[Number.NaN, 1]],
  ])(
    "refuses %j of 7 images",
    (lengths, message = /lengths is .*; expected numbers of images that come to 7/) => {
      expect(() => randomSplit(all(7), lengths)).toThrow(DataError);
      expect(() => randomSplit(all(7), lengths)).toThrow(message);
    },
  );
});
