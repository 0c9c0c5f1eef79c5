"""The argument parser of every command: exit 64 on misuse, did-you-mean for options, examples before options.

Source: contract section 1 (exit status); ux section 6.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Callable
from typing import NoReturn

LEVELS = ("trace", "debug", "info", "warn", "warning", "error")


_asking: list[bool] = []  # whether somebody wants to know a command's parser and not run it


class _Asked(Exception):
    """The parser of a command, in place of running it."""

    def __init__(self, parser: Parser) -> None:
        super().__init__(parser)
        self.parser = parser


def parser_of(run: Callable[[str, list[str]], int], arguments: list[str]) -> Parser:
    """The parser that a command uses for these arguments. It is not run."""
    _asking.append(True)
    try:
        run("mcpbridge", arguments)
    except _Asked as asked:
        return asked.parser
    finally:
        _asking.pop()
    raise LookupError("this command parses nothing")


class Parser(argparse.ArgumentParser):
    """One command. ``examples`` are (command line, what it does)."""

    def __init__(self, program: str, description: str, examples: list[tuple[str, str]]) -> None:
        width = min(max(len(line) for line, _ in examples), 64)
        shown = "\n".join(f"  {line.ljust(width)}  {meaning}".rstrip() for line, meaning in examples)
        super().__init__(
            prog=program,
            description=f"{description}\n\nexamples:\n{shown}",
            formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=28, width=100),
            allow_abbrev=False,
        )

    def parse(self, arguments: list[str]) -> argparse.Namespace:
        """The parsed arguments; exits with 64 and the next step on misuse."""
        if _asking:
            raise _Asked(self)
        known, unknown = self.parse_known_intermixed_args(arguments)
        if unknown:
            options = [option for action in self._actions for option in action.option_strings]
            word = unknown[0].split("=", 1)[0]
            close = difflib.get_close_matches(word, options, n=1)
            self.error(f"unknown argument {unknown[0]}" + (f"; did you mean {close[0]}?" if close else ""))
        return known

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and where help is; exit 64 (argparse itself would say 2)."""
        print(f"{self.prog}: {message}\n  see: {self.prog} --help", file=sys.stderr)
        raise SystemExit(64)

    def add_config(self) -> None:
        """``--config`` and ``--log-level``, which both programs have."""
        self.add_argument("--config", metavar="FILE", help="configuration file (else: MCPBRIDGE_CONFIG, then the usual places)")
        self.add_argument("--log-level", choices=LEVELS, metavar="LEVEL", help=f"one of {' '.join(LEVELS)}")

    def add_servers(self) -> None:
        """``--server``, repeatable."""
        self.add_argument(
            "--server",
            action="append",
            default=[],
            metavar="NAME=URL|CMD",
            help="one more server; a command runs without a shell",
        )
