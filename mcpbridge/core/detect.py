"""Detection without input or output: what is probed, what a verdict is, how long it is remembered, how often it was right.

    Target.of("http://a:1/mcp")            an address, taken apart; anything that two programs could read differently is refused
    Guard.admits(target)                   whether an API caller may have it probed
    Memory                                 verdicts: 5 minutes when proven, at most 5 seconds when not
    Accuracy                               verdicts confirmed by a session within 30 s, of all that were put to the test

Times are seconds of a clock that the caller reads.

Source: reliability section 6 and threat 8; contract http.router.detect.*, metrics of detection; decision 7.
"""

from __future__ import annotations

import ipaddress
import re
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple
from urllib.parse import unquote, urlsplit

import msgspec

Result = Literal["success", "unknown", "refused", "unreachable"]
Scheme = Literal["http", "https", "ws", "wss", "tcp", "tcps", "unix", "any"]
Era = Literal["modern", "legacy", "dual", "unknown_auth_required"]

BUDGET = 1.0  # seconds for one target, all probes together
POSITIVE_TTL = 300.0
NEGATIVE_TTL = 5.0  # also the least time between two probe sets of one target
CONFIRM_TIME = 30.0
MAX_ENTRIES = 1000
MAX_TARGET = 2048  # characters

_LABEL = "[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_NAME = re.compile(rf"(?=.{{1,253}}$)(?:{_LABEL}\.)*{_LABEL}")
_NUMERIC = re.compile(r"(?:.*\.)?(?:\d+|0[xX][0-9A-Fa-f]*)")
_BARE = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):(\d{1,5})")
_PATH = re.compile(r"[\x21-\x7e]*")
_DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443, "tcp": 8444, "tcps": 8444}


class Target(NamedTuple):
    """One place to look at. ``path``: of the URL with its query, "" when none was given; of the socket for ``unix``."""

    text: str
    scheme: Scheme
    host: str
    port: int
    path: str

    @classmethod
    def of(cls, text: str) -> Target:
        """The target that a text names: a URL, ``host:port`` or a socket's absolute path. Raises ValueError with the cause."""
        if len(text) > MAX_TARGET or _PATH.fullmatch(text) is None:
            raise ValueError("an address is at most 2048 printable ASCII characters")
        if text.startswith("/"):
            return cls(text, "unix", "", 0, text)
        bare = _BARE.fullmatch(text)
        if bare is not None:
            return cls(text, "any", _host(bare[1].strip("[]")), _port(int(bare[2])), "")
        parts = urlsplit(text)
        scheme = parts.scheme.lower()
        if scheme == "unix":
            path = unquote(parts.path)
            if parts.netloc or not path.startswith("/"):
                raise ValueError("a unix socket is unix:///absolute/path")
            return cls(text, "unix", "", 0, path)
        if scheme not in _DEFAULT_PORTS:
            raise ValueError("an address starts with http, https, ws, wss, tcp, tcps or unix ://, or is host:port")
        if "@" in parts.netloc or "\\" in text:
            raise ValueError("an address holds no user name and no backslash")
        port = parts.port  # ValueError beyond 65535
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        host = _host(parts.hostname or "")
        return cls(text.partition("#")[0], scheme, host, _port(_DEFAULT_PORTS[scheme] if port is None else port), path)  # type: ignore[arg-type]

    @property
    def place(self) -> str:
        """The target for people and documents: without the query, where a secret may stand."""
        return self.text.partition("?")[0]

    @property
    def authority(self) -> str:
        """Host and port as the Host header has them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return (
            host if self.port == _DEFAULT_PORTS.get("https" if self.scheme == "wss" else self.scheme) else f"{host}:{self.port}"
        )


def _host(host: str) -> str:
    """A DNS name or an IP literal in its one spelling. ``0x7f.1`` and ``2130706433`` are neither."""
    if "%" in host:
        raise ValueError("an IPv6 zone is not taken")
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    if _NAME.fullmatch(host) is None or _NUMERIC.fullmatch(host):
        raise ValueError("the host is neither a DNS name nor an IP address in its usual form")
    return host.lower()


def _port(port: int) -> int:
    if not 1 <= port <= 65535:
        raise ValueError("a port is 1 to 65535")
    return port


class Guard:
    """Which targets an API caller may have probed (threat 8). The configuration itself may name any.

    ``configured``: addresses of servers. ``allowed``: host names, addresses and networks. A name counts only when it is listed
    as that name: to learn the address of another would be a packet already.
    """

    def __init__(self, configured: Iterable[str] = (), allowed: Iterable[str] = (), *, loopback: bool) -> None:
        self._places: set[tuple[str, int] | str] = set()
        self._names: set[str] = set()
        self._networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
        self._loopback = loopback
        for text in configured:
            try:
                target = Target.of(text)
            except ValueError:
                continue  # what cannot be probed needs no permission
            self._places.add(target.path if target.scheme == "unix" else (target.host, target.port))
        for entry in allowed:
            try:
                self._networks.append(ipaddress.ip_network(entry, strict=False))
            except ValueError:
                self._names.add(entry.lower().rstrip("."))

    def admits(self, target: Target) -> bool:
        """Whether this target may be probed."""
        if target.scheme == "unix":
            return target.path in self._places
        if (target.host, target.port) in self._places or target.host in self._names:
            return True
        try:
            address = ipaddress.ip_address(target.host)
        except ValueError:
            return self._loopback and target.host == "localhost"
        plain = getattr(address, "ipv4_mapped", None) or address
        return (self._loopback and plain.is_loopback) or any(plain in network for network in self._networks)


def is_forbidden(address: str, *, named_locally: bool) -> bool:
    """Whether a resolved address must not be connected to, whoever named it: metadata services and what is no host at all.

    ``named_locally``: the name itself says this machine; else an answer that points here is a rebinding.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    plain = getattr(ip, "ipv4_mapped", None) or ip
    if plain.is_loopback:
        return not named_locally
    return bool(plain.is_link_local or plain.is_multicast or plain.is_unspecified)


class Tried(msgspec.Struct, frozen=True):
    """One probe: what it asked for, what came of it, milliseconds."""

    protocol: str
    outcome: str
    duration_ms: float


class Verdict(msgspec.Struct, frozen=True):
    """What is known of a target. ``path`` and ``tls``: where the proof was found, for who dials next.

    ``confidence``: 1 for an answered MCP message, 0.9 for an HTTP challenge that names MCP metadata, 0.7 for a bare one or a
    transport whose server stayed silent about MCP, 0 without a proof.
    """

    target: str
    protocol: str | None
    era: Era | None
    result: Result
    confidence: float = 0.0
    evidence: tuple[str, ...] = ()
    duration_ms: float = 0.0
    path: str = ""
    tls: bool = False
    tried: tuple[Tried, ...] = ()

    @property
    def is_proven(self) -> bool:
        return self.result == "success"


class Entry(msgspec.Struct):
    """One remembered verdict; ``since`` and ``until`` in seconds of the caller's clock."""

    verdict: Verdict
    since: float
    until: float
    hits: int = 0


class Memory:
    """Verdicts by target. ``ttl``: seconds a proven one is kept; others at most NEGATIVE_TTL."""

    def __init__(self, ttl: float = POSITIVE_TTL, *, limit: int = MAX_ENTRIES) -> None:
        self.ttl = ttl
        self.hits = 0
        self.misses = 0
        self._limit = limit
        self._entries: OrderedDict[str, Entry] = OrderedDict()

    def find(self, target: str, now: float) -> Entry | None:
        """The verdict that still counts; counted as a hit or a miss."""
        entry = self._entries.get(target)
        if entry is None or entry.until <= now:
            self.misses += 1
            return None
        self.hits += 1
        entry.hits += 1
        return entry

    def peek(self, target: str, now: float) -> Entry | None:
        """The same, uncounted."""
        entry = self._entries.get(target)
        return entry if entry is not None and entry.until > now else None

    def keep(self, target: str, verdict: Verdict, now: float) -> Entry:
        """Remember it for the time of its kind; the oldest goes when there are too many."""
        ttl = self.ttl if verdict.is_proven else min(self.ttl, NEGATIVE_TTL)
        entry = self._entries[target] = Entry(verdict, now, now + ttl)
        self._entries.move_to_end(target)
        while len(self._entries) > self._limit:
            self._entries.popitem(last=False)
        return entry

    def drop(self, target: str) -> Verdict | None:
        """Forget it: the first contradiction is enough."""
        entry = self._entries.pop(target, None)
        return entry.verdict if entry is not None else None

    def clear(self) -> int:
        """Forget all; how many there were."""
        count = len(self._entries)
        self._entries.clear()
        return count

    def entries(self, now: float) -> list[Entry]:
        """Those that still count, oldest first."""
        return [entry for entry in self._entries.values() if entry.until > now]


class Accuracy:
    """How often verdicts were right, from use alone: a session within CONFIRM_TIME confirms, else they were wrong.

    A verdict that nobody used is not counted.
    """

    def __init__(self) -> None:
        self.confirmed: dict[str, int] = {}
        self.closed: dict[str, int] = {}
        self._open: dict[str, tuple[str, float]] = {}  # target -> protocol, until

    def used(self, target: str, protocol: str, now: float) -> None:
        """A conversation is opened on this verdict."""
        self._open.setdefault(target, (protocol, now + CONFIRM_TIME))

    def told(self, target: str, right: bool, now: float) -> str | None:
        """The server answered as the verdict says, or not; the protocol when this closed an open verdict."""
        self.expire(now)
        found = self._open.pop(target, None)
        if found is None:
            return None
        self._close(found[0], right)
        return found[0]

    def expire(self, now: float) -> None:
        """Close what nobody confirmed in time."""
        for target, (protocol, until) in list(self._open.items()):
            if until <= now:
                del self._open[target]
                self._close(protocol, False)

    def _close(self, protocol: str, right: bool) -> None:
        self.closed[protocol] = self.closed.get(protocol, 0) + 1
        self.confirmed[protocol] = self.confirmed.get(protocol, 0) + right

    def ratio(self, protocols: Sequence[str] | None = None) -> float | None:
        """Confirmed of closed, of these protocols or all; None before the first."""
        names = list(self.closed) if protocols is None else protocols
        closed = sum(self.closed.get(name, 0) for name in names)
        return sum(self.confirmed.get(name, 0) for name in names) / closed if closed else None
