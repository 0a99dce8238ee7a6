// `npm run bench:peers`: installs the peers into bench/peers on first use, or when its lock file has changed since, and
// runs the comparison there.
import { spawnSync } from "node:child_process";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

const folder = fileURLToPath(new URL("../bench/peers/", import.meta.url));
const lock = readFileSync(`${folder}package-lock.json`, "utf8");
const stamp = `${folder}node_modules/.installed-from`;

function run(command: string, args: readonly string[]): void {
  const { status, error } = spawnSync(command, args, { stdio: "inherit" });
  if (error) throw error;
  if (status !== 0) process.exit(status ?? 1);
}

if (!existsSync(stamp) || readFileSync(stamp, "utf8") !== lock) {
  console.error("bench:peers: installing tfjs, jax-js and ONNX Runtime into bench/peers (about 400 MB) …");
  run("npm", ["ci", "--prefix", folder]);
  writeFileSync(stamp, lock);
}
run(process.execPath, ["--import", "tsx", `${folder}main.ts`, ...process.argv.slice(2)]);
