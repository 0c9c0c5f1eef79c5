"""Guards that run before any JSON is parsed, and the duplicate check for what clients send.

    bytes -> UTF-8, no BOM -> depth, brackets -> number literals, members -> (parse) -> duplicate keys at all levels

Every guard is linear in the bytes and refuses 1 MiB of hostile input in less than 20 ms, so nothing that would keep a
parser busy or deep reaches it. A refusal is ``BridgeError("parse_error")``.

Source: contract limit.json, limit.input.utf8; architecture section 4 "Strict JSON".
"""

from __future__ import annotations

import re
from itertools import accumulate

import jiter

from mcpbridge.errors import BridgeError

MAX_DEPTH = 64
MAX_BRACKETS = 200_000  # objects and arrays of one message, counted as opening plus closing ones
MAX_DIGITS = 64  # of one number literal, of clients: beyond it parsers turn quadratic or lose the value
MAX_MEMBERS = 40_000  # of a client message, all levels together: more would hold the loop beyond 20 ms
DUPLICATES_UP_TO = 1_048_576  # bytes: client messages up to this size are searched at every level

_BOM = b"\xef\xbb\xbf"
_STEPS = bytes.maketrans(b"{[}]", b"\x01\x01\xff\xff")  # +1 and -1 as signed bytes
_NOT_STRUCTURE = bytes(byte for byte in range(256) if byte not in b'{}[]"')
_CLASSES = bytes(b"["[0] if byte in b"{[" else b"0"[0] if byte in b"0123456789+-.eE" else b" "[0] for byte in range(256))
_SUSPECT = b"0" * (MAX_DIGITS + 1)
_LITERAL = re.compile(rb"[0-9+\-.eE]{%d,}" % (MAX_DIGITS + 1))


def check_bytes(raw: bytes, *, client: bool = True, max_depth: int = MAX_DEPTH) -> None:
    """Refuse what must not reach a parser. Raises BridgeError("parse_error")."""
    if not raw.isascii():
        if raw.startswith(_BOM):
            raise BridgeError("parse_error", "byte order mark")
        try:
            raw.decode()
        except UnicodeDecodeError as err:
            raise BridgeError("parse_error", f"invalid UTF-8 at byte {err.start}") from None
    classes = raw.translate(_CLASSES) if client else b""
    openers = classes.count(b"[") if client else raw.count(b"{") + raw.count(b"[")
    if openers > max_depth:  # fewer openers than levels allowed cannot be too deep
        _check_structure(raw, max_depth)
    if client:
        if _SUSPECT in classes:
            _check_numbers(raw)
        if len(raw) > MAX_MEMBERS and raw.count(b":") > MAX_MEMBERS and _outside_strings(raw).count(b":") > MAX_MEMBERS:
            raise BridgeError("parse_error", f"more than {MAX_MEMBERS} members")


def check_duplicates(raw: bytes) -> None:
    """Refuse a duplicate key at any level, compared as decoded text. Raises BridgeError("parse_error").

    For client messages up to ``DUPLICATES_UP_TO`` bytes, after ``check_bytes``. It is a complete parse, so it also refuses
    everything else that is not JSON, a lone surrogate escape included.
    """
    try:
        jiter.from_json(raw, catch_duplicate_keys=True, allow_inf_nan=False, cache_mode="keys")
    except ValueError as err:
        reason, _, place = str(err).rpartition(" at line ")
        if reason.startswith("Detected duplicate key"):
            reason = "duplicate key"  # without the key: what a client sent does not belong into an error or a log line
        raise BridgeError("parse_error", f"{reason} at line {place}") from None


def _check_structure(raw: bytes, max_depth: int) -> None:
    """Depth and number of brackets outside strings.

    Escaped backslashes go first, then escaped quotes; what is left of quotes delimits strings. ``""`` may go as a pair: as an
    empty string it holds no bracket, and as the end of one string and the start of the next it keeps every bracket where it
    is. On bytes that are no JSON the answer may be wrong; then the parser refuses them.
    """
    unescaped = raw.replace(b"\\\\", b"").replace(b'\\"', b"")
    steps = b"".join(unescaped.translate(_STEPS, _NOT_STRUCTURE).replace(b'""', b"").split(b'"')[::2])
    if len(steps) > MAX_BRACKETS:
        raise BridgeError("parse_error", f"more than {MAX_BRACKETS} brackets")
    if max(accumulate(memoryview(steps).cast("b")), default=0) > max_depth:
        raise BridgeError("parse_error", f"nested deeper than {max_depth} levels")


def _check_numbers(raw: bytes) -> None:
    for literal in _LITERAL.findall(_outside_strings(raw)):
        if len(literal.translate(None, b"+-.eE")) > MAX_DIGITS:
            raise BridgeError("parse_error", f"number of more than {MAX_DIGITS} digits")


def _outside_strings(raw: bytes) -> bytes:
    """The same JSON with every string emptied."""
    return b'""'.join(raw.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2])
