/**
 * The software GPU and the browser that come out of the npm tree: the package `@sparticuz/chromium` (x86-64
 * Linux) carries Google's SwiftShader with a Vulkan loader, a headless Chromium, and the few system
 * libraries that Chromium needs. They are unpacked to the cache on first use.
 */
import { createReadStream, createWriteStream, readFileSync } from "node:fs";
import { chmod } from "node:fs/promises";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { pipeline } from "node:stream/promises";
import { fileURLToPath } from "node:url";
import { createBrotliDecompress } from "node:zlib";
import { extract } from "tar";
import { DeviceError } from "../errors.ts";
import { cachedFolder } from "./cache.ts";
import { cacheDirectory } from "./files.ts";

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

/** Where the archives are. @throws DeviceError if this machine can't have them, or the package is absent. */
export function embeddedArchive(platform = process.platform, arch: string = process.arch): EmbeddedArchive {
  if (platform !== "linux" || arch !== "x64") {
    throw new DeviceError(
      `embedded SwiftShader: it exists for Linux on x64, not for ${platform} on ${arch}; use the system's own GPU driver`,
    );
  }
  // From here, and from the user's project: strict package managers show a package only what it depends on.
  for (const from of [fileURLToPath(import.meta.url), join(process.cwd(), "package.json")]) {
    try {
      const home = join(dirname(createRequire(from).resolve(PACKAGE)), "..", "..");
      const { version } = JSON.parse(readFileSync(join(home, "package.json"), "utf8")) as { version: string };
      return { bin: join(home, "bin"), version };
    } catch {}
  }
  throw new DeviceError(
    `embedded SwiftShader: ${PACKAGE} is not installed; \`npm install --save-dev ${PACKAGE}\` brings it`,
  );
}

async function unpack(archive: string, folder: string, wanted: (path: string) => boolean = () => true) {
  await pipeline(
    createReadStream(archive),
    createBrotliDecompress(),
    extract({ cwd: folder, filter: (path) => wanted(path), preserveOwner: false }),
  );
}

/** SwiftShader and its Vulkan loader, unpacked to the cache (14 MB) if they are not there yet. */
export async function embeddedVulkan(root = cacheDirectory()): Promise<EmbeddedVulkan> {
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
