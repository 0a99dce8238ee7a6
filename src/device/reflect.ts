// What a WGSL source says of its bindings, override constants and uniform structs, without compiling it: read at build time
// for the package's own shaders (scripts/link-wgsl.ts), at run time for the sources that users bring.

export type Access = "read" | "read_write" | "uniform";

/** Of a uniform's field: `count` vectors of `components` numbers, each `stride` words after the one before it. */
export interface Field {
  readonly name: string;
  readonly type: "u32" | "i32" | "f32";
  /** In words from the start of the struct. */
  readonly offset: number;
  readonly components: number;
  readonly count: number;
  readonly stride: number;
}

/** How a uniform lies in memory. One that is no struct is a field without a name. */
export interface Layout {
  /** In words, a multiple of four. */
  readonly words: number;
  readonly fields: readonly Field[];
}

export interface BindingInfo {
  readonly binding: number;
  readonly access: Access;
  /** Of a uniform: the types of its struct's members, by name; of one that is no struct its own, without a name. */
  readonly members?: Readonly<Record<string, string>>;
}

/** What one WGSL file declares. */
export interface Reflection {
  /** Those of group 0. */
  readonly bindings: Readonly<Record<string, BindingInfo>>;
  readonly overrides: readonly string[];
  /** Its constants that are written as an integer. */
  readonly values: Readonly<Record<string, number>>;
  /** By function: the module's functions and bindings that it names. */
  readonly functions: Readonly<Record<string, readonly string[]>>;
  readonly entries: readonly string[];
}

/** A binding that an entry point uses. */
export interface Slot {
  readonly name: string;
  readonly binding: number;
  readonly access: Access;
  /** Of a uniform; null for a type that only bytes can fill. */
  readonly layout: Layout | null;
  /** Other names of the module for the same binding: views of it with other element types. */
  readonly aliases: readonly string[];
}

/** What `entry` uses, itself or through functions that it calls, by binding number. Null where there is no such entry point. */
export function slotsOf(files: readonly Reflection[], entry: string): Slot[] | null {
  if (!files.some(({ entries }) => entries.includes(entry))) return null;
  const used = new Set<string>();
  const waiting = [entry];
  for (let name = waiting.pop(); name !== undefined; name = waiting.pop()) {
    if (used.has(name)) continue;
    used.add(name);
    for (const { functions } of files) if (Object.hasOwn(functions, name)) waiting.push(...functions[name]!);
  }
  const all = files.flatMap(({ bindings }) => Object.entries(bindings));
  return all
    .filter(([name]) => used.has(name))
    .map(([name, info]) => ({
      name,
      binding: info.binding,
      access: info.access,
      layout: info.members ? layoutOf(info.members) : null,
      aliases: all
        .filter(([other, { binding, access }]) => {
          const view = access !== "uniform" && access === info.access;
          return view && other !== name && binding === info.binding;
        })
        .map(([other]) => other),
    }))
    .sort((a, b) => a.binding - b.binding);
}

// --- reading a source --------------------------------------------------------------------------------------

/** A name that is used, and where. */
export interface Use {
  readonly name: string;
  /** Index into the source. */
  readonly at: number;
}

/** A source as far as it can be read on its own. */
export interface Source {
  /** What is declared at module scope, and where. */
  readonly declared: ReadonlyMap<string, number>;
  readonly bindings: ReadonlyMap<string, { binding: number; access: Access; type: string }>;
  readonly overrides: readonly string[];
  readonly values: ReadonlyMap<string, number>;
  readonly structs: ReadonlyMap<string, readonly Member[]>;
  /** By declaration at module scope: the names in it that it does not declare itself. */
  readonly uses: ReadonlyMap<string, readonly Use[]>;
  readonly functions: ReadonlySet<string>;
  readonly entries: readonly string[];
}

interface Member {
  name: string;
  type: string;
}

/** Reads `source`: names, never types; what is wrong in it is left for the compiler to say. */
export function readSource(source: string): Source {
  const { texts, places } = tokens(source);
  const declared = new Map<string, number>();
  const bindings = new Map<string, { binding: number; access: Access; type: string }>();
  const overrides: string[] = [];
  const values = new Map<string, number>();
  const structs = new Map<string, Member[]>();
  const uses = new Map<string, Use[]>();
  const functions = new Set<string>();
  const entries: string[] = [];
  let at = 0;

  const isName = (i: number) => /^[A-Za-z_]/.test(texts[i] ?? "");
  /** The token after the bracket that closes the one at `i`. */
  const after = (i: number, open: string, close: string) => {
    for (let depth = 0; i < texts.length; i += 1) {
      if (texts[i] === open) depth += 1;
      else if (texts[i] === close) {
        depth -= 1;
        if (depth === 0) return i + 1;
      }
    }
    return i;
  };
  const until = (i: number, end: string) => {
    while (i < texts.length && texts[i] !== end) i += 1;
    return i;
  };
  /** The names from `start` to before `end`, but for those of members, of attributes, and of locals. */
  const namesIn = (start: number, end: number, locals: Set<string>): Use[] => {
    const found: Use[] = [];
    const scopes = [locals];
    const fors: number[] = []; // depths of blocks at which a `for` ends
    const isLocal = (name: string) => scopes.some((scope) => scope.has(name));
    let pending: string | null = null; // declared by the statement, known from its end on
    for (let i = start; i < end; i += 1) {
      const text = texts[i]!;
      if (text === "@") {
        i += 1;
        if (texts[i + 1] === "(") i = after(i + 1, "(", ")") - 1;
      } else if (text === "{") scopes.push(new Set());
      else if (text === "}") {
        scopes.pop();
        if (fors.at(-1) === scopes.length) {
          fors.pop();
          scopes.pop();
        }
      } else if (text === ";") {
        if (pending !== null) scopes.at(-1)!.add(pending);
        pending = null;
      } else if (text === "for") {
        scopes.push(new Set());
        fors.push(scopes.length);
      } else if (text === "let" || text === "var" || text === "const") {
        i += 1;
        if (texts[i] === "<") i = after(i, "<", ">");
        pending = texts[i]!;
      } else if (isName(i) && texts[i - 1] !== "." && !isLocal(text)) {
        found.push({ name: text, at: places[i]! });
      }
    }
    return found;
  };

  while (at < texts.length) {
    const attributes = new Map<string, string>();
    const attributeUses: Use[] = [];
    while (texts[at] === "@") {
      const name = texts[at + 1]!;
      at += 2;
      let value = "";
      if (texts[at] === "(") {
        const end = after(at, "(", ")");
        value = texts.slice(at + 1, end - 1).join("");
        if (name === "workgroup_size") attributeUses.push(...namesIn(at + 1, end - 1, new Set()));
        at = end;
      }
      attributes.set(name, value);
    }
    const keyword = texts[at]!;
    if (keyword === "fn") {
      const name = texts[at + 1]!;
      const parameters = at + 2;
      const close = after(parameters, "(", ")");
      const open = until(close, "{");
      const end = after(open, "{", "}");
      const locals = new Set<string>();
      for (let i = parameters; i < close; i += 1) {
        if (texts[i + 1] === ":" && isName(i)) locals.add(texts[i]!);
      }
      // A parameter's type is looked up at module scope, whatever the parameters are called.
      const types = namesIn(parameters, open, new Set()).filter((use) => !locals.has(use.name));
      declared.set(name, places[at + 1]!);
      functions.add(name);
      uses.set(name, [...attributeUses, ...types, ...namesIn(open, end, locals)]);
      if (attributes.has("compute")) entries.push(name);
      at = end;
    } else if (keyword === "struct") {
      const name = texts[at + 1]!;
      const end = after(at + 2, "{", "}");
      const members: Member[] = [];
      const types: Use[] = [];
      for (let i = at + 3; i < end - 1; ) {
        let custom = "";
        while (texts[i] === "@") {
          custom = `@${texts[i + 1]}`;
          i = texts[i + 2] === "(" ? after(i + 2, "(", ")") : i + 2;
        }
        let stop = i;
        for (let depth = 0; stop < end - 1; stop += 1) {
          if (texts[stop] === "<" || texts[stop] === "(") depth += 1;
          if (texts[stop] === ">" || texts[stop] === ")") depth -= 1;
          if (depth === 0 && texts[stop] === ",") break;
        }
        members.push({ name: texts[i]!, type: custom + texts.slice(i + 2, stop).join("") });
        types.push(...namesIn(i + 2, stop, new Set()));
        i = stop + 1;
      }
      declared.set(name, places[at + 1]!);
      structs.set(name, members);
      uses.set(name, types);
      at = end;
    } else if (keyword === "var" || keyword === "override" || keyword === "const" || keyword === "alias") {
      const space = texts[at + 1] === "<" ? after(at + 1, "<", ">") : at + 1;
      const end = until(at, ";");
      const name = texts[space]!;
      const stop = Math.min(until(space, "="), end);
      declared.set(name, places[space]!);
      uses.set(name, namesIn(space + 1, end, new Set()));
      if (keyword === "override") overrides.push(name);
      const value = end - stop === 2 ? /^(\d+|0x[\da-f]+)[ui]?$/i.exec(texts[stop + 1]!) : null;
      if (keyword === "const" && value) values.set(name, Number(value[1]));
      const binding = Number.parseInt(attributes.get("binding") ?? "", 10);
      if (
        keyword === "var" &&
        !Number.isNaN(binding) &&
        Number.parseInt(attributes.get("group")!, 10) === 0
      ) {
        const kind = texts.slice(at + 2, space - 1);
        const access =
          kind[0] === "uniform" ? "uniform" : kind.includes("read_write") ? "read_write" : "read";
        bindings.set(name, { binding, access, type: texts.slice(space + 2, stop).join("") });
      }
      if (keyword === "alias") structs.set(name, [{ name: "", type: texts.slice(space + 2, end).join("") }]);
      at = end + 1;
    } else if (keyword === "const_assert") {
      const end = until(at, ";");
      uses.set(`const_assert ${at}`, namesIn(at + 1, end, new Set()));
      at = end + 1;
    } else {
      at = until(at, ";") + 1; // enable, requires, diagnostic, or nothing
    }
  }
  return { declared, bindings, overrides, values, structs, uses, functions, entries };
}

function tokens(source: string): { texts: string[]; places: number[] } {
  const texts: string[] = [];
  const places: number[] = [];
  const pattern = /\/\/[^\n]*|\/\*|[A-Za-z_]\w*|\d[\w.]*|[^\s\w]/g;
  for (let match = pattern.exec(source); match; match = pattern.exec(source)) {
    const [text] = match;
    if (text.startsWith("//")) continue;
    if (text === "/*") {
      // Block comments nest.
      const ends = /\/\*|\*\//g;
      ends.lastIndex = pattern.lastIndex;
      let depth = 1;
      for (let mark = ends.exec(source); mark && depth > 0; mark = depth > 0 ? ends.exec(source) : mark) {
        depth += mark[0] === "/*" ? 1 : -1;
        pattern.lastIndex = ends.lastIndex;
        if (depth === 0) break;
      }
      if (depth > 0) break;
      continue;
    }
    texts.push(text);
    places.push(match.index);
  }
  return { texts, places };
}

/** What `source` declares. `others`: what is linked with it, and may declare types and functions that it uses. */
export function reflect(source: Source, others: readonly Source[] = []): Reflection {
  const all = [...others, source];
  const known = (name: string) =>
    all.some(({ functions, bindings }) => functions.has(name) || bindings.has(name));
  const structs = new Map(all.flatMap((one) => [...one.structs]));
  const plain = (type: string): string => {
    const alias = structs.get(type);
    return alias?.length === 1 && alias[0]!.name === "" ? plain(alias[0]!.type) : type;
  };
  const bindings: Record<string, BindingInfo> = {};
  for (const [name, { binding, access, type }] of source.bindings) {
    if (access !== "uniform") bindings[name] = { binding, access };
    else {
      const members = structs.get(plain(type)) ?? [{ name: "", type }];
      bindings[name] = {
        binding,
        access,
        members: Object.fromEntries(members.map((member) => [member.name, plain(member.type)])),
      };
    }
  }
  const functions: Record<string, string[]> = {};
  for (const name of source.functions) {
    const used = new Set(source.uses.get(name)!.map((use) => use.name));
    functions[name] = [...used].filter((other) => other !== name && known(other));
  }
  const { overrides, entries } = source;
  return { bindings, overrides, values: Object.fromEntries(source.values), functions, entries };
}

/** Null for a type that holds structs, matrices or half floats, or whose size is not a number. */
function layoutOf(members: Readonly<Record<string, string>>): Layout | null {
  const fields: Field[] = [];
  let end = 0;
  for (const [name, type] of Object.entries(members)) {
    const array = /^array<(.*),(\d+)u?,?>$/.exec(type);
    const count = array ? Number(array[2]) : 1;
    const vector = /^(?:vec([234])(?:<([uif]32)>|([uif]))|([uif]32))$/.exec(array ? array[1]! : type);
    if (!vector) return null;
    const components = vector[1] ? Number(vector[1]) : 1;
    const scalar = (vector[2] ?? vector[4] ?? `${vector[3]}32`) as Field["type"];
    const align = components === 3 ? 4 : components;
    const stride = array ? align : components;
    const offset = Math.ceil(end / align) * align;
    fields.push({ name, type: scalar, offset, components, count, stride });
    end = offset + count * stride;
  }
  return { words: Math.ceil(end / 4) * 4, fields };
}
