import { escapeControls } from "./foreign.ts";

/**
 * Every error this package throws on purpose. The message names the op or command, the values, the rule and the fix;
 * control characters in what it quotes are escaped.
 */
export class FusenormError extends Error {
  override name = "FusenormError";

  constructor(message?: string, options?: ErrorOptions) {
    // Some messages have lines of their own; a name with a line break in it goes through `printable`.
    super(message === undefined ? message : escapeControls(message), options);
  }
}

/** Shapes, parameters or arguments that an op or layer can't take. */
export class ShapeError extends FusenormError {
  override name = "ShapeError";
}

/** No adapter, a lost device, a limit of the adapter, or a validation error raised by the GPU process. */
export class DeviceError extends FusenormError {
  override name = "DeviceError";
}

/**
 * The device was lost (the driver reset it, the adapter went away, somebody destroyed it): every later call of its `Gpu` throws
 * this. Nothing of the device can be saved; ask for a new one and go on from what the host has.
 */
export class DeviceLostError extends DeviceError {
  override name = "DeviceLostError";
}

/** A tensor was used after `dispose()`, or a graph after it was freed by `backward()`. */
export class UseAfterDisposeError extends FusenormError {
  override name = "UseAfterDisposeError";
}

/** A tensor that `backward` needs as the forward saw it was overwritten in between. */
export class OverwrittenTensorError extends FusenormError {
  override name = "OverwrittenTensorError";
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
