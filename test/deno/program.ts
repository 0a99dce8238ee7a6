// Deno, as the npm tree brings it, and the variables with which it finds a software adapter.

import { createRequire } from "node:module";
import { dirname } from "node:path";
import { fileURLToPath } from "node:url";
import { isLavapipe, thisMachine } from "../../src/node/adapters.ts";
import { embeddedVulkan } from "../../src/node/embedded.ts";

/** The script that starts Deno, to be run by Node. */
export function denoProgram(): string {
  try {
    createRequire(import.meta.url).resolve("deno/package.json");
  } catch (cause) {
    throw new Error("the devDependency `deno` is not installed: `npm ci` brings it", { cause });
  }
  return fileURLToPath(new URL("launch.js", import.meta.url));
}

/** The variables with which wgpu finds a software adapter. */
export async function denoDrivers(): Promise<Record<string, string>> {
  const lavapipe = thisMachine().manifests().filter(isLavapipe);
  if (lavapipe.length > 0) return { VK_DRIVER_FILES: lavapipe.join(":") };
  const { loader, manifest } = await embeddedVulkan();
  return { VK_DRIVER_FILES: manifest, LD_LIBRARY_PATH: dirname(loader) };
}
