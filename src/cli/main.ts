#!/usr/bin/env node
import { readFileSync } from "node:fs";
import { Command, CommanderError } from "commander";
import { FusenormError } from "../errors.ts";
import { packagePath } from "../node/files.ts";
import { registerCompare } from "./compare.ts";
import { registerData } from "./data.ts";
import { registerDoctor } from "./doctor.ts";
import { refuseRepeats } from "./options.ts";
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

const program = new Command("fusenorm")
  .description("WebGPU kernels for training convolutional networks, with batch-norm fused in")
  .version(version)
  .configureOutput({
    outputError: (message, write) =>
      write(
        `fusenorm: ${message
          .replace(/^error: /, "")
          .trim()
          .replace(/\s+/g, " ")} (fusenorm --help lists the commands and options)\n`,
      ),
  })
  .exitOverride();

registerReproduce(program);
registerReport(program);
registerCompare(program);
registerTrain(program);
registerData(program);
registerDoctor(program);
refuseRepeats(program);

try {
  await program.parseAsync();
} catch (error) {
  if (error instanceof CommanderError) {
    // Commander has printed it.
    process.exitCode = error.exitCode;
  } else if (error instanceof FusenormError || isSystemError(error)) {
    console.error(`fusenorm: ${error.message}`);
    process.exitCode = 1;
  } else {
    throw error;
  }
}

/** Of a file, a socket, the memory: not a fault of this program. */
function isSystemError(error: unknown): error is NodeJS.ErrnoException {
  return error instanceof Error && "syscall" in error && "code" in error;
}
