"""Balancing of a running gateway: its counts, its weights and who changes them, its part of the Snapshot, its actions.

    attempt -> counters, Backend.share          every look -> weights as they are now, panic          PUT, POST -> new weights

Choosing itself is ``core.balance``; this only tells of it and changes its weights.

Source: issue 5 item 1; contract section 2.3 (http.gateway.lb.*) and 5.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mcpbridge.admin.app import Action, Asked
from mcpbridge.admin.balancing import weights_of
from mcpbridge.core.balance.measured import ENOUGH, SLOT, SLOTS, Measured, factors_of
from mcpbridge.core.balance.policy import FLOOR, Balancing, Factors, wrong_weights
from mcpbridge.core.exchange import Exchange
from mcpbridge.core.retries import Retries
from mcpbridge.core.server import Backend, Server
from mcpbridge.errors import BridgeError
from mcpbridge.observe import balancing as told
from mcpbridge.observe.log import log
from mcpbridge.observe.metrics import Counter, Registry, Summary
from mcpbridge.observe.sketch import add_up, percentiles, quantile
from mcpbridge.observe.snapshot import PROTOCOL_NAMES, Event, is_healthy, timestamp

WINDOW = SLOT * SLOTS  # seconds over which shares are told
_REQUESTS = "mcp_gateway_load_balancer_requests_total"
_WEIGHT = "mcp_gateway_protocol_weight"
_MEMBERS = frozenset({"weights", "endpoints"})  # of what a PUT says
SHOWN = 100  # characters of a name that is not ours, in an error
LISTED = 20  # names that are ours, in an error
_log = log("balance")


class Balance:
    """``servers``: those there are; ``tell`` gets an event per change of weights, ``changed`` is called after it."""

    def __init__(
        self,
        policy: Balancing,
        registry: Registry,
        servers: Callable[[], Iterable[Server]],
        retries: Retries,
        tell: Callable[[Event], None],
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._policy = policy
        self._registry = registry
        self._servers = servers
        self._retries = retries
        self._tell = tell
        self._changed = changed
        self._since = timestamp(time.time())
        self._at: str | None = None
        self._by: str | None = None
        self._series: dict[tuple[str, str], tuple[Counter, Summary]] = {}
        self._shown: dict[str, str] = {}  # protocol -> the label of its weight
        self._totals: dict[str, int] = {}

    def attempted(self, backend: Backend, x: Exchange, seconds: float | None, failed: bool, now: float) -> None:
        """One attempt has ended; ``seconds`` None where its length says nothing."""
        backend.share.add(failed, now)
        key = (backend.protocol, x.strategy or self._policy.strategy)
        series = self._series.get(key)
        if series is None:
            series = self._series[key] = (
                self._registry.counter(_REQUESTS, strategy=key[1], selected_protocol=key[0]),
                self._registry.summary("mcp_gateway_load_balancer_latency_seconds", backend_protocol=key[0]),
            )
        series[0].inc()
        if seconds is not None:
            series[1].observe(seconds)

    # Telling

    def snapshot(self, now: float) -> told.LoadBalancer:
        """Its part of the picture at ``now`` (monotonic); gauges are set on the way."""
        servers = list(self._servers())
        backends = [backend for server in servers for backend in server.backends]
        policy = self._policy
        panicking = tuple(s.name for s in servers if len(s.backends) > 1 and s.balancer.is_panicking(s.backends, now))
        factors = {name: self._factors(name, backends, now) for name in PROTOCOL_NAMES}
        weights = {name: self._current(name, factors[name]) for name in PROTOCOL_NAMES}
        calls, targets = self._aims(servers, now)
        shares = tuple(
            self._share(name, [b for b in backends if b.protocol == name], weights[name], calls, targets, now)
            for name in PROTOCOL_NAMES
        )
        eligible = sum(share.eligible for share in shares)
        self._set_gauges(weights, bool(panicking))
        total = sum(share.requests_total for share in shares)
        return told.LoadBalancer(
            healthy=bool(eligible) or not backends,
            strategy=policy.strategy,
            endpoint_strategy=policy.endpoint_strategy,
            health_aware=policy.health_aware,
            fallback_enabled=policy.fallback_enabled,
            panic=bool(panicking),
            panicking=panicking,
            since=self._since,
            requests_total=total,
            eligible=eligible,
            total=len(backends),
            protocols=shares,
            weights=weights,
            defaults=dict(policy.defaults),
            factors=factors,
            endpoints={backend.name: backend.weight for backend in backends},
            changed_at=self._at,
            changed_by=self._by,
            window_sec=WINDOW,
            requests_window=calls,
            decisions_total=total,
            decision_us=percentiles(add_up(server.balancer.took.buckets(now) for server in servers), 1e6),
            failovers_total=self._retries.failovers,
            retries_total=self._retries.total,
            imbalance=told.imbalance(shares),
        )

    def _factors(self, protocol: str, backends: list[Backend], now: float) -> told.Factors:
        own = [backend for backend in backends if backend.protocol == protocol]
        worth = [backend.server.balancer.worth(backend) for backend in own if backend.is_eligible(now)]
        health = sum(worth) / len(worth) if worth else FLOOR if own else 1.0
        measured = self._policy.factors.get(protocol, Factors())
        return told.Factors(round(health, 4), measured.latency, measured.errors)

    def _current(self, protocol: str, factors: told.Factors) -> float:
        base = self._policy.weights[protocol]
        return round(base * max(FLOOR, factors.health * factors.latency * factors.errors), 4)

    def _aims(self, servers: list[Server], now: float) -> tuple[int, dict[str, float]]:
        """The calls of the window, and how many of them each protocol was to get as things are now."""
        calls, aims = 0, dict[str, float]()
        for server in servers:
            own = sum(backend.share.counts(now)[0] for backend in server.backends)
            calls += own
            for protocol, share in (server.balancer.targets(server.backends, now) or {}).items():
                aims[protocol] = aims.get(protocol, 0.0) + own * share
        return calls, aims

    def _share(
        self, protocol: str, own: list[Backend], weight: float, calls: int, aims: Mapping[str, float], now: float
    ) -> told.ProtocolShare:
        measured = self._measured(protocol, own, now)
        self._totals[protocol] = int(sum(c.value for (name, _), (c, _s) in self._series.items() if name == protocol))
        return told.ProtocolShare(
            protocol=protocol,
            configured_weight=self._policy.weights[protocol],
            current_weight=weight,
            healthy=any(is_healthy(backend.state) for backend in own),
            eligible=sum(backend.is_eligible(now) for backend in own),
            total=len(own),
            requests_total=self._totals[protocol],
            requests_window=measured.calls,
            target_share=round(aims.get(protocol, 0.0) / calls, 6) if calls and aims else None,
            actual_share=round(measured.calls / calls, 6) if calls else None,
            latency_ms=percentiles(self._sketch(protocol, now)),
            error_rate=round(measured.failures / measured.calls, 6) if measured.calls else None,
        )

    def _measured(self, protocol: str, own: list[Backend], now: float) -> Measured:
        counts = [backend.share.counts(now) for backend in own]
        return Measured(sum(n for n, _ in counts), sum(f for _, f in counts), quantile(self._sketch(protocol, now), 0.95))

    def _sketch(self, protocol: str, now: float) -> dict[int, int]:
        summary = self._registry.summary("mcp_gateway_load_balancer_latency_seconds", backend_protocol=protocol)
        return summary.read((protocol,), now).sketch

    def _set_gauges(self, weights: Mapping[str, float], panic: bool) -> None:
        for protocol, weight in weights.items():
            label = f"{weight:g}"
            if self._shown.get(protocol) != label:
                if protocol in self._shown:
                    self._registry.remove(_WEIGHT, protocol=protocol, current_weight=self._shown[protocol])
                self._shown[protocol] = label
                self._registry.set(_WEIGHT, float(label), protocol=protocol, current_weight=label)
        self._registry.set("mcp_gateway_load_balancer_panic", float(panic))

    # Acting

    def actions(self) -> Mapping[str, Action]:
        """Methods and paths below the API's prefix, and what they do."""
        return {
            "PUT /load-balancer/weights": self._put,
            "POST /load-balancer/rebalance": self._rebalance,
            "POST /load-balancer/reset": self._reset,
        }

    async def follow(self, interval: float) -> None:
        """Rebalance every ``interval`` seconds, for ever."""
        while True:
            await asyncio.sleep(interval)
            self.rebalance("rebalance_interval")

    async def _put(self, asked: Asked) -> Any:
        protocols, endpoints = (asked.members.get(name, {}) for name in ("weights", "endpoints"))
        for name in asked.members.keys() - _MEMBERS:
            raise _wrong(f"{name[:SHOWN]}: unknown member; possible are {' and '.join(sorted(_MEMBERS))}")
        self.set_weights(protocols, endpoints, asked.by)
        return weights_of(self.snapshot(time.monotonic()))

    def set_weights(self, protocols: Any, endpoints: Any, by: str) -> None:
        """All or nothing, until the process ends or ``reset``. Raises BridgeError("invalid_request") with the reason."""
        if not isinstance(protocols, dict) or not isinstance(endpoints, dict) or not (protocols or endpoints):
            raise _wrong('{"weights": {PROTOCOL: NUMBER}, "endpoints": {NAME: NUMBER}} expected, one of them at least')
        servers = list(self._servers())
        known = {backend.name: backend for server in servers for backend in server.backends}
        for kind, given, names in (("protocol", protocols, PROTOCOL_NAMES), ("endpoint", endpoints, known)):
            for name in given.keys() - set(names):
                shown = name if len(name) <= SHOWN else f"{name[:SHOWN]}..."
                raise _wrong(f"{shown}: no {kind} has this name; there are: {_some(names)}")
        wanted = {**self._policy.weights, **protocols}
        sets = [("protocols", wanted)]
        for server in servers:
            if any(backend.name in endpoints for backend in server.backends):
                own = {backend.name: endpoints.get(backend.name, backend.weight) for backend in server.backends}
                sets.append((f"endpoints of server {server.name!r}", own))
        for whose, weights in sets:
            reason = wrong_weights(weights, whose)
            if reason is not None:
                raise _wrong(reason)
        self._policy.weights = {name: float(weight) + 0.0 for name, weight in wanted.items()}  # -0.0 is 0.0
        for name, weight in endpoints.items():
            known[name].weight = float(weight) + 0.0
        said = ", ".join(f"{name} {weight:g}" for name, weight in {**protocols, **endpoints}.items())
        self._note(by, f"weights set: {said}")

    async def _rebalance(self, asked: Asked) -> Any:
        return self.rebalance(asked.by)

    def rebalance(self, by: str) -> dict[str, Any]:
        """Give the slow and the failing protocol less, as measured over the window."""
        now = time.monotonic()
        before = dict(self.snapshot(now).weights)
        own: dict[str, list[Backend]] = {}
        for server in self._servers():
            for backend in server.backends:
                own.setdefault(backend.protocol, []).append(backend)
        factors, lacking = factors_of({name: self._measured(name, backends, now) for name, backends in own.items()})
        reason = f"fewer than {ENOUGH} calls in {WINDOW:g} s: {', '.join(lacking)}" if lacking else "measured"
        if not own:
            reason = "there are no backends"
        new = {**self._policy.factors, **factors}
        changed = any(new[name] != self._policy.factors.get(name, Factors()) for name in factors)
        if changed:
            self._policy.factors = new
            self._note(by, "weights rebalanced")
        after = dict(self.snapshot(now).weights)
        return {"changed": changed, "before": before, "after": after, "reason": reason}

    async def _reset(self, asked: Asked) -> Any:
        now = time.monotonic()
        before = dict(self.snapshot(now).weights)
        self._policy.reset()
        for server in self._servers():
            for backend in server.backends:
                backend.weight = backend.configured_weight
                backend.share.clear()
        self._note(asked.by, "weights reset to the configuration")
        return {"before": before, "after": dict(self.snapshot(now).weights)}

    def _note(self, by: str, said: str) -> None:
        self._at, self._by = timestamp(time.time()), by
        _log.info(said, by=by)
        self._tell(Event(self._at, "info", "weights", said))
        self._changed()


def _some(names: Iterable[str]) -> str:
    """The names for a message, not all of very many."""
    first = list(names)
    more = f" and {len(first) - LISTED} more" if len(first) > LISTED else ""
    return (", ".join(first[:LISTED]) or "none") + more


def _wrong(reason: str) -> BridgeError:
    return BridgeError("invalid_request", reason, sent=False)
