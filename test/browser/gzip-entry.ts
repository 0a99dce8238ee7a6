import { encodeIdx, readIdxDataset } from "../../src/data/index.ts";

const pack = async (bytes: Uint8Array<ArrayBuffer>): Promise<Uint8Array> =>
  new Uint8Array(
    await new Response(new Blob([bytes]).stream().pipeThrough(new CompressionStream("gzip"))).arrayBuffer(),
  );

/** A gzip file of two members with padding, read in the page; and what a file with other data after it comes to. */
export default async function (): Promise<{ images: number[]; refusal: string }> {
  const file = encodeIdx([2, 1, 3], Uint8Array.of(1, 2, 3, 4, 5, 250)) as Uint8Array<ArrayBuffer>;
  const members = [await pack(file.slice(0, 17)), await pack(file.slice(17))].flatMap((part) => [...part]);
  const labels = { name: "labels", bytes: encodeIdx([2], Uint8Array.of(0, 1)) };
  const read = (tail: number[]) =>
    readIdxDataset("page", { name: "images.gz", bytes: Uint8Array.of(...members, ...tail) }, labels);
  const { images } = await read([0, 0, 0]);
  const refusal = await read([7]).then(
    () => "",
    (error: Error) => `${error.name}: ${error.message}`,
  );
  return { images: [...images], refusal };
}
