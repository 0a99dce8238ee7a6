#!/usr/bin/env node
import { readFileSync } from "node:fs";
import { Command, CommanderError } from "commander";
import { DeviceLostError, FusenormError } from "../errors.ts";
import { packagePath } from "../node/files.ts";
import { silenceDawn } from "../node/request.ts";
import { registerCompare } from "./compare.ts";
import { registerCompletion } from "./completion.ts";
import { registerData } from "./data.ts";
import { registerDoctor } from "./doctor.ts";
import { registerExport } from "./export.ts";
import { configureHelp, helpWidth, tellHelpOnErrors } from "./help.ts";
import { refuseRepeats } from "./options.ts";
import { registerPredict } from "./predict.ts";
import { registerReport, registerReproduce } from "./reproduce.ts";
import { registerTrain } from "./train.ts";

const { version } = JSON.parse(readFileSync(packagePath("package.json"), "utf8")) as { version: string };

// Who reads the output may have gone (`| head`): the run goes on all the same. Output that can't be written is a failure.
for (const stream of [process.stdout, process.stderr]) {
  stream.on("error", (error: NodeJS.ErrnoException) => {
    if (error.code === "EPIPE" || error.code === "ERR_STREAM_DESTROYED") return;
    if (stream === process.stdout && process.exitCode !== 1)
      console.error(`fusenorm: the output can't be written: ${error.message}`);
    process.exitCode = 1;
  });
}

silenceDawn();

const program = new Command("fusenorm")
  .description("WebGPU kernels for training convolutional networks, with batch-norm fused in")
  .version(version)
  .configureOutput({
    getOutHelpWidth: () => helpWidth(process.stdout.columns),
    getErrHelpWidth: () => helpWidth(process.stderr.columns),
  })
  .exitOverride();

configureHelp(program);
registerReproduce(program);
registerReport(program);
registerCompare(program);
registerTrain(program);
registerPredict(program);
registerExport(program);
registerData(program);
registerDoctor(program);
refuseRepeats(program);
tellHelpOnErrors(program, "fusenorm");
registerCompletion(program);

try {
  await program.parseAsync();
} catch (error) {
  if (error instanceof CommanderError) {
    // Commander has printed it.
    process.exitCode = error.exitCode;
  } else if (error instanceof FusenormError || isSystemError(error)) {
    console.error(`fusenorm: ${error instanceof DeviceLostError ? afterLoss(error) : error.message}`);
    process.exitCode = 1;
  } else {
    throw error;
  }
}

/** What a person at the terminal can do after a device's loss; the error itself advises programs. */
function afterLoss({ message }: DeviceLostError): string {
  const goesOn = ["train", "reproduce"].includes(program.args[0] ?? "");
  return `${message.split(";")[0]}; ${goesOn ? "the same command with --resume goes on from what is done" : "run it again"}`;
}

/** Of a file, a socket, the memory: not a fault of this program. */
function isSystemError(error: unknown): error is NodeJS.ErrnoException {
  return error instanceof Error && "syscall" in error && "code" in error;
}
