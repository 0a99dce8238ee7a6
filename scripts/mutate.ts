// `npm run mutate [MODULE…]`: changes one thing at a time in a shader and runs the tests of that shader on lavapipe. A
// mutant that no test notices is a missing test, or changes nothing that can be seen; the latter are explained in
// test/mutation/explained.json. See docs/reliability.md.

import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { Command } from "commander";
import { integer, positiveInteger } from "../src/cli/options.ts";
import { Random } from "../src/tensor/random.ts";
import { testsOf } from "../test/mutation/tests-of.ts";
import { type Explained, explanation, sameChange } from "./mutation/explain.ts";
import { type Mutant, mutantsOf, mutated } from "./mutation/mutants.ts";
import { Session, type Verdict } from "./mutation/session.ts";
import { shaderFiles } from "./shader-files.ts";

type Judged = Omit<Mutant, "edit"> & Verdict;

const root = fileURLToPath(new URL("..", import.meta.url));

process.env.FUSENORM_ADAPTER ??= "lavapipe";

const program = new Command("mutate")
  .description("changes one operator, bound or constant at a time in shaders/*.wgsl and runs the tests")
  .argument("[modules...]", "modules of shaders/, without .wgsl", Object.keys(testsOf))
  .option("--count <n>", "compiling mutants of each module, drawn at random", positiveInteger, 15)
  .option("--all", "every mutant")
  .option("--seed <n>", "of the draw", integer, 1)
  .option("--survivors <file>", "only the mutants that survived in a report of --json")
  .option("--list", "print the mutants and run nothing")
  .option("--json <file>", "write every verdict")
  .parse();
const options = program.opts<{
  count: number;
  all?: boolean;
  seed: number;
  survivors?: string;
  list?: boolean;
  json?: string;
}>();
const modules = program.processedArgs[0] as string[];
const explained: Explained = JSON.parse(readFileSync(`${root}test/mutation/explained.json`, "utf8"));
const wanted: Judged[] | null = options.survivors
  ? JSON.parse(readFileSync(options.survivors, "utf8")).filter(
      ({ outcome, why }: Judged) => outcome === "survived" && !why,
    )
  : null;

const files = new Map(shaderFiles().map((file) => [file.name, file]));
const textOf = (module: string) => files.get(module)!.text;

/** The mutants of a module in the order in which they are tried. */
function drawn(module: string): Mutant[] {
  const all = mutantsOf(module, textOf(module));
  if (wanted) return all.filter((mutant) => wanted.some((one) => sameChange(one, mutant)));
  if (options.all) return all;
  return new Random(`${module} ${options.seed}`).shuffle(all);
}

function describe({ module, line, kind, fn, before, after }: Judged | Mutant): string {
  return `shaders/${files.get(module)!.path}:${line} ${kind}${fn ? ` in ${fn}` : ""}\n    − ${before}\n    + ${after}`;
}

const unknown = modules.filter((module) => !(module in testsOf));
if (unknown.length > 0) {
  program.error(`mutate: no module ${unknown.join(", ")}; there are ${[...files.keys()].join(", ")}`);
}

const session = new Session();
const verdicts: Judged[] = [];
console.log(`mutate: seed ${options.seed}, adapter ${process.env.FUSENORM_ADAPTER}`);
try {
  for (const module of modules) {
    let valid = 0;
    for (const mutant of drawn(module)) {
      if (!options.all && !wanted && valid === options.count) break;
      if (options.list) {
        console.log(describe(mutant));
        valid += 1;
        continue;
      }
      const { edit: _, ...what } = mutant;
      const verdict = await session.judge(mutant, mutated(textOf(module), mutant), testsOf[module]!);
      const why = verdict.outcome === "survived" ? (verdict.why ?? explanation(explained, mutant)) : null;
      verdicts.push({ ...what, ...verdict, why });
      if (verdict.outcome !== "invalid" && !verdict.why) valid += 1;
      const note = why ? `survived, explained: ${why}` : verdict.outcome;
      console.log(`${describe(mutant)}\n    ${note} ${verdict.by} (${(verdict.ms / 1000).toFixed(1)} s)`);
      // After each, so that an interrupted run leaves what it found.
      if (options.json) writeFileSync(options.json, `${JSON.stringify(verdicts, null, 1)}\n`);
    }
  }
} finally {
  await session.close();
}
if (!options.list) report();

function report(): void {
  const tally = (of: Judged[]) => {
    const count = (outcome: Verdict["outcome"]) => of.filter((one) => one.outcome === outcome).length;
    const explainedCount = of.filter(({ why }) => why).length;
    const killed = count("killed") + count("timeout");
    const survived = count("survived") - explainedCount;
    return {
      made: of.length,
      invalid: count("invalid"),
      killed,
      "of these by time": count("timeout"),
      explained: explainedCount,
      survived,
      score: killed + survived === 0 ? "–" : `${Math.floor((100 * killed) / (killed + survived))} %`,
    };
  };
  const rows = modules.map((module) => [module, tally(verdicts.filter((one) => one.module === module))]);
  console.table(Object.fromEntries([...rows, ["all", tally(verdicts)]]));
  const survivors = verdicts.filter(({ outcome, why }) => outcome === "survived" && !why);
  console.log(survivors.length === 0 ? "no survivors" : `survivors:\n${survivors.map(describe).join("\n")}`);
  process.exitCode = survivors.length > 0 ? 1 : 0;
}
