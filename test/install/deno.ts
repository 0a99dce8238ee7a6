import { Gpu } from "fusenorm";
import { train } from "./train.ts";

const gpu = await Gpu.request();
(gpu.info as { class: string }).class = "hardware"; // the kernels that GPUs get, through another compiler
console.log(`losses ${JSON.stringify(await train(gpu))}`);
gpu.destroy();
