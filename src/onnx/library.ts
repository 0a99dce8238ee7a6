import { DataError } from "../errors.ts";
import { printable } from "../foreign.ts";

/** The package that knows the format. @throws DataError if it is not there */
export async function onnxLibrary(op: string): Promise<typeof import("onnx-proto")> {
  try {
    const loaded = await import("onnx-proto");
    return loaded.default ?? loaded; // what Node makes of CommonJS, or a bundler
  } catch (cause) {
    throw new DataError(
      `${op}: the package "onnx-proto", which knows the format, can't be loaded (${printable((cause as Error)?.message)}); install it: ` +
        "npm install onnx-proto",
      { cause },
    );
  }
}
