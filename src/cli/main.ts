#!/usr/bin/env node
import { readFileSync } from "node:fs";
import { Command, CommanderError } from "commander";
import { FusenormError } from "../errors.ts";
import { packagePath } from "../node/files.ts";
import { registerCompare } from "./compare.ts";
import { registerData } from "./data.ts";
import { registerDoctor } from "./doctor.ts";
import { registerReport, registerReproduce } from "./reproduce.ts";
import { registerTrain } from "./train.ts";

const { version } = JSON.parse(readFileSync(packagePath("package.json"), "utf8")) as { version: string };

const program = new Command("fusenorm")
  .description("WebGPU kernels for training convolutional networks, with batch-norm fused in")
  .version(version)
  .showHelpAfterError("(fusenorm --help lists the commands and options)")
  .exitOverride();

registerReproduce(program);
registerReport(program);
registerCompare(program);
registerTrain(program);
registerData(program);
registerDoctor(program);

try {
  await program.parseAsync();
} catch (error) {
  if (error instanceof CommanderError) {
    // Commander has printed it.
    process.exitCode = error.exitCode;
  } else if (error instanceof FusenormError) {
    console.error(`fusenorm: ${error.message}`);
    process.exitCode = 1;
  } else {
    throw error;
  }
}
