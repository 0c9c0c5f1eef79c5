"""Detection of protocols: the rows of gateway and router.

Source: contract sections 3.1 (``protocol_detection.*``) and 3.2 (``direct_clients.auto_detection.*``).
"""

from __future__ import annotations

from typing import Annotated, Literal

from mcpbridge.config.kinds import BOOL, TEXTS, Kind, choice, duration
from mcpbridge.config.rows import Row, Section

VARIABLES = ("MCP_PROTOCOL_AUTO_DETECT", "MCP_AUTO_DETECT_PROTOCOLS")
_BUDGET = duration(0.05)
_TARGETS = "hosts or networks that API callers may have probed besides the configured servers"


def _parse_share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= 1.0:
        raise ValueError("a number from 0 to 1")
    return value


SHARE = Kind("float", _parse_share, {"type": "number", "minimum": 0, "maximum": 1})


class GatewayDetection(Section, frozen=True, kw_only=True):
    """Finding out what an http address speaks that names no protocol. Durations are seconds."""

    enabled: Annotated[bool, Row(BOOL, "detect the protocol of http addresses that name none", env=VARIABLES)] = True
    accuracy_target: Annotated[float, Row(SHARE, "below this share of confirmed verdicts detection counts as degraded")] = 0.98
    timeout: Annotated[float, Row(_BUDGET, "all probes of one address together")] = 1.0
    cache_duration: Annotated[float, Row(duration(), "a proven verdict is kept so long; others 5 s at most")] = 300.0
    fallback_protocol: Annotated[
        Literal["http", "sse", "websocket", "none"],
        Row(choice("http", "sse", "websocket", "none"), "spoken when nothing could be proven; none: an error instead"),
    ] = "http"
    allowed_targets: Annotated[tuple[str, ...], Row(TEXTS, _TARGETS)] = ()


class RouterDetection(Section, frozen=True, kw_only=True):
    """The same for direct servers. ``timeout`` is in seconds."""

    enabled: Annotated[
        bool,
        Row(BOOL, "detect the protocol of http addresses that name none", env=VARIABLES,
            aliases=("direct.auto_detection.enabled",)),
    ] = True  # fmt: skip
    timeout: Annotated[
        float, Row(_BUDGET, "all probes of one address together", aliases=("direct.auto_detection.timeout",))
    ] = 1.0
    allowed_targets: Annotated[
        tuple[str, ...], Row(TEXTS, f"{_TARGETS} and this machine", aliases=("detection.allowed_targets",))
    ] = ()
    fallback_strategy: Annotated[
        Literal["gateway", "http", "none"],
        Row(choice("gateway", "http", "none"), "what serves when nothing could be proven; gateway: http where there is none",
            aliases=("direct.auto_detection.fallback_strategy",)),
    ] = "gateway"  # fmt: skip
