import { spawn } from "node:child_process";
import { mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

export const repository = fileURLToPath(new URL("../..", import.meta.url));

export interface Ended {
  code: number | null;
  signal: NodeJS.Signals | null;
  stdout: string;
  stderr: string;
}

/** Runs a program to its end. */
export function run(
  command: string,
  args: readonly string[],
  env: Record<string, string | undefined> = {},
): Promise<Ended> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { cwd: repository, env: { ...process.env, ...env }, timeout: 60_000 });
    let stdout = "";
    let stderr = "";
    child.stdout.on("data", (chunk) => {
      stdout += chunk;
    });
    child.stderr.on("data", (chunk) => {
      stderr += chunk;
    });
    child.on("error", reject);
    child.on("close", (code, signal) => resolve({ code, signal, stdout, stderr }));
  });
}

/** Runs TypeScript, given as text, in a Node process of its own; imports are relative to the repository. */
export async function runScript(
  source: string,
  env: Record<string, string | undefined> = {},
): Promise<Ended> {
  const file = join(mkdtempSync(join(tmpdir(), "fusenorm-test-")), "script.mts");
  writeFileSync(file, source.replaceAll('"./src/', `"${repository}src/`));
  return run(process.execPath, ["--import", "tsx", file], env);
}

/**
 * An environment in which the system seems to have no Vulkan: its loader is shadowed by an empty file, and the
 * driver manifests are looked for where there are none.
 */
export function withoutVulkan(): Record<string, string | undefined> {
  const folder = mkdtempSync(join(tmpdir(), "fusenorm-test-"));
  writeFileSync(join(folder, "libvulkan.so.1"), "");
  return {
    LD_LIBRARY_PATH: folder,
    XDG_DATA_DIRS: folder,
    XDG_DATA_HOME: folder,
    XDG_CONFIG_DIRS: folder,
    XDG_CONFIG_HOME: folder,
    VK_DRIVER_FILES: undefined,
    VK_ICD_FILENAMES: undefined,
    FUSENORM_ADAPTER: undefined,
  };
}
