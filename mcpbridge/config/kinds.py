"""How one configuration value is written: text in, value out. Pure; the same for files, variables and flags.

A kind refuses with ValueError; the text of the error completes the sentence "KEY must be ...".

Source: contract section 3 (durations, sizes), section 4 (booleans).
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

Form = Literal["scalar", "texts", "map", "items", "servers"]


class Kind(NamedTuple):
    """One way to write a value. ``parse`` reads a scalar, or each scalar of a list or map; ``schema`` is its JSON Schema."""

    name: str
    parse: Callable[[str], Any]
    schema: dict[str, Any]
    form: Form = "scalar"


_DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_MAX_SECONDS = 10 * 365 * 86400.0
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?")
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([KMG]i?B?|B)?", re.IGNORECASE)
_FACTORS = {"": 1, "b": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "ki": 1024, "mi": 1024**2, "gi": 1024**3}
_TRUE = frozenset(("true", "1", "yes", "on"))
_FALSE = frozenset(("false", "0", "no", "off"))
MAX_REGEX = 1000
_DURATION_TEXT = "a duration such as 500ms, 5s, 1m30s or 2h"


def parse_bool(text: str) -> bool:
    """true/false, 1/0, yes/no, on/off in any case. Raises ValueError."""
    word = text.strip().lower()
    if word in _TRUE or word in _FALSE:
        return word in _TRUE
    raise ValueError("true or false (also 1/0, yes/no, on/off)")


def parse_duration(text: str, bare: float = 1.0) -> float:
    """Seconds of ``5s``, ``1m30s``, ``500ms``, ``7d``; a bare number counts in units of ``bare`` seconds. Raises ValueError."""
    word = text.strip()
    if _NUMBER.fullmatch(word):
        seconds = float(word) * bare
    else:
        parts = _DURATION_PART.findall(word)
        if not parts or "".join(number + unit for number, unit in parts) != word:
            raise ValueError(_DURATION_TEXT)
        seconds = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    if seconds > _MAX_SECONDS:
        raise ValueError("a duration of at most ten years")
    return round(seconds, 6)


def parse_size(text: str) -> int:
    """Bytes of ``1048576``, ``10MiB``, ``64k`` (1000) or ``64Ki`` (1024). Raises ValueError."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError("a size in bytes, or such as 64KiB or 10MiB")
    unit = (match[2] or "").lower()
    if len(unit) > 1 and unit.endswith("b"):
        unit = unit[:-1]
    size = float(match[1]) * _FACTORS[unit]
    if size != int(size) or size > 1 << 50:
        raise ValueError("a whole number of bytes, or such as 64KiB or 10MiB")
    return int(size)


def _parse_integer(text: str) -> int:
    word = text.strip().replace("_", "")
    if not re.fullmatch(r"[+-]?[0-9]{1,18}", word):
        raise ValueError("a whole number")
    return int(word)


def _parse_path(text: str) -> str:
    if "\0" in text:
        raise ValueError("a path without NUL characters")
    return os.path.expanduser(text)


def _parse_url(text: str) -> str:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"a URL ({error})") from None
    if parts.scheme not in ("http", "https"):
        raise ValueError("a URL that begins with http:// or https://")
    if not parts.hostname or port == 0 or re.search(r"[\x00-\x20\x7f]", text):
        raise ValueError("a URL with a host, such as https://gateway.example.com/mcp")
    if parts.username is not None or parts.password is not None:
        raise ValueError("a URL without user or password in it (give a token in headers or token_env)")
    if parts.fragment:
        raise ValueError("a URL without a #fragment")
    return text


def _parse_host_port(text: str) -> str:
    host, colon, port = text.strip().rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535 or re.search(r"[\s/]", host):
        raise ValueError("host:port, such as 127.0.0.1:9090 or [::1]:9090")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise ValueError("host:port with an IPv6 address in brackets, such as [::1]:9090")
    return f"{host}:{int(port)}"


def _parse_mode(text: str) -> str:
    """A file mode in octal, quoted or not: YAML readers that take 0660 for a number are not asked."""
    match = re.fullmatch(r"(?:0o?)?([0-7]{3})", text.strip())
    if match is None:
        raise ValueError('a file mode such as "0660"')
    return f"0{match[1]}"


def split_host_port(text: str) -> tuple[str, int]:
    """Host (without brackets; empty = all addresses) and port of a checked ``host:port``."""
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a bind address: a loopback literal or ``localhost``. No name is looked up."""
    name = host.strip("[]").lower()
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.partition("%")[0]).is_loopback
    except ValueError:
        return False


def integer(minimum: int | None = None, maximum: int | None = None) -> Kind:
    """A whole number within bounds."""

    def parse(text: str) -> int:
        return int(_bounded(_parse_integer(text), minimum, maximum))

    schema: dict[str, Any] = {"type": "integer"}
    return Kind("int", parse, schema | _limits(minimum, maximum))


def size(minimum: int = 1, maximum: int | None = None) -> Kind:
    """Bytes within bounds."""

    def parse(text: str) -> int:
        return int(_bounded(parse_size(text), minimum, maximum))

    return Kind("size", parse, {"anyOf": [{"type": "integer"} | _limits(minimum, maximum), {"type": "string"}]})


def number(minimum: float, maximum: float) -> Kind:
    """A number from ``minimum`` to ``maximum``."""

    def parse(text: str) -> float:
        value = float(text) if re.fullmatch(r"[0-9]{1,9}(?:\.[0-9]{1,9})?", text) else -1.0
        if not minimum <= value <= maximum:
            raise ValueError(f"a number from {minimum:g} to {maximum:g}")
        return value

    return Kind("float", parse, {"type": "number", "minimum": minimum, "maximum": maximum})


def duration(minimum: float = 0.0, *, bare: float = 1.0) -> Kind:
    """Seconds as float; a bare number counts in units of ``bare`` seconds (0.001 for keys that end in ``_ms``)."""

    def parse(text: str) -> float:
        seconds = parse_duration(text, bare)
        if seconds < minimum:
            raise ValueError(f"at least {minimum:g} seconds")
        return seconds

    return Kind("duration", parse, {"anyOf": [{"type": "number", "minimum": 0}, {"type": "string"}]})


def duration_or_auto(minimum: float) -> Kind:
    """Seconds as float, or the word auto."""
    seconds = duration(minimum)
    return Kind("duration", lambda text: text if text == "auto" else seconds.parse(text), seconds.schema)


def choice(*words: str) -> Kind:
    """One of a few words, spelled exactly."""

    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}")
        return text

    return Kind("enum", parse, {"enum": list(words)})


def matching(pattern: str, meaning: str) -> Kind:
    """Text that matches a pattern as a whole; ``meaning`` completes "must be"."""
    compiled = re.compile(pattern)

    def parse(text: str) -> str:
        if compiled.fullmatch(text) is None:
            raise ValueError(meaning)
        return text

    return Kind("str", parse, {"type": "string", "pattern": f"^(?:{pattern})$"})


def regex() -> Kind:
    """A regular expression as Python writes them, which is quick to match."""

    def parse(text: str) -> str:
        if len(text) > MAX_REGEX:
            raise ValueError(f"a regular expression of at most {MAX_REGEX} characters")
        try:
            re.compile(text)
        except re.error as error:
            raise ValueError(f"a regular expression ({error.msg} at position {error.pos})") from None
        except (OverflowError, RecursionError):
            raise ValueError("a regular expression that is simpler") from None
        from mcpbridge.config.patterns import danger

        if why := danger(text):
            raise ValueError(f"a regular expression {why}")
        return text

    return Kind("regex", parse, {"type": "string", "format": "regex"})


def _level(text: str) -> str:
    word = "warn" if text == "warning" else text
    return str(_LEVELS.parse(word))


def _bounded(value: int, minimum: int | None, maximum: int | None) -> int:
    if (minimum is not None and value < minimum) or (maximum is not None and value > maximum):
        if maximum is None:
            raise ValueError(f"at least {minimum}")
        raise ValueError(f"at most {maximum}" if minimum is None else f"between {minimum} and {maximum}")
    return value


def _limits(minimum: int | None, maximum: int | None) -> dict[str, int]:
    limits = {"minimum": minimum, "maximum": maximum}
    return {key: value for key, value in limits.items() if value is not None}


_STRING = {"type": "string"}
_LEVELS = choice("trace", "debug", "info", "warn", "error")
BOOL = Kind("bool", parse_bool, {"type": "boolean"})
TEXT = Kind("str", str, _STRING)
PATH = Kind("path", _parse_path, _STRING)
URL = Kind("url", _parse_url, {"type": "string", "format": "uri"})
HOST_PORT = Kind("host:port", _parse_host_port, _STRING)
FILE_MODE = Kind("mode", _parse_mode, {"type": ["string", "integer"]})
PORT = integer(0, 65535)
COUNT = integer(1)
DURATION = duration()
LEVEL = Kind("enum", _level, {"enum": ["trace", "debug", "info", "warn", "warning", "error"]})
TEXTS = Kind("list", str, {"type": "array", "items": _STRING}, "texts")
MAP = Kind("map", str, {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean"]}}, "map")
NAMES = MAP._replace(name="names")  # of no secrets, unlike other maps
ITEMS = Kind("list", str, {"type": "array"}, "items")
SERVERS = Kind("servers", str, {"type": ["array", "object"]}, "servers")
