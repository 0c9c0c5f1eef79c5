"""The sections of the router's pools: connections to the gateway, and to direct servers. Source: contract section 3.2."""

from __future__ import annotations

from typing import Annotated

from mcpbridge.config.kinds import BOOL, COUNT, duration, integer
from mcpbridge.config.rows import Row, Section

_IDLE = Row(
    duration(0.001, bare=0.001),
    "close idle ones; a bare number is milliseconds. Short on purpose: an idle one counts at the server's limit",
    key="max_idle_time_ms",
)
POOLING = Row(
    BOOL,
    "false: every call connects anew and hangs up; sessions of legacy clients and servers last as ever, so do child processes",
    env=("MCP_CONNECTION_POOLING_ENABLED",),
)
_MOST = Row(COUNT, "connections for calls; more calls wait for one; a stream has one of its own")


class PoolKeys(Section, frozen=True, kw_only=True):
    """Connections over http and sse; websocket and tcp_binary carry all calls over one. Times are in seconds."""

    enabled: Annotated[
        bool, Row(BOOL, "true: min_size connections are kept open and idle ones are asked whether they live; false: neither")
    ] = False
    min_size: Annotated[int, Row(integer(0), "kept open to each address")] = 1
    max_size: Annotated[int, _MOST] = 10
    max_idle_time: Annotated[float, _IDLE] = 30.0
    health_check_interval: Annotated[
        float,
        Row(
            duration(0.001, bare=0.001),
            "silence after which an idle connection is asked (HEAD /health; any answer will do); one that is dead is replaced",
            key="health_check_interval_ms",
        ),
    ] = 30.0

    @property
    def kept(self) -> int:
        """Connections that are kept open."""
        return self.min_size if self.enabled else 0

    @property
    def look(self) -> float | None:
        """Seconds of silence until an idle connection is asked; None: never."""
        return self.health_check_interval if self.enabled else None


class GatewayPool(PoolKeys, frozen=True, kw_only=True):
    """Connections to the gateway."""

    max_size: Annotated[int, _MOST._replace(aliases=("connection.pool.max_size",))] = 10
    max_idle_time: Annotated[float, _IDLE._replace(aliases=("connection.pool.idle_timeout",))] = 30.0


class DirectPool(PoolKeys, frozen=True, kw_only=True):
    """Connections to each direct server."""

    enabled: Annotated[bool, Row(BOOL, "false: none is kept open, and idle ones are not asked whether they live")] = True
    min_size: Annotated[int, Row(integer(0), "kept open to each address")] = 0
