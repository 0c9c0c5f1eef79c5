"""Status: what a running bridge measures of itself, and the Snapshot made of it.

    every attempt   -> per backend: latency, errors          every exchange -> per frontend protocol: rate, errors, latency
    Status.snapshot(...) -> Snapshot                          the one picture; every view is a function of it

Source: contract section 2.1; architecture section 10.
"""

from __future__ import annotations

import os
import time
from asyncio import CancelledError
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from msgspec import UNSET

from mcpbridge import __version__
from mcpbridge.bridge import Bridge
from mcpbridge.config.sections import GATEWAY
from mcpbridge.core.exchange import Exchange
from mcpbridge.core.server import Backend
from mcpbridge.errors import BridgeError
from mcpbridge.foresight import Foresight
from mcpbridge.observe.findings import Conversions, Detections, Discovered, Unconverted
from mcpbridge.observe.metrics import Counter, Registry, Summary
from mcpbridge.observe.sketch import Window, percentiles
from mcpbridge.observe.snapshot import (
    PROTOCOL_NAMES,
    BackendStatus,
    Client,
    ConfigStatus,
    Event,
    Frontend,
    Latency,
    ProtocolStatus,
    Sessions,
    Snapshot,
    State,
    Tls,
    is_healthy,
    tally,
    timestamp,
    worst_breaker,
)
from mcpbridge.performance import Housekeeping, Speed
from mcpbridge.policies.access_log import Tally

if TYPE_CHECKING:
    from mcpbridge.balancing import Balance
    from mcpbridge.pools import Pools
    from mcpbridge.self_checks import SelfCheck

Phase = Literal["starting", "serving", "draining"]
RATE_WINDOW = 10.0  # seconds over which rates are measured
MAX_UNCONVERTED = 200  # failed conversions that are kept


class Rates:
    """Requests per second and share of failures, from totals looked at now and then: a call itself costs nothing here.

    Over the looks of the last RATE_WINDOW seconds, or since the one before when nobody looked for longer.
    """

    def __init__(self, now: float) -> None:
        self._looks: deque[tuple[float, int, int]] = deque([(now, 0, 0)])

    def look(self, now: float, calls: int, failures: int) -> tuple[float | None, float | None]:
        """``(requests per second, error rate)``; None where nothing can be said. Totals since the start; seconds."""
        looks = self._looks
        while len(looks) > 1 and looks[1][0] <= now - RATE_WINDOW:
            looks.popleft()
        then, calls_then, failures_then = looks[0]
        if now - looks[-1][0] >= 0.25:
            looks.append((now, calls, failures))
        if now - then < 0.25:
            return None, None
        done = calls - calls_then
        return round(done / (now - then), 3), round((failures - failures_then) / done, 6) if done else None


class Status:
    """Measures and tells. ``registry`` gets the metrics of attempts and backends; exchanges are the access log's."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self._role = registry.role
        self._direct: dict[str, tuple[dict[str, Counter], Summary]] = {}
        self._unconverted: deque[Unconverted] = deque(maxlen=MAX_UNCONVERTED)
        self._failed_conversions = 0
        self._sequence = 0
        self.tallies: dict[str, Tally] = {name: Tally() for name in PROTOCOL_NAMES}  # the access log's
        self._latencies: dict[str, Window] = {}  # by backend
        self._rates: dict[str, Rates] = {}
        self._started = time.monotonic()
        self._converted: dict[tuple[str, str, str], tuple[Counter, Summary]] = {}
        self._states: dict[str, str] = {}
        self.foresight: Foresight | None = None
        self.balance: Balance | None = None
        self.most_late: float | None = 10.0  # seconds until scores of health that were due are old; None: balance is not judged
        self.pools: Pools | None = None
        self.speed = Speed()
        self.keeps_connections = True
        self.housekeeping: Housekeeping | None = None
        self.client: Client | None = None  # of a router, once it has said who it is

    def checked(self, backend: Backend, verdict: bool | None) -> None:
        """One check of a backend has ended (``core.checks.Told``)."""
        if verdict is not None:
            result = "healthy" if verdict else "unhealthy"
            self.registry.inc("mcp_gateway_health_checks_total", protocol=backend.protocol, result=result)
        if self.foresight is not None:
            self.foresight.checked(backend, verdict)

    def _unbalanced(self, panicking: tuple[str, ...]) -> tuple[str, ...]:
        """Why work is not spread by what is known of the backends."""
        if self.most_late is None:
            return ()
        reasons = tuple(f"{server}: too few healthy backends, so all are used" for server in panicking)
        late = 0.0 if self.foresight is None else self.foresight.late
        return (*reasons, f"scores of health are {late:.0f} s late") if late > self.most_late else reasons

    def ejected(self, backend: Backend) -> None:
        """A backend gets no new calls for a while (``core.outliers``)."""
        if self._role == "gateway":
            self.registry.inc("mcp_gateway_outlier_ejections_total", protocol=backend.protocol)

    def attempted(self, backend: Backend, x: Exchange, seconds: float, error: BridgeError | CancelledError | None) -> None:
        """One attempt has ended (``core.server.Observe``)."""
        now = time.monotonic()
        if isinstance(error, CancelledError):
            if self.balance is not None:
                self.balance.attempted(backend, x, None, False, now)
            if self._role == "router" and backend.server.name != GATEWAY:
                self.registry.inc("mcp_router_direct_requests_total", protocol=backend.protocol, result="cancelled")
            return
        failed = error is not None and error.fault.blames == "backend"
        window = self._latencies.get(backend.name)
        if window is None:
            window = self._latencies[backend.name] = Window()
        if x.view.method != "subscriptions/listen":
            window.add(seconds, now)
            if self.foresight is not None:
                self.foresight.attempted(backend, seconds, failed)
        if self._role == "router":
            is_call = x.view.method != "subscriptions/listen"
            self.speed.attempted(backend.protocol, seconds if is_call else None, failed, now)
            if is_call and error is None:
                self.speed.went("gateway" if backend.server.name == GATEWAY else "direct", x.view.method, seconds, now)
            self._routed(backend, x, seconds, error)
            return
        if self.balance is not None:
            self.balance.attempted(backend, x, None if x.view.method == "subscriptions/listen" else seconds, failed, now)
        if x.caller.protocol != backend.protocol:
            key = (x.caller.protocol, backend.protocol, "failure" if failed else "success")
            converted = self._converted.get(key)
            if converted is None:
                labels = {"from": key[0], "to": key[1]}
                converted = self._converted[key] = (
                    self.registry.counter("mcp_gateway_protocol_conversion_total", **labels, result=key[2]),
                    self.registry.summary("mcp_gateway_protocol_conversion_duration_seconds", **labels),
                )
            converted[0].inc()
            if x.view.method != "subscriptions/listen":
                converted[1].observe(x.worked)
            if failed and error is not None:
                self._failed_conversions += 1
                at = timestamp(time.time())
                self._unconverted.appendleft(
                    Unconverted(at, key[0], key[1], x.view.method[:255], error.reason, backend.name, x.caller.request_id)
                )

    def _routed(self, backend: Backend, x: Exchange, seconds: float, error: BridgeError | None) -> None:
        """What a router counts: calls on direct servers by protocol, and how long the gateway takes for the others."""
        is_call = x.view.method != "subscriptions/listen"
        if backend.server.name == GATEWAY:
            if is_call:
                self.registry.observe("mcp_router_gateway_latency_seconds", seconds)
            return
        known = self._direct.get(backend.protocol)
        if known is None:
            latency = self.registry.summary("mcp_router_direct_latency_seconds", protocol=backend.protocol)
            known = self._direct[backend.protocol] = ({}, latency)
        end = "success" if error is None else "timeout" if error.reason == "timeout" else "error"
        counter = known[0].get(end)
        if counter is None:
            labels = {"protocol": backend.protocol, "result": end}
            counter = known[0][end] = self.registry.counter("mcp_router_direct_requests_total", **labels)
        counter.inc()
        if is_call:
            known[1].observe(seconds)

    def snapshot(
        self,
        bridge: Bridge,
        frontends: Mapping[str, Frontend],
        *,
        store: str,
        phase: Phase,
        config: ConfigStatus,
        not_after: float | None = None,
        detection: Detections | None = None,
        discovery: Discovered | None = None,
        looked: Mapping[str, SelfCheck] | None = None,
    ) -> Snapshot:
        """The picture now. ``frontends``: enabled frontend protocols; ``looked``: the newest self-check of each."""
        now = time.monotonic()
        self._sequence += 1
        backends = tuple(self._backend(backend, now) for server in bridge.servers.values() for backend in server.backends)
        looked = looked or {}
        protocols = tuple(self._protocol(name, frontends.get(name), looked.get(name), backends, now) for name in PROTOCOL_NAMES)
        is_heard = not frontends or any(f.listening and not (n in looked and looked[n].fault) for n, f in frontends.items())
        balanced = UNSET if self.balance is None else self.balance.snapshot(now)
        unbalanced = () if balanced is UNSET else self._unbalanced(balanced.panicking)
        status, reasons = _overall(bridge, protocols, backends, phase, is_heard, unbalanced)
        self._note_changes(bridge, backends)
        if self._role == "gateway":
            for protocol in protocols:
                self.registry.set("mcp_gateway_protocol_up", float(protocol.healthy), protocol=protocol.name)
        else:
            for backend in backends:
                if backend.server != GATEWAY:
                    labels = {"server": backend.server, "protocol": backend.protocol}
                    self.registry.set("mcp_router_direct_client_up", float(is_healthy(backend.state)), **labels)
        return Snapshot(
            role=bridge.role,
            sequence=self._sequence,
            time=timestamp(time.time()),
            instance=bridge.instance,
            version=__version__,
            uptime_sec=round(time.time() - bridge.started, 3),
            status=status,
            healthy=is_healthy(status),
            protocols=protocols,
            backends=backends,
            sessions=Sessions(store, len(bridge.sessions), True),
            reasons=reasons,
            tls=Tls(timestamp(not_after) if not_after is not None else None),
            config=config,
            detection=detection if detection is not None else UNSET,
            conversions=Conversions(self._failed_conversions, tuple(self._unconverted)),
            load_balancer=balanced,
            discovery=UNSET if discovery is None else discovery,
            pools=UNSET if self.pools is None else self.pools.snapshot(),
            performance=self.speed.snapshot(self.pools, self.keeps_connections, now, balanced or None),
            memory=UNSET if self.housekeeping is None else self.housekeeping.snapshot(now),
            health_monitoring=UNSET if self.foresight is None else self.foresight.snapshot(),
            client=UNSET if self.client is None else self.client,
            pid=os.getpid() if self._role == "router" else UNSET,
            events=tuple(bridge.events),
        )

    def _backend(self, backend: Backend, now: float) -> BackendStatus:
        window = self._latencies.get(backend.name)
        outcome = backend.outcome
        _rate, errors = self._look(backend.name, now, outcome.calls, outcome.failures)
        state, reason = backend.state, backend.reason
        if state in ("ok", "degraded") and (left := backend.ejection.until - now) > 0:
            state, reason = "degraded", f"ejected: {backend.ejection.reason}; gets calls again in {left:.0f} s"
        return BackendStatus(
            server=backend.server.name,
            endpoint=backend.name,
            protocol=backend.protocol,
            state="draining" if backend.is_draining else state,
            namespace=backend.server.namespace,
            address=backend.address,
            source=backend.source,
            reason=reason,
            era="modern" if backend.speaks.get("modern") else "legacy" if backend.speaks.get("legacy") else None,
            version=backend.version,
            weight=backend.weight,
            in_flight=backend.active,
            connections=backend.pool.size,
            breaker=worst_breaker(b.state for b in (backend.breaker, backend.group) if b is not None),
            health_score=self.foresight.score(backend) if self.foresight is not None else None,
            consecutive_failures=outcome.consecutive,
            latency_ms=percentiles(window.buckets(now)) if window else Latency(),
            error_rate=errors,
            last_check=timestamp(outcome.last_at) if outcome.last_at is not None else None,
            since=timestamp(backend.since),
        )

    def _protocol(
        self,
        name: str,
        frontend: Frontend | None,
        looked: SelfCheck | None,
        backends: tuple[BackendStatus, ...],
        now: float,
    ) -> ProtocolStatus:
        own = [b for b in backends if b.protocol == name]
        enabled = frontend is not None or bool(own)
        tally_of = self.tallies[name]
        rate, errors = self._look(name, now, tally_of.requests, tally_of.failures)
        durations = self.registry.summary("mcp_gateway_request_duration_seconds", protocol=name).read((name,), now)
        state: State = "disabled"
        reason = None
        if enabled:
            counts = tally(own)
            if frontend is not None and not frontend.listening:
                state, reason = "down", "its listener is not open"
            elif looked is not None and looked.fault is not None:
                state, reason = "down", f"its frontend does not answer: {looked.fault}"
            elif own and counts.healthy + counts.degraded == 0:
                state = "down" if counts.down == counts.total else "starting"
                reason = next((f"{b.server}: {b.reason}" for b in own if b.reason), "no backend has answered yet")
            elif counts.down or counts.degraded:
                state, reason = (
                    "degraded",
                    next((f"{b.server}: {b.reason}" for b in own if b.state in ("down", "degraded")), None),
                )
            else:
                state = "ok"
        return ProtocolStatus(
            name=name,
            enabled=enabled,
            healthy=is_healthy(state),
            state=state,
            frontend=frontend or Frontend(False),
            reason=reason,
            backends=tally(own),
            requests_per_sec=rate if frontend is not None else None,
            error_rate=errors if frontend is not None else None,
            latency_ms=percentiles(durations.sketch),
            breaker=worst_breaker(b.breaker for b in own),
            last_check=max((at for at in (looked and looked.at, *(b.last_check for b in own)) if at), default=None),
        )

    def _look(self, name: str, now: float, calls: int, failures: int) -> tuple[float | None, float | None]:
        rates = self._rates.get(name)
        if rates is None:
            rates = self._rates[name] = Rates(self._started)
        return rates.look(now, calls, failures)

    def _note_changes(self, bridge: Bridge, backends: tuple[BackendStatus, ...]) -> None:
        for backend in backends:
            if self._states.get(backend.endpoint) != backend.state:
                self._states[backend.endpoint] = backend.state
                said = f"{backend.endpoint} is {backend.state}" + (f": {backend.reason}" if backend.reason else "")
                level = "warn" if backend.state == "down" else "info"
                when = backend.since or timestamp(time.time())  # when it happened, not when somebody looked
                bridge.events.append(Event(when, level, "backend_state", said, backend.protocol, backend.server))


def _overall(
    bridge: Bridge,
    protocols: tuple[ProtocolStatus, ...],
    backends: tuple[BackendStatus, ...],
    phase: Phase,
    is_heard: bool,
    unbalanced: tuple[str, ...],
) -> tuple[State, tuple[str, ...]]:
    """Down when no enabled frontend listens, or backends exist and none is healthy (contract http.gateway.health)."""
    reasons = tuple(f"{p.name}: {p.reason}" for p in protocols if p.reason)
    reasons += tuple(f"load-balancer: {reason}" for reason in unbalanced)
    if phase != "serving":
        return phase, reasons
    counts = tally(backends)
    if not is_heard:
        return "down", reasons
    if counts.total and counts.healthy + counts.degraded == 0:
        return ("down" if counts.down else "starting"), reasons
    return ("degraded" if reasons or counts.down else "ok"), reasons
