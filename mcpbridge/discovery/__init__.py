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
from contextlib import suppress
from typing import Any, Final, Generic, Protocol, TypeVar

from msgspec.structs import replace

from mcpbridge.config.sections import EndpointSpec, ServerSpec
from mcpbridge.observe.findings import Discovered, DiscoverySource
from mcpbridge.observe.log import log
from mcpbridge.observe.snapshot import timestamp

DEBOUNCE: Final = 2.0  # seconds in which changes are gathered
CALM: Final = 0.2  # seconds between two looks at all that a provider knows
EMPTY_HOLD: Final = 30.0  # seconds a source must find nothing before it is believed
MAX_SKIPPED: Final = 50  # objects that are named in the health view, each source
STATES: Final = ("ok", "degraded", "starting", "down")  # the best first
T = TypeVar("T")
_log = log("discovery")


class Source:
    """What one provider found: its last good servers, what it left out and why, and how it is doing.

    ``admits``: whether an endpoint is used at all; those that people switched off are no fault. ``before``: whose place this
    one takes.
    """

    def __init__(
        self,
        name: str,
        changed: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
        admits: Callable[[EndpointSpec], bool] = lambda _: True,
        before: Source | None = None,
    ) -> None:
        self.name = name
        self.servers: tuple[ServerSpec, ...] = () if before is None else before.servers
        self.settled = self.servers  # those that are in use
        self.skipped: tuple[str, ...] = ()
        self.hidden: tuple[str, ...] = ()  # servers whose name another one has
        self.looked = asyncio.Event()  # it has found or failed for the first time
        self.last_success: float | None = None  # Unix time
        self.last_error: str | None = None
        self._is_failing = False
        self._seen: float | None = None  # by the clock
        self._empty_since: float | None = None
        self._changed = changed
        self._clock = clock
        self._admits = admits

    def found(self, servers: Sequence[ServerSpec], skipped: Sequence[str] = ()) -> None:
        """The provider has looked at everything. ``skipped``: what it left out, each with its cause."""
        now = self._clock()
        servers = list(self._admitted(servers))
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
                if self.settled:
                    self.servers = self.settled  # also those that went on the way to nothing
            if now - self._empty_since < EMPTY_HOLD:
                return
        self._empty_since = None
        if tuple(servers) != self.servers:
            self.servers = tuple(servers)
            self._changed()
        self.looked.set()

    def _admitted(self, servers: Sequence[ServerSpec]) -> Iterable[ServerSpec]:
        for server in servers:
            endpoints = tuple(filter(self._admits, server.endpoints))
            if endpoints:
                yield replace(server, endpoints=endpoints, source=self.name)

    def failed(self, reason: str) -> None:
        """The provider could not look; what was found last stays."""
        if not self._is_failing or reason != self.last_error:
            _log.warn("discovery failed; the servers found last are kept", provider=self.name, reason=reason)
        self._is_failing, self.last_error = True, reason
        self._empty_since = None  # an outage is no proof of emptiness
        self.looked.set()

    def told(self) -> DiscoverySource:
        """How it is doing, for the snapshot."""
        count = sum(len(server.endpoints) for server in self.servers)
        if self._is_failing:
            state = "degraded" if count else "down"
        elif self._seen is None:
            state = "starting"
        else:
            state = "degraded" if self._left_out() else "ok"
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
        causes = [*self.skipped, *(f"{name}: another server has this name" for name in self.hidden)]
        return "left out: " + "; ".join(causes[:MAX_SKIPPED]) if causes else None


class Provider(Protocol):
    """A way to find servers. ``watch`` goes on for ever and tells its source; it raises nothing but CancelledError."""

    name: str

    async def watch(self, source: Source) -> None: ...


async def calmly(asked: asyncio.Event, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Work whenever it was asked for, once for what comes at the same time. For ever."""
    while True:
        await asked.wait()
        asked.clear()
        await work()
        await asyncio.sleep(CALM)


class Discovery(Generic[T]):
    """See the module. ``apply`` gets the whole list: the static servers first, then each source in the order given.

    ``refresh_rate`` is told to people; the providers know it. ``disabled``: providers that could be there, for the same.
    """

    def __init__(
        self,
        static: Sequence[ServerSpec],
        providers: Iterable[Provider],
        apply: Callable[[list[ServerSpec]], T],
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        *,
        refresh_rate: float,
        debounce: float = DEBOUNCE,
        disabled: Iterable[str] = (),
        admits: Callable[[EndpointSpec], bool] = lambda _: True,
    ) -> None:
        self.static = tuple(static)
        self.providers = tuple(providers)
        self.refresh_rate = refresh_rate
        self.disabled = tuple(disabled)
        self.admits = admits
        self.sources: list[Source] = []
        self._apply = apply
        self._spawn = spawn
        self._debounce = debounce
        self._dirty = asyncio.Event()
        self._watches: list[asyncio.Task[None]] = []

    async def start(self, patience: float) -> T:
        """Watch from now on, and apply what there is: what a provider finds after ``patience`` seconds comes later."""
        self._watch()
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                for source in self.sources:
                    await source.looked.wait()
        self._dirty.clear()
        self._spawn(self._follow())
        return self._settle()

    def restart(
        self,
        static: Sequence[ServerSpec],
        providers: Iterable[Provider],
        *,
        refresh_rate: float,
        disabled: Iterable[str] = (),
        admits: Callable[[EndpointSpec], bool] = lambda _: True,
    ) -> T:
        """All of it is configured anew. What a provider of the same name found last stays until the new one has looked."""
        self.static, self.providers, self.refresh_rate = tuple(static), tuple(providers), refresh_rate
        self.disabled, self.admits = tuple(disabled), admits
        self._watch()
        return self._settle()

    def restate(self, static: Sequence[ServerSpec]) -> T:
        """The static servers are others."""
        self.static = tuple(static)
        return self._settle()

    def _settle(self) -> T:
        for source in self.sources:
            source.settled = source.servers
        return self._apply(self.servers())

    def _watch(self) -> None:
        for watch in self._watches:
            watch.cancel()
        known = {source.name: source for source in self.sources}
        self.sources = [
            Source(provider.name, self._dirty.set, admits=self.admits, before=known.get(provider.name))
            for provider in self.providers
        ]
        self._watches = [
            self._spawn(provider.watch(source)) for provider, source in zip(self.providers, self.sources, strict=True)
        ]

    def servers(self) -> list[ServerSpec]:
        """All servers now. A name belongs to whoever had it first; later ones are hidden and said once."""
        merged = {server.name: server for server in self.static}
        for source in self.sources:
            hidden = []
            for server in source.servers:
                if server.name in merged:
                    hidden.append(server.name)
                else:
                    merged[server.name] = server
            for name in sorted(set(hidden) - set(source.hidden)):
                _log.warn("discovered server hidden: another server has its name", provider=source.name, server=name)
            source.hidden = tuple(hidden)
        return list(merged.values())

    async def _follow(self) -> None:
        while True:
            await self._dirty.wait()
            await asyncio.sleep(self._debounce)
            self._dirty.clear()
            try:
                self._settle()
            except Exception as error:  # noqa: BLE001 - one list that cannot be used must not end the watch
                _log.error("discovered servers could not be applied", error=repr(error), exc_info=True)

    def told(self) -> Discovered:
        """For the snapshot. Source: contract http.gateway.health.discovery."""
        sources = [source.told() for source in self.sources]
        if "static" not in self.disabled:
            count = sum(len(server.endpoints) for server in self.static)
            sources.insert(0, DiscoverySource("static", True, True, "ok", count, None, None, None))
        worst = max((source.state for source in sources), key=STATES.index, default="ok")
        best = min((source.state for source in sources), key=STATES.index, default="ok")
        state = worst if worst == best else "degraded" if best in ("ok", "degraded") else best
        off = (DiscoverySource(name, False, False, "disabled", 0, None, None, None) for name in self.disabled)
        return Discovered(state, state in ("ok", "degraded"), self.refresh_rate * 1000, (*sources, *off))
