"""What never leaves the process: secrets, by key, by shape and by value; and characters that forge lines or steer terminals.

Source: contract sections 6.1 (``log.secrets``) and 3 (``${secret:NAME}`` is never logged).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

MASK: Final = "***"
MAX_FIELD_BYTES: Final = 2048

_MAX_DEPTH = 4
_MAX_ITEMS = 50
_MAX_LITERALS = 500
_SHORT = 100
_MIN_LITERAL = 6  # a shorter "secret" would blank ordinary words

_SECRET_KEY = re.compile(
    r"(password|passwd|passphrase|secret|token|authorization|cookie|api[_-]?key|credentials?|private[_-]?key|seal[_-]?keys?"
    r"|session[_-]?id)s?$",
    re.IGNORECASE,
)
_SHAPES: Final[tuple[tuple[re.Pattern[str], str], ...]] = (
    (re.compile(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\Z)", re.DOTALL), MASK),
    (
        re.compile(r"\b((?:proxy-)?authorization|(?:set-)?cookie)(['\"]?\s*[:=]\s*['\"]?)[^\r\n'\"]+", re.IGNORECASE),
        r"\1\2" + MASK,
    ),
    (re.compile(r"\b(bearer)\s+[A-Za-z0-9._~+/=-]{6,}", re.IGNORECASE), r"\1 " + MASK),
    (re.compile(r"\beyJ[A-Za-z0-9_-]{6,}\.[A-Za-z0-9_-]{4,}(?:\.[A-Za-z0-9_-]*)?"), MASK),
    (re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,30}://)[^/?#\s'\"<>]+@"), r"\1" + MASK + "@"),
    (
        re.compile(r"\b((?:\w{1,40}[_-])?(?:password|passwd|secret|token|api[_-]?key))=[^\s&'\",;]+", re.IGNORECASE),
        r"\1=" + MASK,
    ),
    (re.compile(r"\b(?:sk|ghp|gho|ghs|ghu|github_pat|glpat|xox[abprs])[-_][A-Za-z0-9_-]{16,}"), MASK),
)
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class _Literals:
    """Secrets known by value. One set per process, on purpose: a secret is one everywhere."""

    def __init__(self) -> None:
        self.values: dict[str, None] = {}
        self.pattern: re.Pattern[str] | None = None


_known = _Literals()


def conceal(value: str) -> None:
    """Never write this value again: a secret that was just resolved. Shorter than 6 characters is ignored."""
    value = value.strip()
    if len(value) < _MIN_LITERAL or value in _known.values:
        return
    while len(_known.values) >= _MAX_LITERALS:  # rotated tokens of a long life must not pile up; the oldest goes first
        del _known.values[next(iter(_known.values))]
    _known.values[value] = None
    _known.pattern = None
    _short.cache_clear()


def redact(text: str) -> str:
    """The text with everything that is or looks like a secret replaced by ``***``."""
    if _known.values:
        if _known.pattern is None:
            longest_first = sorted(_known.values, key=len, reverse=True)
            _known.pattern = re.compile("|".join(re.escape(literal) for literal in longest_first))
        text = _known.pattern.sub(MASK, text)
    for pattern, replacement in _SHAPES:
        text = pattern.sub(replacement, text)
    return text


def clean(text: str, *, keep_newlines: bool = False) -> str:
    """Escape control, bidi and lone surrogate characters, so that a line can neither be forged nor steer a terminal."""
    if keep_newlines:
        return "\n".join(_CONTROL.sub(_escape, line) for line in text.split("\n"))
    return _CONTROL.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    char = match.group()
    if char in "\n\r\t":
        return {"\n": "\\n", "\r": "\\r", "\t": "\\t"}[char]
    return f"\\x{ord(char):02x}" if ord(char) < 256 else f"\\u{ord(char):04x}"


def cut(text: str, *, tail: bool = False) -> str:
    """At most MAX_FIELD_BYTES of UTF-8. ``tail`` keeps the end, where a traceback has its cause."""
    if len(text) * 4 <= MAX_FIELD_BYTES:
        return text
    raw = text.encode("utf-8", "backslashreplace")
    if len(raw) <= MAX_FIELD_BYTES:
        return text
    room = MAX_FIELD_BYTES - 3  # the ellipsis
    if tail:
        return "…" + raw[-room:].decode("utf-8", "ignore")
    return raw[:room].decode("utf-8", "ignore") + "…"


@lru_cache(4096)
def _is_secret(key: str) -> bool:
    return _SECRET_KEY.search(key) is not None


@lru_cache(4096)
def _short(text: str) -> str:
    """Methods, names and messages repeat in line after line; the patterns need not."""
    return clean(redact(text))


def safe(key: str, value: Any, depth: int = 0) -> Any:
    """A JSON-able value without secrets, control characters or unbounded size."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if -(1 << 63) <= value < 1 << 64 else str(value)[:64]
    if isinstance(value, float):
        return value if value - value == 0 else None  # NaN and infinity are no JSON
    if _is_secret(key):
        return MASK
    if isinstance(value, Mapping) and depth < _MAX_DEPTH:
        items = list(value.items())[:_MAX_ITEMS]
        return {cut(clean(redact(str(k)))): safe(str(k), v, depth + 1) for k, v in items}
    if isinstance(value, (list, tuple, set, frozenset)) and depth < _MAX_DEPTH:
        return [safe("", item, depth + 1) for item in list(value)[:_MAX_ITEMS]]
    if isinstance(value, (bytes, bytearray, memoryview)):
        value = bytes(value[: MAX_FIELD_BYTES * 2]).decode("utf-8", "backslashreplace")
    text = value if isinstance(value, str) else str(value)
    if len(text) <= _SHORT and key != "traceback":
        return _short(text)
    trace_text = key == "traceback"
    if len(text) > MAX_FIELD_BYTES * 4:  # bound the work before the patterns run; what falls off would be cut anyway
        text = text[-MAX_FIELD_BYTES * 4 :] if trace_text else text[: MAX_FIELD_BYTES * 4]
    return cut(clean(redact(text), keep_newlines=trace_text), tail=trace_text)
