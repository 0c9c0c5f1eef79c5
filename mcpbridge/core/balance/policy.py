"""What decides where calls go: the configured strategies, and weights that may change while the process runs.

    weight of a protocol = base (configured, or as somebody set it) x measured factors (see ``rebalance``)

Source: contract section 3.1 (``load_balancing``, ``routing``), http.gateway.lb.weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

Strategy = Literal["cross_protocol", "protocol_specific", "least_conn", "round_robin", "weighted", "priority"]
EndpointStrategy = Literal["cross_protocol_least_conn", "least_conn", "round_robin", "weighted"]

REQUESTABLE: Final[Mapping[str, Strategy]] = {
    "cross_protocol": "cross_protocol",
    "protocol_specific": "protocol_specific",
    "least_conn": "least_conn",
    "round_robin": "round_robin",
    "weighted": "weighted",
}
"""What ``X-Load-Balance`` may ask for. Source: contract http.gateway.execute.load-balance."""
WEIGHTS: Final[Mapping[str, float]] = {"stdio": 1.5, "tcp_binary": 1.3, "websocket": 1.2, "http": 1.0, "sse": 0.8}
PREFERENCE: Final = tuple(WEIGHTS)
FLOOR: Final = 0.1
"""What is left at least of a weight, however bad the health or the measurements: who gets no calls cannot get better."""
HIGHEST: Final = 100.0  # a weight
LEAST: Final = 1e-9  # of those above 0, as in a file; sums and products of smaller ones come to nothing


class Factors(NamedTuple):
    """What measurements make of a protocol's weight, 0.1 to 1 each."""

    latency: float = 1.0
    errors: float = 1.0


@dataclass(slots=True)
class Balancing:
    """One for all servers of a process. A weight of 0 makes a last resort: taken when nothing else is eligible.

    ``panic_threshold``: below this share of healthy backends of a server their health is ignored. ``is_ordered``: no balancing,
    the first of them that is fit takes everything (failover).
    """

    strategy: Strategy = "cross_protocol"
    endpoint_strategy: EndpointStrategy = "cross_protocol_least_conn"
    weights: dict[str, float] = field(default_factory=lambda: dict(WEIGHTS))  # the base; ``defaults`` is the configured one
    preference: tuple[str, ...] = PREFERENCE
    health_aware: bool = True
    fallback_enabled: bool = True
    panic_threshold: float = 0.5
    is_ordered: bool = False
    defaults: Mapping[str, float] = field(init=False)
    factors: dict[str, Factors] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.defaults = dict(self.weights)

    def weight(self, protocol: str) -> float:
        """The weight of a protocol, without the health of its backends."""
        base = self.weights.get(protocol, 1.0)
        measured = self.factors.get(protocol)
        return base if measured is None else base * max(FLOOR, measured.latency * measured.errors)

    def rank(self, protocol: str) -> int:
        """Its place in the order of preference; those not named come last."""
        return self.preference.index(protocol) if protocol in self.preference else len(self.preference)

    def change(self, other: Balancing) -> None:
        """Another configuration counts. Weights that somebody set meanwhile stay while the configured ones do."""
        self.strategy, self.endpoint_strategy, self.preference = other.strategy, other.endpoint_strategy, other.preference
        self.health_aware, self.fallback_enabled = other.health_aware, other.fallback_enabled
        self.panic_threshold = other.panic_threshold
        if self.defaults != other.defaults:
            self.defaults = dict(other.defaults)
            self.reset()

    def reset(self) -> None:
        """Back to the configuration."""
        self.weights = dict(self.defaults)
        self.factors = {}


def wrong_weights(weights: Mapping[str, object], whose: str) -> str | None:
    """Why these cannot be the weights of ``whose`` members; None when they can. One of 0 is a last resort, which needs another
    one to stand behind."""
    for name, weight in weights.items():
        is_number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not is_number or not (weight == 0 or LEAST <= weight <= HIGHEST):  # type: ignore[operator]  # NaN is none of these
            return f"{name}: 0 or a number from {LEAST:g} to {HIGHEST:g} expected"
    if weights and not any(weights.values()):
        return f"all {whose} would have weight 0, and none of them be better than another; one must be above 0"
    return None
