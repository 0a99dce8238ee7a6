// Checks the package as it is packed, after `npm run build`: its manifest and types (publint, attw), the links in its texts, and
// what a bundler for browsers says of `fusenorm/node`.

import { spawnSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { dirname, join, normalize } from "node:path";
import { build } from "esbuild";
import { manifest, PACKAGES, packPackages, root } from "./lib/package.ts";

/** Links of a Markdown text that lead to no other site. */
function localLinks(markdown: string): string[] {
  const prose = markdown.replaceAll(/^```[\s\S]*?^```/gm, "").replaceAll(/`[^`\n]*`/g, "");
  return [...prose.matchAll(/\]\(([^)\s]+)[^)]*\)/g)]
    .map(([, target]) => target!)
    .filter((to) => !/^\w+:/.test(to));
}

/** The names under which GitHub and npm find a text's headings. */
function anchors(markdown: string): string[] {
  return [...markdown.matchAll(/^#+ +(.*)$/gm)].map(([, heading]) =>
    heading!
      .toLowerCase()
      .replaceAll(/[^\p{L}\p{N}\s_-]/gu, "")
      .replaceAll(" ", "-"),
  );
}

/** What is wrong with the links of the packed texts. */
function deadLinks(files: readonly string[], read: (file: string) => string): string[] {
  const dead: string[] = [];
  for (const file of files.filter((name) => name.endsWith(".md"))) {
    for (const link of localLinks(read(file))) {
      const [path, anchor] = link.split("#");
      const target = path ? normalize(join(dirname(file), path)) : file;
      const isFolder = target.endsWith("/") && files.some((name) => name.startsWith(target));
      if (!files.includes(target) && !isFolder) dead.push(`${file}: ${link} is not in the package`);
      else if (anchor && !anchors(read(target)).includes(anchor))
        dead.push(`${file}: ${link} has no such heading`);
    }
  }
  return dead;
}

/** What a browser's bundler says of a module that imports from `fusenorm/node`; null if it has nothing against it. */
async function nodeInBrowser(folder: string): Promise<string | null> {
  const entry = join(folder, "entry.js");
  writeFileSync(entry, 'import { requestGpu } from "fusenorm/node"; requestGpu();');
  return build({
    entryPoints: [entry],
    bundle: true,
    platform: "browser",
    write: false,
    logLevel: "silent",
  }).then(
    () => null,
    (error: Error) => error.message,
  );
}

interface Manifest {
  name: string;
  version: string;
  dependencies: Record<string, string>;
  devDependencies?: Record<string, string>;
  peerDependencies: Record<string, string>;
}

/** Packages out of the same sources have one version, and one range of each package that both name. */
function differences([core, ...others]: Manifest[]): string[] {
  const ranges = (one: Manifest) => ({
    ...one.devDependencies,
    ...one.peerDependencies,
    ...one.dependencies,
    version: one.version,
  });
  return others.flatMap((other) =>
    Object.entries(ranges(other))
      .filter(([name, range]) => (ranges(core!)[name as "version"] ?? range) !== range)
      .map(
        ([name, range]) =>
          `${other.name}: ${name} is ${range}, of ${core!.name} ${ranges(core!)[name as "version"]}`,
      ),
  );
}

const faults: string[] = [];
const packed = await packPackages({ dependencies: false });
try {
  const check = (command: string, ...args: string[]) => {
    const run = spawnSync(join(root, "node_modules/.bin", command), args, { encoding: "utf8" });
    if (run.status !== 0) faults.push(`${command}: ${run.error?.message ?? run.stdout + run.stderr}`);
  };
  const mb = (bytes: number) => `${(bytes / 1e6).toFixed(2)} MB`;
  for (const { name, tarball, files, size, unpackedSize } of packed.packages) {
    const home = join(packed.folder, "node_modules", name);
    check("publint", "--strict", home);
    if (manifest(home).exports) check("attw", tarball, "--profile", "esm-only", "--quiet");
    faults.push(
      ...deadLinks(files, (file) => readFileSync(join(home, file), "utf8")).map((dead) => `${name}: ${dead}`),
    );
    console.log(`${name}: ${files.length} files, ${mb(size)} packed, ${mb(unpackedSize)} unpacked`);
  }
  const said = await nodeInBrowser(packed.folder);
  if (!said?.includes("not-for-browsers"))
    faults.push(`fusenorm/node in a browser's bundle: ${said ?? "no error"}`);
  faults.push(...differences(PACKAGES.map(manifest)));
} finally {
  packed.remove();
}
for (const fault of faults) console.error(fault);
if (faults.length > 0) process.exitCode = 1;
