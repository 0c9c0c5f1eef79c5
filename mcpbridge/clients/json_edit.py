"""Edits of a JSON text by positions: only what belongs to the change is inserted, replaced or cut; every other byte stays.

The new text takes over what the file does: its indentation, its line ends, a comma after the last member where it has one, and
one line where the file is one line. Pure.

Source: ux section 7 (writing rules 2 and 3).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from mcpbridge.clients.faults import TextFault
from mcpbridge.clients.jsonc import Member, Value, comments, parse, paths_twice

_BLANKS = re.compile(r"[ \t]*")
_LINE_BEGINS = re.compile(r"(?:\r\n|\n|\r)[ \t]*\Z")
_LOOKS_AT = 400  # members that are looked at for the indentation


def same(one: Any, other: Any) -> bool:
    """Whether two JSON values say the same; 1 and true do not."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def set_value(text: str, path: Sequence[str], plain: Any, *, strict: bool) -> str:
    """The text with the value at ``path`` (names of members, from the root); missing objects on the way are made.

    Raises TextFault.
    """
    if not text.strip():
        for name in reversed(path):
            plain = {name: plain}
        eol = _eol(text)
        return _written(plain, "  ", "", eol) + eol
    root = parse(text, strict=strict)
    if fault := paths_twice(root, path):
        raise fault
    value = root
    for depth, name in enumerate(path):
        if value.kind != "{":
            raise TextFault(value.start, f"{_spoken(path[:depth])} must be an object", "make it { } or remove it")
        member = value.member(name)
        if member is None:
            for missing in reversed(path[depth + 1 :]):
                plain = {missing: plain}
            return _inserted(text, root, value, name, plain)
        value = member.value
    if same(value.plain, plain):
        return text
    on_one_line = value.kind == "{" and bool(value.members) and not _breaks(text[value.start : value.end])
    outer = _indent_at(text, value.start)
    unit = None if on_one_line or not _breaks(text[root.start : root.end]) else _unit(text, root)
    return text[: value.start] + _written(plain, unit, outer, _eol(text)) + text[value.end :]


def remove_value(text: str, path: Sequence[str], *, strict: bool) -> str:
    """The text without the member at ``path``; unchanged when there is none. Raises TextFault."""
    if not text.strip():
        return text
    root = parse(text, strict=strict)
    if fault := paths_twice(root, path):
        raise fault
    value = root
    for name in path[:-1]:
        member = value.member(name)
        if member is None:
            return text
        value = member.value
    number = next((at for at, member in enumerate(value.members) if member.name == path[-1]), None)
    return text if number is None else _without(text, value, number)


# -- insert


def _inserted(text: str, root: Value, target: Value, name: str, plain: Any) -> str:
    """The text with one more member of ``target``, after its last one."""
    eol = _eol(text)
    one_line = bool(root.members) and not _breaks(text[root.start : root.end])
    if one_line or (target.members and not _breaks(text[target.start : target.end])):
        made = f"{_dumped(name)}: {_written(plain, None, '', eol)}"
        if not target.members:
            at = target.end - 1
            return text[:at] + made + text[at:]
        last = target.members[-1]
        if last.comma < 0:
            return f"{text[: last.value.end]}, {made}{text[last.value.end :]}"
        return f"{text[: last.comma + 1]} {made},{text[last.comma + 1 :]}"
    unit = _unit(text, root)
    closing = _indent_at(text, target.start)
    indent = _indent_of_members(text, target)
    indent = closing + unit if indent is None else indent
    body = f"{eol}{indent}{_dumped(name)}: {_written(plain, unit, indent, eol)}"
    if target.members:
        last = target.members[-1]
        if last.comma >= 0:
            at = _end_of_line(text, last.comma + 1, target.end - 1)
            return f"{text[:at]}{body},{text[at:]}"
        at = _end_of_line(text, last.value.end, target.end - 1)
        return f"{text[: last.value.end]},{text[last.value.end : at]}{body}{text[at:]}"
    at = max([target.start + 1, *(end for _, end in comments(text, target.start + 1, target.end - 1))])
    if not _breaks(text[at : target.end - 1]):
        at = target.end - 1
        body += eol + closing
    return text[:at] + body + text[at:]


def _end_of_line(text: str, start: int, limit: int) -> int:
    """After the comments that share the line with what ends at ``start``, and the blanks at the end of that line."""
    at = start
    for _, end in comments(text, start, limit):
        if _breaks(text[at:end]):
            break
        at = end
    blanks = _skip_blanks(text, at)
    return blanks if text[blanks : blanks + 1] in ("\r", "\n") else at


# -- remove


def _without(text: str, target: Value, number: int) -> str:
    """The text without one member and one comma, and without its line when nothing else is on it."""
    member = target.members[number]
    before = target.members[number - 1] if number else None
    start, end = member.start, member.value.end
    cuts = []
    if member.comma >= 0 and not text[end : member.comma].strip():
        end = member.comma + 1
    elif member.comma >= 0:  # a comment between the value and its comma stays
        cuts.append((member.comma, member.comma + 1))
    elif before is not None:
        cuts.append((before.comma, before.comma + 1))
    floor = target.start + 1 if before is None else max(before.value.end, before.comma + 1)
    line = _LINE_BEGINS.search(text, floor, start)
    after = _skip_blanks(text, end)
    if line is not None and text[after : after + 1] in ("\r", "\n"):
        start, end = line.start(), after
    elif line is not None and before is not None and text[after : after + 1] == "}" and not text[floor : line.start()].strip():
        start = line.start()
    elif line is None and before is not None:
        start = floor + len(text[floor:start].rstrip(" \t"))
    elif line is None:
        end = after
    for begin, stop in sorted([*cuts, (start, end)], reverse=True):
        text = text[:begin] + text[stop:]
    return text


def _skip_blanks(text: str, at: int) -> int:
    match = _BLANKS.match(text, at)
    return at if match is None else match.end()


# -- how the file is written


def _breaks(text: str) -> bool:
    return "\n" in text or "\r" in text


def _unit(text: str, root: Value) -> str:
    """One step of indentation: as the first member that stands on a line of its own has it, else two blanks."""
    pending, seen = [root], 0
    while pending and seen < _LOOKS_AT:
        value = pending.pop(0)
        outer = _indent_at(text, value.start)
        for member in value.members:
            seen += 1
            indent = _line_indent(text, member)
            if indent is not None and indent != outer and indent.startswith(outer):
                return indent[len(outer) :]
            if member.value.members:
                pending.append(member.value)
            if seen >= _LOOKS_AT:
                break
    return "  "


def _indent_of_members(text: str, value: Value) -> str | None:
    """The indentation of the last member that is the first thing on its line."""
    return next((indent for member in reversed(value.members) if (indent := _line_indent(text, member)) is not None), None)


def _line_start(text: str, at: int) -> int:
    return max(text.rfind("\n", 0, at), text.rfind("\r", 0, at)) + 1


def _line_indent(text: str, member: Member) -> str | None:
    """The blanks before a member that is the first thing on its line; None when it is not."""
    before = text[_line_start(text, member.start) : member.start]
    return None if before.strip(" \t") or _line_start(text, member.start) == 0 else before


def _indent_at(text: str, at: int) -> str:
    """The indentation of the line on which something stands."""
    start = _line_start(text, at)
    return text[start : min(_skip_blanks(text, start), at)]


def _eol(text: str) -> str:
    crlf = text.count("\r\n")
    return "\r\n" if crlf * 2 > text.count("\n") else "\n"


def _written(plain: Any, unit: str | None, outer: str, eol: str) -> str:
    """A value as the file would have it; ``unit`` None: on one line."""
    return (eol + outer).join(_dumped(plain, unit).split("\n"))


def _dumped(plain: Any, unit: str | None = None) -> str:
    text = json.dumps(plain, ensure_ascii=False, indent=unit)
    if any("\ud800" <= char <= "\udfff" for char in text):  # half a character cannot be stored as UTF-8
        return json.dumps(plain, indent=unit)
    return text


def _spoken(path: Sequence[str]) -> str:
    return ".".join(path) if path else "the whole"
