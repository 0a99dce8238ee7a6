import { decodeImageBitmap } from "../../src/data/index.ts";

export interface BitmapResults {
  exact: { put: number[]; got: number[] };
  grey: number[];
  wide: number[];
  clear: number[];
  refusal: string;
}

async function png(width: number, height: number, rgba: (x: number, y: number) => number[]): Promise<Blob> {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d")!;
  const image = context.createImageData(width, height);
  for (let i = 0; i < width * height; i += 1) image.data.set(rgba(i % width, Math.floor(i / width)), 4 * i);
  context.putImageData(image, 0, 0);
  return canvas.convertToBlob({ type: "image/png" });
}

/** Images made and decoded in the page. */
export default async function (): Promise<BitmapResults> {
  const colours = (x: number, y: number) => [
    (37 * x + 11 * y) % 256,
    (91 * y + 5) % 256,
    (53 * x * y) % 256,
    255,
  ];
  const blob = await png(5, 4, colours);
  const size = { height: 4, width: 5 };
  const got = await decodeImageBitmap(new Uint8Array(await blob.arrayBuffer()), "bytes", size);
  const put = Array.from({ length: 20 }, (_, i) => colours(i % 5, Math.floor(i / 5)).slice(0, 3)).flat();
  const grey = await decodeImageBitmap(blob, "blob", { ...size, channels: 1 });
  const halves = await png(64, 32, (x) => {
    if (x < 12 || x >= 52) return [255, 0, 0, 255];
    return x < 32 ? [40, 40, 40, 255] : [200, 200, 200, 255];
  });
  const wide = await decodeImageBitmap(halves, "wide", { height: 8, width: 8 });
  const clear = await decodeImageBitmap(await png(1, 1, () => [250, 10, 90, 0]), "clear", {
    height: 1,
    width: 1,
  });
  const refusal = await decodeImageBitmap(Uint8Array.of(1, 2, 3), "odd.png", size).then(
    () => "",
    (error: Error) => `${error.name}: ${error.message}`,
  );
  return { exact: { put, got: [...got] }, grey: [...grey], wide: [...wide], clear: [...clear], refusal };
}
