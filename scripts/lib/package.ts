// The packages as people get them: packed, and unpacked into a folder of modules with their dependencies beside them.

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

export interface PackedPackage {
  name: string;
  tarball: string;
  /** Paths of the tarball's files, relative to the package. */
  files: string[];
  /** The tarball's own bytes, and those of its files. */
  size: number;
  unpackedSize: number;
}

export interface Packed {
  /** A folder in which `import "fusenorm"` finds the package, and node_modules/fusenorm-cli the commands. */
  folder: string;
  packages: PackedPackage[];
  /** Removes the folder. */
  remove(): void;
}

/** The packages of this repository, by their folders. */
export const PACKAGES = [".", "packages/cli"].map((folder) => join(root, folder));

export const manifest = (folder: string) => JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));

/** Packs what `npm run build` left, without building anew. */
export async function packPackages({ dependencies = true } = {}): Promise<Packed> {
  if (!existsSync(join(root, "packages/cli/dist")))
    throw new Error("nothing is built: run `npm run build` first");
  const folder = mkdtempSync(join(tmpdir(), "fusenorm-packed-"));
  mkdirSync(join(folder, "node_modules"));
  const packages: PackedPackage[] = [];
  for (const home of PACKAGES) {
    const told = execFileSync("npm", ["pack", "--json", "--ignore-scripts", "--pack-destination", folder], {
      cwd: home,
      encoding: "utf8",
      stdio: ["ignore", "pipe", "ignore"],
    });
    const [pack] = Object.values(JSON.parse(told)) as {
      name: string;
      filename: string;
      files: { path: string }[];
      size: number;
      unpackedSize: number;
    }[];
    const { name, filename, files, size, unpackedSize } = pack!;
    const tarball = join(folder, filename);
    await extract({ file: tarball, cwd: folder });
    renameSync(join(folder, "package"), join(folder, "node_modules", name));
    packages.push({ name, tarball, files: files.map(({ path }) => path), size, unpackedSize });
    if (dependencies) linkDependencies(home, join(folder, "node_modules"));
  }
  return { folder, packages, remove: () => rmSync(folder, { recursive: true, force: true }) };
}

/** Links what the package in `home` depends on, as far as it is installed here, into `modules`. */
function linkDependencies(home: string, modules: string): void {
  const { dependencies, peerDependencies } = manifest(home);
  for (const name of Object.keys({ ...dependencies, ...peerDependencies })) {
    const own = join(root, "node_modules", name);
    if (!existsSync(own) || existsSync(join(modules, name))) continue;
    mkdirSync(dirname(join(modules, name)), { recursive: true });
    symlinkSync(realpathSync(own), join(modules, name));
  }
}
