"""The router's window: health, status, metrics and the actions of detection, on ``metrics.endpoint`` and its control socket.

    GET /health  /health/direct-clients  /health/protocol-detection  /healthz /readyz  /metrics  /api/v1/*
    POST /api/v1/protocols/...

A router serves one client and nobody must wait for this: it is imported and opened after the first message is read, and a
port that somebody has, most likely another router, costs a line in the log. The socket each router has for itself: it is how
``mcpbridge status``, ``doctor`` and ``tui`` find all of them, and as good as the port for everything else.

Source: contract section 2.4; ``metrics.*`` of section 3.2.
"""

from __future__ import annotations

import sys
import time

from mcpbridge.admin.app import Action, App
from mcpbridge.bridge import Bridge
from mcpbridge.config.kinds import split_host_port
from mcpbridge.config.router import RouterConfig
from mcpbridge.detection import Detection
from mcpbridge.observe.log import log
from mcpbridge.observe.routers import new_socket
from mcpbridge.observe.snapshot import ConfigStatus, Frontend, Snapshot, timestamp
from mcpbridge.policies.hosts import LOOPBACK, host_rules, refusal
from mcpbridge.status import Status
from mcpbridge.transports.http1.server import HttpRequest, HttpServer, Responder

_log = log("router")
SNAPSHOT_AGE = 1.0  # seconds a snapshot is served before a new one is made
HEADERS = (("x-content-type-options", "nosniff"), ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"))


class Management:
    """The window of one router process. ``path``: of its configuration file, if any."""

    def __init__(self, config: RouterConfig, bridge: Bridge, status: Status, detection: Detection, path: str | None) -> None:
        self._config = config
        self._bridge = bridge
        self._status = status
        self._detection = detection
        self._path = path
        self._last: tuple[float, Snapshot] | None = None
        host, port = split_host_port(config.metrics.endpoint)
        self._address = (host, port)
        self._rules = host_rules(LOOPBACK, (), bind=host)
        actions: dict[str, Action] = {**detection.actions(), **(status.pools.actions() if status.pools is not None else {})}
        self._app = App(self._snapshot, status.registry, actions=actions, rules=self._rules)
        self._server = HttpServer(self._handle, base_headers=HEADERS, max_connections=200)

    async def open(self) -> None:
        """Listen, or say why not."""
        await self._open_socket()
        if not self._config.metrics.enabled:
            return
        try:
            host, port = await self._server.start(*self._address)
            _log.info("management listening", protocol="none", address=f"http://{host}:{port}")
        except OSError as error:
            why = (error.strerror or str(error)).lower()
            _log.warn("the management port is not open", address=self._config.metrics.endpoint, reason=why)

    async def _open_socket(self) -> None:
        if sys.platform == "win32":  # asyncio has no unix sockets there
            return
        path = ""
        try:
            path = str(new_socket())
            await self._server.start_unix(path)
            _log.debug("control socket listening", protocol="none", path=path)
        except OSError as error:
            why = (error.strerror or str(error)).lower()
            _log.warn("the control socket is not open; `mcpbridge status` will not show this router", path=path, reason=why)

    async def close(self) -> None:
        await self._server.close()

    async def _handle(self, request: HttpRequest, responder: Responder) -> None:
        is_get = request.method in ("GET", "HEAD")
        refused = refusal(self._rules, request.headers.get("host"), request.headers.get("origin"), check_host=not is_get)
        if refused is not None:
            await self._app.refuse(request, responder, refused.status, refused.text)
            return
        await self._app.handle(request, responder, metrics=self._config.metrics.enabled)

    def _snapshot(self) -> Snapshot:
        now = time.monotonic()
        if self._last is None or now - self._last[0] >= SNAPSHOT_AGE:
            bridge = self._bridge
            config = ConfigStatus(self._path, timestamp(bridge.started), None)
            frontends = {"stdio": Frontend(True, "stdin", 1)}
            snapshot = self._status.snapshot(
                bridge,
                frontends,
                store="memory",
                phase="draining" if bridge.draining.is_set() else "serving",
                config=config,
                detection=self._detection.snapshot(),
            )
            self._last = (now, snapshot)
        return self._last[1]
