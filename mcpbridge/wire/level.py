"""One proven level of JSON: the members of an object or the elements of an array, each as its exact bytes.

msgspec keeps the last of duplicate keys and says nothing. A level is proven when its compact length accounts for every byte,
``1 + sum(len(key) + 4 + len(raw))``: white space, escapes and duplicates all make it longer, never shorter. A level that does
not add up loses its white space and is tried again when it is small; else, or then, it is walked key by key, which is exact
and costs in proportion to its members, not its bytes.

Source: architecture section 4 "Envelope", "Strict JSON".
"""

from __future__ import annotations

import json
import re

import msgspec
from msgspec import Raw

from mcpbridge.errors import BridgeError
from mcpbridge.wire.message import Members

MAX_MEMBERS = 10_000  # of one level that is read

decode_members = msgspec.json.Decoder(dict[str, Raw]).decode
decode_items = msgspec.json.Decoder(list[Raw]).decode
_decode_text = msgspec.json.Decoder(str).decode

_KEY = re.compile(rb'[ \t\r\n]*[{,][ \t\r\n]*("[^"\\]*(?:\\.[^"\\]*)*")[ \t\r\n]*:[ \t\r\n]*')
_END = re.compile(rb"[ \t\r\n]*(?:{[ \t\r\n]*)?}[ \t\r\n]*")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
_SMALL = 16_384  # bytes up to which removing white space is cheaper than walking
_MAX_SURROGATES = 100_000  # of one text: keeps the second attempt below 20 ms


def members(raw: bytes | Raw | None, reason: str = "invalid_params") -> Members:
    """The members of one JSON object, proven free of duplicates; {} when ``raw`` is None.

    ``raw`` is part of a parsed message, or has passed ``strict.check_bytes``. Lone surrogate escapes are kept as they are.
    Raises BridgeError(reason) when it is not such an object or has more than 10,000 members.
    """
    return {} if raw is None else prove(raw, reason)


def with_member(raw: Raw, said: Members, name: str, value: bytes) -> Raw:
    """An object with another value for one member that it has; every other byte stays, white space and escapes included.

    ``said``: what ``members`` made of ``raw``.
    """
    for key, key_end, start, end in _walk(bytes(raw), said, "invalid_params", "object"):
        if json.loads(bytes(raw)[key:key_end]) == name:
            return Raw(bytes(raw)[:start] + value + bytes(raw)[end:])
    raise KeyError(name)


def items(raw: bytes | Raw | None, reason: str = "invalid_params") -> list[Raw]:
    """The elements of one JSON array, byte-exact; [] when ``raw`` is None. Raises BridgeError(reason) when it is no array."""
    if raw is None:
        return []
    try:
        return decode_items(raw)
    except msgspec.ValidationError:
        raise BridgeError(reason, "not an array") from None
    except (msgspec.DecodeError, RecursionError):
        return _items_with_surrogates(bytes(raw), reason)


def text(raw: bytes | Raw | None) -> str | None:
    """The value of a JSON string; None for anything else, and for a lone surrogate in it: no name can be made of that."""
    if raw is None:
        return None
    try:
        return _decode_text(raw)
    except (ValueError, RecursionError):
        return None


def has_surrogates(raw: bytes) -> bool:
    """Whether an escape of a surrogate, paired or lone, stands in these bytes (or what looks like one behind a backslash)."""
    return _SURROGATE.search(raw) is not None


def length(members: Members) -> int:
    """Bytes of the compact object of these members, or less when a name is not ASCII: then it never adds up."""
    size = 1
    for name, raw in members.items():
        size += len(name) + 4 + len(raw)
    return size if members else 2


def prove(raw: bytes | Raw, reason: str, what: str = "object", *, proven: bool = False, surrogates: bool = True) -> Members:
    """One object level without duplicate keys.

    ``proven``: a complete parse already excluded them. ``surrogates``: accept lone surrogate escapes (of servers).
    Raises BridgeError(reason); BridgeError("parse_error") when it is no JSON at all.
    """
    try:
        level = decode_members(raw)
    except msgspec.ValidationError:
        raise BridgeError(reason, f"{what} must be an object") from None
    except (msgspec.DecodeError, RecursionError) as err:
        if surrogates and has_surrogates(bytes(raw)):
            return _members_with_surrogates(bytes(raw), reason, what)
        raise BridgeError("parse_error", str(err)) from None
    _check_count(level, reason, what)
    if not (proven or length(level) == len(raw) or _is_proven_compact(raw)):
        _walk(bytes(raw), level, reason, what)
    return level


def _is_proven_compact(raw: bytes | Raw) -> bool:
    """Whether a small level adds up once its white space is gone: cheaper than the walk for ``{"a": 1, "b": 2}``."""
    if len(raw) > _SMALL:
        return False
    compact = msgspec.json.format(bytes(raw), indent=-1)
    return length(decode_members(compact)) == len(compact)


def _check_count(level: Members, reason: str, what: str) -> None:
    if len(level) > MAX_MEMBERS:
        raise BridgeError(reason, f"more than {MAX_MEMBERS} members in {what}")


def _walk(raw: bytes, level: Members, reason: str, what: str) -> list[tuple[int, int, int, int]]:
    """Where each key and value of this level stands (key start, end, value start, end); proves that no key occurs twice.

    ``level`` is what msgspec made of ``raw``. At each key its value must stand right there, and the next key or the end right
    behind it: with a key written twice that fails, or more keys are met than ``level`` has.
    """
    found: list[tuple[int, int, int, int]] = []
    position = 0
    while match := _KEY.match(raw, position):
        key = match[1]
        value = level.get(key[1:-1].decode() if b"\\" not in key else json.loads(key))
        if value is None or not raw.startswith(value, match.end()):
            raise BridgeError(reason, f"duplicate key in {what}")
        position = match.end() + len(value)
        found.append((match.start(1), match.end(1), match.end(), position))
    if len(found) != len(level) or not _END.fullmatch(raw, position):
        raise BridgeError(reason, f"duplicate key in {what}")
    return found


def _members_with_surrogates(raw: bytes, reason: str, what: str) -> Members:
    """A level whose text holds lone surrogates: ``JSON.stringify`` writes them for a cut emoji, msgspec refuses them."""
    shape = _shape(raw, reason)
    try:
        level = decode_members(shape)
    except (msgspec.DecodeError, RecursionError) as err:
        raise BridgeError("parse_error", str(err)) from None
    _check_count(level, reason, what)
    found: Members = {}
    for key, key_end, value, value_end in _walk(shape, level, reason, what):
        found[json.loads(raw[key:key_end])] = Raw(raw[value:value_end])
    if len(found) != len(level):
        raise BridgeError(reason, f"duplicate key in {what}")
    return found


def _items_with_surrogates(raw: bytes, reason: str) -> list[Raw]:
    shape, position, found = _shape(raw, reason), 0, []
    try:
        elements = decode_items(shape)
    except (msgspec.DecodeError, RecursionError) as err:
        raise BridgeError("parse_error", str(err)) from None
    for element in elements:
        position = shape.index(element, position)  # only white space and commas stand between two elements
        found.append(Raw(raw[position : position + len(element)]))
        position += len(element)
    return found


def _shape(raw: bytes, reason: str) -> bytes:
    """The same text for msgspec: every surrogate escape is another escape of six bytes, so that all positions stay."""
    shape, count = _SURROGATE.subn(rb"\\ufffd", raw.replace(b"\\\\", b"__"), _MAX_SURROGATES)
    if count == _MAX_SURROGATES:
        raise BridgeError(reason, "too many surrogate escapes")
    return shape
