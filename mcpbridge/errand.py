"""An errand: one server, some requests or one look at it, in this process. Behind ``test``, ``tools``, ``call`` and ``read``.

    async with errand(spec, timeout=10.0) as one:
        async for stage in one.stages(): ...          what ``mcpbridge test`` shows
        result = await one.request("tools/call", {...})   a modern client's request; the bridge crosses eras where needed

Source: contract section 1.1 (``cli.test.*``, ``cli.mcp-client``); issue "Any transport to any transport", item 3.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from urllib.parse import unquote, urlsplit

from mcpbridge.bridge import Bridge
from mcpbridge.checks.place import FOREIGN, UNREACHABLE, Place, Stage, clock, failed, passed, reach
from mcpbridge.checks.walk import Talk, Walk
from mcpbridge.config.protocols import SECURE
from mcpbridge.config.sections import EndpointSpec, ServerSpec
from mcpbridge.core.detect import Verdict
from mcpbridge.core.exchange import ANONYMOUS, Caller, Deadline, Exchange, Reply, view_of
from mcpbridge.core.server import Backend
from mcpbridge.detect.detector import Detector
from mcpbridge.era import Crossings
from mcpbridge.errors import BridgeError
from mcpbridge.proxies import proxy_for
from mcpbridge.stores.memory import MemoryStore
from mcpbridge.wire import message as m
from mcpbridge.wire.envelope import members, text
from mcpbridge.wire.message import Notification, Request, Response
from mcpbridge.wire.spec import CLIENT_CAPABILITIES, CLIENT_INFO, LISTS, MODERN, PROTOCOL_VERSION
from mcpbridge.wiring import Reach, is_open, through_proxy

MAX_PAGES = 1000
PORTS = {"http": 80, "ws": 80, "sse": 80, "https": 443, "wss": 443, "sses": 443}

Progress = Callable[[str], None]
"""Told in words what a server says while a request runs."""
Ask = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]
"""Answers one question of a server (a member of ``inputRequests``): the member of ``inputResponses``."""


class Failed(Exception):
    """The server answered with a JSON-RPC error."""

    def __init__(self, code: int, message: str) -> None:
        self.code = code
        super().__init__(f"{message} ({code})")


class Errand:
    """See the module."""

    def __init__(
        self, bridge: Bridge, backend: Backend, endpoint: EndpointSpec, timeout: float, detector: Detector | None
    ) -> None:
        self._bridge = bridge
        self._detector = detector
        self._backend = backend
        self._endpoint = endpoint
        self._timeout = timeout
        self._walk: Walk | None = None
        self._id = 0
        self.list_meta: dict[str, Any] = {}  # `_meta` of the list that was read last

    @property
    def protocol(self) -> str:
        """The protocol in use; a guess until an undeclared one was found out."""
        return self._backend.protocol

    @property
    def walk(self) -> Walk | None:
        """What the last ``stages`` found out."""
        return self._walk

    async def stages(self) -> AsyncIterator[Stage]:
        """Every stage from the name to the tools; ends after the first that fails."""
        if (place := place_of(self._endpoint)) is not None:
            async for stage in reach(place, self._timeout):
                yield stage
                if not stage.ok:
                    return
        if self._detector is not None and is_open(self._endpoint):
            stage, verdict = await self._detect(self._detector)
            yield stage
            if not stage.ok:
                return
            self._backend.protocol = verdict.protocol or self._backend.protocol
        names = {name.lower() for name in self._endpoint.headers}
        signed = "authorization" in names or bool(self._endpoint.token_env)
        crossings = Crossings()
        self._walk = Walk(Talk(self.protocol, self._backend.dial, crossings.probe, signed), self._timeout)
        async for stage in self._walk.stages():
            yield stage

    async def _detect(self, detector: Detector) -> tuple[Stage, Verdict]:
        since = clock()
        verdict, _ = await detector.find(self._endpoint.url)
        evidence = "; ".join(verdict.evidence)
        if verdict.is_proven:
            return passed("detect", since, f"{verdict.protocol}, {verdict.era or 'era unknown'}: {evidence}"), verdict
        status = UNREACHABLE if verdict.result == "unreachable" else FOREIGN
        return failed("detect", since, evidence or "nothing was proven", "detection_failed", status), verdict

    async def request(
        self, method: str, params: dict[str, Any], *, progress: Progress, ask: Ask | None = None
    ) -> dict[str, Any]:
        """The result of a request, its questions answered by ``ask`` (None: the server is told that nobody can be asked).

        Raises Failed and BridgeError.
        """
        reply = _Words(progress)
        more: dict[str, Any] = {}
        while True:
            self._id += 1
            meta = {
                PROTOCOL_VERSION: MODERN[0],
                CLIENT_INFO: {"name": "mcpbridge-cli", "version": "1"},
                CLIENT_CAPABILITIES: {"elicitation": {}} if ask is not None else {},
                "progressToken": self._id,
            }
            result = await self._one(m.request(self._id, method, {**params, **more, "_meta": meta}), reply)
            if result.get("resultType") != "input_required" or ask is None:
                return result
            answers = {key: await ask(question) for key, question in result.get("inputRequests", {}).items()}
            more = {"inputResponses": answers}
            if "requestState" in result:
                more["requestState"] = result["requestState"]

    async def listed(self, method: str, *, progress: Progress) -> list[dict[str, Any]]:
        """Every item of a list, all pages."""
        found: list[dict[str, Any]] = []
        params: dict[str, Any] = {}
        self.list_meta = {}
        for _page in range(MAX_PAGES):
            result = await self.request(method, params, progress=progress)
            found += result.get(LISTS[method], [])
            self.list_meta |= result.get("_meta") or {}
            if not (cursor := result.get("nextCursor")):
                break
            params = {"cursor": cursor}
        return found

    async def _one(self, request: Request, reply: _Words) -> dict[str, Any]:
        caller = Caller("stdio", "modern", principal=ANONYMOUS)
        deadline = Deadline(self._timeout, asyncio.get_running_loop().time())
        x = Exchange(request, view_of(request, "modern"), caller, reply, deadline, self._backend.server)
        response = await self._bridge.one(x)
        assert response is not None
        if response.error is not None:
            error = members(response.error, "bad_answer")
            code = bytes(error.get("code") or b"0")
            raise Failed(int(code) if code.lstrip(b"-").isdigit() else 0, text(error.get("message")) or "error")
        result = m.loads(response.result or b"{}")
        if not isinstance(result, dict):
            raise BridgeError("bad_answer", "the result is no object")
        return result


@asynccontextmanager
async def errand(spec: ServerSpec, *, timeout: float, detect: bool = True) -> AsyncIterator[Errand]:
    """An errand to the first endpoint of ``spec``; all it started ends with it. ``timeout``: seconds for each request."""
    async with AsyncExitStack() as stack:
        bridge = Bridge("router", MemoryStore(idle_timeout=float("inf")), Crossings(), start_timeout=timeout)
        detector = Detector(bridge.spawn, via=through_proxy) if detect else None
        reached = Reach(bridge, dial_timeout=timeout, detector=detector)
        stack.push_async_callback(reached.close)  # after the bridge, which ends the servers' sessions first
        await stack.enter_async_context(bridge)
        server = reached.add(spec, prefix=False)
        yield Errand(bridge, server.backends[0], spec.endpoints[0], timeout, detector)


def place_of(endpoint: EndpointSpec) -> Place | None:
    """Where an endpoint listens; None for a command and for named pipes, which only starting can tell."""
    parts = urlsplit(endpoint.url)
    if endpoint.command or parts.scheme == "pipe":
        return None
    if parts.scheme == "unix":
        return Place(path=unquote(parts.path))
    import ssl

    from mcpbridge.transports.tls import client_tls

    is_secure = parts.scheme in SECURE
    port = parts.port or PORTS.get(parts.scheme, 8444)
    proxy = proxy_for(f"{'https' if is_secure else 'http'}://{parts.netloc}", os.environ)
    context = (client_tls(**endpoint.tls) if endpoint.tls else ssl.create_default_context()) if is_secure else None
    return Place(parts.hostname or "", port, context=context, proxy=str(proxy) if proxy is not None else "")


class _Words:
    """The way back of an errand: progress and log messages in words, nothing can be asked while a call runs."""

    can_ask = False

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def notify(self, notification: Notification) -> None:
        if notification.method == "notifications/progress":
            done, total, said = (notification.param(name) for name in ("progress", "total", "message"))
            share = f"{bytes(done or b'?').decode()}{'/' + bytes(total).decode() if total is not None else ''}"
            self._progress(f"{share} {text(said) or ''}".rstrip())
        elif notification.method == "notifications/message":
            data = notification.param("data")
            level = text(notification.param("level")) or "info"
            self._progress(f"{level}: {text(data) or bytes(data or b'').decode(errors='replace')}")

    async def ask(self, request: Request, asker: Reply | None = None) -> Response:
        raise LookupError("questions come as input_required")
