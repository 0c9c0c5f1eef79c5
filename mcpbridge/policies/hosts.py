"""Host and Origin: is this request meant for us, and if a browser sends it, from a page we trust? Pure; used by every face.

    Origin   absent, of the very address that is asked, or listed      else 403   (``null`` and what cannot be read: 403)
    Host     listed, any port unless the entry names one               else 421

Origin is looked at first: a page of a rebound name is refused for what it is. Names are compared as text in lower case; nothing
is resolved.

Source: contract http.common.origin, ``server.allowed_hosts``, ``server.allowed_origins``; MCP transports, security warning;
reliability section 2, row 10.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_WILDCARDS = frozenset({"", "0.0.0.0", "::", "[::]", "*"})
_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}


class Refusal(NamedTuple):
    """HTTP status and a sentence for people."""

    status: int
    text: str


@dataclass(slots=True, frozen=True)
class HostRules:
    """The names we answer to and the pages we trust. Make it with ``host_rules``."""

    names: frozenset[str]
    places: frozenset[tuple[str, int]]
    origins: frozenset[tuple[str, str, int | None]]


def host_rules(hosts: Iterable[str], origins: Iterable[str] = (), *, bind: str | None = None) -> HostRules:
    """Rules of the configured hosts (``name``, ``name:port``, ``[v6]``) and origins (``scheme://host[:port]``).

    ``bind``: the address we listen on, added unless it is a wildcard. Raises ValueError for an entry that cannot be read.
    """
    names: set[str] = set()
    places: set[tuple[str, int]] = set()
    if bind is not None and bind not in _WILDCARDS:
        names.add(f"[{bind.lower()}]" if ":" in bind and not bind.startswith("[") else bind.lower())
    for entry in hosts:
        host = _authority(entry)
        if host is None:
            raise ValueError(f"{entry!r} is no host")
        if host[1] is None:
            names.add(host[0])
        else:
            places.add((host[0], host[1]))
    trusted: set[tuple[str, str, int | None]] = set()
    for entry in origins:
        origin = _origin(entry)
        if origin is None:
            raise ValueError(f"{entry!r} is no origin: scheme://host or scheme://host:port expected")
        trusted.add(origin)
    return HostRules(frozenset(names), frozenset(places), frozenset(trusted))


def refusal(rules: HostRules, host: str | None, origin: str | None, *, check_host: bool = True) -> Refusal | None:
    """Why a request with these headers is refused; None when it is not.

    ``check_host`` False is for GET on the management listener, where probes and scrapes come by address.
    """
    place = _authority(host) if host is not None else None
    is_ours = place is not None and (
        place[0] in rules.names
        or any((place[0], port) in rules.places for port in ((80, 443) if place[1] is None else (place[1],)))
    )
    if origin is not None:
        page = _origin(origin)
        if page is None or not (page in rules.origins or (is_ours and place is not None and _is_same(page, place))):
            return Refusal(403, "this Origin is not allowed; server.allowed_origins lists those that are")
    if check_host and not is_ours:
        return Refusal(421, "this Host is not served here; server.allowed_hosts lists those that are")
    return None


def is_loopback_host(host: str | None) -> bool:
    """Whether a Host header names this machine itself."""
    place = _authority(host) if host is not None else None
    return place is not None and place[0] in LOOPBACK


def _is_same(page: tuple[str, str, int | None], place: tuple[str, int | None]) -> bool:
    scheme, name, port = page
    return name == place[0] and port == (place[1] if place[1] is not None else _PORTS.get(scheme))


def _origin(text: str) -> tuple[str, str, int | None] | None:
    scheme, separator, rest = text.strip().lower().partition("://")
    place = _authority(rest) if separator and scheme.isascii() and scheme.replace("-", "").replace(".", "").isalnum() else None
    if place is None:
        return None
    return scheme, place[0], place[1] if place[1] is not None else _PORTS.get(scheme)


def _authority(text: str) -> tuple[str, int | None] | None:
    """Name in lower case and port of ``host``, ``host:port`` or ``[v6]:port``; None for anything else."""
    text = text.lower()
    if not text or len(text) > 255 or not text.isascii() or not text.isprintable() or any(c in " /\\@?#,%*" for c in text):
        return None
    if text.startswith("["):
        name, bracket, rest = text.partition("]")
        name += bracket
        if not bracket or len(name) < 4 or any(c not in "0123456789abcdef:." for c in name[1:-1]):
            return None
    else:
        name, colon, number = text.partition(":")
        rest = colon + number
        if not name or "[" in name or "]" in name:
            return None
    if not rest:
        return name, None
    port = rest[1:]
    if not rest.startswith(":") or not port.isdecimal() or len(port) > 5 or not 0 < int(port) < 65536:
        return None
    return name, int(port)
