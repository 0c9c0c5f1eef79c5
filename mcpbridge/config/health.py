"""How the gateway looks after itself and its servers: ``server.health_checks`` and ``health_monitoring``.

Source: contract section 3.1.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from mcpbridge.config.kinds import BOOL, COUNT, choice, duration, matching
from mcpbridge.config.protocols import PROTOCOLS
from mcpbridge.config.rows import Row, Section

_PATH = matching(r"/[A-Za-z0-9._~-]+(?:/[A-Za-z0-9._~-]+)*", "a path such as /health/ws")
_LIMIT = duration(0.01)
_ROOTS = ("/mcp", "/api", "/sse")
_VIEWS = ("ws", "direct-clients", "protocols", "protocol-detection", "load-balancer", "discovery")  # besides the protocols


class StdioCheck(Section, frozen=True, kw_only=True):
    """Of the unix socket."""

    enabled: Annotated[bool, Row(BOOL, "self-check of the frontend")] = True
    timeout: Annotated[float, Row(_LIMIT, "time limit")] = 2.0


class WebSocketCheck(Section, frozen=True, kw_only=True):
    """Of the WebSocket frontend."""

    enabled: Annotated[bool, Row(BOOL, "self-check of the frontend")] = True
    endpoint: Annotated[str, Row(_PATH, "further path of the view /health/websocket")] = "/health/ws"
    timeout: Annotated[float, Row(_LIMIT, "time limit")] = 5.0


class HttpCheck(Section, frozen=True, kw_only=True):
    """Of Streamable HTTP."""

    enabled: Annotated[bool, Row(BOOL, "self-check of the frontend")] = True
    endpoint: Annotated[str, Row(_PATH, "further path of the view /health/http")] = "/health/http"
    timeout: Annotated[float, Row(_LIMIT, "time limit")] = 3.0


class SseCheck(Section, frozen=True, kw_only=True):
    """Of HTTP+SSE."""

    enabled: Annotated[bool, Row(BOOL, "self-check of the frontend")] = True
    endpoint: Annotated[str, Row(_PATH, "further path of the view /health/sse")] = "/health/sse"
    timeout: Annotated[float, Row(_LIMIT, "time limit")] = 5.0


class TcpCheck(Section, frozen=True, kw_only=True):
    """Of MCPB frames, and the port that tells TCP load balancers."""

    enabled: Annotated[bool, Row(BOOL, "self-check of the frontend, and server.tcp_health_port")] = True
    timeout: Annotated[float, Row(_LIMIT, "time limit")] = 2.0


class BalancerCheck(Section, frozen=True, kw_only=True):
    """Of the balancer."""

    enabled: Annotated[bool, Row(BOOL, "a balancer that must use sick backends makes GET /health degraded")] = True
    endpoint: Annotated[str, Row(_PATH, "further path of the view /health/load-balancer")] = "/health/load-balancer"
    timeout: Annotated[
        float, Row(_LIMIT, "how far beyond a prediction_window the health that it works with may be, until it counts as old")
    ] = 10.0


class HealthChecks(Section, frozen=True, kw_only=True):
    """How the gateway looks at its own frontends: a round trip through each listener, at the interval of health_monitoring."""

    stdio: StdioCheck = StdioCheck()
    websocket: WebSocketCheck = WebSocketCheck()
    http: HttpCheck = HttpCheck()
    sse: SseCheck = SseCheck()
    tcp_binary: TcpCheck = TcpCheck()
    cross_protocol_lb: BalancerCheck = BalancerCheck()

    @property
    def paths(self) -> dict[str, str]:
        """Further paths of views: path -> name of the view below /health."""
        return {path: name for _, name, path in self._further}

    @property
    def _further(self) -> tuple[tuple[str, str, str], ...]:
        """``(key, view, path)`` of each."""
        return (
            ("websocket", "websocket", self.websocket.endpoint),
            ("http", "http", self.http.endpoint),
            ("sse", "sse", self.sse.endpoint),
            ("cross_protocol_lb", "load-balancer", self.cross_protocol_lb.endpoint),
        )

    def misplaced(self, *roots: str) -> Iterator[tuple[str, str]]:
        """``(key, path)`` of every further path that leads elsewhere already: to ``roots`` and below, or to a view."""
        taken = {"/health", "/healthz", "/readyz", "/ready", *(f"/health/{name}" for name in (*PROTOCOLS, *_VIEWS))}
        for key, view, path in self._further:
            is_below = any(path == root or path.startswith(f"{root}/") for root in (*_ROOTS, *roots))
            is_own = path in (f"/health/{view}", "/health/ws" if view == "websocket" else "")
            if is_below or (path in taken and not is_own):
                yield key, path
            taken.add(path)


class HealthMonitoring(Section, frozen=True, kw_only=True):
    """How servers are looked at, and what makes one down."""

    predictive_enabled: Annotated[
        bool,
        Row(BOOL, "score servers that get worse, before they fail", env=("MCP_PREDICTIVE_HEALTH_MONITORING",)),
    ] = True
    ml_model: Annotated[
        Literal["anomaly_detection"],
        Row(choice("anomaly_detection"), "a statistical detector (robust CUSUM); nothing is learned from data"),
    ] = "anomaly_detection"
    prediction_window: Annotated[
        float,
        Row(duration(0.1), "how long calls are gathered before they are judged; a prediction is about the next 120 windows"),
    ] = 5.0
    health_check_interval: Annotated[
        float,
        Row(duration(0.1), "time between two checks of what is ok", aliases=("routing.health_check_interval",)),
    ] = 10.0
    failure_threshold: Annotated[int, Row(COUNT, "failures in a row until what was ok is down")] = 3
    recovery_threshold: Annotated[int, Row(COUNT, "successes in a row until what was down is ok")] = 2
    protocol_specific_checks: Annotated[bool, Row(BOOL, "ask what each protocol can be asked; false: connect only")] = True
