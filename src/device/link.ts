// Modules of WGSL from the files of shaders/: what a module imports, and the parts in its holes, joined to one text.

import type { PartsOf, ShaderName } from "../generated/shaders.ts";
import { type Reflection, type Slot, slotsOf } from "./reflect.ts";

/** A file of shaders/. */
export interface ShaderFile {
  readonly name: string;
  /** Below shaders/. */
  readonly path: string;
  /** Without comments, at the lines of the file. */
  readonly text: string;
  readonly reflection: Reflection;
}

/** One of the package's modules, as src/generated/shaders.ts has them. */
export interface ShaderModule<S extends ShaderName = ShaderName> {
  readonly name: S;
  readonly files: readonly ShaderFile[];
  readonly holes: Readonly<Record<string, Hole>>;
}

interface Hole {
  /** The part that stands there unless another one is chosen. */
  readonly ordinary: string;
  readonly parts: Readonly<Record<string, { readonly label: string; readonly files: readonly ShaderFile[] }>>;
}

/** WGSL with its name, and what it says of itself. */
export class Module {
  private readonly slots = new Map<string, readonly Slot[] | null>();
  private known: readonly Reflection[] | null = null;

  constructor(
    readonly name: string,
    readonly source: string,
    /** The files of shaders/ that it is linked from, in order, each with the line at which it begins; none for users' own. */
    readonly files: readonly { file: ShaderFile; line: number }[],
    private readonly reflect: () => readonly Reflection[],
  ) {}

  get isLinked(): boolean {
    return this.files.length > 0;
  }

  /** What it declares, file by file. */
  get reflections(): readonly Reflection[] {
    this.known ??= this.reflect();
    return this.known;
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
    const place = this.files.findLast((one) => one.line <= line) ?? this.files[0]!;
    return { path: place.file.path, line: line - place.line + 1 };
  }
}

/** A module of the package, perhaps with other parts in its holes than its own text names. */
export interface LinkedShader<S extends ShaderName = ShaderName> extends Module {
  /** For the compiler alone: which module. */
  readonly of?: S;
}

const linked = new WeakMap<ShaderModule, Map<string, Module>>();

/** The module with `chosen` in its holes: a part by hole, and the ordinary one where none is given. */
export function link<S extends ShaderName>(
  module: ShaderModule<S>,
  chosen?: Partial<PartsOf<S>>,
): LinkedShader<S> {
  let known = linked.get(module);
  if (!known) {
    known = new Map();
    linked.set(module, known);
  }
  let key = "";
  for (const hole in chosen) key += `+${hole}=${chosen[hole]}`;
  let found = known.get(key);
  if (!found) {
    found = join(module, (chosen ?? {}) as Readonly<Record<string, string>>);
    known.set(key, found);
  }
  return found;
}

function join({ name, files, holes }: ShaderModule, chosen: Readonly<Record<string, string>>): Module {
  const all = new Set(files);
  const labels: string[] = [];
  for (const [hole, { ordinary, parts }] of Object.entries(holes)) {
    const part = chosen[hole] ?? ordinary;
    if (part !== ordinary) labels.push(parts[part]!.label);
    for (const file of parts[part]!.files) all.add(file);
  }
  let line = 1;
  let source = "";
  const places = [...all].map((file) => {
    const place = { file, line };
    source += file.text;
    line += file.text.split("\n").length - 1;
    return place;
  });
  const reflections = () => places.map(({ file }) => file.reflection);
  return new Module([name, ...labels].join("+"), source, places, reflections);
}
