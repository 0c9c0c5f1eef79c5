"""``mcpbridge help``: the overview, help on a command, and ``help errors TEXT|CODE``.

Source: contract sections 1.1 and 6.4 (``error.client-hint``).
"""

from __future__ import annotations

import difflib
import sys

from mcpbridge.cli import COMMANDS, EX_USAGE, main
from mcpbridge.cli.advice import ADVICE
from mcpbridge.errors import FAULTS


def run(name: str, arguments: list[str]) -> int:
    """Print help on stdout; misuse on stderr with 64."""
    if arguments[:1] == ["--unknown"]:
        word = arguments[1]
        close = difflib.get_close_matches(word, COMMANDS, n=1, cutoff=0.5)
        hint = f"; did you mean {close[0]}?" if close else ""
        print(f"{name}: unknown command {word}{hint}\n  see: {name} --help", file=sys.stderr)
        return EX_USAGE
    if arguments[:1] == ["--overview"]:
        rest = arguments[1:]
        if rest and rest[0] not in ("-h", "--help"):
            print(f"{name}: unknown option {rest[0]}\n  see: {name} --help", file=sys.stderr)
            return EX_USAGE
        print(_overview(name), file=sys.stdout if rest else sys.stderr)
        return 0 if rest else EX_USAGE
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview(name))
        return 0
    if arguments[0] == "errors":
        if arguments[1:] in (["-h"], ["--help"]):
            print(f"usage: {name} help errors [CODE|TEXT]\n\nWhat an error means and what to do; all of them without words.")
            return 0
        return _errors(name, " ".join(arguments[1:]).strip())
    if arguments[0] in COMMANDS:
        return main(["mcpbridge", arguments[0], "--help"])
    return run(name, ["--unknown", arguments[0]])


def _overview(name: str) -> str:
    width = max(len(command) for command in COMMANDS)
    commands = "\n".join(f"  {command.ljust(width)}  {meaning}" for command, meaning in COMMANDS.items())
    return f"""\
mcpbridge: one bridge and gateway for the Model Context Protocol

examples:
  mcpbridge router -- npx -y @modelcontextprotocol/server-memory   one server for your editor, no file
  mcpbridge gateway --server time='uvx mcp-server-time'            a gateway on http://127.0.0.1:8443/mcp
  mcpbridge test --endpoint https://example.com/mcp                can it be reached, and if not, where does it fail
  mcpbridge tui                                                    what it is doing
  mcpbridge help errors 1004                                       what an error means and what to do

commands:
{commands}

Each command has --help. mcp-router and mcp-gateway are short for mcpbridge router and mcpbridge gateway.
exit status: 0 ok, 64 usage, 65 bad data, 66 no such file, 69 not reached, 74 I/O, 75 try again, 76 not that protocol,
77 sign-in refused, 78 configuration, 130 Ctrl-C, 143 SIGTERM"""


def _errors(name: str, wanted: str) -> int:
    rows = [reason for reason in FAULTS if _matches(reason, wanted)]
    if not rows:
        close = difflib.get_close_matches(wanted.lower(), [*FAULTS, *(fault.text.lower() for fault in FAULTS.values())], n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        print(f"{name}: no error matches {wanted!r}{hint}\n  all of them: {name} help errors", file=sys.stderr)
        return 1
    blocks = []
    for reason in rows:
        fault, (cause, action) = FAULTS[reason], ADVICE[reason]
        status = str(fault.status)
        if fault.legacy_status != fault.status:
            status += f", {fault.legacy_status} to clients with sessions"
        again = "a retry may help" if fault.retryable else "a retry will not help"
        blocks.append(f"{fault.code}  {fault.text}  ({reason}; HTTP {status}; {again})\n  cause:  {cause}\n  action: {action}")
    print("\n\n".join(blocks))
    return 0


def _matches(reason: str, wanted: str) -> bool:
    """By code, by reason, or by a text that contains the row's words or is contained in them."""
    fault = FAULTS[reason]
    if not wanted or wanted in (str(fault.code), reason):
        return True
    if wanted.lstrip("-").isdigit():
        return False
    text, row = wanted.lower(), fault.text.lower()
    return row in text or (len(text) >= 4 and (text in row or text in reason.replace("_", " ")))
