/**
 * Networks as ONNX files, for other programs, and the weights of such files. Needs the package `onnx-proto`.
 * @module fusenorm/onnx
 */

export { decodeOnnx, type OnnxTensor } from "./decode.ts";
export { exportOnnx, type OnnxOptions } from "./export.ts";
