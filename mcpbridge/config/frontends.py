"""How clients may come in: one section per protocol below ``server.protocols``.

Source: contract section 3.1 (``server.protocols.*``).
"""

from __future__ import annotations

from typing import Annotated, Literal

from mcpbridge.config.kinds import BOOL, FILE_MODE, PATH, choice, duration, matching
from mcpbridge.config.rows import Row, Section

_PATH = matching(r"/[A-Za-z0-9._~-]+(?:/[A-Za-z0-9._~-]+)*", "a path such as /ws")


class StdioFrontend(Section, frozen=True, kw_only=True):
    """Newline-delimited JSON-RPC on a unix socket."""

    enabled: Annotated[bool, Row(BOOL, "serve it")] = True
    socket_permissions: Annotated[str, Row(FILE_MODE, "file mode of the socket; its group may be served too")] = "0660"
    pipe: Annotated[str, Row(PATH, "named pipes PATH.in and PATH.out, for one client at a time; empty: none")] = ""


class WebSocketFrontend(Section, frozen=True, kw_only=True):
    """WebSocket on server.port."""

    enabled: Annotated[bool, Row(BOOL, "serve it")] = True
    path: Annotated[str, Row(_PATH, "upgrade path; PATH/NAME is one server")] = "/ws"
    compression: Annotated[bool, Row(BOOL, "offer permessage-deflate; sizes count inflated bytes")] = False


class HttpFrontend(Section, frozen=True, kw_only=True):
    """Streamable HTTP on server.port."""

    enabled: Annotated[bool, Row(BOOL, "serve /mcp; views and health stay")] = True


class SseFrontend(Section, frozen=True, kw_only=True):
    """HTTP+SSE, the transport of 2024-11-05, on server.port."""

    enabled: Annotated[bool, Row(BOOL, "serve it")] = True
    path: Annotated[str, Row(_PATH, "stream path; PATH/messages takes the messages")] = "/events"
    keepalive_interval: Annotated[float, Row(duration(0.01), "a comment on a silent stream")] = 30.0


class TcpFrontend(Section, frozen=True, kw_only=True):
    """MCPB frames on server.tcp_port. ``tls`` None: as server.tls.enabled."""

    enabled: Annotated[bool, Row(BOOL, "serve it")] = True
    tls: Annotated[bool | None, Row(BOOL, "TLS, and client certificates, on its port; absent: as server.tls.enabled")] = None
    framing: Annotated[Literal["length_prefixed"], Row(choice("length_prefixed"), "the only framing there is")] = (
        "length_prefixed"
    )


class Protocols(Section, frozen=True, kw_only=True):
    """The five protocols towards clients."""

    stdio: StdioFrontend = StdioFrontend()
    websocket: WebSocketFrontend = WebSocketFrontend()
    http: HttpFrontend = HttpFrontend()
    sse: SseFrontend = SseFrontend()
    tcp_binary: TcpFrontend = TcpFrontend()
