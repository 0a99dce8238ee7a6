// As much of WGSL's syntax as making mutants needs: tokens, what each belongs to, and which are expressions.

export interface Token {
  kind: "word" | "number" | "symbol";
  text: string;
  start: number;
  end: number;
}

export interface Source {
  text: string;
  tokens: readonly Token[];
  /** For each bracket's token the index of its partner. */
  partner: ReadonlyMap<number, number>;
  /** Tokens of types, template lists, attributes, struct bodies and binding declarations: nothing that computes. */
  inert: readonly boolean[];
  functions: readonly { name: string; isEntry: boolean; first: number; last: number }[];
}

const TOKEN =
  /\/\/[^\n]*|\/\*[\s\S]*?\*\/|\s+|(?<number>0[xX][\da-fA-F]+[iu]?|(?:\d+\.\d*|\.\d+|\d+)(?:[eE][+-]?\d+)?[iufh]?)|(?<word>[\p{XID_Start}_][\p{XID_Continue}]*)|(?<symbol><<=|>>=|->|\+\+|--|&&|\|\||<=|>=|==|!=|<<|>>|[-+*/%&|^]=|[-+*/%&|^~!<>=()[\]{};:,.@])/uy;

/** Words that a `<` follows as a template list's bracket. */
const TEMPLATED =
  /^(array|atomic|bitcast|mat[234]x[234]|ptr|vec[234]|var|subgroup_matrix_(left|right|result))$/;

export function parse(text: string): Source {
  const tokens = tokenize(text);
  const partner = pair(tokens);
  const inert = tokens.map(() => false);
  const mark = (from: number, to: number) => inert.fill(true, from, to + 1);
  const functions: Source["functions"][number][] = [];
  let isEntry = false;
  for (let i = 0; i < tokens.length; i += 1) {
    const { text: word } = tokens[i]!;
    if (word === "@") {
      isEntry ||= tokens[i + 1]!.text === "compute";
      mark(i, tokens[i + 2]?.text === "(" ? partner.get(i + 2)! : i + 1);
    } else if (tokens[i + 1]?.text === "<" && partner.has(i + 1)) {
      mark(i, partner.get(i + 1)!);
    } else if (word === "struct") {
      mark(i, partner.get(i + 2)!);
    } else if (word === "fn") {
      const name = tokens[i + 1]!.text;
      const parameters = partner.get(i + 2)!;
      let body = parameters;
      while (tokens[body]!.text !== "{") body += 1;
      mark(i, body);
      functions.push({ name, isEntry, first: body, last: partner.get(body)! });
      isEntry = false;
    }
  }
  return { text, tokens, partner, inert, functions };
}

function tokenize(text: string): Token[] {
  const tokens: Token[] = [];
  TOKEN.lastIndex = 0;
  while (TOKEN.lastIndex < text.length) {
    const start = TOKEN.lastIndex;
    const match = TOKEN.exec(text);
    if (!match) throw new Error(`wgsl: no token at ${JSON.stringify(text.slice(start, start + 20))}`);
    const kind = (["word", "number", "symbol"] as const).find((name) => match.groups![name] !== undefined);
    if (kind) tokens.push({ kind, text: match[0], start, end: TOKEN.lastIndex });
  }
  return tokens;
}

/** Pairs brackets; those of template lists first, whose last `>>` or `>=` may have to be taken apart. */
function pair(tokens: Token[]): Map<number, number> {
  const templates = new Map<number, number>();
  for (let i = 0; i + 1 < tokens.length; i += 1) {
    if (!TEMPLATED.test(tokens[i]!.text) || tokens[i + 1]!.text !== "<") continue;
    let depth = 1;
    for (let j = i + 2; depth > 0; j += 1) {
      const token = tokens[j]!;
      if (token.text.length > 1 && token.text.startsWith(">")) {
        const rest = { ...token, text: token.text.slice(1), start: token.start + 1 };
        tokens.splice(j, 1, { ...token, text: ">", end: token.start + 1 }, rest);
      }
      if (tokens[j]!.text === "<") depth += 1;
      if (tokens[j]!.text === ">") depth -= 1;
      if (depth === 0) templates.set(i + 1, j);
    }
  }
  const partner = new Map(templates);
  const open: number[] = [];
  tokens.forEach((token, i) => {
    if (/^[([{]$/.test(token.text)) open.push(i);
    else if (/^[)\]}]$/.test(token.text)) {
      const at = open.pop()!;
      partner.set(at, i);
      partner.set(i, at);
    }
  });
  return partner;
}
