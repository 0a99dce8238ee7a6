import { Argument, type Command, type Option } from "commander";

// A shell asks `fusenorm complete -- WORD …`, the last word being the one under the cursor. Where nothing is known, as for a
// directory, the shell offers files.
const SCRIPTS: Record<string, string> = {
  bash: `_fusenorm() {
  local IFS=$'\\n'
  COMPREPLY=($(fusenorm complete -- "\${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
}
complete -o default -F _fusenorm fusenorm`,
  zsh: `#compdef fusenorm
_fusenorm() {
  local -a found
  found=(\${(f)"$(fusenorm complete -- "\${(@)words[2,CURRENT]}" 2>/dev/null)"})
  if (( \${#found} )); then compadd -a found; else _files; fi
}
compdef _fusenorm fusenorm`,
  fish: `function __fusenorm
  set -l found (fusenorm complete -- (commandline -opc)[2..-1] (commandline -ct) 2>/dev/null)
  if test (count $found) -gt 0; printf '%s\\n' $found; else; __fish_complete_path (commandline -ct); end
end
complete -c fusenorm -f -a '(__fusenorm)'`,
};

/** What may stand in place of the last of `words`, which follow the program's name. */
export function suggestions(program: Command, words: readonly string[]): string[] {
  // Bash makes words of their own of equals signs.
  const typed = words.filter((word) => word !== "=");
  const last = words.at(-1) === "=" ? "" : (typed.pop() ?? "");
  let command = program;
  let open: Option | undefined;
  let position = 0;
  for (const word of typed) {
    if (open) {
      open = undefined;
    } else if (word.startsWith("-")) {
      const option = command.options.find(({ long, short }) => word === long || word === short);
      open = option?.required ? option : undefined;
    } else {
      const child = command.commands.find((one) => one.name() === word);
      if (child) command = child;
      else position += 1;
    }
  }
  const begun = (words: readonly string[]) => words.filter((word) => word.startsWith(last));
  if (open) return begun(open.argChoices ?? []);
  const [, name, value] = /^(--[^=]+)=(.*)$/.exec(last) ?? [];
  if (name !== undefined) {
    const choices = command.options.find(({ long }) => name === long)?.argChoices ?? [];
    return choices.filter((choice) => choice.startsWith(value!)).map((choice) => `${name}=${choice}`);
  }
  const help = command.createHelp();
  if (last.startsWith("-")) return begun(help.visibleOptions(command).flatMap(({ long }) => long ?? []));
  const argument = command.registeredArguments[position] ?? command.registeredArguments.at(-1);
  const takesMore = argument && (argument.variadic || position < command.registeredArguments.length);
  const commands = position === 0 ? help.visibleCommands(command).map((one) => one.name()) : [];
  return begun([...commands, ...((takesMore && argument.argChoices) || [])]);
}

/** Adds `fusenorm completion <shell>`, and the hidden command that its scripts ask. */
export function registerCompletion(program: Command): void {
  program
    .command("completion")
    .description("print a script with which a shell completes commands, options and their values")
    .addArgument(new Argument("<shell>", "bash, zsh or fish").choices(Object.keys(SCRIPTS)))
    .addHelpText(
      "after",
      "\nExamples:\n  source <(fusenorm completion bash)\n  source <(fusenorm completion zsh)\n  fusenorm completion fish | source",
    )
    .action((shell: string) => console.log(SCRIPTS[shell]));
  program
    .command("complete", { hidden: true })
    .argument("[words...]")
    .allowUnknownOption()
    .action((words: string[]) => {
      const found = suggestions(program, words);
      if (found.length > 0) console.log(found.join("\n"));
    });
}
