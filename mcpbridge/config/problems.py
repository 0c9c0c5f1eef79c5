"""What is wrong with a configuration: every fault with its place, its cause and the next step, all at once.

Source: contract sections 1 (exit status) and 3 (``config.unknown-key``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

EX_USAGE = 64
EX_NOINPUT = 66
EX_CANTCREAT = 73
EX_TEMPFAIL = 75
EX_NOPERM = 77
EX_CONFIG = 78


class Place(NamedTuple):
    """Where something was written. Line and column count from 1; 0 for variables and flags."""

    source: str = ""
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.source}:{self.line}:{self.column}" if self.line else self.source


def place_of(key: str, places: Mapping[str, Place]) -> Place:
    """Where a key was written, or the first key below it that was."""
    below = (place for name, place in places.items() if name.startswith(f"{key}.") and place.source)
    return places[key] if key in places else next(below, Place())


class Problem(NamedTuple):
    """One fault. ``hint`` is the next step for the reader; "" when the message says it."""

    place: Place
    message: str
    hint: str = ""
    key: str = ""

    def __str__(self) -> str:
        text = f"{self.place}: {self.message}" if self.place.source else self.message
        return f"{text} ({self.hint})" if self.hint else text

    def as_json(self) -> dict[str, Any]:
        """One element of ``config validate --json``."""
        return {
            "file": self.place.source or None,
            "line": self.place.line or None,
            "column": self.place.column or None,
            "key": self.key or None,
            "message": self.message,
            "hint": self.hint or None,
        }


class ConfigError(Exception):
    """A configuration that cannot be used. ``exit_code`` 78, or 66 when a named file is missing, or 64 for a flag."""

    def __init__(self, problems: Sequence[Problem], exit_code: int = EX_CONFIG) -> None:
        self.problems = sorted(problems, key=lambda problem: (problem.place.source, problem.place.line, problem.place.column))
        self.exit_code = exit_code
        super().__init__("\n".join(str(problem) for problem in self.problems))

    def as_json(self) -> dict[str, Any]:
        """The document of ``config validate --json`` for a file that failed."""
        return {
            "schema": "mcpbridge.config-check/v1",
            "ok": False,
            "problems": [problem.as_json() for problem in self.problems],
        }
