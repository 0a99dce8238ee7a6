// Builds the documentation site into site/dist/site: the reference out of docstrings (typedoc; an export without one fails), the
// examples as pages, with their code, then all pages (VitePress), then the reports of `docs/results` and the demo beside them where `npm run demo:build` has left one. `tsx scripts/docs.ts dev` serves it instead.

import { spawnSync } from "node:child_process";
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { extname, join } from "node:path";
import { root } from "./lib/package.ts";

const out = join(root, "site/dist/site");
const base = process.env.SITE_BASE ?? "/";

function run(command: string, ...args: string[]): void {
  const { status, error } = spawnSync(command, args, { cwd: root, stdio: "inherit" });
  if (error) throw error;
  if (status !== 0) process.exit(status ?? 1);
}

/** Addresses within the site that a page names and nothing answers to. VitePress itself looks at those in texts alone. */
function deadAddresses(page: string): string[] {
  const html = readFileSync(join(out, page), "utf8");
  const addresses = [...html.matchAll(/\b(?:href|src)="([^"#?]+)/g)].map(([, address]) => address!);
  return addresses
    .filter((address) => address.startsWith(base))
    .map((address) => decodeURI(address.slice(base.length)))
    .filter(
      (path) =>
        !["", ".html", "/index.html", "index.html"].some((ending) =>
          /\.\w+$/.test(path + ending) ? existsSync(join(out, path + ending)) : false,
        ),
    )
    .map((path) => `${page} names ${base}${path}, which is not there`);
}

/** Writes docs/examples: the index, and a page for each example, of its README and its files. */
function writeExamples(): void {
  const [from, to] = [join(root, "examples"), join(root, "docs/examples")];
  rmSync(to, { recursive: true, force: true });
  mkdirSync(to, { recursive: true });
  const folders = readdirSync(from, { withFileTypes: true }).filter((entry) => entry.isDirectory());
  const index = readFileSync(join(from, "README.md"), "utf8");
  writeFileSync(join(to, "index.md"), index.replaceAll(/\(([\w-]+)\/README\.md\)/g, "(./$1.md)"));
  for (const { name } of folders) {
    const files = readdirSync(join(from, name)).filter((file) => !file.endsWith(".md"));
    const code = files.map((file) => {
      const text = readFileSync(join(from, name, file), "utf8").trimEnd();
      return `## \`${file}\`\n\n\`\`\`${extname(file).slice(1)}\n${text}\n\`\`\`\n`;
    });
    const readme = readFileSync(join(from, name, "README.md"), "utf8");
    writeFileSync(join(to, `${name}.md`), [readme, ...code].join("\n"));
  }
}

/** Exports that the reference's lists show without a sentence, or with that of another: typedoc gives a class its parent's. */
function undescribed(): string[] {
  const api = join(root, "docs/api");
  const lists = readdirSync(api, { recursive: true, encoding: "utf8" }).filter((file) =>
    file.endsWith("index.md"),
  );
  return lists.flatMap((list) => {
    const of = new Map<string, string>();
    return [...readFileSync(join(api, list), "utf8").matchAll(/^\| \[(.+?)\]\(.+?\) \| (.+) \|$/gm)].flatMap(
      ([, name, text]) => {
        const other = of.get(text!);
        of.set(text!, name!);
        if (text === "-") return [`${list}: ${name} has no sentence in its docstring`];
        return other ? [`${list}: ${name} and ${other} have one sentence: give each its own docstring`] : [];
      },
    );
  });
}

/** Ends the build where anything is wrong. */
function refuse(faults: readonly string[]): void {
  for (const line of faults) console.error(line);
  if (faults.length > 0) process.exit(1);
}

writeExamples();
rmSync(join(root, "docs/api"), { recursive: true, force: true });
// The workspace's own TypeScript: that of the root has no interface for programs.
run(join(root, "site/node_modules/.bin/typedoc"), "--options", "site/typedoc.json");
refuse(undescribed());
if (process.argv[2] === "dev") run("npx", "vitepress", "dev", "site");
else {
  run("npx", "vitepress", "build", "site");
  const demo = join(root, "demo/dist");
  if (existsSync(join(demo, "index.html"))) cpSync(demo, join(out, "demo"), { recursive: true });
  for (const run of readdirSync(join(root, "docs/results"))) {
    const report = join(root, "docs/results", run, "report.html");
    if (existsSync(report)) cpSync(report, join(out, "results", run, "report.html"));
  }
  const pages = readdirSync(out, { recursive: true, encoding: "utf8" })
    .filter((file) => file.endsWith(".html"))
    .filter((page) => !page.startsWith("demo/") && !page.endsWith("/report.html"));
  refuse([...new Set(pages.flatMap(deadAddresses))]);
  console.log(`${pages.length} pages${existsSync(demo) ? " and the demo" : ""} in site/dist/site`);
}
