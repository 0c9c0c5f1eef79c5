"""What servers behind the gateway may be and do: one section per protocol below ``backends``.

Source: contract section 3.1 (``backends.*``).
"""

from __future__ import annotations

from typing import Annotated, Literal

from mcpbridge.config.kinds import BOOL, DURATION, TEXTS, choice, duration, integer, matching, size
from mcpbridge.config.rows import Row, Section

_TARGET = matching(r"(?:/[!-~]*)?", "a path such as /health, or nothing")


class StdioBackends(Section, frozen=True, kw_only=True):
    """Servers that are child processes, or listen on a unix socket or a pipe."""

    enabled: Annotated[bool, Row(BOOL, "use them", env=("MCP_GATEWAY_STDIO_BACKENDS",))] = True
    timeout: Annotated[float, Row(duration(0.001), "connect to a socket or pipe")] = 5.0
    socket_discovery: Annotated[bool, Row(BOOL, "every socket below socket_paths is a server, as long as it is there")] = False
    socket_paths: Annotated[tuple[str, ...], Row(TEXTS, "directories; a socket whose real path leaves them is refused")] = (
        "/tmp/mcp-servers",  # noqa: S108 - the guide's; what is found is checked
    )


class WebSocketBackends(Section, frozen=True, kw_only=True):
    """Servers behind WebSocket."""

    enabled: Annotated[bool, Row(BOOL, "use them", env=("MCP_GATEWAY_WEBSOCKET_BACKENDS",))] = True
    auto_discovery: Annotated[bool, Row(BOOL, "use those that discovery finds")] = True
    health_check_path: Annotated[
        str,
        Row(
            _TARGET,
            "asked by GET on the same port before a check; 5xx or silence: it failed; 404 and the like: not offered",
        ),
    ] = "/health"
    timeout: Annotated[float, Row(duration(0.001), "connect and upgrade")] = 10.0


class HttpBackends(Section, frozen=True, kw_only=True):
    """Servers behind Streamable HTTP."""

    enabled: Annotated[bool, Row(BOOL, "use them", env=("MCP_GATEWAY_HTTP_BACKENDS",))] = True
    auto_discovery: Annotated[bool, Row(BOOL, "use those that discovery finds")] = True
    content_types: Annotated[
        tuple[str, ...],
        Row(TEXTS, "what an answer may be besides text/event-stream; any other is the server's fault (error 1019)"),
    ] = ("application/json", "application/x-ndjson")
    timeout: Annotated[
        float, Row(duration(0.001), "connect, TLS, send, and first byte of discover, initialize, ping and lists")
    ] = 30.0


class SseBackends(Section, frozen=True, kw_only=True):
    """Servers behind HTTP+SSE."""

    enabled: Annotated[bool, Row(BOOL, "use them", env=("MCP_GATEWAY_SSE_BACKENDS",))] = True
    reconnect_interval: Annotated[float, Row(DURATION, "longest wait before a lost stream is opened again, at random")] = 5.0
    max_retries: Annotated[int, Row(integer(0, 1000), "attempts to open it again before the server is down")] = 3


class TcpBackends(Section, frozen=True, kw_only=True):
    """Servers behind MCPB frames."""

    enabled: Annotated[bool, Row(BOOL, "use them", env=("MCP_GATEWAY_TCP_BINARY_BACKENDS",))] = True
    timeout: Annotated[float, Row(duration(0.001), "connect and negotiate")] = 10.0
    framing: Annotated[Literal["length_prefixed"], Row(choice("length_prefixed"), "the only framing there is")] = (
        "length_prefixed"
    )


class Backends(Section, frozen=True, kw_only=True):
    """Servers by their protocol."""

    max_response_size: Annotated[int, Row(size(), "one answer of a server; above: error 1016")] = 10_485_760
    stdio: StdioBackends = StdioBackends()
    websocket: WebSocketBackends = WebSocketBackends()
    http: HttpBackends = HttpBackends()
    sse: SseBackends = SseBackends()
    tcp_binary: TcpBackends = TcpBackends()
