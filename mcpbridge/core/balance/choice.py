"""Two steps: the group of backends of one protocol, then a backend of it.

``cross_protocol`` shares calls between groups by weight and mean health, smoothly; the endpoint is the better one of two drawn
by chance, better by peak latency, calls in flight and weight. Other strategies replace one of the steps.

Decided here: one that is degraded (it missed a check and has not failed for good) takes a quarter of its share. Panic ignores
what health says, not what breakers say: a backend whose breaker is open is not chosen in panic either; when those of all are
open, they get their trials at once (``core.server``). One that drains goes on purpose: it counts neither as healthy nor as
sick.

Source: issue 5 item 1; contract section 3.1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol, TypeVar

from mcpbridge.core.balance.latency import PeakLatency
from mcpbridge.core.balance.policy import FLOOR, Balancing, Strategy
from mcpbridge.core.balance.smooth import Smooth
from mcpbridge.observe.sketch import Window

SLOW_START: Final = 30.0  # seconds over which a new or recovered backend gets its full share
DEGRADED: Final = 0.25  # what is left of the share of a backend that missed a check


class Candidate(Protocol):
    """What a choice knows of a backend."""

    name: str
    protocol: str
    weight: float
    score: float  # 0.1 to 1
    latency: PeakLatency
    fresh_at: float  # when it came or came back, monotonic seconds
    is_draining: bool

    @property
    def state(self) -> str: ...

    @property
    def active(self) -> int: ...

    def is_eligible(self, now: float) -> bool: ...


C = TypeVar("C", bound=Candidate)


class Balancer:
    """The choices of one server. ``draw(n)``: a chance number below n."""

    def __init__(self, policy: Balancing, draw: Callable[[int], int]) -> None:
        self.policy = policy
        self._draw = draw
        self._groups = Smooth()
        self._turns = Smooth()
        self._shares = Smooth()
        self.took = Window()  # how long decisions take, seconds

    def is_panicking(self, members: Sequence[Candidate], now: float) -> bool:
        """Whether so few of a server's backends are eligible that sparing the others would drown these."""
        staying = [one for one in members if not one.is_draining]
        return sum(one.is_eligible(now) for one in staying) < self.policy.panic_threshold * len(staying)

    def choose(
        self, candidates: Sequence[C], now: float, *, caller: str = "", strategy: Strategy | None = None, panic: bool = False
    ) -> C:
        """One of ``candidates``, at least one, all fit for the call. ``caller``: the protocol that the client speaks."""
        if self.policy.is_ordered:
            return candidates[0]
        weigh = self.policy.weight
        candidates = [one for one in candidates if one.weight * weigh(one.protocol) > 0.0] or candidates
        groups: dict[str, list[C]] = {}
        for one in candidates:
            groups.setdefault(one.protocol, []).append(one)
        if len(groups) == 1:
            group = groups[candidates[0].protocol]
        else:
            ordered = {name: groups[name] for name in sorted(groups, key=self.policy.rank)}
            group = ordered[self._group(ordered, now, caller, strategy or self.policy.strategy, panic)]
        return group[0] if len(group) == 1 else self._endpoint(group, now, panic)

    def targets(self, members: Sequence[Candidate], now: float) -> dict[str, float] | None:
        """The share of each protocol in the calls of these members' server; None for a strategy that aims at none."""
        groups: dict[str, list[Candidate]] = {}
        eligible = [one for one in members if one.is_eligible(now)]
        for one in [one for one in eligible if one.weight * self.policy.weight(one.protocol) > 0.0] or eligible:
            groups.setdefault(one.protocol, []).append(one)
        if self.policy.strategy not in ("cross_protocol", "weighted", "round_robin"):
            return None
        weights = self._weights(groups, now, self.policy.strategy, self.is_panicking(members, now))
        total = sum(weights.values())
        return {name: weight / total for name, weight in weights.items()}

    def _group(self, groups: dict[str, list[C]], now: float, caller: str, strategy: Strategy, panic: bool) -> str:
        first = next(iter(groups))
        if strategy == "priority":
            return first
        if strategy == "protocol_specific":
            return caller if caller in groups else first
        if strategy == "least_conn":
            return min(groups, key=lambda name: sum(one.active for one in groups[name]) / len(groups[name]))
        return self._groups.choose(self._weights(groups, now, strategy, panic))

    def _weights(
        self, groups: Mapping[str, Sequence[Candidate]], now: float, strategy: Strategy, panic: bool
    ) -> dict[str, float]:
        if strategy == "round_robin":
            return dict.fromkeys(groups, 1.0)
        weights = {name: self.policy.weight(name) or 1.0 for name in groups}  # zeros: only last resorts are left
        if strategy == "cross_protocol" and not panic:
            for name, group in groups.items():
                weights[name] *= sum(self.health(one, now) for one in group) / len(group)
        return weights

    def _endpoint(self, group: Sequence[C], now: float, panic: bool) -> C:
        strategy = self.policy.endpoint_strategy
        if strategy == "round_robin":
            turn = self._turns.choose({one.name: 1.0 for one in group})
            return next(one for one in group if one.name == turn)
        health = (lambda _one, _now: 1.0) if panic else self.health
        if strategy == "weighted":
            share = self._shares.choose({one.name: (one.weight or 1.0) * health(one, now) for one in group})
            return next(one for one in group if one.name == share)
        if strategy == "least_conn":
            return min(group, key=lambda one: (one.active + 1) / ((one.weight or 1.0) * health(one, now)))
        at = self._draw(len(group))
        other = self._draw(len(group) - 1)
        two = (group[at], group[other + (other >= at)])
        return min(two, key=lambda one: one.latency.cost(one.active, now) / ((one.weight or 1.0) * health(one, now)))

    def health(self, one: Candidate, now: float) -> float:
        """0.1 to 1: ``worth``, and less while it warms up."""
        return max(FLOOR, self.worth(one) * min(1.0, (now - one.fresh_at) / SLOW_START))

    def worth(self, one: Candidate) -> float:
        """0.1 to 1: what is foretold of it, less when it is degraded; always 1 where health is not to count."""
        if not self.policy.health_aware:
            return 1.0
        return max(FLOOR, one.score * (DEGRADED if one.state == "degraded" else 1.0))
