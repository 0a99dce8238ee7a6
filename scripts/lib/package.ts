// The package as people get it: packed, and unpacked into a folder of modules with its dependencies beside it.

import { execFileSync } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  symlinkSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { extract } from "tar";

export const root = fileURLToPath(new URL("../..", import.meta.url));

export interface Packed {
  /** A folder in which `import "fusenorm"` finds the package; also removed by `remove`. */
  folder: string;
  tarball: string;
  /** Paths of the tarball's files, relative to the package. */
  files: string[];
  /** The tarball's own bytes, and those of its files. */
  size: number;
  unpackedSize: number;
  remove(): void;
}

/** Packs what `npm run build` left, without building anew. */
export async function packPackage({ dependencies = true } = {}): Promise<Packed> {
  if (!existsSync(join(root, "dist/index.js")))
    throw new Error("there is no dist/: run `npm run build` first");
  const folder = mkdtempSync(join(tmpdir(), "fusenorm-packed-"));
  const told = execFileSync("npm", ["pack", "--json", "--ignore-scripts", "--pack-destination", folder], {
    cwd: root,
    encoding: "utf8",
    stdio: ["ignore", "pipe", "ignore"],
  });
  const [pack] = Object.values(JSON.parse(told)) as {
    filename: string;
    files: { path: string }[];
    size: number;
    unpackedSize: number;
  }[];
  await extract({ file: join(folder, pack!.filename), cwd: folder });
  mkdirSync(join(folder, "node_modules"));
  renameSync(join(folder, "package"), join(folder, "node_modules/fusenorm"));
  if (dependencies) {
    const all = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
    for (const name of Object.keys({
      ...all.dependencies,
      ...all.optionalDependencies,
      ...all.peerDependencies,
    })) {
      const own = join(root, "node_modules", name);
      if (!existsSync(own)) continue;
      mkdirSync(dirname(join(folder, "node_modules", name)), { recursive: true });
      symlinkSync(realpathSync(own), join(folder, "node_modules", name));
    }
  }
  return {
    folder,
    tarball: join(folder, pack!.filename),
    files: pack!.files.map(({ path }) => path),
    size: pack!.size,
    unpackedSize: pack!.unpackedSize,
    remove: () => rmSync(folder, { recursive: true, force: true }),
  };
}
