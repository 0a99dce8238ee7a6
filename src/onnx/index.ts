// `fusenorm/onnx`: networks for other programs. Needs the package `onnx-proto`.

export { exportOnnx, type OnnxOptions } from "./export.ts";
