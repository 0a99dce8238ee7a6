// The linker of shaders/: reads the directives of its files, checks that every combination of parts makes a whole module,
// and says what each module binds.
//
//   //#import moments                        joins another file to the module, once
//   //#hole input: conv2d_input_plain        a part that is chosen at run time, and the one that stands there otherwise
//   //#fills input as x_affine               this file is a part for such holes; what it is called in a module's name
//
// A file with entry points, its own or imported ones, is a module, unless another file imports it: a long module is made of several.
// All files of a module share one scope, as WGSL has only one.

import {
  type Layout,
  type Reflection,
  readSource,
  reflect,
  type Source,
  slotsOf,
} from "../src/device/reflect.ts";
import type { ShaderFile } from "./shader-files.ts";
import { predeclared } from "./wgsl-names.ts";

/** What is wrong with the shaders, where: `shaders/softmax/softmax.wgsl:12: ...`. */
export class LinkError extends Error {
  override name = "LinkError";
}

interface File extends ShaderFile {
  source: Source;
  imports: { name: string; line: number }[];
  holes: { name: string; part: string; line: number }[];
  fills: { hole: string; label: string; line: number } | null;
}

export interface Linked {
  /** Files of a module or a part, in the order in which they are joined. */
  files: string[];
  /** The default part of each hole. */
  holes: Record<string, string>;
}

export interface Library {
  /** The text of each file, without comments. */
  texts: Record<string, string>;
  /** Where it stands below shaders/. */
  paths: Record<string, string>;
  reflections: Record<string, Reflection>;
  modules: Record<string, Linked>;
  parts: Record<string, { hole: string; label: string; files: string[] }>;
}

/** @throws LinkError */
export function linkLibrary(shaders: readonly ShaderFile[]): Library {
  const files = new Map(shaders.map((file) => [file.name, readFile(file)]));
  const library: Library = { texts: {}, paths: {}, reflections: {}, modules: {}, parts: {} };
  for (const file of files.values()) {
    library.texts[file.name] = withoutComments(file.text);
    library.paths[file.name] = file.path;
    const joined = joinedFiles(files, file);
    if (file.fills) {
      if (joined.some(({ holes }) => holes.length > 0))
        throw at(file, file.fills.line, "a part can't have holes of its own");
      library.parts[file.name] = {
        hole: file.fills.hole,
        label: file.fills.label,
        files: joined.map(({ name }) => name),
      };
    }
  }
  const filled = new Set<string>();
  /** By file, what is linked with it somewhere. */
  const neighbours = new Map<File, Set<File>>([...files.values()].map((file) => [file, new Set()]));
  const entryPoints: [owner: File, all: readonly File[]][] = [];
  const imported = new Set([...files.values()].flatMap(({ imports }) => imports.map(({ name }) => name)));
  for (const file of files.values()) {
    const joined = joinedFiles(files, file);
    if (joined.every(({ source }) => source.entries.length === 0)) continue;
    if (file.fills) throw at(file, file.fills.line, "a part can't have entry points");
    if (imported.has(file.name)) continue;
    const holes: Record<string, string> = {};
    for (const owner of joined) {
      for (const hole of owner.holes) {
        if (hole.name in holes) throw at(owner, hole.line, `hole ${hole.name} is there twice`);
        const part = library.parts[hole.part];
        if (!part) {
          const why = files.has(hole.part) ? `says no //#fills ${hole.name}` : "does not exist";
          throw at(owner, hole.line, `the part ${hole.part} ${why}`);
        }
        if (part.hole !== hole.name)
          throw at(owner, hole.line, `${hole.part} fills ${part.hole}, not ${hole.name}`);
        holes[hole.name] = hole.part;
        filled.add(hole.name);
      }
    }
    library.modules[file.name] = { files: joined.map(({ name }) => name), holes };
    for (const combination of combinations(library, holes)) {
      const all = [...joined];
      for (const part of combination) {
        for (const name of library.parts[part]!.files) {
          const one = files.get(name)!;
          if (!all.includes(one)) all.push(one);
        }
      }
      checkScope(all);
      for (const one of all) for (const other of all) if (other !== one) neighbours.get(one)!.add(other);
      for (const owner of joined) entryPoints.push([owner, all]);
    }
  }
  for (const { fills, ...file } of files.values()) {
    if (fills && !filled.has(fills.hole)) throw at(file, fills.line, `no module has a hole ${fills.hole}`);
  }
  const used = new Set(Object.values(library.modules).flatMap((module) => module.files));
  for (const part of Object.values(library.parts)) for (const name of part.files) used.add(name);
  for (const file of files.values()) {
    if (!used.has(file.name)) throw at(file, 1, "no module uses this file; import it, or delete it");
  }
  for (const file of files.values()) {
    const others = [...neighbours.get(file)!].map(({ source }) => source);
    library.reflections[file.name] = reflect(file.source, others);
  }
  library.reflections = withoutDeadEnds(library.reflections);
  for (const [file, all] of entryPoints) {
    for (const entry of file.source.entries) checkNumbers(file, all, library, entry);
  }
  return library;
}

/** Without the functions that lead to no binding, in whatever combination: nobody asks for more than what is bound. */
function withoutDeadEnds(reflections: Readonly<Record<string, Reflection>>): Record<string, Reflection> {
  const all = Object.entries(reflections);
  const leads = new Set(all.flatMap(([, { bindings }]) => Object.keys(bindings)));
  const calls = all.flatMap(([, { functions }]) => Object.entries(functions));
  for (let before = -1; before < leads.size; ) {
    before = leads.size;
    for (const [name, used] of calls) if (used.some((one) => leads.has(one))) leads.add(name);
  }
  const pruned = ({ functions, ...rest }: Reflection): Reflection => {
    const kept = Object.entries(functions).map(
      ([name, used]) => [name, used.filter((one) => leads.has(one))] as const,
    );
    return { ...rest, functions: Object.fromEntries(kept.filter(([, used]) => used.length > 0)) };
  };
  return Object.fromEntries(all.map(([name, reflection]) => [name, pruned(reflection)]));
}

/** Every choice of parts for `holes`: lists of names. */
export function combinations(library: Library, holes: Readonly<Record<string, string>>): string[][] {
  let all: string[][] = [[]];
  for (const [hole, ordinary] of Object.entries(holes)) {
    const others = Object.keys(library.parts).filter((name) => library.parts[name]!.hole === hole);
    const choices = [ordinary, ...others.filter((name) => name !== ordinary)];
    all = all.flatMap((chosen) => choices.map((part) => [...chosen, part]));
  }
  return all;
}

function at(file: Pick<File, "path">, line: number, message: string): LinkError {
  return new LinkError(`shaders/${file.path}:${line}: ${message}`);
}

function lineAt(text: string, index: number): number {
  return text.slice(0, index).split("\n").length;
}

function readFile(shader: ShaderFile): File {
  const { text } = shader;
  const file: File = { ...shader, source: readSource(text), imports: [], holes: [], fills: null };
  if (!text.endsWith("\n")) throw at(file, text.split("\n").length, "expected a line break at the end");
  text.split("\n").forEach((content, i) => {
    const line = i + 1;
    const match = /^\s*\/\/#\s*(\w*)\s*(.*?)\s*$/.exec(content);
    if (!match) return;
    const [, directive, rest] = match as unknown as [string, string, string];
    const words = {
      import: /^([\w/]+)$/.exec(rest),
      hole: /^(\w+)\s*:\s*([\w/]+)$/.exec(rest),
      fills: /^(\w+)\s+as\s+(\w+)$/.exec(rest),
    }[directive];
    if (directive === "import" && words) file.imports.push({ name: words[1]!, line });
    else if (directive === "hole" && words) file.holes.push({ name: words[1]!, part: words[2]!, line });
    else if (directive === "fills" && words && !file.fills)
      file.fills = { hole: words[1]!, label: words[2]!, line };
    else {
      throw at(
        file,
        line,
        `can't read ${content.trim()}; expected //#import file, //#hole name: part, or (once) //#fills hole as label`,
      );
    }
  });
  return file;
}

/** `file` and what it imports, each once. */
function joinedFiles(files: ReadonlyMap<string, File>, file: File): File[] {
  const joined: File[] = [];
  const visit = (one: File, path: readonly File[]) => {
    if (!joined.includes(one)) joined.push(one);
    else if (!path.includes(one)) return;
    for (const { name, line } of one.imports) {
      const next = files.get(name);
      if (!next) throw at(one, line, `there is no ${name}.wgsl in shaders/ to import`);
      if (next === one || path.includes(next)) {
        throw at(
          one,
          line,
          `imports go in a circle: ${[...path, one, next].map((each) => each.name).join(" → ")}`,
        );
      }
      if (next.fills) throw at(one, line, `${name} is a part; name it in a hole`);
      visit(next, [...path, one]);
    }
  };
  visit(file, []);
  // Directives of WGSL have to stand before everything else.
  for (const one of joined.slice(1)) {
    const index = one.text.search(/^(enable|requires|diagnostic)\b/m);
    if (index >= 0) throw at(one, lineAt(one.text, index), "only a module can enable an extension");
  }
  return joined;
}

/** Every name is declared, once. */
function checkScope(files: readonly File[]): void {
  const owners = new Map<string, File>();
  for (const file of files) {
    for (const [name, index] of file.source.declared) {
      const owner = owners.get(name);
      if (owner) {
        const line = lineAt(file.text, index);
        throw at(file, line, `${name} is declared in shaders/${owner.path} already, which is linked with it`);
      }
      owners.set(name, file);
    }
  }
  for (const file of files) {
    for (const uses of file.source.uses.values()) {
      for (const { name, at: index } of uses) {
        if (owners.has(name) || predeclared.has(name)) continue;
        const chain = files.map((one) => one.name).join(", ");
        throw at(file, lineAt(file.text, index), `${name} is not declared, nor imported (linked: ${chain})`);
      }
    }
  }
}

/** An entry point has one name for each binding number. */
function checkNumbers(file: File, files: readonly File[], library: Library, entry: string): void {
  const slots = slotsOf(
    files.map(({ name }) => library.reflections[name]!),
    entry,
  )!;
  for (const [i, slot] of slots.entries()) {
    const next = slots[i + 1];
    if (next?.binding === slot.binding) {
      const line = lineAt(file.text, file.source.declared.get(entry)!);
      throw at(file, line, `${entry} uses ${slot.name} and ${next.name}, both @binding(${slot.binding})`);
    }
  }
}

/** The same lines, without what only readers need: comments and indentation. */
function withoutComments(text: string): string {
  return text.replace(/[ \t]*\/\/[^\n]*/g, "").replace(/^[ \t]+/gm, "");
}

/** Modules as they ship: whole, with comments but without directives, the parts in their holes being the default ones. */
export function wholeModules(
  shaders: readonly ShaderFile[],
  { modules, parts }: Library,
): Record<string, string> {
  const textOf = (name: string) =>
    shaders.find((file) => file.name === name)!.text.replace(/^[ \t]*\/\/#.*\n(?:\n(?=\n))?/gm, "");
  const whole: Record<string, string> = {};
  for (const [name, { files, holes }] of Object.entries(modules)) {
    const all = new Set(files);
    for (const part of Object.values(holes)) for (const file of parts[part]!.files) all.add(file);
    const [first, ...rest] = [...all];
    whole[name] = [
      textOf(first!),
      ...rest.map((file) => `\n// --- ${file}.wgsl ---\n\n${textOf(file)}`),
    ].join("");
  }
  return whole;
}

// --- what is generated ---------------------------------------------------------------------------------------

/** What is written into src/generated/: by file. */
export function generate(library: Library): { "wgsl.ts": string; "shaders.ts": string } {
  const { texts, paths, reflections, modules, parts } = library;
  const names = Object.keys(texts);
  const files = names.map((name) => {
    const file = { name, path: paths[name], text: texts[name], reflection: reflections[name] };
    return `export const ${name}: ShaderFile = ${JSON.stringify(file)};\n`;
  });
  const list = (some: readonly string[]) => `[${some.map((name) => `wgsl.${name}`).join(", ")}]`;
  const exported = Object.entries(modules).map(([name, module]) => {
    const holes = Object.entries(module.holes).map(([hole, ordinary]) => {
      const fitting = Object.entries(parts).filter(([, part]) => part.hole === hole);
      const each = fitting.map(
        ([one, part]) => `${one}: { label: "${part.label}", files: ${list(part.files)} }`,
      );
      return `${hole}: { ordinary: "${ordinary}", parts: { ${each.join(", ")} } }`;
    });
    const fields = `name: "${name}", files: ${list(module.files)}, holes: { ${holes.join(", ")} }`;
    return `/** The module dist/shaders/${name}.wgsl: its kernels, to link and dispatch. */\nexport const ${name}: ShaderModule<"${name}"> = { ${fields} };\n`;
  });
  const types = Object.entries(modules).map(([name, module]) => moduleType(library, name, module));
  const head = "// Written by scripts/embed-shaders.ts from shaders/: nothing here is to be edited.\n";
  return {
    "wgsl.ts": `${head}// The files: WGSL without comments, at the lines of the file.
import type { ShaderFile } from "../device/link.ts";

${files.join("")}`,
    "shaders.ts": `${head}// The modules: their files, and what may stand in their holes. A module that is not imported is in no bundle.
import type { ShaderModule } from "../device/link.ts";
import * as wgsl from "./wgsl.ts";

${exported.join("")}
/** The name of a module. */
export type ShaderName = keyof Kernels<unknown>;
/** Which part stands in each hole of a module. */
export type PartsOf<S extends ShaderName> = Kernels<unknown>[S]["parts"];

/** By module: the override constants, the parts of each hole, and what each entry point binds. T: a buffer. */
export interface Kernels<T> {
${types.join("")}}
`,
  };
}

function moduleType(library: Library, name: string, { files, holes }: Linked): string {
  const { reflections, parts } = library;
  const choices = Object.keys(holes).map((hole) => {
    const names = Object.keys(parts).filter((part) => parts[part]!.hole === hole);
    return `${hole}: ${union(names)}`;
  });
  const linked = combinations(library, holes).map((combination) => {
    const all = [...new Set([...files, ...combination.flatMap((part) => parts[part]!.files)])];
    return all.map((file) => reflections[file]!);
  });
  const overrides = [...new Set(linked.flat().flatMap((one) => one.overrides))];
  const values = reflections[name]!.overrides.length > 0 ? Object.keys(reflections[name]!.values) : [];
  const entries = files
    .flatMap((file) => reflections[file]!.entries)
    .map((entry) => {
      const [ordinary, ...others] = linked.map((all) => slotsOf(all, entry)!);
      // What only some parts bind is theirs to say.
      const always = ordinary!.filter((slot) =>
        others.every((slots) => slots.some((other) => other.name === slot.name)),
      );
      const types = always.map(({ name: binding, access, layout }) => {
        return `${binding}: ${access === "uniform" ? uniformType(layout) : "T"}`;
      });
      return `      ${entry}: { ${types.join("; ")} };\n`;
    });
  return `  ${JSON.stringify(name)}: {
    constants: ${union(overrides)};
    values: ${union(values)};
    parts: ${choices.length > 0 ? `{ ${choices.join("; ")} }` : "Record<string, never>"};
    entries: {
${entries.join("")}    };
  };
`;
}

function union(names: readonly string[]): string {
  return names.length === 0 ? "never" : names.map((name) => JSON.stringify(name)).join(" | ");
}

function uniformType(layout: Layout | null): string {
  if (!layout) return "ArrayBuffer | ArrayBufferView";
  const fields = layout.fields.map(({ name, components, count }) => {
    return `${name}: ${components * count === 1 ? "number" : "ArrayLike<number>"}`;
  });
  return `{ ${fields.join("; ")} }`;
}
