// The null driver: what a machine needs for it, building it, and compiling workloads on it in processes of their own.

import { spawn, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { DeviceError } from "../../src/errors.ts";
import { thisMachine } from "../../src/node/adapters.ts";

const here = fileURLToPath(new URL(".", import.meta.url));
const NEEDS =
  "apt-get install mesa-vulkan-drivers libvulkan1 libvulkan-dev gcc libc6-dev (Debian 12: scripts/setup-lavapipe.sh and scripts/setup-kernels-static.sh)";

/** Builds the null driver in `folder`, and gives its manifest. @throws DeviceError saying what to install */
export function buildDriver(folder: string): { manifest: string; radv: string } {
  if (process.platform !== "linux") throw missing("it runs on Linux alone, for RADV's sake");
  const radv = findRadv();
  const library = join(folder, "libnull-radv.so");
  const compiler = process.env.CC || "cc";
  const flags = ["-O1", "-shared", "-fPIC", "-o", library, join(here, "null-radv.c"), "-ldl", "-lpthread"];
  const { status, error, stderr } = spawnSync(compiler, flags, { encoding: "utf8" });
  if (error) throw missing(`there is no C compiler ${compiler}`);
  if (status !== 0) {
    throw missing(
      /vulkan\/\w+\.h/.test(stderr) ? "the Vulkan headers are missing" : `${compiler} failed:\n${stderr}`,
    );
  }
  const manifest = join(folder, "null-radv.json");
  const ICD = { library_path: library, api_version: "1.3.0" };
  writeFileSync(manifest, JSON.stringify({ file_format_version: "1.0.0", ICD }));
  return { manifest, radv };
}

function missing(what: string): DeviceError {
  return new DeviceError(`kernels:static: ${what}; needs ${NEEDS}`);
}

/** RADV's library, from its manifest. */
function findRadv(): string {
  const manifest = thisMachine()
    .manifests()
    .find((file) => /radeon_icd|radv/.test(file));
  if (!manifest) throw missing("Mesa's RADV is not installed");
  const path: string = JSON.parse(readFileSync(manifest, "utf8")).ICD.library_path;
  // A bare name is found by the loader; a relative path begins at the manifest.
  if (!path.includes("/")) return path;
  const library = resolve(manifest, "..", path);
  if (!existsSync(library)) throw missing(`${library}, which ${manifest} names, is not there`);
  return library;
}

export interface Job {
  family: string;
  wave: number;
  workloads: readonly string[];
  /** `conv2d.forward=tile_64x64`: forced. */
  variants: readonly string[];
  /** Made, and filled. */
  folder: string;
  /** What is run there, with the folder, the workloads and the variants as arguments. Default: compile.ts. */
  script?: string;
}

/** @throws Error with what the process said, if it failed */
export async function compile(driver: { manifest: string; radv: string }, job: Job): Promise<void> {
  const { family, wave, workloads, variants, folder, script = join(here, "compile.ts") } = job;
  mkdirSync(folder, { recursive: true });
  const env = {
    ...process.env,
    RADV_FORCE_FAMILY: family,
    VK_DRIVER_FILES: driver.manifest,
    VK_ICD_FILENAMES: driver.manifest, // for loaders before 1.3.207
    NULL_RADV_DRIVER: driver.radv,
    NULL_RADV_OUT: folder,
    NULL_RADV_WAVE: `${wave}`,
    FUSENORM_CHOICES: "off",
    XDG_RUNTIME_DIR: process.env.XDG_RUNTIME_DIR || tmpdir(),
  };
  const child = spawn(process.execPath, ["--import", "tsx", script, folder, `${workloads}`, ...variants], {
    env,
    stdio: ["ignore", "ignore", "pipe"],
  });
  let said = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    said += text;
  });
  const status = await new Promise((done, failed) => {
    child.on("error", failed);
    child.on("close", (code, signal) => done(code ?? signal));
  });
  if (said.includes("RADV_FORCE_FAMILY=<family> has been removed")) {
    throw new DeviceError(
      "kernels:static: this Mesa's RADV has no device without hardware any more (RADV_FORCE_FAMILY); needs Mesa 25, such as Debian 13's",
    );
  }
  if (status !== 0) {
    throw new Error(`kernels:static: compiling for ${family}, wave${wave}, failed (${status}):\n${said}`);
  }
}
