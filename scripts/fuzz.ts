// `npm run fuzz [-- CASES [SEED]]`: the property tests at length, 10,000 cases from a random seed unless told otherwise. Every
// failure is printed with its seed and its smallest case, and the run goes on; it ends with 1 if there was one.
import { spawnSync } from "node:child_process";
import { randomInt } from "node:crypto";
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
const { status, error } = spawnSync("npx", ["vitest", "run", "test/property"], {
  cwd: fileURLToPath(new URL("..", import.meta.url)),
  stdio: "inherit",
  env: { ...process.env, FUSENORM_FUZZ_RUNS: cases, FUSENORM_FUZZ_SEED: seed },
});
if (error) throw error;
console.log(
  status === 0
    ? `fuzz: ${cases} cases from seed ${seed}, all as they should be`
    : `fuzz: failures above; again with npm run fuzz -- ${cases} ${seed}`,
);
process.exitCode = status ?? 1;
