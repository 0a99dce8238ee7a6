// Values that came from outside (files, servers, callers), for checks and messages.

// What can move a terminal's cursor, recolour it, or reorder a line: C0 and C1 controls, DEL, line separators, marks of
// writing direction, the byte-order mark, halves of a surrogate pair.
const UNPRINTABLE =
  // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what it is for
  /[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]|\p{Surrogate}/gu;

const escaped = (character: string) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`;

/**
 * Text that came from outside (a file's name, a tensor's name in a file, a server's answer) as one line that a terminal and
 * a log can show: control characters as `\u001b`, at most `most` characters.
 */
export function printable(text: unknown, most = 200): string {
  let plain: string;
  try {
    plain = String(text);
  } catch {
    plain = typeof text;
  }
  const cut = plain.length > most ? `${plain.slice(0, most)}…` : plain;
  return cut.replace(UNPRINTABLE, escaped);
}

/** Escapes what could drive a terminal, but for the line breaks and tabs of a message of several lines. */
export function escapeControls(message: string): string {
  return message.replace(UNPRINTABLE, (c) => (c === "\n" || c === "\t" ? c : escaped(c)));
}

/** True for a Uint8Array, Node's Buffer, and those of another realm (an iframe's, a test runner's). */
export function isBytes(value: unknown): value is Uint8Array {
  return ArrayBuffer.isView(value) && (value as Uint8Array)[Symbol.toStringTag] === "Uint8Array";
}
