"""How the test servers are served: command line, HTTP, legacy sessions. For either SDK: the names are the same in both."""

from __future__ import annotations

import argparse
import json
import re
import socket
from typing import Any

import uvicorn
from mcp.server.streamable_http import EventCallback, EventMessage, EventStore
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.transport_security import TransportSecuritySettings
from mcp.types import JSONRPCMessage
from starlette.applications import Starlette
from starlette.routing import Route

LOCAL_ONLY = TransportSecuritySettings(
    enable_dns_rebinding_protection=True,
    allowed_hosts=["127.0.0.1:*", "localhost:*"],
    allowed_origins=["http://127.0.0.1:*", "http://localhost:*"],
)


class EventLog(EventStore):
    """Events per stream in memory; an event id is ``position:stream`` so that a replay finds its stream by itself."""

    def __init__(self) -> None:
        self.streams: dict[str, list[JSONRPCMessage | None]] = {}

    async def store_event(self, stream_id: str, message: JSONRPCMessage | None) -> str:
        events = self.streams.setdefault(stream_id, [])
        events.append(message)
        return f"{len(events)}:{stream_id}"

    async def replay_events_after(self, last_event_id: str, send_callback: EventCallback) -> str | None:
        position, _, stream = last_event_id.partition(":")
        if stream not in self.streams or not position.isdigit():
            return None
        for number, message in enumerate(self.streams[stream][int(position) :], int(position) + 1):
            if message is not None:
                await send_callback(EventMessage(message, f"{number}:{stream}"))
        return stream


class Sessions(StreamableHTTPSessionManager):
    """The SDK's session manager with two differences that its own cannot be told by options.

    Every session has an event log of its own (the SDK keys streams by request id alone, so two sessions would replay each
    other's events), and the version that a session negotiated wins over the header of its later requests (suite 0.1.16
    names 2025-03-26 in sessions of 2025-11-25 and then expects the priming of the latter).
    """

    def __init__(self, server: Any) -> None:
        super().__init__(app=server, retry_interval=100, security_settings=LOCAL_ONLY)
        self.negotiated: dict[str, bytes] = {}

    @property
    def event_store(self) -> EventStore:
        return EventLog()

    @event_store.setter
    def event_store(self, value: EventStore | None) -> None:
        """The base class sets its option here; ours are made per session."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        session = headers.get(b"mcp-session-id", b"").decode("latin-1")
        if session in self.negotiated:
            kept = [(name, value) for name, value in scope["headers"] if name != b"mcp-protocol-version"]
            scope = {**scope, "headers": [*kept, (b"mcp-protocol-version", self.negotiated[session])]}
        opened = ""

        async def watch(message: Any) -> None:
            nonlocal opened
            if message["type"] == "http.response.start":
                opened = dict(message["headers"]).get(b"mcp-session-id", b"").decode("latin-1")
            elif opened and (found := re.search(rb'"protocolVersion": ?"([\d-]+)"', message.get("body", b""))):
                self.negotiated[opened], opened = found[1], ""
            await send(message)

        await self.asgi_app(scope, receive, send if session else watch)


def serve(sessions: StreamableHTTPSessionManager, face: Any, port: int) -> None:
    """Serve the ASGI application ``face`` at ``http://localhost:PORT/mcp`` (0: a free port); prints ``{"port": N}``."""
    serve_app(Starlette(routes=[Route("/mcp", face)], lifespan=lambda _: sessions.run()), port)


def serve_app(app: Any, port: int) -> None:
    """Serve an ASGI application at ``http://localhost:PORT`` (0: a free port); prints ``{"port": N}``."""
    listener = socket.create_server(("127.0.0.1", port))
    print(json.dumps({"port": listener.getsockname()[1]}), flush=True)
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
    uvicorn.Server(config).run(sockets=[listener])


def options(about: str) -> argparse.Namespace:
    """The command line that all test servers have."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--stdio", action="store_true", help="serve stdin and stdout instead of HTTP")
    parser.add_argument("--sse", action="store_true", help="serve HTTP+SSE at /sse (SDK 1.x)")
    parser.add_argument("--websocket", action="store_true", help="serve WebSocket at /ws (SDK 1.x)")
    parser.add_argument("--port", type=int, default=0, help="TCP port on 127.0.0.1; 0 picks a free one")
    return parser.parse_args()
