import * as core from "fusenorm";
import { DataLoader } from "fusenorm/data";
import { encodeNpy } from "fusenorm/formats";
import { requestGpu } from "fusenorm/node";
import { train } from "./train.js";

// The same functions and classes, whichever way they come.
if (DataLoader !== core.DataLoader || encodeNpy !== core.encodeNpy)
  throw new Error("two copies of one module");

const gpu = await requestGpu();
console.log(`losses ${JSON.stringify(await train(gpu))}`);
gpu.destroy();
