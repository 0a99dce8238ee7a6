import type { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { type ReadEntry, Unpack } from "tar";
import { DataError } from "../errors.ts";
import { printable } from "../foreign.ts";

export interface UnpackTarOptions {
  /** The archive's name, for messages. */
  name: string;
  /** Outermost folders to leave out of the paths. Default 0. */
  strip?: number;
  /** Which entries to write. Default all. */
  wanted?: (path: string) => boolean;
  /** The most bytes that all files may take together. Default 2³⁰. */
  maxBytes?: number;
}

const MOST_ENTRIES = 10_000;

/**
 * Unpacks a tar stream (with gzip or not) into a folder that is there: plain files and folders below it, nothing else. Modes
 * are 644, 755 for folders and what is executable, whatever the archive says.
 *
 * @throws DataError if the archive is damaged, holds links or devices or paths that lead elsewhere, or is larger than allowed
 */
export async function unpackTar(
  source: Readable[],
  folder: string,
  options: UnpackTarOptions,
): Promise<void> {
  const { name, strip = 0, wanted = () => true, maxBytes = 2 ** 30 } = options;
  let bytes = 0;
  let entries = 0;
  let refused: DataError | undefined;
  const complaint = ({ path, type, size }: ReadEntry): string | undefined => {
    const shown = `its entry ${printable(path)}`;
    entries += 1;
    bytes += size;
    if (!["File", "OldFile", "ContiguousFile", "Directory"].includes(type)) {
      return `${shown} is a ${type}; expected files and folders alone`;
    }
    if (/^([a-z]:|[\\/])/i.test(path) || path.split(/[\\/]/).includes("..")) {
      return `${shown} leads out of the folder; expected paths below it`;
    }
    if (entries > MOST_ENTRIES || bytes > maxBytes) {
      return `${shown} brings it to ${entries} entries of ${bytes} bytes; expected at most ${MOST_ENTRIES} of ${maxBytes}`;
    }
    return undefined;
  };
  const extractor = new Unpack({
    cwd: folder,
    strip,
    strict: true,
    preserveOwner: false,
    dmode: 0o755,
    fmode: 0o644,
    filter: (path, item) => {
      const entry = item as ReadEntry;
      if (refused) return false;
      const why = complaint(entry);
      if (why !== undefined) {
        refused = new DataError(`${printable(name)}: can't be unpacked to ${printable(folder)}: ${why}`);
        extractor.abort(new Error(why));
        return false;
      }
      const isExecutable = entry.type === "Directory" || ((entry.mode ?? 0) & 0o111) !== 0;
      entry.mode = isExecutable ? 0o755 : 0o644;
      return wanted(path);
    },
  });
  try {
    await pipeline([...source, extractor as unknown as NodeJS.WritableStream]);
  } catch (cause) {
    throw (
      refused ??
      new DataError(
        `${printable(name)}: can't be unpacked to ${printable(folder)}: ${(cause as Error).message}`,
        {
          cause,
        },
      )
    );
  }
}
