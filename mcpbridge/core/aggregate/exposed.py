"""Whose an exposed name is. Most say it themselves (`server__tool`); the lists teach the rest.

    prefixed            the server named by it
    shortened           whoever listed the long name behind it
    without a prefix    whoever listed it, in configured order: the first one is shown, the others are hidden and reported

Source: contract routing.prefix; shared decision 16.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import NamedTuple

from mcpbridge.core.aggregate.names import SEPARATOR, expose, owner
from mcpbridge.observe.log import log

_log = log("aggregate")
MAX_NAMES = 50_000


class _Listed(NamedTuple):
    """One server's entry: its own name, and which of its listings it was in."""

    name: str
    listing: int


class Exposed:
    """``prefixes``: server -> whether its names get a prefix, in configured order. ``limit``: longest exposed name."""

    def __init__(self, prefixes: Mapping[str, bool], limit: int) -> None:
        self._prefixes = dict(prefixes)
        self._limit = limit
        self._plain = [name for name, prefix in prefixes.items() if not prefix]
        self._learnt: OrderedDict[tuple[str, str], dict[str, _Listed]] = OrderedDict()
        self._listings: dict[tuple[str, str], int] = {}
        self._reported: set[tuple[str, str]] = set()

    def change(self, prefixes: Mapping[str, bool]) -> None:
        """Other servers from now on. What those that go had listed is forgotten."""
        stay = {server for server, prefix in prefixes.items() if self._prefixes.get(server) == prefix}
        for key, holders in list(self._learnt.items()):
            left = {server: one for server, one in holders.items() if server in stay}
            if left:
                self._learnt[key] = left
            else:
                del self._learnt[key]
        self._prefixes = dict(prefixes)
        self._plain = [name for name, prefix in prefixes.items() if not prefix]
        self._reported.clear()

    def begins(self, kind: str, server: str) -> None:
        """A server's list of this kind comes anew: what it no longer names will be forgotten."""
        self._listings[kind, server] = self._listings.get((kind, server), 0) + 1

    def listed(self, kind: str, server: str, name: str) -> str:
        """A server listed a name: the name to show."""
        prefix = self._prefixes.get(server)
        if prefix is None:  # it went while its list was read
            return expose(server, name, self._limit)
        exposed = expose(server, name, self._limit) if prefix else name
        is_short = prefix and len(server) + len(SEPARATOR) + len(name) > self._limit
        if is_short or (len(self._plain) > 1 and not prefix):
            holders = self._learnt.setdefault((kind, exposed), {})
            holders[server] = _Listed(name, self._listings.get((kind, server), 0))
            self._learnt.move_to_end((kind, exposed))
            if len(self._learnt) > MAX_NAMES:
                self._learnt.popitem(last=False)
            if len(holders) > 1:
                self._report(kind, exposed)
        return exposed

    def of(self, kind: str, exposed: str) -> list[tuple[str, str]]:
        """``(server, its own name)`` of all who may own an exposed name, first choice first."""
        found = owner(exposed, (name for name, prefix in self._prefixes.items() if prefix))
        learnt = self._holders(kind, exposed)
        if found is not None and not any(self._prefixes[server] for server, _ in learnt):
            learnt = [found, *learnt]
        if len(self._plain) == 1:
            learnt.append((self._plain[0], exposed))
        return learnt

    def needs_lists(self, kind: str, exposed: str) -> bool:
        """Whether nobody can say whose it is before the lists were read."""
        if self._holders(kind, exposed) or (len(exposed) != self._limit and len(self._plain) < 2):
            return False
        return len(exposed) == self._limit or owner(exposed, (n for n, prefix in self._prefixes.items() if prefix)) is None

    def _holders(self, kind: str, exposed: str) -> list[tuple[str, str]]:
        holders = self._learnt.get((kind, exposed), {})
        # A listing in several pages is whole only when the next one begins.
        current = {s: one.name for s, one in holders.items() if one.listing >= self._listings.get((kind, s), 0) - 1}
        return [(server, current[server]) for server in self._prefixes if server in current]

    def _report(self, kind: str, exposed: str) -> None:
        servers = [server for server, _ in self._holders(kind, exposed)]
        if len(servers) > 1 and (kind, exposed) not in self._reported and len(self._reported) < MAX_NAMES:
            self._reported.add((kind, exposed))
            _log.warn("several servers have one name; the first is shown", kind=kind, name=exposed, servers=", ".join(servers))
