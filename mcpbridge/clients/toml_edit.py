"""Edits of a TOML text by positions, each one checked by ``tomllib`` before and after.

The scanner finds where the statements of a valid text are, no more; what they mean is the parser's business, and a result that
does not mean what was wanted is refused. So no library that writes TOML is needed, and none can reformat the file. Pure.

Source: TOML 1.0; ux section 7 (writing rules 2 and 3).
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from mcpbridge.clients.faults import TextFault

_STRING = re.compile(
    r'''"""(?:[^"\\]|\\.|"(?!""))*""""{0,2}|\'\'\'(?:[^\']|\'(?!\'\'))*\'\'\'\'{0,2}|"(?:[^"\\\r\n]|\\.)*"|\'[^\'\r\n]*\'''',
    re.DOTALL,
)
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_WHITE = " \t\r\n"
_NO_TEXT = re.compile(r"[ \t\r\n]*")
_BLANKS = re.compile(r"[ \t]*")
_NOTHING = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")
_REST_OF_LINE = re.compile(r"[ \t]*(?:#[^\r\n]*)?")
_PLACE = re.compile(r"(.*?) \(at (?:line (\d+), column (\d+)|end of document)\)", re.DOTALL)


class Statement(NamedTuple):
    """A header or a pair with its full path. ``value`` is where a pair's value begins, -1 of a header."""

    path: tuple[str, ...]
    start: int
    value: int
    end: int


def load(text: str) -> dict[str, Any]:
    """What the text means. Raises TextFault."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        match = _PLACE.fullmatch(str(error))
        if match is None:
            raise TextFault(0, str(error)) from None
        if match[2] is None:
            raise TextFault(len(text), match[1]) from None
        lines = text.replace("\r\n", "\n").split("\n")
        at = sum(len(line) + 1 for line in lines[: int(match[2]) - 1]) + int(match[3]) - 1
        crlf = text.count("\r\n")
        if crlf:  # the parser counts CR LF as one
            at += _carriage_returns(text, int(match[2]) - 1)
        raise TextFault(min(at, len(text)), match[1]) from None
    except RecursionError:
        raise TextFault(0, "nested too deeply") from None


def same(one: Any, other: Any) -> bool:
    """Whether two parsed values say the same."""
    return json.dumps(one, sort_keys=True, default=repr) == json.dumps(other, sort_keys=True, default=repr)


def set_table(text: str, path: tuple[str, str], plain: Mapping[str, Any]) -> str:
    """The text with the table at ``path`` holding exactly ``plain``; keys that keep their value keep their bytes.

    Raises TextFault, also for a text in which the table cannot be written without rewriting others.
    """
    before = load(text)
    outer = before.get(path[0], {})
    if not isinstance(outer, dict):
        raise TextFault(0, f"{path[0]} must be a table")
    old = outer.get(path[1])
    if old is not None and same(old, plain):
        return text
    after = _changed(text, path, old, plain) if isinstance(old, dict) else None
    if after is None:
        after = _appended(remove_table(text, path), path, plain)
    return _proved(text, after, {**before, path[0]: {**outer, path[1]: plain}}, path)


def remove_table(text: str, path: tuple[str, str]) -> str:
    """The text without the table at ``path`` and its sub-tables; unchanged when there is none. Raises TextFault."""
    before = load(text)
    outer = before.get(path[0], {})
    if not isinstance(outer, dict) or path[1] not in outer:
        return text
    after = text
    for start, end in reversed(list(_blocks(text, path))):
        after = _cut(after, start, end)
    rest = {name: value for name, value in outer.items() if name != path[1]}
    return _proved(text, after if after.strip(_WHITE) else "", {**before, path[0]: rest}, path)


def _proved(text: str, after: str, wanted: Mapping[str, Any], path: tuple[str, str]) -> str:
    """The new text, if it means what is wanted and nothing else."""
    try:
        found = load(after)
    except TextFault:
        found = {}
    empty = {key: value for key, value in found.items() if key != path[0] or value}  # an empty [mcp_servers] may remain
    if not same(empty, {key: value for key, value in wanted.items() if key != path[0] or value}):
        at = next((statement.start for statement in _statements(text) if statement.path[:1] == path[:1]), 0)
        name = ".".join(path)
        raise TextFault(at, f"{name} cannot be edited in place here", f"write it as a table of its own, [{name}]")
    return after


# -- where statements are


def _statements(text: str) -> Iterator[Statement]:
    """All headers and pairs of a valid text."""
    table: tuple[str, ...] = ()
    at = _skip(_NOTHING, text, 0)
    while at < len(text):
        start = at
        if text[at] == "[":
            double = text.startswith("[[", at)
            keys, at = _key(text, at + (2 if double else 1))
            at = text.index("]", at) + (2 if double else 1)
            table = keys
            yield Statement(keys, start, -1, at)
        else:
            keys, at = _key(text, at)
            value = _skip(_BLANKS, text, text.index("=", at) + 1)
            at = _value_end(text, value)
            yield Statement((*table, *keys), start, value, at)
        at = _skip(_NOTHING, text, at)


def _skip(pattern: re.Pattern[str], text: str, at: int) -> int:
    match = pattern.match(text, at)
    return at if match is None else match.end()


def _key(text: str, at: int) -> tuple[tuple[str, ...], int]:
    """A dotted key and where it ends."""
    parts: list[str] = []
    while True:
        at = _skip(_BLANKS, text, at)
        match = _STRING.match(text, at) or _BARE.match(text, at)
        if match is None:
            raise TextFault(at, "no key where one must be")
        word = match.group()
        parts.append(next(iter(tomllib.loads(f"{word}=0"))) if word[0] in "\"'" else word)
        at = _skip(_BLANKS, text, match.end())
        if text[at : at + 1] != ".":
            return tuple(parts), at
        at += 1


_VALUE_STEP = re.compile(_STRING.pattern + r"|[\[{]|[\]}]|#[^\r\n]*|[^\[\]{}#\"'\r\n]+|[\r\n]+", re.DOTALL)
_PLAIN_VALUE = re.compile(r"[^#\r\n,\]}]*")


def _value_end(text: str, at: int) -> int:
    """Where the value that begins here ends."""
    match = _STRING.match(text, at)
    if match is not None:
        return match.end()
    if text[at] not in "[{":
        end = _skip(_PLAIN_VALUE, text, at)
        return at + len(text[at:end].rstrip())
    depth = 0
    while at < len(text):
        step = _VALUE_STEP.match(text, at)
        if step is None:
            break
        at = step.end()
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(step.group(), 0)
        if depth == 0:
            return at
    raise TextFault(at, "a value without an end")


def _blocks(text: str, path: Sequence[str]) -> Iterator[tuple[int, int]]:
    """The stretches of text that belong to a table: its headers with their pairs, or single pairs of it."""
    wanted = tuple(path)
    inside = False
    block: tuple[int, int] | None = None
    for statement in _statements(text):
        if statement.value < 0:
            if block is not None:
                yield block
            inside = statement.path[: len(wanted)] == wanted
            block = (statement.start, statement.end) if inside else None
        elif inside and block is not None:
            block = (block[0], statement.end)
        elif statement.path[: len(wanted)] == wanted:
            yield statement.start, statement.end
    if block is not None:
        yield block


def _cut(text: str, start: int, end: int) -> str:
    """The text without a stretch, the rest of its last line, and the empty lines before it."""
    end = _skip(_REST_OF_LINE, text, end)
    start = _end_of_content(text, start)
    if not text[:start].strip(_WHITE):
        end = _skip(_NO_TEXT, text, end)
    return text[:start] + text[end:]


def _end_of_content(text: str, at: int) -> int:
    """The end of the last line before a position that is not empty, with the blanks at its end."""
    return min(_skip(_BLANKS, text, len(text[:at].rstrip(_WHITE))), at)


# -- what is written


def _appended(text: str, path: tuple[str, str], plain: Mapping[str, Any]) -> str:
    """The text with one more table, after the last one of its family or at the end."""
    eol = "\r\n" if text.count("\r\n") * 2 > text.count("\n") else "\n"
    block = f"[{written_key(path[0])}.{written_key(path[1])}]"
    for key, value in plain.items():
        block += f"{eol}{written_key(key)} = {written(value)}"
    if not text.strip(_WHITE):
        return block + eol
    at, inside = _end_of_content(text, len(text)), False
    for statement in _statements(text):
        if statement.value < 0:
            inside = statement.path[0] == path[0]
        if inside:
            at = _skip(_REST_OF_LINE, text, statement.end)
    return f"{text[:at]}{eol}{eol}{block}{text[at:]}"


def _changed(text: str, path: tuple[str, str], old: Mapping[str, Any], plain: Mapping[str, Any]) -> str | None:
    """The text with single keys of the table changed; None when it is not written as one table, or its changes are deeper."""
    eol = "\r\n" if text.count("\r\n") * 2 > text.count("\n") else "\n"
    whole = [statement for statement in _statements(text) if statement.path[:2] == path]
    inline = [statement for statement in whole if statement.path == path and statement.value >= 0]
    if inline:
        return text[: inline[0].value] + written(plain) + text[inline[0].end :]
    header = [statement for statement in whole if statement.path == path]
    pairs = {statement.path[2]: statement for statement in whole if len(statement.path) == 3 and statement.value >= 0}
    deeper = {one.path[2] for one in whole if len(one.path) > 3 or (len(one.path) == 3 and one.value < 0)}
    differing = [key for key in {**old, **plain} if key not in old or key not in plain or not same(old[key], plain[key])]
    if len(header) != 1 or any(key in deeper for key in differing):
        return None
    edits: list[tuple[int, int, str]] = []
    own = [header[0], *(pair for pair in pairs.values() if pair.start > header[0].start)]
    last = max(own, key=lambda statement: statement.end)
    for key in differing:
        if key in plain and key in pairs:
            edits.append((pairs[key].value, pairs[key].end, written(plain[key])))
        elif key in plain:
            at = _skip(_REST_OF_LINE, text, last.end)
            edits.append((at, at, f"{eol}{written_key(key)} = {written(plain[key])}"))
        else:
            start = len(text[: pairs[key].start].rstrip(" \t"))
            start = start - 2 if text[:start].endswith("\r\n") else start - 1
            edits.append((start, _skip(_REST_OF_LINE, text, pairs[key].end), ""))
    for start, end, new in sorted(edits, key=lambda edit: (edit[0], edit[1]), reverse=True):
        text = text[:start] + new + text[end:]
    return text


def written_key(key: str) -> str:
    """A key, quoted where it must be."""
    return key if _BARE.fullmatch(key) else _quoted(key)


def written(value: Any) -> str:
    """A value on one line. Raises TextFault for what has no such form."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, Mapping):
        inner = ", ".join(f"{written_key(str(key))} = {written(item)}" for key, item in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(written(item) for item in value)}]"
    if hasattr(value, "isoformat"):
        return str(value.isoformat())
    raise TextFault(0, f"{type(value).__name__} cannot be written in TOML")


def _quoted(text: str) -> str:
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise TextFault(0, "half a character cannot be written in TOML")
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _carriage_returns(text: str, lines: int) -> int:
    """How many CR stand before the LF of the first ``lines`` lines."""
    return sum(line.endswith("\r") for line in text.split("\n")[:lines])
