"""A TCP frontend with a reception behind it that a test can steer, and certificates."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from mcpbridge.bridge import Bridge
from mcpbridge.core.exchange import ANONYMOUS, Exchange
from mcpbridge.core.reception import Reception
from mcpbridge.errors import BridgeError
from mcpbridge.transports.doors import ConnectionLimits
from mcpbridge.transports.tcp_binary.listen import TcpFrontend
from mcpbridge.wire import message as m
from tests.golden.player import new_bridge
from tests.support.certificates import Tls, make_tls


class House:
    """A front ring of one function: echo, wait (until ``go``), ask, flood, large; ``tokens`` are those that sign in."""

    def __init__(self, bridge: Bridge) -> None:
        self.bridge = bridge
        self.tokens = {"Bearer good"}
        self.needs_token = False
        self.go = asyncio.Event()
        self.waiting = 0
        self.cancelled = 0
        self.heard: list[str] = []
        self.callers: list[Any] = []
        self.reception = Reception(self.front, bridge.spawn, bridge.sessions, lambda _name: (), bridge.draining, deadline=5.0)

    async def front(self, x: Exchange) -> m.Response | None:
        self.callers.append(x.caller)
        if self.needs_token and x.caller.headers.get("authorization") not in self.tokens:
            raise BridgeError("unauthorized", "a valid bearer token is needed", sent=False)
        x.caller.principal = ANONYMOUS
        message = x.message
        if isinstance(message, m.Notification):
            self.heard.append(message.method)
        if not isinstance(message, m.Request):
            return None
        if message.method == "wait":
            self.waiting += 1
            try:
                await self.go.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        elif message.method == "ask":
            answer = await x.reply.ask(m.request(1, "roots/list"))
            return m.Response(message.id, answer.result)
        elif message.method == "flood":
            for number in range(int(m.loads(bytes(message.param("count") or b"1")))):
                x.reply.notify(m.notification("notifications/message", {"number": number, "text": "x" * 10_000}))
        elif message.method == "large":
            text = "x" * int(m.loads(bytes(message.param("size") or b"1")))
            x.reply.notify(m.notification("notifications/message", {"text": text}))
            return m.result(message.id, {"text": text})
        return m.result(message.id, {name: m.loads(bytes(value)) for name, value in (message.params or {}).items()})


class Gate:
    """The frontend on its port."""

    def __init__(self, frontend: TcpFrontend, house: House, port: int) -> None:
        self.frontend = frontend
        self.house = house
        self.port = port


Open = Callable[..., Awaitable[Gate]]


@pytest.fixture
async def gate() -> AsyncIterator[Open]:
    """``await gate(auth=False, ssl=None, limits=None, **options of TcpFrontend)``."""
    frontends: list[TcpFrontend] = []
    async with new_bridge(None) as bridge:

        async def open_(
            *, auth: bool = False, ssl: ssl.SSLContext | None = None, limits: ConnectionLimits | None = None, **options: Any
        ) -> Gate:
            house = House(bridge)
            house.needs_token = auth
            frontend = TcpFrontend(house.reception.serve, house.reception.admit, auth_required=auth, limits=limits, **options)
            frontends.append(frontend)
            _host, port = await frontend.start("127.0.0.1", 0, ssl)
            return Gate(frontend, house, port)

        yield open_
        for frontend in frontends:
            async with asyncio.timeout(10):
                await frontend.close()
            assert frontend.tasks == set()


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    return make_tls(tmp_path_factory.mktemp("tls"))


async def until(condition: Callable[[], Any]) -> None:
    """Let the loop turn until something on the other side of a socket has happened; 5 seconds at most."""
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


@pytest.fixture
def eventually() -> Callable[[Callable[[], Any]], Awaitable[None]]:
    return until
