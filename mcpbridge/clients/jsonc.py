"""JSON with comments, read with the position of everything that an edit may touch.

One regular expression cuts tokens; a bounded descent checks the grammar of the whole text and keeps what was asked for. Pure.
Positions are offsets of characters.

Source: RFC 8259; the comments and trailing commas that editors accept beyond it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from mcpbridge.clients.faults import TextFault

MAX_DEPTH: Final = 128
"""Objects and arrays in each other; more is no settings file."""

_TOKEN = re.compile(
    r"""
    (?P<space>[ \t\r\n]+)
  | (?P<comment>//[^\r\n]*|/\*.*?\*/)
  | (?P<string>"[^"\\\x00-\x1f]*(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*)*")
  | (?P<number>-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?(?![0-9A-Za-z_.]))
  | (?P<word>true|false|null)(?![0-9A-Za-z_])
  | (?P<mark>[{}\[\],:])
    """,
    re.VERBOSE | re.DOTALL,
)
_WORDS = {"true": True, "false": False, "null": None}


class Token(NamedTuple):
    """One token that is neither white space nor a comment; ``kind`` is end, string, number, word or the mark itself."""

    kind: str
    start: int
    end: int


class Member(NamedTuple):
    """One member of an object. ``comma`` is where the comma behind it stands, -1 when there is none."""

    name: str
    start: int
    value: Value
    comma: int


class Value(NamedTuple):
    """A value and where it stands. ``members`` are those of an object, () of anything else."""

    kind: str
    start: int
    end: int
    members: tuple[Member, ...] = ()
    plain: Any = None

    def member(self, name: str) -> Member | None:
        """The member of that name; JSON's rule for equal names is that the last one counts."""
        return next((member for member in reversed(self.members) if member.name == name), None)


def parse(text: str, *, strict: bool) -> Value:
    """The root value with all positions. ``strict``: comments and trailing commas are faults too. Raises TextFault."""
    reader = _Reader(text, strict)
    root = reader.value(0)
    if reader.token.kind != "end":
        raise TextFault(reader.token.start, f"expected the end of the file, found {reader.shown()}")
    return root


def comments(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Where the comments between two positions are; there must be nothing but comments, white space and commas."""
    at = start
    while at < end:
        match = _TOKEN.match(text, at, end)
        if match is None:
            return
        if match.lastgroup == "comment":
            yield match.span()
        at = match.end()


class _Reader:
    """Descends with one token ahead."""

    def __init__(self, text: str, strict: bool) -> None:
        self.text = text
        self.strict = strict
        self.token = Token("", 0, 0)
        self.advance()

    def advance(self) -> None:
        """Go to the next token."""
        at = self.token.end
        while True:
            match = _TOKEN.match(self.text, at)
            if match is None:
                break
            kind = match.lastgroup or ""
            if kind == "comment" and self.strict:
                raise TextFault(at, "a comment, which this program does not accept in its file", "remove it")
            if kind not in ("space", "comment"):
                self.token = Token(match.group() if kind == "mark" else kind, *match.span())
                return
            at = match.end()
        if at < len(self.text):
            raise TextFault(at, _complaint(self.text, at))
        self.token = Token("end", at, at)

    def shown(self) -> str:
        """The token as people read it."""
        if self.token.kind == "end":
            return "the end of the file"
        text = self.text[self.token.start : self.token.end]
        return text if len(text) <= 24 else text[:24] + "…"

    def value(self, depth: int) -> Value:
        """One value, whose first token is the current one."""
        kind, start, end = self.token
        if kind in ("{", "["):
            if depth >= MAX_DEPTH:
                raise TextFault(start, f"nested deeper than {MAX_DEPTH}")
            return self.object(depth + 1) if kind == "{" else self.array(depth + 1)
        if kind not in ("string", "number", "word"):
            raise TextFault(start, f"expected a value, found {self.shown()}")
        text = self.text[start:end]
        self.advance()
        return Value(kind, start, end, (), _WORDS[text] if kind == "word" else _scalar(text))

    def object(self, depth: int) -> Value:
        """An object with all its members."""
        start = self.token.start
        members: list[Member] = []
        plain: dict[str, Any] = {}
        self.advance()
        while self.token.kind != "}":
            if self.token.kind != "string":
                raise TextFault(self.token.start, f'expected a "name" or }}, found {self.shown()}')
            at, name = self.token.start, _scalar(self.text[self.token.start : self.token.end])
            self.advance()
            if self.token.kind != ":":
                raise TextFault(self.token.start, f'expected ":" after "{name[:40]}", found {self.shown()}')
            self.advance()
            value = self.value(depth)
            members.append(Member(name, at, value, self.separator("}")))
            plain[name] = value.plain
        end = self.token.end
        self.advance()
        return Value("{", start, end, tuple(members), plain)

    def array(self, depth: int) -> Value:
        """An array; its items keep no positions."""
        start = self.token.start
        items = []
        self.advance()
        while self.token.kind != "]":
            items.append(self.value(depth).plain)
            self.separator("]")
        end = self.token.end
        self.advance()
        return Value("[", start, end, (), items)

    def separator(self, closing: str) -> int:
        """Goes past the comma after a value and returns where it was; -1 when the value was the last one."""
        if self.token.kind == ",":
            at = self.token.start
            self.advance()
            if self.strict and self.token.kind == closing:
                raise TextFault(at, f"a comma before {closing}, which this program does not accept in its file", "remove it")
            return at
        if self.token.kind != closing:
            raise TextFault(self.token.start, f'expected "," or "{closing}", found {self.shown()}')
        return -1


def _scalar(text: str) -> Any:
    """A string or number as Python has it; a number of thousands of digits stays text, which is enough to compare it."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _complaint(text: str, at: int) -> str:
    """What stands where no token begins."""
    if text.startswith("/*", at):
        return "a comment that never ends"
    if text[at] == '"':
        end = re.compile(r'"(?:[^"\\\x00-\x1f]|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4})*').match(text, at)
        stop = end.end() if end else at + 1
        if stop >= len(text) or text[stop] in "\r\n":
            return "a text that never ends; the closing quote is missing"
        return "a text with an illegal escape" if text[stop] == "\\" else "a text with a control character in it"
    if text[at] == "'":
        return "a text in single quotes; JSON has double quotes only"
    word = re.compile(r"[\w.+-]{1,24}").match(text, at)
    return f"{(word.group() if word else text[at])!r} is no JSON"


def paths_twice(root: Value, path: Sequence[str]) -> TextFault | None:
    """The fault of a name on the path that is there twice: editing one of the two could change nothing, or the wrong one."""
    value = root
    for name in path:
        found = [member for member in value.members if member.name == name]
        if len(found) > 1:
            return TextFault(found[1].start, f'"{name}" is there twice', "keep one of them")
        if not found:
            return None
        value = found[0].value
    return None
