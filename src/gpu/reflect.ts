// What a WGSL source says of its bindings, without compiling it.

const known = new Map<string, Map<string, ReadonlySet<number>>>();

/** More sources than a program has kernels of its own; those made anew for each call are not kept for ever. */
const MOST_SOURCES = 512;

/**
 * The numbers of the storage buffers (group 0) that `entry` may write: those declared `read_write` whose name stands in the
 * entry point or in a function that it calls, directly or not. A buffer that is only read in there counts too.
 */
export function writtenBindings(source: string, entry: string): ReadonlySet<number> {
  let byEntry = known.get(source);
  if (!byEntry) {
    if (known.size >= MOST_SOURCES) known.clear();
    byEntry = new Map();
    known.set(source, byEntry);
  }
  let written = byEntry.get(entry);
  if (!written) {
    written = find(source, entry);
    byEntry.set(entry, written);
  }
  return written;
}

function find(source: string, entry: string): Set<number> {
  const code = withoutComments(source);
  const buffers = new Map<string, number>();
  for (const match of code.matchAll(/((?:@\w+\s*(?:\([^)]*\))?\s*)+)var\s*<([^>]*)>\s*(\w+)/g)) {
    const [, attributes = "", space = "", name = ""] = match;
    const binding = /@binding\s*\(\s*(\w+)/.exec(attributes)?.[1];
    if (binding !== undefined && /\bread_write\b/.test(space))
      buffers.set(name, Number.parseInt(binding, 10));
  }
  const functions = namesByFunction(code);
  const written = new Set<number>();
  const seen = new Set<string>();
  const waiting = [entry];
  for (let name = waiting.pop(); name !== undefined; name = waiting.pop()) {
    if (seen.has(name)) continue;
    seen.add(name);
    for (const used of functions.get(name) ?? []) {
      const binding = buffers.get(used);
      if (binding !== undefined) written.add(binding);
      if (functions.has(used)) waiting.push(used);
    }
  }
  return written;
}

function withoutComments(source: string): string {
  let code = source.replace(/\/\/[^\n]*/g, " ");
  // Block comments nest: the innermost ones first.
  for (let before = ""; before !== code; ) {
    before = code;
    code = code.replace(/\/\*(?:(?!\/\*|\*\/)[\s\S])*\*\//g, " ");
  }
  return code;
}

/** Every name in each function's head and body. A name that is local to it may be one too many, which does no harm. */
function namesByFunction(code: string): Map<string, Set<string>> {
  const functions = new Map<string, Set<string>>();
  for (const match of code.matchAll(/\bfn\s+(\w+)/g)) {
    const open = code.indexOf("{", match.index);
    let end = open;
    for (let depth = 0; end < code.length; end += 1) {
      if (code[end] === "{") depth += 1;
      else if (code[end] === "}") depth -= 1;
      if (depth === 0) break;
    }
    functions.set(match[1]!, new Set(code.slice(open, end).match(/\b[A-Za-z_]\w*/g) ?? []));
  }
  return functions;
}
