"""Rows of balancing: how calls are shared between protocols and backends.

Source: contract section 3.1 (``load_balancing``).
"""

from __future__ import annotations

from typing import Annotated, Literal

from mcpbridge.config.kinds import BOOL, DURATION, Kind, choice, number, parse_bool
from mcpbridge.config.rows import Row, Section

_WEIGHT = number(0, 100)
_IS_CROSS = Kind("bool", lambda text: "cross_protocol" if parse_bool(text) else "protocol_specific", {"type": "boolean"})


class ProtocolWeights(Section, frozen=True, kw_only=True):
    """Shares of calls in proportion, among the protocols that a server's eligible backends speak; 0: a last resort."""

    stdio: Annotated[float, Row(_WEIGHT, "share of stdio backends")] = 1.5
    tcp_binary: Annotated[float, Row(_WEIGHT, "share of TCP backends")] = 1.3
    websocket: Annotated[float, Row(_WEIGHT, "share of WebSocket backends")] = 1.2
    http: Annotated[float, Row(_WEIGHT, "share of HTTP backends")] = 1.0
    sse: Annotated[float, Row(_WEIGHT, "share of HTTP+SSE backends")] = 0.8


class LoadBalancing(Section, frozen=True, kw_only=True):
    """Which backends of a server take its calls."""

    strategy: Annotated[
        Literal["cross_protocol", "protocol_specific", "least_conn", "round_robin", "weighted", "priority"],
        Row(
            choice("cross_protocol", "protocol_specific", "least_conn", "round_robin", "weighted", "priority"),
            "how the protocol is chosen: by weight and health, the client's own, fewest calls, in turn, weight, preference",
            env=("MCP_CROSS_PROTOCOL_LOAD_BALANCE",),
            env_kind=_IS_CROSS,
        ),
    ] = "cross_protocol"
    protocol_weights: ProtocolWeights = ProtocolWeights()
    health_aware: Annotated[bool, Row(BOOL, "only backends that are up; a low health score lowers the share")] = True
    fallback_enabled: Annotated[bool, Row(BOOL, "failed calls that may be repeated try another backend")] = True
    panic_threshold: Annotated[
        float, Row(number(0, 1), "below this share of healthy backends of a server health is ignored")
    ] = 0.5
    rebalance_interval: Annotated[
        float, Row(DURATION, "seconds between two rebalances by measured latency and errors; 0: only when asked")
    ] = 0.0
