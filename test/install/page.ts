import { Gpu } from "fusenorm";
import { train } from "./train.ts";

const gpu = await Gpu.request();
document.title = `losses ${JSON.stringify(await train(gpu))}`;
gpu.destroy();
