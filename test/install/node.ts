import { requestGpu } from "fusenorm/node";
import { train } from "./train.js";

const gpu = await requestGpu();
console.log(`losses ${JSON.stringify(await train(gpu))}`);
gpu.destroy();
