// `npm run fuzz [-- CASES [SEED]]`: the property tests at length, 10,000 cases from a random seed unless told otherwise. Every
// failure is printed with its seed and its smallest case, and the run goes on; it ends with 1 if there was one. It tells how far it is
// every half minute, and what it did when it ends or is interrupted.
import { spawn } from "node:child_process";
import { randomInt } from "node:crypto";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const whole = (name: string, text: string, least: number): string => {
  if (/^\d+$/.test(text) && Number(text) >= least && Number(text) < 2 ** 31) return text;
  console.error(
    `fuzz: ${name} is ${text}; expected a whole number of at least ${least}: npm run fuzz -- [CASES [SEED]]`,
  );
  process.exit(2);
};
const cases = whole("CASES", process.argv[2] ?? process.env.FUSENORM_FUZZ_RUNS ?? "10000", 1);
const seed = whole(
  "SEED",
  process.argv[3] ?? process.env.FUSENORM_FUZZ_SEED ?? String(randomInt(2 ** 31)),
  0,
);

console.log(`fuzz: ${cases} cases from seed ${seed}`);
const folder = mkdtempSync(join(tmpdir(), "fusenorm-fuzz-"));
const countsFile = join(folder, "counts.json");
const started = performance.now();
const child = spawn("npx", ["vitest", "run", "test/property"], {
  cwd: fileURLToPath(new URL("..", import.meta.url)),
  stdio: "inherit",
  env: {
    ...process.env,
    FUSENORM_FUZZ_RUNS: cases,
    FUSENORM_FUZZ_SEED: seed,
    FUSENORM_FUZZ_COUNTS: countsFile,
  },
  detached: true, // a group of its own: an interruption reaches it through the handler below, once
});
let interrupted = false;
for (const signal of ["SIGINT", "SIGTERM"] as const) {
  process.on(signal, () => {
    interrupted = true;
    process.kill(-child.pid!, "SIGTERM");
  });
}
const status = await new Promise<number | null>((resolve, reject) => {
  child.on("error", reject);
  child.on("close", resolve);
});

const counts: Record<string, { done: number; of: number; failures: number }> = existsSync(countsFile)
  ? JSON.parse(readFileSync(countsFile, "utf8"))
  : {};
rmSync(folder, { recursive: true });
let done = 0;
let failures = 0;
for (const [name, count] of Object.entries(counts)) {
  console.log(`fuzz: ${name}: ${count.done} of ${count.of} cases, ${count.failures} failures`);
  done += count.done;
  failures += count.failures;
}
const minutes = (performance.now() - started) / 60_000;
const good = status === 0 && !interrupted;
console.log(
  `fuzz: ${interrupted ? "interrupted: " : ""}${done} cases in ${minutes.toFixed(1)} minutes from seed ${seed}, ` +
    (good ? "all as they should be" : `${failures} failures; again with npm run fuzz -- ${cases} ${seed}`),
);
process.exitCode = interrupted ? 130 : (status ?? 1);
