// What a run may have other than the paper's: another network, and trainings that last longer.

import { UsageError } from "../errors.ts";
import type { ResNetNorm } from "../nn/models/resnet.ts";
import { isCifarNetwork, type NetworkName } from "../train/networks.ts";
import type { Configuration } from "./experiment.ts";
import type { NetworkSettings } from "./setup.ts";
import { type TrainingCell, trainingCell } from "./training.ts";
import { type ImageSize, VGG_STAGES } from "./work.ts";

/** Networks that the experiments can be run with; the first is the paper's. */
export const RUN_NETWORKS = [
  ...["resnetCifar", "preactResnetCifar", "plainCifar", "vgg11", "vgg13", "vgg16"],
] as readonly NetworkName[];
const PAPER_NETWORK: NetworkName = "resnetCifar";

export interface Variant {
  /** One of RUN_NETWORKS; left out for the paper's. */
  network?: NetworkName;
  /** Trainings, but not sweeps of rates, have so many times the steps of the preset; left out for once. */
  longer?: number;
}

/** Longer than any preset's trainings could be meant to last. */
export const MOST_LONGER = 10_000;

/** @returns `longer`. @throws UsageError if it is too large to be meant */
export function checkLonger(longer: number): number {
  if (Number.isInteger(longer) && longer >= 1 && longer <= MOST_LONGER) return longer;
  throw new UsageError(`reproduce: --longer is ${longer}; expected an integer from 1 to ${MOST_LONGER}`);
}

/** Without what is as in the paper. */
export function variantOf({ network, longer }: Variant): Variant {
  return {
    ...(network && network !== PAPER_NETWORK ? { network } : {}),
    ...(longer && longer !== 1 ? { longer } : {}),
  };
}

/** Pixels of the smallest images, along one side, that five pools of 2×2 leave anything of. */
const VGG_SIDE = 32;

/** @throws UsageError if the run's network does not take such images */
export function checkVariant({ network }: Variant, { height, width }: ImageSize): void {
  if (!network || isCifarNetwork(network) || Math.min(height, width) >= VGG_SIDE) return;
  throw new UsageError(
    `reproduce: --network ${network}, images of ${height}×${width}; expected at least ${VGG_SIDE}×${VGG_SIDE} pixels, which five pools halve: ` +
      "pass --data cifar10, or --network plainCifar",
  );
}

const takesNorm = (network: NetworkName, norm: ResNetNorm): boolean => {
  if (!isCifarNetwork(network)) return norm === "batch" || norm === "none";
  // Fixup and SkipInit need shortcuts, and Fixup activations behind them.
  if (network === "plainCifar") return norm !== "fixup" && norm !== "skipinit";
  return network === PAPER_NETWORK || norm !== "fixup";
};

/** The settings with another network; null where it does not have the norm. */
export function withNetworkOf<T extends Omit<NetworkSettings, "batchSize">>(
  settings: T,
  { network }: Variant,
): T | null {
  if (!network) return settings;
  if (!takesNorm(network, settings.norm)) return null;
  if (network === "preactResnetCifar") return { ...settings, network };
  if (isCifarNetwork(network)) return { ...settings, network, shortcut: "none" };
  // Of one depth, and for whole images; its classifier counts as a layer, as in the others.
  const depth = VGG_STAGES[network]!.reduce((sum, count) => sum + count, 1);
  return { ...settings, network, depth, shrink: 1, shortcut: "none" };
}

/** An experiment's configurations as a run's variant has them; those that its network can't have are left out. */
export function vary(configurations: readonly Configuration[], variant: Variant): Configuration[] {
  const { longer = 1 } = variant;
  return configurations.flatMap((configuration) => {
    if (!("norm" in configuration)) return [configuration];
    const varied = withNetworkOf(configuration as Configuration & NetworkSettings, variant);
    if (varied?.measure !== "training") return varied ?? [];
    const { measure: _, label: __, ...settings } = varied as TrainingCell;
    const steps = settings.steps * (settings.role === "train" ? longer : 1);
    return [trainingCell({ ...settings, steps })];
  });
}
