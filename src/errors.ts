/** Every error this package throws on purpose. The message names the op or command, the values, the rule and the fix. */
export class FusenormError extends Error {
  override name = "FusenormError";
}

/** Shapes, parameters or arguments that an op or layer can't take. */
export class ShapeError extends FusenormError {
  override name = "ShapeError";
}

/** No adapter, a lost device, a limit of the adapter, or a validation error raised by the GPU process. */
export class DeviceError extends FusenormError {
  override name = "DeviceError";
}

/** A tensor was used after `dispose()`, or a graph after it was freed by `backward()`. */
export class UseAfterDisposeError extends FusenormError {
  override name = "UseAfterDisposeError";
}

/** A shader did not compile; the message shows file, entry point, constants and a caret. */
export class ShaderError extends FusenormError {
  override name = "ShaderError";
}

/** A data set, checkpoint or download that is missing, truncated or not what it claims to be. */
export class DataError extends FusenormError {
  override name = "DataError";
}

/** A command-line or configuration value outside its range. */
export class UsageError extends FusenormError {
  override name = "UsageError";
}

/** NaN or infinity met where debug mode or a trainer looks for it. */
export class NonFiniteError extends FusenormError {
  override name = "NonFiniteError";
}
