// `fusenorm/onnx`: networks for other programs. Needs the package `onnx-proto`.

export { decodeOnnx, type OnnxTensor } from "./decode.ts";
export { exportOnnx, type OnnxOptions } from "./export.ts";
