// `npm run gpu:suite`: from the sources, builds the package and starts the suite from what was built; a machine that has
// the built package alone runs `node dist/bench/gpu-suite.js`.
import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));

function run(command: string, args: readonly string[], cwd?: string): number {
  const { status, error } = spawnSync(command, args, { stdio: "inherit", cwd });
  if (error) throw error;
  return status ?? 1;
}

process.exitCode =
  run("npm", ["run", "-s", "build"], root) ||
  run(process.execPath, [`${root}dist/bench/gpu-suite.js`, ...process.argv.slice(2)]);
