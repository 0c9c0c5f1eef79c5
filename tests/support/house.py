"""A reception over one scripted server, with sign-in: what a duplex listener serves its clients with, without a gateway."""

from __future__ import annotations

import asyncio

from mcpbridge.bridge import Bridge
from mcpbridge.core.duplex import Arrival
from mcpbridge.core.exchange import ANONYMOUS, Exchange, Handler, Principal
from mcpbridge.core.reception import Reception
from mcpbridge.errors import BridgeError
from mcpbridge.policies.authorize import authorize
from mcpbridge.policies.sessions import sessions
from mcpbridge.policies.validate import validate
from mcpbridge.wire.message import Response
from tests.golden.player import Pipe
from tests.support.scripted import VERSION, Scripted, add

READER = Principal("static", "reader", frozenset({"mcp:read"}))
PARAMS = {"protocolVersion": VERSION, "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}}


class ClosingPipe(Pipe):
    closed = False

    async def close(self) -> None:
        self.closed = True


class House:
    """Whoever says ``authorization: good`` is READER, ``other`` ANONYMOUS; deleting from ``good`` takes one back."""

    def __init__(self, bridge: Bridge) -> None:
        self.bridge = bridge
        self.scripted = Scripted()
        self.server = add(bridge, self.scripted)
        self.good = {"good": READER, "other": ANONYMOUS}
        numbers = iter(range(1, 100))
        front = bridge.front(
            [self.sign_in, sessions(bridge.sessions, lambda _record: f"s{next(numbers)}"), validate(), authorize()],
            bridge.endpoint(),
        )
        self.reception = Reception(
            front, bridge.spawn, bridge.sessions, lambda _name: self.server, bridge.draining, deadline=5.0
        )

    async def sign_in(self, x: Exchange, handler: Handler) -> Response | None:
        x.caller.principal = self.good.get(x.caller.headers.get("authorization", ""))
        if x.caller.principal is None:
            raise BridgeError("unauthorized", "a valid bearer token is needed", sent=False)
        return await handler(x)

    def arrive(self, token: str = "good") -> tuple[ClosingPipe, dict[str, str], asyncio.Task[None]]:
        pipe, headers = ClosingPipe(), {"authorization": token}
        task = self.bridge.spawn(self.reception.serve(pipe, Arrival("websocket", "127.0.0.1", headers)))
        return pipe, headers, task
