// The weights that `train --weights` starts from: files of this program and of others, by their names or PyTorch's.

import { extname } from "node:path";
import type { ChannelMoments } from "../data/dataset.ts";
import { DataError } from "../errors.ts";
import { printable } from "../foreign.ts";
import { crc32 } from "../formats/crc32.ts";
import { decodeNpz } from "../formats/npy.ts";
import { fromTorch } from "../formats/torch.ts";
import type { Module, StateDict } from "../nn/module.ts";
import { readNamed } from "../node/files.ts";
import { classifierOf, type ImageTask, isCifarNetwork } from "../train/networks.ts";
import { defaultTrainOptions, type TrainOptions } from "../train/train-options.ts";
import {
  decodeWeights,
  momentsAndOptions,
  refusePickle,
  stateOfCheckpoint,
  torchOptionsOf,
} from "./saved-network.ts";

/** What a file of weights holds. */
export interface Weights {
  file: string;
  /** Of the file's bytes: a run goes on only with the same ones. */
  checksum: string;
  state: StateDict;
  /** Whether names and layouts are PyTorch's. */
  torch: boolean;
  /** What the images that they were trained on were normalised by, if the file says so. */
  moments: ChannelMoments | null;
  /** What the file says of the network; null for nothing. */
  options: Record<string, unknown> | null;
}

/** What of a file was taken. */
export interface WeightsReport {
  file: string;
  /** Tensors of the network that are now those of the file. */
  taken: number;
  /** Tensors of the network: of its classifier, and counts of batches. */
  missing: string[];
  /** Of the file. */
  unexpected: string[];
  /** The classifier's, where it is of another number of classes. */
  mismatched: string[];
}

/** @throws DataError if the file can't be read, or is none that holds weights */
export async function readWeights(file: string): Promise<Weights> {
  const { bytes } = await readNamed(file);
  refusePickle("train", file, bytes);
  const checksum = `crc32:${crc32(bytes).toString(16).padStart(8, "0")}`;
  const common = { file, checksum, torch: true, moments: null, options: null };
  const end = extname(file).toLowerCase();
  if (end === ".npz") return { ...common, state: await decodeNpz(bytes, file) };
  const { tensors, metadata } = await decodeWeights(bytes, file);
  const { moments, options } = momentsAndOptions(metadata);
  const own = stateOfCheckpoint(bytes, file, metadata);
  return { ...common, moments, options, ...(own ? { state: own, torch: false } : { state: tensors }) };
}

/**
 * Overwrites the network's tensors by those of the file. The classifier may be of another number of classes, or not be there.
 * @throws DataError if the others are not all in the file, or of other shapes
 */
export function loadWeights(
  model: Module,
  { file, state, torch, options: theirs }: Weights,
  options: TrainOptions,
  task: ImageTask,
): WeightsReport {
  const own = torch ? fromTorch(model, state, torchOptionsOf({ options, ...task })) : state;
  const { missing, unexpected, mismatched, hint: folded } = model.loadStateDict(own, { strict: false });
  const [classifier] = classifierOf(model);
  const isElse = (name: string) => !name.startsWith(`${classifier}.`) && !name.endsWith("numBatchesTracked");
  const [other] = mismatched.filter(({ name }) => isElse(name));
  const lacking = missing.filter(isElse);
  const names = [...model.tensors()];
  if (missing.length === names.length) {
    const [one, two = "…"] = Object.keys(state);
    throw new DataError(
      `train: ${printable(file)}: none of its ${Object.keys(state).length} tensors (${printable(one ?? "")}, ${printable(two)}) has the ` +
        `name of one of ${options.model}, such as ${names[0]![0]}; expected ` +
        printable(
          (theirs && flagsOf(theirs, options)) ??
            "those of PyTorch, as safetensors have them: PyTorch's ONNX keeps no names of folded layers",
        ),
    );
  }
  const wrong = other ? other.why : lacking.length > 0 ? `it lacks ${lacking[0]}` : null;
  if (wrong !== null) {
    const first = names.find(([, { rank }]) => rank === 4);
    const hint = other && other.name === first?.[0] ? hintOf(own[other.name]!.shape, first[1].shape) : null;
    const unfolded =
      folded &&
      "weights whose batch-norms are not folded into the layers before them (export without --fold)";
    const said = (theirs && flagsOf(theirs, options)) ?? unfolded;
    throw new DataError(
      `train: ${printable(file)}: its tensors are not those of ${options.model} (${mismatched.length + missing.length} of ${names.length} ` +
        `differ): ${printable(wrong)}; expected ${printable(said ?? hint ?? "weights of the network that --model, --depth, --width and --norm say")}`,
    );
  }
  return {
    ...{ file, missing, unexpected },
    taken: names.length - missing.length - mismatched.length,
    mismatched: mismatched.map(({ name }) => name),
  };
}

/** The flags that would make the network that a file says it is of; null if those are given already. */
function flagsOf(theirs: Record<string, unknown>, ours: TrainOptions): string | null {
  const all = { ...defaultTrainOptions, ...theirs };
  const names = isCifarNetwork(all.model)
    ? (["model", "depth", "width", "norm"] as const)
    : (["model", "width"] as const);
  const flags = names.filter((name) => all[name] !== ours[name]).map((name) => `--${name} ${all[name]}`);
  return flags.length > 0 ? flags.join(" ") : null;
}

/** Of a first layer whose filters are others, [K, R, S, C]. */
function hintOf(theirs: readonly number[], ours: readonly number[]): string | null {
  if (theirs[3] !== ours[3]) return `images of ${theirs[3]} channels (--channels)`;
  if (theirs[0] !== ours[0])
    return `another --width: the first layer has ${theirs[0]} channels there, ${ours[0]} here`;
  if (theirs[1] === ours[1]) return null;
  return "images of another size (--size): those of 64 pixels or more go through other first layers than smaller ones";
}

/** What was taken and what was not, in a line; and in another what images are normalised by. */
export function describeWeights(
  { file, taken, missing, unexpected, mismatched }: WeightsReport,
  total: number,
  classifier: string,
  { mean, std }: ChannelMoments,
  whose: string,
): string[] {
  const fresh = [...mismatched, ...missing].some((name) => name.startsWith(`${classifier}.`));
  const [first, ...more] = unexpected;
  const left = `; not taken from it: ${first}${more.length > 0 ? ` and ${more.length} more` : ""}`;
  const list = (values: readonly number[]) => values.map((value) => Number(value.toFixed(4))).join(", ");
  return [
    `weights: ${taken} of ${total} tensors from ${printable(file)}${fresh ? `; the classifier, ${classifier}, starts anew` : ""}${first === undefined ? "" : printable(left)}`,
    `images are normalised by mean ${list(mean)}, deviation ${list(std)}: ${whose}`,
  ];
}
