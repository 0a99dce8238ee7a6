// The code of the README and the guides: TypeScript is type-checked and run, commands are looked up. A comment before a block says
// what holds for it: `<!-- given: gpu, model -->` imports these names from given.ts, `<!-- checked only: why -->` type-checks it
// without running it, `<!-- not run: why -->` leaves it out. The reasons are in the names of the tests.

import { execFileSync, spawnSync } from "node:child_process";
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { beforeAll, describe, expect, it } from "vitest";

const root = fileURLToPath(new URL("../../", import.meta.url));
const folder = `${root}runs/docs/`;

interface Block {
  page: string;
  line: number;
  language: string;
  code: string;
  /** From the comment before it. */
  marker: string;
  reason: string;
}

function blocksOf(page: string): Block[] {
  const text = readFileSync(root + page, "utf8");
  const fence = /(?:^<!-- (given|checked only|not run): (.*?) -->\n+)?^```(\w+).*\n([\s\S]*?)^```$/gm;
  return [...text.matchAll(fence)].map((match) => ({
    page,
    line: text.slice(0, match.index).split("\n").length,
    marker: match[1] ?? "",
    reason: match[2] ?? "",
    language: match[3]!,
    code: match[4]!,
  }));
}

const pages = ["docs", "docs/guide"].flatMap((under) =>
  readdirSync(root + under)
    .filter((name) => name.endsWith(".md"))
    .map((name) => `${under}/${name}`),
);
const blocks = ["README.md", "CONTRIBUTING.md", "bench/README.md", ...pages].flatMap(blocksOf);
const nameOf = ({ page, line, marker, reason }: Block) =>
  `${page}:${line}${marker ? `, ${marker}: ${reason}` : ""}`;
const moduleOf = ({ page, line }: Block) => `${page.replaceAll(/\W+/g, "-")}-${line}.ts`;
const typescript = blocks.filter(({ language }) => language === "ts" || language === "js");
const checked = typescript.filter(({ marker }) => marker !== "not run");

/** Where `fusenorm` is a dependency, these are its entries. */
function inCheckout(code: string): string {
  return code
    .replaceAll('from "fusenorm/onnx"', 'from "../../src/onnx/index.ts"')
    .replaceAll('from "fusenorm/node"', 'from "../../src/node/index.ts"')
    .replaceAll('from "fusenorm"', 'from "../../src/index.ts"');
}

beforeAll(() => {
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  for (const block of checked) {
    const given =
      block.marker === "given"
        ? `import { ${block.reason} } from "../../test/docs/given.ts";\n`
        : "export {};\n";
    writeFileSync(folder + moduleOf(block), given + inCheckout(block.code));
  }
  const compilerOptions = { noUnusedLocals: false, noUnusedParameters: false };
  writeFileSync(
    `${folder}tsconfig.json`,
    JSON.stringify({ extends: "../../tsconfig.json", compilerOptions, include: ["*.ts"], exclude: [] }),
  );
});

it("the TypeScript of the guides compiles", () => {
  const { stdout, stderr } = spawnSync(`${root}node_modules/.bin/tsc`, ["-p", folder], { encoding: "utf8" });
  expect(stdout + stderr).toBe("");
});

describe("blocks of TypeScript", () => {
  for (const block of typescript) {
    if (block.marker === "not run" || block.marker === "checked only") it.skip(nameOf(block), () => {});
    else {
      it(nameOf(block), async () => {
        await import(/* @vite-ignore */ folder + moduleOf(block));
      });
    }
  }
});

describe("commands", () => {
  const { scripts } = JSON.parse(readFileSync(`${root}package.json`, "utf8"));
  const helps = new Map<string, string>();
  const help = (command: string) => {
    if (!helps.has(command)) {
      const args = ["src/cli/main.ts", ...command.split(" "), "--help"];
      helps.set(command, execFileSync(`${root}node_modules/.bin/tsx`, args, { cwd: root, encoding: "utf8" }));
    }
    return helps.get(command)!;
  };

  /** What is wrong with one command; null if nothing is. */
  function fault(line: string): string | null {
    const own = /^(?:npx fusenorm-cli|fusenorm|npm run (?:-s )?fusenorm --) (data \w+|\w+)(.*)$/.exec(line);
    if (own) {
      const text = help(own[1]!);
      const unknown = [...own[2]!.matchAll(/(?:^| )(--[a-z-]+)/g)].find(
        ([, option]) => !text.includes(`${option}`),
      );
      return unknown ? `fusenorm ${own[1]} has no ${unknown[1]}` : null;
    }
    const script = /^npm run (?:-s )?([\w:]+)/.exec(line);
    if (script) return Object.hasOwn(scripts, script[1]!) ? null : `there is no script ${script[1]}`;
    return /^(?:npm (?:ci|start|test|install)|node|npx|deno|cd|cp) ?/.test(line)
      ? null
      : "no command that is known";
  }

  for (const block of blocks.filter(({ language }) => language === "sh")) {
    it(nameOf(block), () => {
      const lines = block.code.split(/\n|&&/).map((line) =>
        line
          .replace(/(^|\s+)#.*$/, "")
          .replaceAll(/\b[A-Z_]+=\S+ /g, "")
          .trim(),
      );
      const faults = lines.filter(Boolean).flatMap((line) => {
        const wrong = fault(line);
        return wrong ? [`${line}: ${wrong}`] : [];
      });
      expect(faults).toEqual([]);
    });
  }
});
