"""``mcpbridge completions bash|zsh|fish|powershell|install``: what a shell offers after the name of the program.

    every command's own parser -> Words (options, choices, whether files may stand there) -> the script of one shell

Source: contract cli.completions, cli.install.completions; ux section 6.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from mcpbridge.cli import COMMANDS, EVERYWHERE, runner
from mcpbridge.cli.parsing import Parser, parser_of

PROGRAMS: Final = ("mcpbridge", "mcp-router", "mcp-gateway")
SHELLS: Final = ("bash", "zsh", "fish", "powershell")


class Words(NamedTuple):
    """What may stand after a command: options with their meaning, and the choices of its first word."""

    options: Mapping[str, str]
    choices: tuple[str, ...] = ()


def run(name: str, arguments: list[str]) -> int:
    """Print a script, or write those of the user's shell to where it looks for them."""
    program = f"{name} completions"
    parser = Parser(
        program,
        "Completions for a shell: print its script, or install it for your user.",
        [(f"{program} install", "for the shell of $SHELL"),
         (f"{program} install --shell fish", "for another one"),
         (f'eval "$({program} bash)"', "in this shell only"),
         (f"{program} powershell >> $PROFILE", "PowerShell has no directory for them")],
    )  # fmt: skip
    parser.add_argument("action", choices=[*SHELLS, "install"], help="the shell whose script is printed, or install")
    parser.add_argument("--shell", choices=SHELLS[:3], help="install: for this shell (else the base name of $SHELL)")
    parser.add_argument("--json", action="store_true", help="install: one JSON document")
    options = parser.parse(arguments)
    if options.action != "install":
        print(script(options.action), end="")
        return 0
    shell = options.shell or Path(os.environ.get("SHELL", "")).name
    if shell not in SHELLS[:3]:
        parser.error(f"no place is known for the completions of {shell or 'a shell without a name'}; name one by --shell")
    written = [_write(path, text) for path, text in files(shell, os.environ).items()]
    if options.json:
        print(json.dumps({"schema": "mcpbridge.completions/v1", "shell": shell, "written": written}))
        return 0
    print("\n".join(f"wrote {path}" for path in written))
    if shell == "zsh":
        print(f"in .zshrc, before compinit, once: fpath=({Path(written[0]).parent} $fpath)")
    return 0


def files(shell: str, environ: Mapping[str, str]) -> dict[Path, str]:
    """Where the files of a shell belong in a user's home, and what is in them."""
    home = Path(environ.get("HOME") or Path.home())
    data = Path(environ.get("XDG_DATA_HOME") or home / ".local/share")
    settings = Path(environ.get("XDG_CONFIG_HOME") or home / ".config")
    text = script(shell)
    if shell == "zsh":
        return {home / ".zfunc/_mcpbridge": text}
    folder = data / "bash-completion/completions" if shell == "bash" else settings / "fish/completions"
    suffix = ".fish" if shell == "fish" else ""
    return {folder / f"{program}{suffix}": text for program in PROGRAMS}  # a shell looks for the file of what is called


def script(shell: str) -> str:
    """The script of one shell. Raises KeyError for a shell that is none of SHELLS."""
    known = {command: _words(command) for command in COMMANDS}
    makers: dict[str, Callable[[Mapping[str, Words]], str]] = {
        "bash": _bash, "zsh": _zsh, "fish": _fish, "powershell": _powershell,
    }  # fmt: skip
    return makers[shell](known)


def _words(command: str) -> Words:
    if command == "help":
        return Words({}, (*(name for name in COMMANDS if name != "help"), "errors"))
    run = runner(command)
    top = parser_of(run, ["--help"])
    options = _options(top)
    choices = next((tuple(map(str, a.choices)) for a in top._actions if a.choices and not a.option_strings), ())
    for choice in choices:  # some actions have a parser of their own
        options |= _options(parser_of(run, [choice, "--help"]))
    return Words(options, choices)


def _options(parser: argparse.ArgumentParser) -> dict[str, str]:
    found = {}
    for action in parser._actions:
        for option in action.option_strings:
            if option.startswith("--") and action.help != argparse.SUPPRESS:
                found[option] = (action.help or "").split("\n")[0]
    return found


def _write(path: Path, text: str) -> str:
    if not path.is_file() or path.read_text(encoding="utf-8", errors="replace") != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return str(path)


def _own(program: str) -> str:
    """The command that a program is short for."""
    return program.removeprefix("mcp-")


def _bash(known: Mapping[str, Words]) -> str:
    cases = "\n".join(f'    {command}) words+="{_all(words)}" ;;' for command, words in known.items())
    return f"""\
# bash completion of mcpbridge; made by `mcpbridge completions bash`
_mcpbridge() {{
  local current=${{COMP_WORDS[COMP_CWORD]}} command=${{COMP_WORDS[1]}} program=${{COMP_WORDS[0]##*/}} words=""
  local everywhere=" {" ".join(EVERYWHERE)} "
  if [[ $program == mcp-* && $everywhere != *" $command "* ]]; then
    command=${{program#mcp-}}
    ((COMP_CWORD == 1)) && words="{" ".join(EVERYWHERE)} "
  elif ((COMP_CWORD == 1)); then
    words="{" ".join(known)} --help --version"
    command=""
  fi
  case $command in
{cases}
  esac
  COMPREPLY=($(compgen -W "$words" -- "$current"))
}}
complete -o default -F _mcpbridge {" ".join(PROGRAMS)}
"""


def _all(words: Words) -> str:
    return " ".join((*words.choices, *words.options))


def _zsh(known: Mapping[str, Words]) -> str:
    commands = "\n".join(f"      {_quoted(f'{name}:{meaning}')}" for name, meaning in COMMANDS.items())
    everywhere = " ".join(_quoted(f"{name}:{COMMANDS[name]}") for name in EVERYWHERE)
    cases = "\n".join(
        f"    {command}) words=({' '.join(_quoted(word) for word in _described(words))}) ;;" for command, words in known.items()
    )
    return f"""\
#compdef {" ".join(PROGRAMS)}
# zsh completion of mcpbridge; made by `mcpbridge completions zsh`
_mcpbridge() {{
  local program=${{words[1]:t}} command=${{words[2]}}
  local -a commands words_everywhere
  words_everywhere=({everywhere})
  if [[ $program == mcp-* && ${{words_everywhere[(r)$command:*]}} == "" ]]; then
    command=${{program#mcp-}}
    ((CURRENT == 2)) && _describe -t commands command words_everywhere
  elif ((CURRENT == 2)); then
    commands=(
{commands}
    )
    _describe -t commands command commands
    return
  fi
  local -a words
  case $command in
{cases}
  esac
  _describe -t words word words -o nosort
  _files
}}
if [[ $funcstack[1] == _mcpbridge ]]; then
  _mcpbridge "$@"
else
  compdef _mcpbridge {" ".join(PROGRAMS)}
fi
"""


def _described(words: Words) -> list[str]:
    return [*words.choices, *(f"{option}:{meaning}" if meaning else option for option, meaning in words.options.items())]


def _fish(known: Mapping[str, Words]) -> str:
    lines = ["# fish completion of mcpbridge; made by `mcpbridge completions fish`"]
    for program in PROGRAMS:
        is_whole = program == "mcpbridge"
        for command in known if is_whole else EVERYWHERE:
            lines.append(f"complete -c {program} -n __fish_is_first_arg -a {command} -d {_quoted(COMMANDS[command])}")
        for command, words in known.items():
            if is_whole or command in EVERYWHERE:
                place = f"__fish_seen_subcommand_from {command}"
            elif command == _own(program):
                place = f"not __fish_seen_subcommand_from {' '.join(EVERYWHERE)}"
            else:
                continue
            for choice in words.choices:
                lines.append(f"complete -c {program} -n {_quoted(place)} -a {choice}")
            for option, meaning in words.options.items():
                said = f" -d {_quoted(meaning)}" if meaning else ""
                lines.append(f"complete -c {program} -n {_quoted(place)} -l {option[2:]}{said}")
    return "\n".join(lines) + "\n"


def _powershell(known: Mapping[str, Words]) -> str:
    table = "\n".join(
        f"    '{command}' = @({', '.join(_single(word) for word in (*words.choices, *words.options))})"
        for command, words in known.items()
    )
    return f"""\
# PowerShell completion of mcpbridge; made by `mcpbridge completions powershell`
Register-ArgumentCompleter -Native -CommandName {", ".join(PROGRAMS)} -ScriptBlock {{
  param($current, $line, $position)
  $table = @{{
{table}
  }}
  $everywhere = @({", ".join(_single(name) for name in EVERYWHERE)})
  $given = @($line.CommandElements | Select-Object -Skip 1 | ForEach-Object {{ "$_" }})
  $program = [IO.Path]::GetFileNameWithoutExtension("$($line.CommandElements[0])")
  $command = if ($given.Count) {{ $given[0] }} else {{ '' }}
  $isFirst = $given.Count -eq 0 -or ($given.Count -eq 1 -and $current -ne '')
  if ($program -like 'mcp-*' -and $everywhere -notcontains $command) {{
    $found = @($table[$program.Substring(4)]) + $everywhere
  }}
  elseif ($isFirst) {{ $found = @($table.Keys | Sort-Object) + '--help' + '--version' }}
  else {{ $found = $table[$command] }}
  $found | Where-Object {{ $_ -like "$current*" }} | ForEach-Object {{
    [System.Management.Automation.CompletionResult]::new($_, $_, 'ParameterValue', $_)
  }}
}}
"""


def _single(word: str) -> str:
    return "'" + word.replace("'", "''") + "'"


def _quoted(text: str) -> str:
    """As one word of a shell; fish and zsh read single quotes alike but for a quote inside, which is left out."""
    return "'" + text.replace("\\", "").replace("'", "") + "'"
