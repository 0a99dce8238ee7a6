import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { TrainingProgress } from "../../src/cli/progress.ts";

const told: string[] = [];
beforeEach(() => {
  vi.useFakeTimers();
  told.length = 0;
  vi.spyOn(console, "error").mockImplementation((line: string) => void told.push(line));
});
afterEach(() => {
  vi.useRealTimers();
  vi.restoreAllMocks();
});

const reading = {
  step: 10,
  epoch: 1,
  loss: 2.5,
  maxLoss: 2.5,
  lr: 0.1,
  accuracy: 0.25,
  imagesPerSecond: 4,
  secondsLeft: 30,
};
type Reading = Parameters<NonNullable<ReturnType<TrainingProgress["follow"]>["onLog"]>>;

it("says that kernels are compiled where no reading comes for a while, and not once one came", () => {
  const progress = new TrainingProgress();
  const { onLog } = progress.follow("train", 100);
  vi.advanceTimersByTime(4900);
  expect(told).toEqual([]);
  vi.advanceTimersByTime(200);
  expect(told).toEqual(["train: the kernels are being compiled; the first steps take longest"]);
  onLog!(...([reading] as unknown as Reading));
  expect(told[1]).toBe("train step 10/100 loss 2.500 acc 25.0 % 4.00 img/s 30 s left");
  vi.advanceTimersByTime(1e6);
  expect(told).toHaveLength(2);
});

it("says nothing of a run that began to read at once, or has ended", () => {
  const [quick, ended] = [new TrainingProgress(), new TrainingProgress()];
  quick.follow("quick", 100).onLog!(...([reading] as unknown as Reading));
  ended.follow("ended", 100);
  ended.stop();
  vi.advanceTimersByTime(1e6);
  expect(told).toHaveLength(1);
});
