import { spawnSync } from "node:child_process";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

/** Where the peers are, with dependencies of their own. */
export const PEERS = fileURLToPath(new URL("../../bench/peers/", import.meta.url));

/** Installs them on first use, or when their lock file has changed since. */
export function installPeers(command: string): void {
  const lock = readFileSync(`${PEERS}package-lock.json`, "utf8");
  const stamp = `${PEERS}node_modules/.installed-from`;
  if (existsSync(stamp) && readFileSync(stamp, "utf8") === lock) return;
  console.error(`${command}: installing tfjs, jax-js and ONNX Runtime into bench/peers (about 400 MB) …`);
  const { status, error } = spawnSync("npm", ["ci", "--prefix", PEERS], { stdio: "inherit" });
  if (error) throw error;
  if (status !== 0) process.exit(status ?? 1);
  writeFileSync(stamp, lock);
}
