// dist/shaders/README.md: what a program that takes a module as it ships has to know of it, read off the module's own text.

import { type Layout, readSource, reflect, type Slot, slotsOf } from "../src/device/reflect.ts";

/** An override constant, with its default as the source has it; null where the program has to give one. */
export interface Constant {
  name: string;
  /** Null where that is the default's. */
  type: string | null;
  value: string | null;
}

export interface EntryPoint {
  name: string;
  /** `64`, or the constants that say it: `X, Y`. */
  workgroup: string;
  /** The built-in numbers by which invocations are told apart, without `_id`. */
  by: string[];
  slots: Slot[];
}

export interface ModuleTable {
  constants: Constant[];
  entries: EntryPoint[];
  /** Of what is bound: its type in the source, by name. */
  types: ReadonlyMap<string, string>;
  /** Extensions that it enables: features that the device needs. */
  features: string[];
}

/** What the text of a whole module says. */
export function tableOf(code: string): ModuleTable {
  const plain = code.replace(/\/\/[^\n]*/g, "");
  const source = readSource(code);
  const reflection = reflect(source);
  const types = new Map([...source.bindings].map(([name, { type }]) => [name, type]));
  const constants = [...plain.matchAll(/\boverride\s+(\w+)\s*(?::\s*(\w+)\s*)?(?:=\s*([^;]+))?;/g)].map(
    ([, name, type, value]) => ({ name: name!, type: type ?? null, value: value?.trim() ?? null }),
  );
  const heads = [
    ...plain.matchAll(/@compute\s+@workgroup_size\(([^)]*)\)\s*fn\s+(\w+)\(((?:[^()]|\([^()]*\))*)\)\s*\{/g),
  ];
  const entries = heads.map(([, workgroup, name, parameters]) => ({
    name: name!,
    workgroup: workgroup!,
    by: [...parameters!.matchAll(/@builtin\((\w+)\)/g)].map(([, builtin]) => builtin!),
    slots: slotsOf([reflection], name!)!,
  }));
  const features = [...plain.matchAll(/^\s*enable\s+([^;]+);/gm)].flatMap(([, names]) =>
    names!.split(",").map((one) => one.trim()),
  );
  return { constants, entries, types, features };
}

const code = (text: string) => `\`${text}\``;

function fieldsOf(layout: Layout): string {
  return layout.fields
    .map(({ name, type, components, count, offset }) => {
      const vector = components > 1 ? `vec${components}<${type}>` : type;
      const full = count > 1 ? `array<${vector}, ${count}>` : vector;
      return code(`${name}: ${full} @ ${4 * offset}`);
    })
    .join(", ");
}

/** The text of one module's section. */
function section(name: string, source: string): string {
  const { constants, entries, types, features } = tableOf(source);
  const bindings = new Map(entries.flatMap(({ slots }) => slots).map((slot) => [slot.name, slot]));
  const lines = [`## [${name}.wgsl](${name}.wgsl)`, ""];
  if (features.length > 0) lines.push(`Needs the feature ${features.map(code).join(", ")}.`, "");
  lines.push("| entry point | workgroup | told apart by | binds |", "|---|---|---|---|");
  for (const { name: entry, workgroup, by, slots } of entries) {
    const binds = slots.map((slot) => code(`${slot.binding} ${slot.name}`)).join(", ");
    lines.push(
      `| ${code(entry)} | ${code(workgroup)} | ${by.map(code).join(", ") || "one invocation"} | ${binds} |`,
    );
  }
  lines.push("", "| binding | name | access | type, or fields @ bytes from the start |", "|---|---|---|---|");
  const sorted = [...bindings.values()].sort((a, b) => a.binding - b.binding || (a.name < b.name ? -1 : 1));
  for (const { binding, name: own, access, layout } of sorted) {
    lines.push(
      `| ${binding} | ${code(own)} | ${access} | ${layout ? fieldsOf(layout) : code(types.get(own)!)} |`,
    );
  }
  if (constants.length > 0) {
    lines.push("", "| constant | type | default |", "|---|---|---|");
    for (const { name: own, type, value } of constants) {
      lines.push(
        `| ${code(own)} | ${type ?? "of its default"} | ${value === null ? "to be given" : code(value)} |`,
      );
    }
  }
  return `${lines.join("\n")}\n`;
}

/** The whole text: `modules` are their texts by name. */
export function shaderTables(modules: Readonly<Record<string, string>>): string {
  const head = `# The shaders

Each file is a whole module: \`fusenorm/shaders/<name>.wgsl\` compiles alone. It opens with its equation, the layouts of its buffers, and
what one invocation and one workgroup own: how many of them there are to dispatch follows from that and from what tells them apart here.
Where an entry point has \`num_workgroups\`, the grid may be folded into two dimensions, or may be smaller than the work. Bindings are of group 0; an
entry point with layout "auto" has those in its row and no others. Two names at one number are of different entry points, or two views of one
buffer. Written from the shaders by their reflection.

`;
  return (
    head +
    Object.entries(modules)
      .map(([name, source]) => section(name, source))
      .join("\n")
  );
}
