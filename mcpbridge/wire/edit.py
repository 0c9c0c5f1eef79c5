"""Changes to some members of an object or elements of an array: only what changes does, every other byte stays.

Source: architecture section 4 (a message stays the bytes it came in).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from msgspec import Raw

from mcpbridge.errors import BridgeError
from mcpbridge.wire import message as m
from mcpbridge.wire.level import items, members, text, with_member
from mcpbridge.wire.message import Members

Change = Callable[[Raw], Raw]
"""Another value for a member or an element; ``raw`` itself when it stays."""


def edited(raw: Raw, changes: Mapping[str, Change]) -> Raw:
    """An object with some of its members changed; ``raw`` itself when nothing does, or when it is no proper object."""
    try:
        said = members(raw)
    except BridgeError:
        return raw
    for name, change in changes.items():
        if name in said and (value := change(said[name])) is not said[name]:
            raw = with_member(raw, said, name, bytes(value))
            said = {**said, name: value}
    return raw


def each(raw: Raw, change: Change) -> Raw:
    """An array with some of its elements changed; ``raw`` itself when none does, or when it is no array."""
    try:
        found = items(raw)
    except BridgeError:
        return raw
    whole, at, parts = bytes(raw), 0, []
    for item in found:
        start = whole.index(item, at)  # only white space and commas stand between two elements
        parts += [whole[at:start], bytes(change(item))]
        at = start + len(item)
    shown = b"".join(parts) + whole[at:]
    return raw if shown == whole else Raw(shown)


def changed(params: Members | None, changes: Mapping[str, Change]) -> Members | None:
    """Params with these members changed; None when nothing does."""
    if params is None or not changes:
        return None
    new = {name: changes[name](raw) if name in changes else raw for name, raw in params.items()}
    return new if any(new[name] is not params[name] for name in changes if name in params) else None


def as_text(change: Callable[[str], str]) -> Change:
    """The change of a value that is a text; others stay."""

    def run(raw: Raw) -> Raw:
        said = text(raw)
        shown = said if said is None else change(said)
        return raw if shown == said else Raw(m.dumps(shown))

    return run
