// Networks in files: checkpoints of `train`, what `export` wrote, and safetensors of other programs, of which the flags say the rest.

import { existsSync } from "node:fs";
import type { Command } from "commander";
import { MOST_SIDE } from "../data/bitmap.ts";
import { type ChannelMoments, channelMoments } from "../data/dataset.ts";
import { DataError, UsageError } from "../errors.ts";
import { printable } from "../foreign.ts";
import { decodeSafetensors } from "../formats/safetensors.ts";
import { fromTorch, type TorchOptions } from "../formats/torch.ts";
import type { Gpu } from "../gpu.ts";
import { fromJson, toJson } from "../json.ts";
import { foldBatchNorm } from "../nn/fold.ts";
import { RESNET_NORMS, type ResNetNorm } from "../nn/models/resnet.ts";
import type { Module, StateDict } from "../nn/module.ts";
import { DATASET_NAMES, loadDataset } from "../node/datasets.ts";
import { readNamed } from "../node/files.ts";
import { decodeOnnx } from "../onnx/decode.ts";
import { isPlain } from "../options.ts";
import { decodeCheckpoint } from "../train/checkpoint.ts";
import { makeNetwork, NETWORK_NAMES } from "../train/networks.ts";
import { type TrainOptions, trainOptions } from "../train/train-options.ts";
import { offer } from "./help.ts";
import { imageSize, listOf, number, positiveInteger, text } from "./options.ts";

/** All that is needed to make a network and give it images. */
export interface NetworkNote extends ChannelMoments {
  options: TrainOptions;
  height: number;
  width: number;
  channels: number;
  classNames: string[];
}

/** In the metadata of a file that `export` wrote: a `NetworkNote` as JSON. */
const NOTE = "fusenorm.network";
/** Of images whose file says nothing of their channels. */
const COLOURS = 3;

/** What the flags of `addNetworkOptions` give. */
export interface NetworkFlags {
  from: string;
  data?: string;
  model?: TrainOptions["model"];
  depth?: number;
  width?: number;
  norm?: ResNetNorm;
  classes?: string;
  size?: [height: number, width: number];
  channels?: number;
  mean?: number[];
  std?: number[];
}

export const repeatable = (value: string) => value.split(",").map((part) => number(part.trim()));

/** The options with which a network is found and described. */
export function addNetworkOptions(command: Command, from: string): void {
  command
    .option("--from <file>", "checkpoint of train, or another safetensors or ONNX file", text, from)
    .option("--model <name>", `of files that don't say: ${NETWORK_NAMES.join(", ")}`)
    .option("--classes <names>", "of files that don't say: with commas, or a text file of one a line", text)
    .option("--size <pixels>", "of files that don't say: 32, or height x width as 224x192", imageSize)
    .option("--channels <n>", "of files that don't say: 1 for grey, 3 for colours", positiveInteger)
    .option("--mean <list>", "of files that don't say: by channel, pixels from 0 to 1", repeatable)
    .option("--std <list>", "of files that don't say: by channel", repeatable)
    .option("--depth <layers>", "of networks for small images", positiveInteger)
    .option("--width <channels>", "of the first stage", positiveInteger)
    .option("--norm <name>", RESNET_NORMS.join(", "))
    .option(
      "--data <dir>",
      "training data to take mean and deviation from, where the checkpoint is old",
      text,
    );
  offer(command, { model: NETWORK_NAMES, norm: RESNET_NORMS, data: DATASET_NAMES, channels: ["1", "3"] });
}

/** A network's tensors by its own names or PyTorch's, and what it is. */
export interface SavedNetwork {
  file: string;
  note: NetworkNote;
  state: StateDict;
  /** Whether names and layouts are PyTorch's. */
  torch: boolean;
}

/** @throws DataError, UsageError if the file can't be read, or neither it nor the flags say what it is of */
export async function readNetwork(op: string, flags: NetworkFlags): Promise<SavedNetwork> {
  const { from: file } = flags;
  if (!existsSync(file)) {
    throw new DataError(
      `${op}: there is no ${printable(file)}; run \`fusenorm train\` first, or name a checkpoint or another file of weights: --from`,
    );
  }
  const { bytes } = await readNamed(file);
  refusePickle(op, file, bytes);
  const { tensors, metadata } = await decodeWeights(bytes, file);
  const state = stateOfCheckpoint(bytes, file, metadata);
  if (state) {
    refuseFlags(op, file, flags, ["data"]);
    return { file, note: await noteOfCheckpoint(op, file, metadata, flags.data), state, torch: false };
  }
  if (flags.data !== undefined) {
    throw new UsageError(
      `${op}: --data is given, but ${printable(file)} is no checkpoint; give --mean and --std`,
    );
  }
  if (metadata[NOTE] !== undefined) {
    refuseFlags(op, file, flags, []);
    return { file, note: readNote(file, metadata[NOTE]), state: tensors, torch: true };
  }
  return { file, note: await noteOfFlags(op, file, flags), state: tensors, torch: true };
}

/** The tensors of a safetensors or an ONNX file, and its metadata. What an ONNX file of ours has for its nodes alone is left out. */
export async function decodeWeights(
  bytes: Uint8Array,
  file: string,
): Promise<{ tensors: StateDict; metadata: Record<string, string> }> {
  if (!/\.onnx$/i.test(file)) return decodeSafetensors(bytes, file);
  const { tensors, metadata } = await decodeOnnx(bytes, file);
  const weights = Object.entries(tensors).filter(([name]) => !/^constant_\d+$/.test(name));
  return { tensors: Object.fromEntries(weights), metadata };
}

/** @throws DataError for what PyTorch's own `save` writes: a pickle, alone or in an archive */
export function refusePickle(op: string, file: string, bytes: Uint8Array): void {
  const [a, b] = bytes;
  const isArchive = a === 0x50 && b === 0x4b && !/\.npz$/i.test(file);
  if (!isArchive && !(a === 0x80 && b! >= 2 && b! <= 5)) return;
  throw new DataError(
    `${op}: ${printable(file)} is a pickle, as torch.save writes it, which is a program; expected safetensors: in Python, ` +
      'safetensors.torch.save_file(model.state_dict(), "model.safetensors")',
  );
}

/** The network's tensors in a checkpoint of `train`; null for other files. */
export function stateOfCheckpoint(
  bytes: Uint8Array,
  file: string,
  metadata: Record<string, string>,
): StateDict | null {
  if (!metadata.format?.startsWith("fusenorm-train")) return null;
  const state: StateDict = {};
  // Read once more, against its checksum.
  for (const [name, tensor] of Object.entries(decodeCheckpoint(bytes, file).tensors)) {
    if (name.startsWith("model.")) state[name.slice("model.".length)] = tensor;
  }
  return state;
}

/** What a file of ours says of the images and the network: nothing of it needs to be there. */
export function momentsAndOptions(metadata: Record<string, string>): {
  moments: ChannelMoments | null;
  options: Record<string, unknown> | null;
} {
  const note = parsed(metadata[NOTE]);
  const { mean, std } = note ?? parsed(metadata.moments) ?? {};
  const options = note ? note.options : parsed(metadata.options);
  const channels = Array.isArray(mean) ? mean.length : 0;
  const isRight = channels > 0 && areMoments(mean, channels) && areMoments(std, channels, 0);
  return {
    moments: isRight ? ({ mean, std } as unknown as ChannelMoments) : null,
    options: isPlain(options) ? options : null,
  };
}

/** @throws UsageError for flags that would contradict the file */
function refuseFlags(op: string, file: string, flags: NetworkFlags, taken: readonly string[]): void {
  const telling = [
    "model",
    "depth",
    "width",
    "norm",
    "classes",
    "size",
    "channels",
    "mean",
    "std",
    "data",
  ] as const;
  const given = telling.find((name) => flags[name] !== undefined && !taken.includes(name));
  if (given) {
    throw new UsageError(`${op}: ${printable(file)} says what it is of; expected no --${given}`);
  }
}

async function noteOfCheckpoint(
  op: string,
  file: string,
  metadata: Record<string, string>,
  data: string | undefined,
): Promise<NetworkNote> {
  const bad = (what: string) =>
    new DataError(`${op}: ${printable(file)}: ${what}; expected a checkpoint of fusenorm train`);
  const options = parsed(metadata.options);
  const train = parsed(metadata.data)?.train as Record<string, unknown> | undefined;
  if (!options || !("depth" in options)) throw bad("does not say which network it is of");
  const { height, width, channels, classNames } = train ?? {};
  if (!isPlain(train)) throw bad("does not say which images it was trained on");
  const moments =
    metadata.moments === undefined ? await momentsOf(op, file, data, channels) : parsed(metadata.moments);
  // Version 0.1.0 noted also how steps were dispatched; what weights a run started from is no part of the network.
  const { capture: _how, weights: _start, ...recipe } = options;
  return checkedNote(file, { ...moments, options: recipe, height, width, channels, classNames });
}

async function momentsOf(
  op: string,
  file: string,
  data: string | undefined,
  channels: unknown,
): Promise<ChannelMoments> {
  if (data === undefined) {
    throw new UsageError(
      `${op}: ${printable(file)} is of a version that did not note what images are normalised by; name the training data: --data`,
    );
  }
  const { train } = await loadDataset(data);
  if (train.channels !== channels) {
    throw new UsageError(
      `${op}: --data has images of ${train.channels} channels, ${printable(file)} is of ${printable(channels)}; expected its training data`,
    );
  }
  return channelMoments(train);
}

function parsed(json: string | undefined): Record<string, unknown> | null {
  try {
    const value = fromJson(json ?? "");
    return isPlain(value) ? value : null;
  } catch {
    return null;
  }
}

function readNote(file: string, json: string): NetworkNote {
  return checkedNote(file, parsed(json) ?? {});
}

/** @throws DataError unless a file's note has everything, of the right type */
function checkedNote(file: string, note: Record<string, unknown>): NetworkNote {
  const { options, height, width, channels, classNames, mean, std } = note;
  const isCount = (value: unknown) => Number.isSafeInteger(value) && (value as number) >= 1;
  const isSide = (value: unknown) => isCount(value) && (value as number) <= MOST_SIDE;
  const isList = (value: unknown, type: string) =>
    Array.isArray(value) && value.length > 0 && value.every((item) => typeof item === type);
  const wrong = Object.entries({
    options: isPlain(options),
    ...{ height: isSide(height), width: isSide(width), channels: isCount(channels) },
    ...{ classNames: isList(classNames, "string") },
    ...{ mean: areMoments(mean, channels), std: areMoments(std, channels, 0) },
  }).find(([, right]) => !right);
  if (wrong) {
    throw new DataError(
      `${printable(file)}: its note of the network has a wrong ${wrong[0]} (${printable(toJson(note[wrong[0]]) ?? "none")}); expected a file of fusenorm train or export`,
    );
  }
  return { ...(note as unknown as NetworkNote), options: trainOptions(options as Partial<TrainOptions>) };
}

/** A finite number for each channel, above `low`. */
export function areMoments(value: unknown, channels: unknown, low = Number.NEGATIVE_INFINITY): boolean {
  return (
    Array.isArray(value) &&
    value.length === channels &&
    value.every((item) => Number.isFinite(item) && item > low)
  );
}

async function noteOfFlags(op: string, file: string, flags: NetworkFlags): Promise<NetworkNote> {
  const { model, depth, width, norm, channels = COLOURS } = flags;
  const need = <K extends "model" | "classes" | "size" | "mean" | "std">(
    name: K,
  ): NonNullable<NetworkFlags[K]> => {
    const value = flags[name];
    if (value === undefined) {
      throw new UsageError(
        `${op}: ${printable(file)} does not say what it is of; give --${name} (and --model, --classes, --size, --mean, --std)`,
      );
    }
    return value;
  };
  need("model");
  const [height, imageWidth] = need("size");
  const options = trainOptions({ model, depth, width, norm });
  for (const [name, low] of [["mean"], ["std", 0]] as const) {
    if (areMoments(need(name), channels, low)) continue;
    throw new UsageError(
      `${op}: --${name} is ${need(name).join(",")}; expected ${channels} ${low === undefined ? "numbers" : "numbers above 0"}, one for each of --channels`,
    );
  }
  return {
    options,
    ...{ height, width: imageWidth, channels },
    classNames: await classNamesOf(need("classes")),
    ...{ mean: need("mean"), std: need("std") },
  };
}

/** `cat,dog`, or the lines of a text file. */
async function classNamesOf(given: string): Promise<string[]> {
  if (given.includes(",")) return listOf((name) => text(name))(given);
  const { bytes } = await readNamed(given);
  const lines = new TextDecoder().decode(bytes).split(/\r?\n/);
  return lines.map((line) => line.trim()).filter((line) => line !== "");
}

/** Linear layers whose input is flattened maps: see `TorchOptions`. */
export function torchOptionsOf({
  options,
  height,
  width,
}: Pick<NetworkNote, "options" | "height" | "width">): TorchOptions {
  const isVgg = options.model.startsWith("vgg") && height === 224 && width === 224;
  return isVgg ? { flattened: { "classifier.0": [7, 7] } } : {};
}

/**
 * The network with its weights, in inference mode: with its batch-norms folded, if they are in the file.
 * @throws DataError if the weights are of another network, or folded where they may not be
 */
export function makeSavedNetwork(
  gpu: Gpu,
  { file, note, state, torch }: SavedNetwork,
  { mayFold = true } = {},
): Module {
  const { options, height, width, channels, classNames } = note;
  const model = makeNetwork(gpu, options, { height, width, channels, classes: classNames.length });
  const own = torch ? fromTorch(model, state, torchOptionsOf(note)) : state;
  let report = model.loadStateDict(own, { strict: false });
  if (report.hint !== undefined && report.missing.some((name) => name.endsWith("runningVar"))) {
    if (!mayFold) {
      throw new DataError(
        `${printable(file)}: its batch-norms are folded into the layers before them; expected a network that can be trained on, as export writes it without --fold`,
      );
    }
    foldBatchNorm(model.eval());
    report = model.loadStateDict(own, { strict: false });
  }
  const { missing, mismatched } = report;
  // Of other programs' ONNX files: sizes and the like, for nodes.
  const unexpected = report.unexpected.filter((name) => !/^(onnx::|\/)/.test(name));
  // Counts of batches say nothing to a network in inference.
  const lacking = missing.filter((name) => !name.endsWith("numBatchesTracked"));
  const [first] = mismatched;
  const wrong =
    first?.why ??
    (lacking.length > 0
      ? `lacks ${lacking[0]}`
      : unexpected.length > 0
        ? `has ${unexpected[0]} too many`
        : null);
  if (wrong !== null) {
    const count = lacking.length + unexpected.length + mismatched.length;
    const { model: name, depth } = options;
    throw new DataError(
      `${printable(file)}: its tensors are not those of ${name}${name.endsWith("Cifar") ? ` of depth ${depth}` : ""} with ` +
        `${classNames.length} classes (${count} differ): ${printable(wrong)}`,
    );
  }
  return model.eval();
}

/** Metadata by which a file tells what it is of. */
export const noteMetadata = (note: NetworkNote): Record<string, string> => ({ [NOTE]: toJson(note) });
