"""What can be wrong with a client's file: the place, the cause, the next step, and that nothing was changed.

Source: ux section 1b (error texts ``MCPB-CFG-*``), contract section 1 (exit status).
"""

from __future__ import annotations

from typing import Any

from mcpbridge.config.problems import ConfigError, Place, Problem

EX_DATAERR = 65
EX_NOINPUT = 66
EX_CANTCREAT = 73
EX_IOERR = 74
EX_TEMPFAIL = 75


class ClientFileError(ConfigError):
    """A client's file that was left as it is. ``code`` is stable; ``exit_code`` follows sysexits."""

    def __init__(self, code: str, place: Place, message: str, hint: str = "", exit_code: int = EX_DATAERR) -> None:
        self.code = code
        super().__init__([Problem(place, message, hint)], exit_code)

    def as_json(self) -> dict[str, Any]:
        """Code and place in fields, for ``--json``."""
        problem = self.problems[0].as_json()
        return {"code": self.code, **{key: problem[key] for key in ("file", "line", "column", "message", "hint")}}


class TextFault(Exception):
    """A text that cannot be read or edited, at a character offset of it; the file's name comes later."""

    def __init__(self, at: int, message: str, hint: str = "") -> None:
        self.at = at
        self.message = message
        self.hint = hint
        super().__init__(message)


def place_in(text: str, at: int, source: str) -> Place:
    """Line and column, both from 1, of a character offset. CR LF, LF and a lone CR end a line, as editors count."""
    before = text[:at].replace("\r\n", "\n").replace("\r", "\n")
    return Place(source, before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1)
