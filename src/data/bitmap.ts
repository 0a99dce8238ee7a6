import { DataError } from "../errors.ts";
import { isBytes, printable } from "../foreign.ts";
import { checkInteger, checkOptions, checkText, optionNames, show } from "../options.ts";

/** What images are made to be. */
export interface ImageOptions {
  /** Of every image: it is scaled to cover this size, and its middle is taken. */
  height: number;
  width: number;
  /** 3 for colours, 1 for grey. Transparent pixels become black. Default 3. */
  channels?: 1 | 3 | undefined;
}

const OPTIONS = optionNames<ImageOptions>({ height: 0, width: 0, channels: 0 });
/** Pixels of a side of an image. */
export const MOST_SIDE = 2 ** 14;

/** The options with their defaults. @throws ShapeError, UsageError, DataError */
export function checkedImageOptions(
  op: string,
  options: ImageOptions,
  known: readonly string[] = OPTIONS,
): { height: number; width: number; channels: 1 | 3 } {
  checkOptions(op, options, known);
  const { height, width, channels = 3 } = options;
  checkInteger(op, "height", height, 1, MOST_SIDE);
  checkInteger(op, "width", width, 1, MOST_SIDE);
  if (channels !== 1 && channels !== 3) {
    throw new DataError(`${op}: channels is ${show(channels)}; expected 1 or 3`);
  }
  return { height, width, channels };
}

/**
 * An image file's pixels, 0 … 255, [height, width, channels], by the browser's `createImageBitmap`, in pages and workers. In Node:
 * `decodeImage` of `fusenorm/node`.
 * @param source a file that was chosen or fetched, or its bytes
 * @param name the file's, for messages
 * @throws DataError if it is no image, or where there is no `createImageBitmap`
 */
export async function decodeImageBitmap(
  source: Blob | Uint8Array,
  name: string,
  options: ImageOptions,
): Promise<Uint8Array> {
  const op = "decodeImageBitmap";
  checkText(op, "name", name);
  const { height, width, channels } = checkedImageOptions(op, options);
  if (!isBytes(source) && !(source instanceof Blob)) {
    throw new DataError(
      `${op}: source is ${show(source)}; expected a Blob or File, or a Uint8Array of its contents`,
    );
  }
  if (typeof createImageBitmap !== "function" || typeof OffscreenCanvas !== "function") {
    throw new DataError(
      `${op}: there is no createImageBitmap here; expected a browser's page or worker: use decodeImage of fusenorm/node`,
    );
  }
  const blob = isBytes(source) ? new Blob([source as Uint8Array<ArrayBuffer>]) : source;
  // Turned as its EXIF says, which is what browsers do unless told otherwise.
  const bitmap = await createImageBitmap(blob).catch((cause: unknown) => {
    throw new DataError(
      `${printable(name)}: can't be decoded as an image: ${printable((cause as Error).message)}; expected a PNG, JPEG or another image`,
      { cause },
    );
  });
  try {
    const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
    if (!context)
      throw new DataError(
        `${op}: the browser gives no canvas of ${width}×${height}; expected a smaller size`,
      );
    context.fillStyle = "black";
    context.fillRect(0, 0, width, height);
    context.imageSmoothingQuality = "high";
    const scale = Math.max(width / bitmap.width, height / bitmap.height);
    const [across, down] = [width / scale, height / scale];
    const [left, top] = [(bitmap.width - across) / 2, (bitmap.height - down) / 2];
    context.drawImage(bitmap, left, top, across, down, 0, 0, width, height);
    const { data } = context.getImageData(0, 0, width, height);
    const pixels = new Uint8Array(height * width * channels);
    for (let i = 0; i < height * width; i += 1) {
      const [red, green, blue] = [data[4 * i]!, data[4 * i + 1]!, data[4 * i + 2]!];
      if (channels === 1) pixels[i] = Math.round(0.299 * red + 0.587 * green + 0.114 * blue);
      else pixels.set([red, green, blue], 3 * i);
    }
    return pixels;
  } finally {
    bitmap.close();
  }
}
