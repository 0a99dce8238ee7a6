// Modules of WGSL from the files of shaders/: what a module imports, and the parts in its holes, joined to one text.

import {
  modules,
  type PartsOf,
  parts,
  paths,
  reflections,
  type ShaderName,
  shaders,
} from "../generated/shaders.ts";
import { type Reflection, readSource, reflect, type Slot, slotsOf } from "./reflect.ts";

/** WGSL with its name, and what it says of itself. */
export class Module {
  private readonly slots = new Map<string, readonly Slot[] | null>();
  private own: readonly Reflection[] | null = null;

  constructor(
    readonly name: string,
    readonly source: string,
    /** The files of shaders/ that it is linked from, in order, each with the line at which it begins; none for users' own. */
    readonly files: readonly { name: string; line: number }[] = [],
  ) {}

  get isLinked(): boolean {
    return this.files.length > 0;
  }

  /** What it declares, file by file. */
  get reflections(): readonly Reflection[] {
    this.own ??= this.isLinked
      ? this.files.map(({ name }) => reflections[name]!)
      : [reflect(readSource(this.source))];
    return this.own;
  }

  /** What an entry point binds; null where there is no such entry point. */
  slotsOf(entry: string): readonly Slot[] | null {
    let slots = this.slots.get(entry);
    if (slots === undefined) {
      slots = slotsOf(this.reflections, entry);
      this.slots.set(entry, slots);
    }
    return slots;
  }

  /** The file below shaders/, and the line in it, that line `line` of a linked text is from. */
  placeOf(line: number): { path: string; line: number } {
    const file = this.files.findLast((one) => one.line <= line) ?? this.files[0]!;
    return { path: paths[file.name]!, line: line - file.line + 1 };
  }
}

/** A module of the package, perhaps with other parts in its holes than its own text names. */
export interface LinkedShader<S extends ShaderName = ShaderName> extends Module {
  /** For the compiler alone: which module. */
  readonly of?: S;
}

const linked = new Map<string, Module>();

/** The module `name` with `chosen` in its holes: a part by hole, and the default where none is given. */
export function link<S extends ShaderName>(name: S, chosen?: Partial<PartsOf<S>>): LinkedShader<S> {
  let key: string = name;
  for (const hole in chosen) key += `+${hole}=${chosen[hole]}`;
  let module = linked.get(key);
  if (!module) {
    module = join(name, (chosen ?? {}) as Readonly<Record<string, string>>);
    linked.set(key, module);
  }
  return module;
}

function join(name: ShaderName, chosen: Readonly<Record<string, string>>): Module {
  const { files, holes }: { files: readonly string[]; holes: Readonly<Record<string, string>> } =
    modules[name];
  const all = new Set(files);
  const labels: string[] = [];
  for (const [hole, ordinary] of Object.entries(holes)) {
    const part = chosen[hole] ?? ordinary;
    if (part !== ordinary) labels.push(parts[part]!.label);
    for (const file of parts[part]!.files) all.add(file);
  }
  let line = 1;
  let source = "";
  const places = [...all].map((file) => {
    const place = { name: file, line };
    source += shaders[file]!;
    line += shaders[file]!.split("\n").length - 1;
    return place;
  });
  return new Module([name, ...labels].join("+"), source, places);
}
