import { existsSync } from "node:fs";
import { extname } from "node:path";
import type { Command } from "commander";
import { UsageError } from "../errors.ts";
import { printable } from "../foreign.ts";
import { encodeSafetensors } from "../formats/safetensors.ts";
import { torchStateDict } from "../formats/torch.ts";
import { foldBatchNorm } from "../nn/fold.ts";
import type { Module } from "../nn/module.ts";
import { writeFileAtomic } from "../node/files.ts";
import { requestGpu } from "../node/request.ts";
import { exportOnnx } from "../onnx/export.ts";
import { examples } from "./help.ts";
import { addAdapterOption, addJsonOption, text } from "./options.ts";
import {
  addNetworkOptions,
  makeSavedNetwork,
  type NetworkFlags,
  type NetworkNote,
  noteMetadata,
  readNetwork,
  torchOptionsOf,
} from "./saved-network.ts";

interface ExportFlags extends NetworkFlags {
  to: string;
  fold?: boolean;
  overwrite?: boolean;
  adapter?: string;
  json?: boolean;
}

type Write = (model: Module, note: NetworkNote, fold: boolean) => Promise<Uint8Array>;

/** How a network is written, by the end of the file's name. */
const FORMATS: Record<string, Write> = {
  ".onnx": (model, note, fold) => {
    const { height, width, channels, classNames, mean, std } = note;
    if (fold) foldBatchNorm(model);
    // Readers of a model see what its input has to be: (pixel / 255 − mean) / std.
    const metadata = {
      classNames: JSON.stringify(classNames),
      mean: JSON.stringify(mean),
      std: JSON.stringify(std),
      ...noteMetadata(note),
    };
    return exportOnnx(model, { shape: [height, width, channels], metadata, ...torchOptionsOf(note) });
  },
  ".safetensors": async (model, note) => {
    const state = await torchStateDict(model, torchOptionsOf(note));
    return encodeSafetensors(state, { metadata: noteMetadata(note) });
  },
};

/** Adds `fusenorm export`. */
export function registerExport(program: Command): void {
  const command = program
    .command("export")
    .description(
      "write a trained network for other programs: ONNX, or safetensors with PyTorch's names and layouts",
    )
    .requiredOption("--to <file>", "what to write: a name that ends in .onnx or .safetensors", text)
    .option("--fold", "put batch-norms into the convolutions before them (ONNX)")
    .option("--overwrite", "replace a file that is there");
  addNetworkOptions(command, "runs/train/checkpoint.safetensors");
  addAdapterOption(command);
  addJsonOption(command, "what was written");
  examples(command, [
    "fusenorm export --to model.onnx --fold",
    "fusenorm export --from runs/cifar10/checkpoint.safetensors --to model.safetensors",
  ]);
  command.action(exportNetwork);
}

async function exportNetwork(flags: ExportFlags): Promise<void> {
  const { to, fold = false, overwrite = false, adapter, json } = flags;
  const write = FORMATS[extname(to)];
  if (!write) {
    throw new UsageError(
      `export: --to ${printable(to)} ends in neither ${Object.keys(FORMATS).join(" nor ")}; the name says what is written`,
    );
  }
  if (fold && extname(to) !== ".onnx") {
    throw new UsageError("export: --fold is for ONNX: safetensors hold the network that can be trained on");
  }
  if (existsSync(to) && !overwrite) {
    throw new UsageError(`export: ${printable(to)} exists; pass --overwrite, or another --to`);
  }
  const saved = await readNetwork("export", flags);
  const gpu = await requestGpu({ adapter });
  try {
    const model = makeSavedNetwork(gpu, saved, { mayFold: extname(to) === ".onnx" });
    const { options, height, width, channels, classNames } = saved.note;
    const parameters = model.parameters().reduce((sum, { size }) => sum + size, 0);
    const bytes = await write(model, saved.note, fold);
    await writeFileAtomic(to, bytes);
    const input = [height, width, channels];
    if (json) {
      const told = { from: saved.file, to, bytes: bytes.length, model: options.model, parameters, input };
      console.log(JSON.stringify({ ...told, classes: classNames }, null, 2));
      return;
    }
    console.log(
      `${printable(to)}: ${options.model}, ${parameters.toLocaleString("en")} parameters, ${(bytes.length / 1e6).toFixed(2)} MB; ` +
        `images ${input.join(" × ")}, ${classNames.length} classes`,
    );
  } finally {
    gpu.destroy();
  }
}
