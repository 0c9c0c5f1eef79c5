"""Server (a name with its replicas) and Backend (one live endpoint of it).

Choosing a server is routing, choosing a backend is balancing (``core.balance``) among those that are eligible; one that is down
is taken when too few are up, or nothing else is left (a dead one answers in milliseconds: trying it is cheaper than guessing).

Source: architecture sections 4 and 6; contract 6.4 (error.lb-failed); mcp-eras section 2.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from math import ceil
from typing import TYPE_CHECKING, Any, Literal

from mcpbridge.core.attempt import Attempt
from mcpbridge.core.backoff import Reconnect
from mcpbridge.core.balance.choice import Balancer
from mcpbridge.core.balance.latency import PeakLatency
from mcpbridge.core.balance.measured import Share
from mcpbridge.core.balance.policy import Balancing
from mcpbridge.core.breaker import Breaker
from mcpbridge.core.exchange import Era, Exchange
from mcpbridge.core.mirror import AnnotatedTools
from mcpbridge.core.outliers import Record, after_failure, compare
from mcpbridge.core.ports import Dial, Eras
from mcpbridge.core.repeats import Patience, Repeatable
from mcpbridge.core.state import continues, unknown
from mcpbridge.core.task_ids import TaskSeals, is_about_task, unknown_task
from mcpbridge.core.tasks import Spawn, share, wait_shared
from mcpbridge.errors import BridgeError
from mcpbridge.observe.log import log
from mcpbridge.wire.message import Request

if TYPE_CHECKING:
    from mcpbridge.core.pool import Pool
    from mcpbridge.core.state import RequestStates
    from mcpbridge.core.tools import ToolRules

State = Literal["unknown", "ok", "degraded", "down"]
Isolation = Literal["principal", "shared", "session"]
MEASURED = 8  # of so many decisions between several backends the time of one is taken
LAST_STAND = 1.0  # seconds between two times that breakers which all refuse let trials through
_log = log("backend")


class Outcome:
    """What the snapshot and the log need to know of a backend's calls: totals since start, newest failure."""

    __slots__ = ("calls", "consecutive", "failures", "last_at")

    def __init__(self) -> None:
        self.calls = 0
        self.failures = 0
        self.consecutive = 0
        self.last_at: float | None = None


Observe = Callable[["Backend", Exchange, float, BridgeError | asyncio.CancelledError | None], None]
"""Told once per attempt: seconds it took and the error, if any; CancelledError when its client gave it up."""


Knock = Callable[[], Awaitable[None]]
"""Asks an endpoint how it is, besides MCP. Raises BridgeError when it is not well."""


class Backend:
    """One live endpoint: how to reach it, which eras it speaks, how it is doing."""

    def __init__(
        self,
        name: str,
        protocol: str,
        address: str,
        dial: Dial,
        spawn: Spawn,
        *,
        observe: Observe | None = None,
        eras: Eras | None = None,
        source: str = "static",
        breaker: Breaker | None = None,
        group: Breaker | None = None,
        failures: int = 1,
        recoveries: int = 1,
        weight: float = 1.0,
    ) -> None:
        """``failures`` in a row make one that was up down, ``recoveries`` successes in a row one that was down ok."""
        self.name = name
        self.protocol = protocol
        self.address = address
        self.dial = dial
        self.spawn = spawn
        self.source = source
        self.eras = eras
        self.speaks: dict[Era, bool] = {}
        self.state: State = "unknown"
        self.reason: str | None = None
        self.fault: str | None = None  # the row of ``errors.FAULTS`` that made it down
        self.since = time.time()
        self.outcome = Outcome()
        self.breaker = breaker  # None: never refused
        self.group = group  # the breaker of all backends of this protocol, if there is one
        self.ejection = Record()
        self.cause: str | None = None  # its newest failure, for people
        self.weight = weight  # 0: a last resort; may be changed while it runs
        self.configured_weight = weight
        self.latency = PeakLatency()
        self.share = Share()
        self.fresh_at = time.monotonic()  # when it came or came back
        self.knock: Knock | None = None
        self.score = 1.0  # 0.1 to 1: what is foretold of its health
        self.is_draining = False  # no new work, it goes
        self.version: str | None = None
        self.server: Server
        self.pool: Pool
        self.states: RequestStates
        self.task_seals: TaskSeals
        self._failures = failures
        self._recoveries = recoveries
        self._missed = 0  # times in a row that it could not be reached
        self._answered = 0  # times in a row that it answered, while it is down
        self._newest: BridgeError | None = None  # as ``missed`` counted it last
        self._active = 0
        self._observe = observe
        self._probing: asyncio.Future[None] | None = None
        self.on_turn: Callable[[Backend], None] | None = None  # told when ``state`` changes
        self.on_ejected: Callable[[Backend], None] | None = None
        self.on_breaker: Callable[[Backend, Breaker, str], None] | None = None  # told when a breaker's does, in words too

    @property
    def active(self) -> int:
        """Calls in flight."""
        return self._active

    @property
    def totals(self) -> tuple[int, int, int]:
        """Calls, failures, failures in a row."""
        return self.outcome.calls, self.outcome.failures, self.outcome.consecutive

    def is_eligible(self, now: float) -> bool:
        """Whether new work may be given to it at ``now`` (monotonic): not down, going or ejected, no breaker in the way."""
        is_here = self.state != "down" and not self.is_draining and self.ejection.until <= now
        return is_here and self.refusing(now) is None

    def refusing(self, now: float) -> Breaker | None:
        """The breaker that lets no call through, if any."""
        for breaker in (self.group, self.breaker):
            if breaker is not None and not breaker.allows(now):
                return breaker
        return None

    @property
    def may_refuse(self) -> bool:
        """Whether one of its breakers is not closed."""
        own, group = self.breaker, self.group
        return (own is not None and own.state != "closed") or (group is not None and group.state != "closed")

    def wait(self, now: float) -> float:
        """Seconds until its breakers let a call through, at most."""
        return max((b.remaining(now) for b in (self.group, self.breaker) if b is not None), default=0.0)

    def in_flight(self, x: Exchange) -> Attempt:
        """Counts one attempt while it runs and judges how it ended; a client's fault or cancel never dings a backend."""
        return Attempt(self, x)

    def begin(self) -> None:
        self._active += 1

    def ended(self, x: Exchange, seconds: float, error: BridgeError | None) -> None:
        self._active -= 1
        self.outcome.calls += 1
        if error is not None and error.fault.blames == "backend":
            self.failed(error)
        elif error is None:
            self.succeeded()
        is_telling = error is None or (error.sent and error.fault.blames == "backend")
        if is_telling and len(self.server.backends) > 1 and x.view.method != "subscriptions/listen":
            self.latency.add(seconds, time.monotonic())  # one that listens lasts as long as its client likes
        self.observed(x, seconds, error)

    def observed(self, x: Exchange, seconds: float, error: BridgeError | asyncio.CancelledError | None) -> None:
        """Tell who counts attempts of this one."""
        if self._observe is not None:
            self._observe(self, x, seconds, error)

    def abandoned(self) -> None:
        self._active -= 1

    def succeeded(self) -> None:
        """It answered something: it is up. Calls it is kept from because it was down may be tried."""
        if self.state == "down":
            for breaker in (self.breaker, self.group):
                if breaker is not None:
                    breaker.may_be_well(time.monotonic())
        self.outcome.consecutive = 0
        self.outcome.last_at = time.time()
        if self.state == "ok":
            return
        self._missed = 0
        self._newest = None
        self._answered += 1
        if self.state != "down" or self._answered >= self._recoveries:
            self._turn("ok", None)

    def failed(self, error: BridgeError) -> None:
        """It is down when it cannot be reached; an error of one call on a live conversation does not mean that."""
        self.outcome.failures += 1
        self.outcome.consecutive += 1
        self.outcome.last_at = time.time()
        self.cause = str(error)
        if not error.sent or error.reason in ("server_exited", "stdio_no_such_file", "http_not_found", "protocol_mismatch"):
            self.missed(error)
        if len(self.server.backends) > 1 and after_failure(self, self.server.backends, time.monotonic()):
            self.ejected()

    def ejected(self) -> None:
        """It has been ejected: tell, and start slowly afterwards."""
        record = self.ejection
        self.fresh_at = record.until
        seconds = round(record.until - time.monotonic())
        _log.warn(
            "backend ejected", protocol=self.protocol, server=self.server.name, backend=self.name, reason=record.reason,
            seconds=seconds, newest_failure=self.cause,
        )  # fmt: skip
        if self.on_ejected is not None:
            self.on_ejected(self)

    def missed(self, error: BridgeError) -> None:
        """It could not be reached, or did not answer a check: degraded, and down after so many in a row. One error counts once,
        however many wait for what it ended; one that was never up is down at once."""
        if error is self._newest:
            return
        self._newest = error
        self._missed += 1
        self._answered = 0
        self.fault = error.reason
        self.speaks.clear()  # what comes back may be another version of the server
        self.server.tools.forget()
        is_down = self.state in ("down", "unknown") or self._missed >= self._failures
        self._turn("down" if is_down else "degraded", str(error))

    def _turn(self, state: State, reason: str | None) -> None:
        if (state, reason) == (self.state, self.reason):
            return
        if state != self.state:
            self.since = time.time()
            write = _log.info if state == "ok" else _log.warn
            write(f"backend {state}", protocol=self.protocol, server=self.server.name, backend=self.name, reason=reason)
        changed = state != self.state
        if self.state == "down":
            self.fresh_at = time.monotonic()
            self.ejection.end()
        self.state, self.reason = state, reason
        if changed and self.on_turn is not None:
            self.on_turn(self)

    def tell_breaker(self, breaker: Breaker, reason: str) -> None:
        """One of its breakers has another state."""
        write = _log.info if breaker.state == "closed" else _log.warn
        whose = self.name if breaker is self.breaker else self.protocol
        said = f"breaker {breaker.state.replace('_', ' ')}"
        write(said, protocol=self.protocol, server=self.server.name, breaker=whose, reason=reason)
        if self.on_breaker is not None:
            self.on_breaker(self, breaker, f"{whose}: {said}" + (f": {reason}" if reason else ""))

    async def era_for(self, wanted: Era, remaining: float) -> Era:
        """The era to speak with this backend for a client of era ``wanted``: the client's own whenever the server has it.

        A modern client's first call probes, once for all waiting callers. A legacy client simply initializes: its link
        learns from the answer if the server is modern-only. Raises BridgeError when the server cannot be reached.
        """
        known = self.speaks.get(wanted)
        if known or self.eras is None:
            return wanted
        other: Era = "legacy" if wanted == "modern" else "modern"
        if known is False:
            return other
        if wanted == "legacy":
            return "legacy"
        await self.check(remaining)
        return "modern" if self.speaks.get("modern") else "legacy"

    async def check(self, remaining: float) -> None:
        """Ask the server what it is; once for all who wait. Raises BridgeError when it cannot be reached."""
        assert self.eras is not None
        if self._probing is None or self._probing.done():
            self._probing = share(self.spawn, self._probe(self.eras))
        await wait_shared(self._probing, remaining, self.pool.still_starting())

    async def _probe(self, eras: Eras) -> None:
        session = await self.pool.probe_session()
        was_modern = self.speaks.get("modern")
        session.users += 1
        try:
            era, hello = await eras.probe(session.upstream, self.pool.start_timeout)
            self.speaks[era] = True
            if era == "legacy":
                self.speaks["modern"] = False
            if hello.result is not None:
                self.server.remember(era, bytes(hello.result))
            self.succeeded()
        except BridgeError as error:
            self.failed(error)
            raise
        finally:
            session.users -= 1
            if not (was_modern or self.speaks.get("modern")):
                await session.close()  # a legacy conversation starts clean: the probe has burnt this one


class Server:
    """A configured server: a name, its replicas, and what it said of itself last."""

    def __init__(
        self,
        name: str,
        backends: list[Backend],
        *,
        namespace: str = "default",
        isolation: Isolation = "principal",
        on_hello: Callable[[Server], None] | None = None,
        balancing: Balancing | None = None,
        reconnect: Reconnect | None = None,
        attempt_timeout: float | None = None,
    ) -> None:
        """``attempt_timeout``: seconds of ``core.repeats.Patience``."""
        self.name = name
        self.namespace = namespace
        self.backends = backends
        self.leaving: list[Backend] = []  # those taken away, while they finish what they have
        self.isolation = isolation
        self.tools = AnnotatedTools()
        self.tool_rules: ToolRules | None = None  # which are shown, and how they are called; None: all, by their own names
        self.repeatable = Repeatable()
        self.patience = Patience(attempt_timeout)
        self.hello: dict[str, bytes] = {}  # era -> its newest InitializeResult or DiscoverResult, JSON
        self.balancer = Balancer(balancing or Balancing(), random.randrange)
        self._decisions = 0
        self._stands_until = 0.0  # monotonic; see _allowed
        self.on_hello = on_hello  # told when ``hello`` changes
        self.reconnect = reconnect or Reconnect()
        for backend in backends:
            backend.server = self

    def remember(self, era: Era, hello: bytes) -> None:
        """Keep what the server said of itself: the answer to the next client while the server is still starting."""
        if self.hello.get(era) != hello:
            self.hello[era] = hello
            if self.on_hello is not None:
                self.on_hello(self)

    def compare(self, now: float) -> None:
        """Eject those that do much worse than the others; to be asked each ``outliers.INTERVAL``. ``now``: monotonic."""
        for backend in compare(self.backends, now) if len(self.backends) > 1 else ():
            backend.ejected()

    def choose(self, x: Exchange, tried: set[Backend]) -> Backend:
        """The backend for this attempt. Raises BridgeError("no_backend") naming the server and every cause."""
        if x.session is not None and not x.roams:
            link = x.session.links.get(self.name)
            linked = link.backend if link is not None and link.is_pinned else None
            suits = linked is not None and linked not in tried and x.force_protocol in (None, linked.protocol)
            if linked is not None and suits and not self.is_left(linked):
                return self._let(x, linked)
        if len(self.backends) == 1 and not (tried or self.leaving or x.force_protocol or self.backends[0].is_draining):
            return self._let(x, self.backends[0])
        home = self._home(x, tried)
        if home is not None:
            return self._let(x, home)
        forced = x.force_protocol
        left = [b for b in self.backends if b not in tried and not b.is_draining]
        candidates = [b for b in left if forced is None or self._suits(b, forced)]
        if not candidates:
            named = f"server {self.name!r}: "  # said once, though each cause has it too
            said = (f"{b.name} ({b.protocol}): {_cause(b).replace(named, '')}" for b in self.backends)
            causes = "; ".join(said) or "it has none"
            data: dict[str, Any] = {"server": self.name, "protocols": {b.protocol: b.state for b in self.backends}}
            if x.force_protocol is not None:
                data["protocol"] = x.force_protocol
                causes = f"none that speaks {x.force_protocol} is left; there is {causes}"
            raise BridgeError("no_backend", named + causes, sent=False, **data)
        return self._decide(x, candidates)

    def _decide(self, x: Exchange, candidates: list[Backend]) -> Backend:
        """One of them. How long that takes is measured now and then."""
        balancer, now = self.balancer, time.monotonic()
        self._decisions += 1
        if self._decisions % MEASURED:
            return self._best(x, candidates, now)
        started = time.perf_counter()
        try:
            return self._best(x, candidates, now)
        finally:
            balancer.took.add(time.perf_counter() - started, now)

    def _best(self, x: Exchange, candidates: list[Backend], now: float) -> Backend:
        open_to_calls = self._allowed(candidates, now)
        if not open_to_calls:
            return self._let(x, min(candidates, key=lambda b: b.wait(now)))
        balancer = self.balancer
        panic = balancer.is_panicking(self.backends, now)
        fit = open_to_calls
        if not panic and balancer.policy.health_aware:
            fit = [b for b in fit if b.state != "down"] or fit
            fit = [b for b in fit if b.ejection.until <= now] or fit
        return balancer.choose(fit, now, caller=x.caller.protocol, strategy=x.strategy, panic=panic)

    def _allowed(self, among: list[Backend], now: float) -> list[Backend]:
        """Those of ``among`` that no breaker keeps calls from. Breakers of their own never take the last of several: when there
        is none, those that can be reached get their trials at once, each LAST_STAND seconds at most."""
        allowed = [b for b in among if b.refusing(now) is None]
        if allowed or len(self.backends) == 1 or now < self._stands_until:
            return allowed
        self._stands_until = now + LAST_STAND
        for backend in among:
            if backend.state != "down" and backend.breaker is not None:
                backend.breaker.may_be_well(now)
        return [b for b in among if b.refusing(now) is None]

    def _let(self, x: Exchange, backend: Backend) -> Backend:
        """``backend``, unless a breaker keeps this request from it. Raises BridgeError("breaker_open") with the cause."""
        breaker = backend.breaker
        if breaker is None or (breaker.state == "closed" and backend.group is None) or not isinstance(x.message, Request):
            return backend
        now = time.monotonic()
        refusing = backend.refusing(now)
        if refusing is None:
            return backend
        wait = max(ceil(refusing.remaining(now)), 1)
        whose = f"server {self.name!r}" if refusing is breaker else f"all servers of protocol {backend.protocol}"
        detail = f"{whose} failed {refusing.rules.failures} times in a row and is tried again in {wait} s"
        if backend.cause is not None:
            detail += f"; newest failure: {backend.cause}"
        raise BridgeError("breaker_open", detail, sent=False, server=self.name, protocol=backend.protocol, retry_after=wait)

    def _home(self, x: Exchange, tried: set[Backend]) -> Backend | None:
        """The backend that a call belongs to because it began there, or its task did. Raises when that one is gone."""
        state = self.backends[0].states.peek(x) if continues(x) else None
        name = state.backend if state is not None else None
        if name is None and x.caller.era == "modern":
            name = self.backends[0].task_seals.home(x, self.name)
        backend = next((b for b in (*self.backends, *self.leaving) if b.name == name and b not in tried), None)
        if backend is None and state is not None:
            raise unknown()
        if backend is None and is_about_task(x):
            raise unknown_task()
        return backend

    @staticmethod
    def _suits(backend: Backend, forced: str) -> bool:
        """Whoever names a protocol wants to know when it is down, not wait for it."""
        return backend.protocol == forced and backend.state != "down"

    def is_left(self, backend: Backend) -> bool:
        """Whether sessions there go on elsewhere: it drains, or a breaker keeps calls from it while another one takes them."""
        if backend.is_draining or not backend.may_refuse:
            return backend.is_draining
        now = time.monotonic()
        if backend.refusing(now) is None:
            return False
        return bool(self._allowed([b for b in self.backends if b is not backend and not b.is_draining], now))

    def is_linked(self, x: Exchange) -> bool:
        """Whether the call is one of a session that is here, and goes where its link does."""
        link = x.session.links.get(self.name) if x.session is not None and not x.roams else None
        return link is not None and link.is_pinned

    def may_retry(self, x: Exchange, tried: set[Backend]) -> bool:
        """Whether another backend is left: a session's is where its link is; a second round's or a task's never is."""
        if continues(x) or is_about_task(x) or not self.balancer.policy.fallback_enabled:
            return False
        if x.session is not None and self.is_linked(x):
            linked = x.session.links[self.name].backend
            if linked is None or not linked.is_draining:
                return linked is not None and linked not in tried and x.force_protocol in (None, linked.protocol)
        return self._is_any_left(x, tried)

    def may_stray(self, x: Exchange, tried: set[Backend]) -> bool:
        """Whether a session's call, which failed where the session is, can be tried beside it at another backend."""
        if not self.balancer.policy.fallback_enabled or not x.may_roam or continues(x) or is_about_task(x):
            return False
        return self.is_linked(x) and self._is_any_left(x, tried)

    def _is_any_left(self, x: Exchange, tried: set[Backend]) -> bool:
        now = time.monotonic()
        left = [b for b in self.backends if b not in tried and not b.is_draining and x.force_protocol in (None, b.protocol)]
        return bool(self._allowed(left, now))


def _cause(backend: Backend) -> str:
    return "it drains" if backend.is_draining else backend.reason or backend.state
