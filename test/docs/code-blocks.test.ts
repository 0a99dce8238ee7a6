// The code of the README and the guides: TypeScript is type-checked and run, WGSL is put into a copy of the sources and run there,
// commands are looked up, and run where that costs nothing. A comment before a block says
// what holds for it: `<!-- given: gpu, model -->` imports these names from given.ts, `<!-- checked only: why -->` type-checks it
// without running it, `<!-- not run: why -->` leaves it out. The reasons are in the names of the tests.

import { execFileSync, spawnSync } from "node:child_process";
import { cpSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { beforeAll, describe, expect, it } from "vitest";
import { normals, relativeError } from "../helpers/numbers.ts";

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

/** Blocks of WGSL, which stand within lists. */
const shaders = pages.flatMap((page) =>
  [...readFileSync(root + page, "utf8").matchAll(/^ *```wgsl\n([\s\S]*?)^ *```$/gm)].map((match) => ({
    page,
    code: match[1]!.replaceAll(/^ {3}/gm, ""),
  })),
);

describe("an activation by the guide's steps", () => {
  it("is the only WGSL of its own in a block", () => {
    expect(shaders.map(({ page }) => page)).toEqual(["docs/guide/fused-op.md"]);
  });

  it("fuses into batch-norm, forward and backward", async () => {
    const [{ page, code }] = shaders as [(typeof shaders)[0]];
    const row = /^2\. A line in the table of `([\w/.-]+)`: `(.*)`\.$/m.exec(
      readFileSync(root + page, "utf8"),
    )!;
    const copy = `${root}runs/docs-checkout/`;
    rmSync(copy, { recursive: true, force: true });
    for (const part of ["src", "shaders", "scripts"]) cpSync(root + part, copy + part, { recursive: true });
    const label = /^\/\/#fills activation as (\w+)$/m.exec(code)![1]!;
    writeFileSync(`${copy}shaders/activation/activation_${label}.wgsl`, code);
    const table = readFileSync(copy + row[1], "utf8");
    const end = "} as const satisfies Record<string, ActivationPart>;";
    expect(table).toContain(end);
    writeFileSync(copy + row[1], table.replace(end, `  ${row[2]},\n${end}`));
    execFileSync(`${root}node_modules/.bin/tsx`, [`${copy}scripts/embed-shaders.ts`], { cwd: copy });

    const { batchNorm } = (await import(
      /* @vite-ignore */ `${copy}src/index.ts`
    )) as typeof import("../../src/index.ts");
    const { requestGpu } = (await import(
      /* @vite-ignore */ `${copy}src/node/index.ts`
    )) as typeof import("../../src/node/index.ts");
    const gpu = await requestGpu();
    const [rows, channels] = [7, 3];
    const x = normals(rows * channels, 1, 0.5, 2);
    const dy = normals(rows * channels, 2);
    const at = (values: ArrayLike<number>, c: number) =>
      Array.from({ length: rows }, (_, i) => values[i * channels + c]!);
    const mean = (values: number[]) => values.reduce((a, b) => a + b, 0) / values.length;
    const expected = { y: new Float64Array(x.length), dx: new Float64Array(x.length) };
    for (let c = 0; c < channels; c += 1) {
      const column = at(x, c);
      const rstd = 1 / Math.sqrt(mean(column.map((v) => (v - mean(column)) ** 2)) + 1e-5);
      const z = column.map((v) => (v - mean(column)) * rstd);
      const dz = at(dy, c).map((d, i) => d / (1 + Math.abs(z[i]!)) ** 2);
      const along = mean(dz.map((d, i) => d * z[i]!));
      for (const [i, v] of z.entries()) {
        expected.y[i * channels + c] = v / (1 + Math.abs(v));
        expected.dx[i * channels + c] = rstd * (dz[i]! - mean(dz) - v * along);
      }
    }
    const input = gpu.tensor(x, [rows, 1, 1, channels], { requiresGrad: true });
    const [gamma, beta] = [gpu.full([channels], 1), gpu.full([channels], 0)];
    const activation = label as "relu";
    let y = input;
    const notes = gpu.explain(() => {
      y = batchNorm(input, gamma, beta, { training: true, activation }).materialize();
    });
    expect(notes.map(({ kernel }) => kernel).join()).toContain(`batch_norm+${label}.`);
    y.backward(gpu.tensor(dy, [rows, 1, 1, channels]));
    expect(relativeError(await y.read(), expected.y)).toBeLessThan(1e-5);
    expect(relativeError(await input.grad!.read(), expected.dx)).toBeLessThan(1e-4);
    gpu.destroy();
    rmSync(copy, { recursive: true, force: true });
  });
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

  /** Lines that only tell something: they are run. */
  const telling = /^(?:npx fusenorm-cli|fusenorm|npm run (?:-s )?fusenorm --) (doctor|.*--help)$/;
  const tell = (args: string) => {
    const command = ["src/cli/main.ts", ...args.split(" ")];
    return execFileSync(`${root}node_modules/.bin/tsx`, command, { cwd: root, encoding: "utf8" });
  };

  it("that only tell something are there", () => {
    expect(
      blocks.some(({ language, code }) => language === "sh" && /^npx fusenorm-cli doctor/m.test(code)),
    ).toBe(true);
  });

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
      for (const line of lines) {
        const args = telling.exec(line)?.[1];
        if (args) expect(tell(args)).toMatch(args === "doctor" ? /adapter/i : /Usage/);
      }
    });
  }
});
