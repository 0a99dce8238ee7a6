import { DataError } from "../errors.ts";
import { printable } from "../foreign.ts";
import { checkOptions, show } from "../options.ts";
import { checkNamedBytes, type NamedBytes } from "./dataset.ts";

/** True for the two bytes that open every gzip file. */
export function isGzip(bytes: Uint8Array): boolean {
  return bytes[0] === 0x1f && bytes[1] === 0x8b;
}

/** Options of `gunzip`. */
export interface GunzipOptions {
  /** The most bytes that may come out. Default 2³⁰. */
  maxBytes?: number;
}

/**
 * Unpacks a gzip file (RFC 1952): one member or several, with zero bytes as padding after them or not. Other bytes come
 * back as they are.
 *
 * @throws DataError if a member is truncated or damaged (checksums and lengths are checked), if anything but zeros follows
 *   the last one, or if more than `maxBytes` come out.
 */
export async function gunzip(file: NamedBytes, options: GunzipOptions = {}): Promise<Uint8Array> {
  checkNamedBytes("gunzip", file);
  checkOptions("gunzip", options, ["maxBytes"]);
  const { maxBytes = 2 ** 30 } = options;
  if (!(Number.isSafeInteger(maxBytes) && maxBytes >= 0)) {
    throw new DataError(`gunzip: maxBytes is ${show(maxBytes)}; expected a whole number of bytes from 0`);
  }
  if (!isGzip(file.bytes)) return file.bytes;
  return unpackGzip(file, () => ({
    bytes: maxBytes,
    why: "which `maxBytes` allows: pass more if that is right",
  }));
}

/** How many bytes may come out, and why, for the message if more do. */
export interface UnpackLimit {
  bytes: number;
  why: string;
}

/**
 * Unpacks a gzip file, piece by piece: `limit` is asked after each piece, with all that has come out so far, and the work
 * ends as soon as there is more than it allows (or when it throws). Memory stays within a small multiple of what came out.
 *
 * The platform's DecompressionStream can't do it: some read one member alone, some refuse zeros after the last, and none tells
 * where a member ends.
 */
export async function unpackGzip(
  { name, bytes }: NamedBytes,
  limit: (soFar: Uint8Array) => UnpackLimit | undefined,
): Promise<Uint8Array> {
  const damaged = (reason: string) =>
    new DataError(
      `${printable(name)}: the gzip data is truncated or damaged (${reason}) in a file of ${bytes.length} bytes; ` +
        "copy or download the file again",
    );
  const pako = await import("pako").catch((cause: unknown) => {
    throw new DataError(
      `${printable(name)}: the package "pako", which unpacks gzip files, can't be loaded (${printable((cause as Error)?.message)}); ` +
        "install it, name it in the page's import map, or unpack the file first",
      { cause },
    );
  });
  const stream = new pako.ZStream();
  // 15: windows of any size; 16: gzip, nothing else.
  pako.zlibInflateInit2(stream, 15 + 16);
  stream.input = bytes;
  stream.avail_in = bytes.length;
  let out = new Uint8Array(1 << 16);
  let most = Number.POSITIVE_INFINITY;
  try {
    while (stream.avail_in > 0) {
      if (!isGzip(bytes.subarray(stream.next_in))) {
        const tail = bytes.subarray(stream.next_in);
        const rest = tail.findIndex((byte) => byte !== 0);
        if (rest > 0 && isGzip(tail.subarray(rest))) {
          stream.next_in += rest;
          stream.avail_in -= rest;
          continue;
        }
        if (rest < 0) break;
        throw new DataError(
          `${printable(name)}: ${tail.length} bytes of other data follow the gzip data, trailing garbage from byte ${stream.next_in + rest} ` +
            `of ${bytes.length}; expected the end of the file, zeros, or another gzip member: download it again, or, if the beginning ` +
            `is all there is to it, keep what \`gzip -dc\` makes of it`,
        );
      }
      pako.zlibInflateReset(stream);
      for (let status = 0; status !== pako.Z_STREAM_END; ) {
        stream.output = out;
        stream.avail_out = out.length - stream.next_out;
        status = pako.zlibInflate(stream, pako.Z_NO_FLUSH);
        const allowed = limit(out.subarray(0, stream.next_out));
        if (allowed) most = allowed.bytes;
        if (allowed && stream.next_out > most) {
          throw new DataError(
            `${printable(name)}: more comes out of this gzip file of ${bytes.length} bytes than the ${most} bytes ${allowed.why}`,
          );
        }
        if (status === pako.Z_STREAM_END) break;
        if (status !== pako.Z_OK && status !== pako.Z_BUF_ERROR)
          throw damaged(stream.msg || `code ${status}`);
        if (stream.avail_out > 0) throw damaged("unexpected end of file");
        // One byte more than is allowed, so that a byte too many shows.
        out = enlarged(out, Math.min(2 * out.length, most + 1), name);
      }
    }
  } finally {
    pako.zlibInflateEnd(stream);
  }
  return out.length === stream.next_out ? out : out.slice(0, stream.next_out);
}

function enlarged(out: Uint8Array<ArrayBuffer>, length: number, name: string): Uint8Array<ArrayBuffer> {
  try {
    const larger = new Uint8Array(length);
    larger.set(out);
    return larger;
  } catch (cause) {
    throw new DataError(
      `${printable(name)}: no memory for the ${length} bytes that this gzip file unpacks to; use a part of it`,
      { cause },
    );
  }
}
