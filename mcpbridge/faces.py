"""The gateway's faces: which path and which listener leads where, and the life of every listener as one.

    server.port        /mcp  /mcp/{server}  /ws  /ws/{server}  an upgrade at /  /events  /events/{server}
                       POST /api/v1/execute  and every view
    metrics.endpoint   /metrics, /health*, GET /api/v1/*

Source: contract sections 2 (paths) and 3.1 (``server.*``); architecture section 8 (one life cycle).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from mcpbridge.admin.app import JSON, NO_STORE, App, error_body
from mcpbridge.bridge import Bridge
from mcpbridge.config.gateway import GatewayConfig
from mcpbridge.config.kinds import is_loopback
from mcpbridge.core.server import Server
from mcpbridge.errors import BridgeError
from mcpbridge.execute import Execute
from mcpbridge.observe.snapshot import Frontend
from mcpbridge.policies.hosts import LOOPBACK, HostRules, host_rules, refusal
from mcpbridge.transports.http.listen import HttpFrontend
from mcpbridge.transports.http.outcome import refusal_of
from mcpbridge.transports.http1.server import HttpRequest, HttpServer, Responder
from mcpbridge.transports.sse.listen import SseFrontend
from mcpbridge.transports.websocket.listen import WebSocketFrontend

API = "/api/v1"
MAX_ACCEPTED = 1000  # pairs of Host and Origin that are remembered as good


class Listener(Protocol):
    """What every listening part can be told, in this order. ``start`` is its own affair."""

    def stop_accepting(self) -> None: ...

    async def drain(self, timeout: float) -> None:
        """Wait until its connections are gone, ``timeout`` seconds at most; idle ones are closed."""

    async def close(self) -> None:
        """Cut what is left. Idempotent, bounded in time."""

    @property
    def connections(self) -> int: ...


@dataclass
class Front:
    """A protocol that listens: where, and how many are connected, all of them and those with work in flight."""

    address: str
    connections: Callable[[], int]
    active: Callable[[], int]


class Frontends:
    """Every listener of the gateway and every protocol it speaks there (several protocols may share a port)."""

    def __init__(self) -> None:
        self._listeners: list[Listener] = []
        self._fronts: dict[str, Front] = {}
        self._missed: set[str] = set()

    def add(self, listener: Listener) -> None:
        """Take over the life of a listener that has started."""
        self._listeners.append(listener)

    def speak(self, protocol: str, front: Front) -> None:
        """A protocol is served from now on, or in a further place."""
        known = self._fronts.get(protocol)
        self._fronts[protocol] = front if known is None else replace(front, address=f"{known.address}, {front.address}")

    def miss(self, protocol: str) -> None:
        """A protocol is switched on and cannot be served."""
        self._missed.add(protocol)

    @property
    def addresses(self) -> dict[str, str]:
        return {protocol: front.address for protocol, front in self._fronts.items()}

    def counts(self) -> dict[str, tuple[int, int]]:
        """Open connections and those with work in flight, by protocol."""
        return {protocol: (front.connections(), front.active()) for protocol, front in self._fronts.items()}

    def told(self, *, listening: bool) -> dict[str, Frontend]:
        """What the Snapshot says of them."""
        told = {name: Frontend(listening, front.address, front.connections()) for name, front in self._fronts.items()}
        return {name: Frontend(False) for name in self._missed} | told

    def announce(self) -> None:
        """We are about to go: from now on every HTTP answer ends its connection, so that its client comes by another one."""
        for listener in self._listeners:
            if isinstance(listener, HttpServer):
                listener.announce()

    def stop_accepting(self) -> None:
        for listener in self._listeners:
            listener.stop_accepting()

    async def drain(self, timeout: float) -> None:
        await asyncio.gather(*(listener.drain(timeout) for listener in self._listeners))

    def shed(self, on: bool) -> None:
        """Let idle HTTP connections go, or no longer."""
        for listener in self._listeners:
            if isinstance(listener, HttpServer):
                listener.shed(on)

    @property
    def connections(self) -> int:
        return sum(listener.connections for listener in self._listeners)

    async def close(self) -> None:
        for listener in self._listeners:
            await listener.close()


class Faces:
    """Paths to handlers, behind the Host and Origin rules that every path of a port shares."""

    def __init__(self, config: GatewayConfig, bridge: Bridge, app: App, mcp: HttpFrontend, execute: Execute) -> None:
        self._servers = bridge.servers
        self._app = app
        self._mcp = mcp
        self._execute = execute
        self._rules = public_rules(config)
        self._accepted: set[tuple[str | None, str | None]] = set()  # Host and Origin that passed: clients repeat themselves
        self._serves_http = config.server.serves("http")
        self._websocket_path = config.server.protocols.websocket.path
        self.websocket: WebSocketFrontend | None = None  # like every frontend of the reception it comes after us
        self._sse_paths = (config.server.protocols.sse.path, "/sse")
        self.sse: SseFrontend | None = None
        self._local = host_rules(LOOPBACK, config.server.allowed_origins)
        self._all: Server | tuple[Server, ...] = bridge.alone or tuple(bridge.servers.values())
        self._bridge = bridge
        bridge.on_arranged = self._see

    def change(self, config: GatewayConfig) -> None:
        """Other names and origins are let in from now on."""
        self._rules = public_rules(config)
        self._local = host_rules(LOOPBACK, config.server.allowed_origins)
        self._accepted.clear()

    def _see(self) -> None:
        """The servers are others. Clients that have seen several stay at an endpoint of many, though one is left."""
        alone = self._bridge.alone if isinstance(self._all, Server) else None
        self._all = alone or tuple(self._servers.values())

    def target_of(self, name: str | None) -> Server | tuple[Server, ...]:
        """The server of a name, or everything. Raises BridgeError for a server that is not there any more."""
        if name is None:
            return self._all
        server = self._servers.get(name)
        if server is None:
            raise BridgeError("method_not_found", f"there is no server {name!r} any more", sent=False)
        return server

    async def public(self, request: HttpRequest, responder: Responder) -> None:
        names = (request.headers.get("host"), request.headers.get("origin"))
        if names not in self._accepted:
            refused = refusal(self._rules, *names)
            if refused is not None:
                await self._app.refuse(request, responder, refused.status, refused.text)
                return
            if len(self._accepted) < MAX_ACCEPTED:
                self._accepted.add(names)
        path = request.path
        if self._serves_http and path in ("/mcp", f"{API}/mcp"):
            await self._mcp.handle(request, responder, self._all)
        elif self._serves_http and path.startswith("/mcp/"):
            name = path[5:]
            if name in self._servers or await self._knows(name, request, responder):
                await self._mcp.handle(request, responder, self._servers[name])
        elif self.sse is not None and path.startswith(self._sse_paths) and (place := self._below_sse(path)) is not None:
            if place == "/messages" and request.method == "POST":
                await self.sse.handle_post(request, responder)
            elif not place or await self._knows(place[1:], request, responder):
                await self.sse.handle_stream(request, responder, place[1:] or None)
        elif self.websocket is not None and (path.startswith(self._websocket_path) or request.upgrades_to("websocket")):
            await self._enter(self.websocket, request, responder)
        elif path == f"{API}/execute":
            if request.method == "POST":
                await self._execute.handle(request, responder, self._all)
            else:
                await self._app.misused(request, responder, "POST")
        else:
            await self._app.handle(request, responder, metrics=False)

    async def management(self, request: HttpRequest, responder: Responder) -> None:
        is_get = request.method in ("GET", "HEAD")
        refused = refusal(self._local, request.headers.get("host"), request.headers.get("origin"), check_host=not is_get)
        if refused is not None:
            await self._app.refuse(request, responder, refused.status, refused.text)
            return
        await self._app.handle(request, responder, metrics=True)

    async def _enter(self, websocket: WebSocketFrontend, request: HttpRequest, responder: Responder) -> None:
        """A WebSocket at its path, below it for one server, or at / for addresses without a path."""
        base, path = self._websocket_path, request.path
        if path == base or (path == "/" and request.upgrades_to("websocket")):
            await websocket.handle(request, responder)
        elif not path.startswith(f"{base}/"):
            await self._app.handle(request, responder, metrics=False)
        elif await self._knows(name := path[len(base) + 1 :], request, responder):
            await websocket.handle(request, responder, name)

    def _below_sse(self, path: str) -> str | None:
        """What follows a path of HTTP+SSE, "" for the stream of everything; None for another path."""
        for base in self._sse_paths:
            if path == base or path.startswith(f"{base}/"):
                return path[len(base) :]
        return None

    async def _knows(self, name: str, request: HttpRequest, responder: Responder) -> bool:
        """Whether a server has this name; answers 404 when none has."""
        if name in self._servers:
            return True
        text = "no server has this name; GET /api/v1/status lists those there are"
        await self._app.refuse(request, responder, 404, text)
        return False


def explain(path: str | None, status: int, words: str, id: str) -> tuple[list[tuple[str, str]], bytes]:
    """What the HTTP engine itself refuses: a JSON-RPC error at an MCP endpoint, else the error of the API."""
    if path is not None and (path.startswith(("/mcp", "/events", "/sse")) or path in (f"{API}/mcp", f"{API}/execute")):
        return refusal_of(status, words, id)
    return [JSON, NO_STORE], error_body(status, words, "", id)


def public_rules(config: GatewayConfig) -> HostRules:
    """The names the public listener answers to: those configured, else loopback's, and its own address."""
    hosts = config.server.allowed_hosts or (LOOPBACK if is_loopback(config.server.host) else ())
    return host_rules(hosts, config.server.allowed_origins, bind=config.server.host)


def bracketed(host: str) -> str:
    """A host as addresses write it."""
    return f"[{host}]" if ":" in host else host
