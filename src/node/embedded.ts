/**
 * The software GPU and the browser that come out of the npm tree: the package `@sparticuz/chromium` (x86-64
 * Linux) carries Google's SwiftShader with a Vulkan loader, a headless Chromium, and the few system
 * libraries that Chromium needs. They are unpacked to the cache on first use.
 */
import { createReadStream, createWriteStream, existsSync, readFileSync } from "node:fs";
import { chmod } from "node:fs/promises";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { pipeline } from "node:stream/promises";
import { fileURLToPath } from "node:url";
import { createBrotliDecompress } from "node:zlib";
import { DeviceError } from "../errors.ts";
import { checkText } from "../options.ts";
import { cachedFolder } from "./cache.ts";
import { cacheDirectory } from "./files.ts";
import { unpackTar } from "./unpack.ts";

const PACKAGE = "@sparticuz/chromium";

export interface EmbeddedVulkan {
  /** Path of the Vulkan loader, `libvulkan.so.1`. */
  loader: string;
  /** Path of SwiftShader's driver manifest, for `VK_DRIVER_FILES`. */
  manifest: string;
}

export interface EmbeddedChromium {
  executable: string;
  /** Folder of the libraries (NSS, Expat …) that a bare system lacks, for `LD_LIBRARY_PATH`. */
  libraries: string;
}

export interface EmbeddedArchive {
  /** Folder of the `.br` files. */
  bin: string;
  version: string;
}

/** The version of the package, if `folder` is it. */
function versionIn(folder: string): string | null {
  const file = join(folder, "package.json");
  if (!existsSync(file)) return null;
  const { name, version } = JSON.parse(readFileSync(file, "utf8")) as { name?: string; version: string };
  return name === PACKAGE ? version : null;
}

/**
 * The package's folder as `from` sees it, or null. Sought by its `package.json`: where its entry lies differs between
 * versions, and whether `require` may have it.
 */
function packageFolder(from: string): { home: string; version: string } | null {
  const require = createRequire(from);
  const places = (require.resolve.paths(PACKAGE) ?? []).map((modules) => join(modules, PACKAGE));
  try {
    // Without folders of modules (Yarn's Plug'n'Play): the folders above the entry.
    for (let at = require.resolve(PACKAGE); dirname(at) !== at; at = dirname(at)) places.push(dirname(at));
  } catch {}
  for (const home of places) {
    const version = versionIn(home);
    if (version !== null) return { home, version };
  }
  return null;
}

/** The archives that are unpacked: whatever else the package holds, it is of use only with these. */
const ARCHIVES = ["swiftshader.tar.br", "chromium.br", "al2023.tar.br"];

/**
 * Where the archives are.
 * @param seekers files from whose place the package is looked for, one after the other
 * @throws DeviceError if this machine can't have them, or the package is absent
 */
export function embeddedArchive(
  platform = process.platform,
  arch: string = process.arch,
  // From here, and from the user's project: strict package managers show a package only what it depends on.
  seekers: readonly string[] = [fileURLToPath(import.meta.url), join(process.cwd(), "package.json")],
): EmbeddedArchive {
  if (platform !== "linux" || arch !== "x64") {
    throw new DeviceError(
      `embedded SwiftShader: it exists for Linux on x64, not for ${platform} on ${arch}; use the system's own GPU driver`,
    );
  }
  let unfit: string | null = null;
  for (const from of seekers) {
    const found = packageFolder(from);
    if (!found) continue;
    const { home, version } = found;
    const bin = join(home, "bin");
    const lacking = ARCHIVES.filter((file) => !existsSync(join(bin, file)));
    if (lacking.length === 0) return { bin, version };
    unfit ??= `${PACKAGE} ${version} in ${home} has no ${lacking.map((file) => `bin/${file}`).join(", ")}`;
  }
  throw new DeviceError(
    unfit
      ? `embedded SwiftShader: ${unfit}; versions 147 to 153 have: \`npm install --save-dev ${PACKAGE}@153\``
      : `embedded SwiftShader: ${PACKAGE} is not installed; \`npm install --save-dev ${PACKAGE}\` brings it`,
  );
}

async function unpack(archive: string, folder: string, wanted?: (path: string) => boolean) {
  await unpackTar([createReadStream(archive), createBrotliDecompress()], folder, { name: archive, wanted });
}

/** SwiftShader and its Vulkan loader, unpacked to the cache (14 MB) if they are not there yet. */
export async function embeddedVulkan(root = cacheDirectory()): Promise<EmbeddedVulkan> {
  checkText("embeddedVulkan", "root", root);
  const { bin, version } = embeddedArchive();
  const files = ["libvulkan.so.1", "libvk_swiftshader.so", "vk_swiftshader_icd.json"];
  const folder = await cachedFolder(
    `swiftshader-${version}`,
    files,
    (fresh) =>
      unpack(join(bin, "swiftshader.tar.br"), fresh, (path) => files.some((file) => path.endsWith(file))),
    root,
  );
  return { loader: join(folder, "libvulkan.so.1"), manifest: join(folder, "vk_swiftshader_icd.json") };
}

/** The headless Chromium with everything it needs beside it, unpacked to the cache (about 190 MB) if need be. */
export async function embeddedChromium(root = cacheDirectory()): Promise<EmbeddedChromium> {
  checkText("embeddedChromium", "root", root);
  const { bin, version } = embeddedArchive();
  const folder = await cachedFolder(
    `chromium-${version}`,
    ["chromium", "libvk_swiftshader.so", "libvulkan.so.1", "lib/libnss3.so"],
    async (fresh) => {
      const executable = join(fresh, "chromium");
      await pipeline(
        createReadStream(join(bin, "chromium.br")),
        createBrotliDecompress(),
        createWriteStream(executable),
      );
      await chmod(executable, 0o755);
      await unpack(join(bin, "swiftshader.tar.br"), fresh);
      await unpack(join(bin, "al2023.tar.br"), fresh);
    },
    root,
  );
  return { executable: join(folder, "chromium"), libraries: join(folder, "lib") };
}
