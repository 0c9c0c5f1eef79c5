"""What decides where calls go: the configured strategies and weights.

Source: contract section 3.1 (``load_balancing``, ``routing``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

Strategy = Literal["cross_protocol", "protocol_specific", "least_conn", "round_robin", "weighted", "priority"]
EndpointStrategy = Literal["cross_protocol_least_conn", "least_conn", "round_robin", "weighted"]

WEIGHTS: Final[Mapping[str, float]] = {"stdio": 1.5, "tcp_binary": 1.3, "websocket": 1.2, "http": 1.0, "sse": 0.8}
PREFERENCE: Final = tuple(WEIGHTS)


@dataclass(slots=True)
class Balancing:
    """One for all servers of a process. A weight of 0 makes a last resort: taken when nothing else is eligible.

    ``panic_threshold``: below this share of healthy backends of a server their health is ignored.
    """

    strategy: Strategy = "cross_protocol"
    endpoint_strategy: EndpointStrategy = "cross_protocol_least_conn"
    weights: dict[str, float] = field(default_factory=lambda: dict(WEIGHTS))
    preference: tuple[str, ...] = PREFERENCE
    health_aware: bool = True
    fallback_enabled: bool = True
    panic_threshold: float = 0.5

    def weight(self, protocol: str) -> float:
        return self.weights.get(protocol, 1.0)

    def rank(self, protocol: str) -> int:
        """Its place in the order of preference; those not named come last."""
        return self.preference.index(protocol) if protocol in self.preference else len(self.preference)
