"""Where servers come from besides the configuration: several sources, merged into one list that changes at run time.

    sockets  \\
    consul    >  Source.found / Source.failed  ->  Discovery  ->  apply(servers)
    static   /      last good, empty-set guard      debounce, first name wins

A source that fails keeps what it found last. One that suddenly finds nothing keeps it too, until it has found nothing for
EMPTY_HOLD seconds. What a source says is a stranger's word: it may name addresses (``endpoint``), never a command to run.

Source: contract ``discovery.*``, http.gateway.health.discovery; reliability section 2 (row 11), section 3 (rows 25 and 26).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, Final, Protocol

from mcpbridge.config.sections import ServerSpec
from mcpbridge.observe.findings import Discovered, DiscoverySource
from mcpbridge.observe.log import log
from mcpbridge.observe.snapshot import timestamp

DEBOUNCE: Final = 2.0  # seconds in which changes are gathered
EMPTY_HOLD: Final = 30.0  # seconds a source must find nothing before it is believed
MAX_SKIPPED: Final = 50  # objects that are named in the health view, each source
_log = log("discovery")


class Source:
    """What one provider found: its last good servers, what it left out and why, and how it is doing."""

    def __init__(self, name: str, changed: Callable[[], None], clock: Callable[[], float] = time.monotonic) -> None:
        self.name = name
        self.servers: tuple[ServerSpec, ...] = ()
        self.skipped: tuple[str, ...] = ()
        self.last_success: float | None = None  # Unix time
        self.last_error: str | None = None
        self._is_failing = False
        self._seen: float | None = None  # by the clock
        self._empty_since: float | None = None
        self._changed = changed
        self._clock = clock

    def found(self, servers: Sequence[ServerSpec], skipped: Sequence[str] = ()) -> None:
        """The provider has looked at everything. ``skipped``: what it left out, each with its cause."""
        now = self._clock()
        if self._is_failing:
            _log.info("discovery works again", provider=self.name)
        self._is_failing, self.last_success, self._seen = False, time.time(), now
        for cause in sorted(set(skipped) - set(self.skipped))[:MAX_SKIPPED]:
            _log.warn("discovered object left out", provider=self.name, reason=cause)
        self.skipped = tuple(sorted(skipped))
        if self.servers and not servers:
            if self._empty_since is None:
                self._empty_since = now
                _log.warn("nothing is found any more; the servers are kept for now", provider=self.name, hold_s=EMPTY_HOLD)
            if now - self._empty_since < EMPTY_HOLD:
                return
        self._empty_since = None
        if tuple(servers) != self.servers:
            self.servers = tuple(servers)
            self._changed()

    def failed(self, reason: str) -> None:
        """The provider could not look; what was found last stays."""
        if not self._is_failing or reason != self.last_error:
            _log.warn("discovery failed; the servers found last are kept", provider=self.name, reason=reason)
        self._is_failing, self.last_error = True, reason
        self._empty_since = None  # an outage is no proof of emptiness

    def told(self) -> DiscoverySource:
        """How it is doing, for the snapshot."""
        count = sum(len(server.endpoints) for server in self.servers)
        if self._is_failing:
            state = "degraded" if count else "down"
        elif self._seen is None:
            state = "starting"
        else:
            state = "degraded" if self.skipped else "ok"
        return DiscoverySource(
            name=self.name,
            enabled=True,
            healthy=state in ("ok", "degraded"),
            state=state,
            endpoints=count,
            last_success=None if self.last_success is None else timestamp(self.last_success),
            last_error=self.last_error if self._is_failing else self._left_out() or self.last_error,
            age_ms=None if self._seen is None else round((self._clock() - self._seen) * 1000, 3),
        )

    def _left_out(self) -> str | None:
        return "left out: " + "; ".join(self.skipped[:MAX_SKIPPED]) if self.skipped else None


class Provider(Protocol):
    """A way to find servers. ``watch`` goes on for ever and tells its source; it raises nothing but CancelledError."""

    name: str

    async def watch(self, source: Source) -> None: ...


class Discovery:
    """See the module. ``apply`` gets the whole list: the static servers first, then each source in the order given."""

    def __init__(
        self,
        static: Sequence[ServerSpec],
        providers: Iterable[Provider],
        apply: Callable[[list[ServerSpec]], object],
        *,
        refresh_rate: float,
        debounce: float = DEBOUNCE,
    ) -> None:
        self.static = tuple(static)
        self._apply = apply
        self._refresh_rate = refresh_rate
        self._debounce = debounce
        self._dirty = asyncio.Event()
        self._hidden: frozenset[str] = frozenset()
        self.sources = [(provider, Source(provider.name, self._dirty.set)) for provider in providers]

    def start(self, spawn: Callable[[Coroutine[Any, Any, None]], object]) -> None:
        """Begin to watch, by tasks that end with their owner."""
        for provider, source in self.sources:
            spawn(provider.watch(source))
        if self.sources:
            spawn(self._follow())

    def servers(self) -> list[ServerSpec]:
        """All servers now. A name belongs to whoever had it first; later ones are hidden and said once."""
        merged = {server.name: server for server in self.static}
        hidden: set[str] = set()
        for _, source in self.sources:
            for server in source.servers:
                if server.name in merged:
                    hidden.add(f"{source.name}: {server.name}")
                else:
                    merged[server.name] = server
        for name in sorted(hidden - self._hidden):
            _log.warn("discovered server hidden: another server has its name", server=name)
        self._hidden = frozenset(hidden)
        return list(merged.values())

    async def _follow(self) -> None:
        while True:
            await self._dirty.wait()
            await asyncio.sleep(self._debounce)
            self._dirty.clear()
            servers = self.servers()
            _log.info("servers changed", event="discovery", servers=len(servers))
            try:
                self._apply(servers)
            except Exception as error:  # noqa: BLE001 - one list that cannot be used must not end the watch
                _log.error("discovered servers could not be applied", error=repr(error), exc_info=True)

    def told(self) -> Discovered:
        """For the snapshot. Source: contract http.gateway.health.discovery."""
        count = sum(len(server.endpoints) for server in self.static)
        sources = (
            DiscoverySource("static", True, True, "ok", count, None, None, None),
            *(source.told() for _, source in self.sources),
        )
        state = "ok" if all(source.state == "ok" for source in sources) else "degraded"
        return Discovered(state, True, self._refresh_rate * 1000, sources)
