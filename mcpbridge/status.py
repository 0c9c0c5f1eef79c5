"""Status: what a running bridge measures of itself, and the Snapshot made of it.

    every attempt   -> per backend: latency, errors          every exchange -> per frontend protocol: rate, errors, latency
    Status.snapshot(...) -> Snapshot                          the one picture; every view is a function of it

Source: contract section 2.1; architecture section 10.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

from mcpbridge import __version__
from mcpbridge.bridge import Bridge
from mcpbridge.core.exchange import Exchange, Handler, Policy
from mcpbridge.core.server import Backend
from mcpbridge.errors import BridgeError
from mcpbridge.observe.metrics import Counter, Registry, Summary
from mcpbridge.observe.sketch import Window, quantile
from mcpbridge.observe.snapshot import (
    PROTOCOL_NAMES,
    BackendStatus,
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
)
from mcpbridge.wire.message import Request, Response

RATE_WINDOW = 10  # seconds over which a rate is measured
STRATEGY = "least_conn"


class Rate:
    """Events per second over the last whole RATE_WINDOW seconds. Seconds of a clock that never goes back."""

    def __init__(self, now: float) -> None:
        self._counts = [0] * (RATE_WINDOW + 1)
        self._second = int(now)
        self._started = now

    def add(self, now: float) -> None:
        self._advance(now)
        self._counts[self._second % len(self._counts)] += 1

    def read(self, now: float) -> float | None:
        """None until the process is a second old."""
        self._advance(now)
        seconds = min(RATE_WINDOW, int(now - self._started))
        if seconds < 1:
            return None
        whole = [self._counts[(self._second - back) % len(self._counts)] for back in range(1, seconds + 1)]
        return sum(whole) / seconds

    def _advance(self, now: float) -> None:
        for second in range(max(self._second + 1, int(now) - RATE_WINDOW), int(now) + 1):
            self._counts[second % len(self._counts)] = 0
        self._second = int(now)


class _Traffic:
    """Calls of one protocol or backend: rate, latencies, and errors over the same window."""

    def __init__(self, now: float) -> None:
        self.rate = Rate(now)
        self.failures = Rate(now)
        self.latency = Window()

    def add(self, seconds: float, *, failed: bool, now: float) -> None:
        self.rate.add(now)
        if failed:
            self.failures.add(now)
        self.latency.add(seconds, now)

    def error_rate(self, now: float) -> float | None:
        calls, failures = self.rate.read(now), self.failures.read(now)
        return round((failures or 0.0) / calls, 6) if calls else None

    def percentiles(self, now: float) -> Latency:
        buckets = self.latency.buckets(now)
        return Latency(*(None if (v := quantile(buckets, q)) is None else round(v * 1000, 3) for q in (0.5, 0.95, 0.99)))


class Status:
    """Measures and tells. ``registry`` gets the metrics of attempts and backends; exchanges are the access log's."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self._sequence = 0
        self._backends: dict[str, _Traffic] = {}
        self._protocols: dict[str, _Traffic] = {name: _Traffic(time.monotonic()) for name in PROTOCOL_NAMES}
        self._balanced: dict[str, tuple[Counter, Summary]] = {}
        self._converted: dict[tuple[str, str, str], Counter] = {}
        self._states: dict[str, str] = {}

    def attempted(self, backend: Backend, x: Exchange, seconds: float, error: BridgeError | None) -> None:
        """One attempt has ended (``core.server.Observe``)."""
        now = time.monotonic()
        failed = error is not None and error.fault.blames == "backend"
        traffic = self._backends.get(backend.name)
        if traffic is None:
            traffic = self._backends[backend.name] = _Traffic(now)
        if x.view.method != "subscriptions/listen":
            traffic.add(seconds, failed=failed, now=now)
        pair = self._balanced.get(backend.protocol)
        if pair is None:
            pair = self._balanced[backend.protocol] = (
                self.registry.counter(
                    "mcp_gateway_load_balancer_requests_total", strategy=STRATEGY, selected_protocol=backend.protocol
                ),
                self.registry.summary("mcp_gateway_load_balancer_latency_seconds", backend_protocol=backend.protocol),
            )
        pair[0].inc()
        if x.view.method != "subscriptions/listen":
            pair[1].observe(seconds)
        if x.caller.protocol != backend.protocol:
            key = (x.caller.protocol, backend.protocol, "failure" if failed else "success")
            counter = self._converted.get(key)
            if counter is None:
                labels = {"from": key[0], "to": key[1], "result": key[2]}
                counter = self._converted[key] = self.registry.counter("mcp_gateway_protocol_conversion_total", **labels)
            counter.inc()

    def policy(self) -> Policy:
        """Counts every request per frontend protocol; stands beside the access log."""

        async def policy(x: Exchange, handler: Handler) -> Response | None:
            if not isinstance(x.message, Request) or x.view.method == "subscriptions/listen":
                return await handler(x)
            started = time.monotonic()
            failed = True
            try:
                response = await handler(x)
                failed = False
                return response
            except BridgeError as error:
                failed = error.fault.blames != "client"
                raise
            except asyncio.CancelledError:
                failed = False
                raise
            finally:
                now = time.monotonic()
                self._protocols[x.caller.protocol].add(now - started, failed=failed, now=now)

        return policy

    def snapshot(
        self,
        bridge: Bridge,
        frontends: Mapping[str, Frontend],
        *,
        store: str,
        ready: bool,
        config: ConfigStatus,
        not_after: float | None = None,
    ) -> Snapshot:
        """The picture now. ``frontends``: enabled frontend protocols."""
        now = time.monotonic()
        self._sequence += 1
        backends = tuple(self._backend(backend, now) for server in bridge.servers.values() for backend in server.backends)
        protocols = tuple(self._protocol(name, frontends.get(name), backends, now) for name in PROTOCOL_NAMES)
        status, reasons = _overall(bridge, protocols, backends, ready)
        self._note_changes(bridge, backends)
        for protocol in protocols:
            self.registry.set("mcp_gateway_protocol_up", float(protocol.healthy), protocol=protocol.name)
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
            events=tuple(bridge.events),
        )

    def _backend(self, backend: Backend, now: float) -> BackendStatus:
        traffic = self._backends.get(backend.name)
        outcome = backend.outcome
        return BackendStatus(
            server=backend.server.name,
            endpoint=backend.name,
            protocol=backend.protocol,
            state=backend.state,
            namespace=backend.server.namespace,
            address=backend.address,
            source=backend.source,
            reason=backend.reason,
            era="modern" if backend.speaks.get("modern") else "legacy" if backend.speaks.get("legacy") else None,
            version=backend.version,
            in_flight=backend.active,
            consecutive_failures=outcome.consecutive,
            latency_ms=traffic.percentiles(now) if traffic else Latency(),
            error_rate=traffic.error_rate(now) if traffic else None,
            last_check=timestamp(outcome.last_at) if outcome.last_at is not None else None,
            since=timestamp(backend.since),
        )

    def _protocol(self, name: str, frontend: Frontend | None, backends: tuple[BackendStatus, ...], now: float) -> ProtocolStatus:
        own = [b for b in backends if b.protocol == name]
        enabled = frontend is not None or bool(own)
        traffic = self._protocols[name]
        state: State = "disabled"
        reason = None
        if enabled:
            counts = tally(own)
            if frontend is not None and not frontend.listening:
                state, reason = "down", "its listener is not open"
            elif own and counts.healthy == 0:
                state = "down" if counts.down == counts.total else "starting"
                reason = next((f"{b.server}: {b.reason}" for b in own if b.reason), "no backend has answered yet")
            elif counts.down:
                state, reason = "degraded", next((f"{b.server}: {b.reason}" for b in own if b.state == "down"), None)
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
            requests_per_sec=traffic.rate.read(now) if frontend is not None else None,
            error_rate=traffic.error_rate(now),
            latency_ms=traffic.percentiles(now),
        )

    def _note_changes(self, bridge: Bridge, backends: tuple[BackendStatus, ...]) -> None:
        for backend in backends:
            if self._states.get(backend.endpoint) != backend.state:
                self._states[backend.endpoint] = backend.state
                said = f"{backend.endpoint} is {backend.state}" + (f": {backend.reason}" if backend.reason else "")
                level = "warn" if backend.state == "down" else "info"
                bridge.events.append(
                    Event(timestamp(time.time()), level, "backend_state", said, backend.protocol, backend.server)
                )


def _overall(
    bridge: Bridge, protocols: tuple[ProtocolStatus, ...], backends: tuple[BackendStatus, ...], ready: bool
) -> tuple[State, tuple[str, ...]]:
    """Down when no enabled frontend listens, or backends exist and none is healthy (contract http.gateway.health)."""
    reasons = tuple(f"{p.name}: {p.reason}" for p in protocols if p.reason)
    if bridge.draining.is_set():
        return "draining", reasons
    if not ready:
        return "starting", reasons
    counts = tally(backends)
    if counts.total and counts.healthy + counts.degraded == 0:
        return ("down" if counts.down else "starting"), reasons
    return ("degraded" if reasons or counts.down else "ok"), reasons
