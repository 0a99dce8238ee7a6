import type { Argument, Command, Help, Option } from "commander";

/** A value as one types it: lists with commas, texts without quotes. */
function typed(value: unknown): string {
  return Array.isArray(value) ? value.join(",") : String(value);
}

/** Commander shows defaults as JSON; `(default: 0.003,0.1)` is what can be typed. A flag that is off by default says nothing. */
function optionDescription(option: Option): string {
  const { defaultValue, defaultValueDescription, description, negate } = option;
  if (negate || defaultValue === undefined || typeof defaultValue === "boolean") return description;
  return `${description} (default: ${defaultValueDescription ?? typed(defaultValue)})`;
}

/** Columns of the terminal; of `COLUMNS` where the output is none. */
export function helpWidth(columns: number | undefined, env: NodeJS.ProcessEnv = process.env): number {
  const given = Number(env.COLUMNS);
  return columns ?? (Number.isSafeInteger(given) && given > 0 ? given : 80);
}

/** How help looks: to be set before commands are added, which inherit it. */
export function configureHelp(program: Command): void {
  const look: Partial<Help> = {
    minWidthToWrap: 20, // for descriptions: on narrow terminals, too
    optionDescription,
    argumentDescription: ({ description }: Argument) => description,
  };
  program.configureHelp(look);
}

/** Errors of `command` and those below it are one line, which names the help that lists what is right. */
export function tellHelpOnErrors(command: Command, path: string): void {
  const what = command.commands.length > 0 ? "the commands" : "what it takes";
  command.configureOutput({
    outputError: (message, write) => {
      const told = message
        .replace(/^error: /, "")
        .trim()
        .replace(/\s+/g, " ");
      write(`fusenorm: ${told} (${path} --help lists ${what})\n`);
    },
  });
  for (const child of command.commands) tellHelpOnErrors(child, `${path} ${child.name()}`);
}

/** Lines to type, below a command's help. */
export function examples(command: Command, lines: readonly string[]): void {
  command.addHelpText("after", `\nExamples:\n${lines.map((line) => `  ${line}`).join("\n")}`);
}

/** The words that shell completion offers for the values of options, by the options' names. Other values may be right, too. */
export function offer(command: Command, words: Record<string, readonly string[]>): void {
  for (const [name, values] of Object.entries(words)) {
    const option = command.options.find((one) => one.attributeName() === name);
    if (!option) throw new Error(`internal: ${command.name()} has no option ${name}`);
    // Not `option.choices()`, which would refuse all others.
    option.argChoices = [...values];
  }
}
