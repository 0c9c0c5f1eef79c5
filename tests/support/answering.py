"""A modern server that asks by `input_required`, and the way back to a legacy client that answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from mcpbridge.bridge import Bridge
from mcpbridge.core.client_session import ClientSession
from mcpbridge.core.exchange import Reply
from mcpbridge.core.server import Server
from mcpbridge.era.clients import ModernLink
from mcpbridge.wire import message as m
from tests.support.scripted import DISCOVERED, VERSION, Back, Scripted, Talk, add, client

FORM = {"method": "elicitation/create", "params": {"message": "?", "requestedSchema": {"type": "object", "properties": {}}}}
ROOTS = {"method": "roots/list"}
ALL = {"elicitation": {"form": {}, "url": {}}, "sampling": {}, "roots": {"listChanged": True}}
DONE = {"resultType": "complete", "content": []}
CALL = m.request(7, "tools/call", {"name": "t", "arguments": {"n": 1}})


class Asker(Scripted):
    """A modern server whose calls answer one of ``says`` after the other; bytes are a raw result."""

    def __init__(self, *says: object) -> None:
        super().__init__()
        self.says = list(says)
        self.heard: list[m.Request] = []
        self.answer = self.serve

    async def serve(self, talk: Talk, request: m.Request, reply: Reply) -> m.Response:
        if request.method == "server/discover":
            return m.result(request.id, DISCOVERED)
        self.heard.append(request)
        said = self.says.pop(0)
        if callable(said):
            said = await said(reply)
        return m.Response(request.id, m.Raw(said)) if isinstance(said, bytes) else m.result(request.id, said)

    def params(self, number: int) -> dict[str, Any]:
        """What one round brought, without ``_meta``."""
        return {name: m.loads(raw) for name, raw in (self.heard[number].params or {}).items() if name != "_meta"}


class Person:
    """The way back of a call: ``says`` answers each question."""

    can_ask = True

    def __init__(self, says: Callable[[m.Request], Any] = lambda _question: {"action": "accept"}) -> None:
        self.says = says
        self.asked: list[m.Request] = []
        self.heard: list[m.Notification] = []
        self.taken_back = 0

    def notify(self, notification: m.Notification) -> None:
        self.heard.append(notification)

    async def ask(self, request: m.Request, asker: Reply | None = None) -> m.Response:
        self.asked.append(request)
        try:
            said = self.says(request)
            said = await said if asyncio.iscoroutine(said) else said
        except asyncio.CancelledError:
            self.taken_back += 1
            raise
        return said if isinstance(said, m.Response) else m.result(1, said)


def asks(state: object = None, **questions: object) -> dict[str, object]:
    wanted: dict[str, object] = {"resultType": "input_required"}
    return wanted | ({"inputRequests": questions} if questions else {}) | ({"requestState": state} if state is not None else {})


async def linked(
    bridge: Bridge, servers: Scripted, capabilities: object = ALL, version: str = VERSION
) -> tuple[Server, ClientSession]:
    """A server of the modern era, and a session that is linked to it."""
    server = add(bridge, servers)
    return server, await link(server, capabilities, version)


async def link(server: Server, capabilities: object = ALL, version: str = VERSION, principal: str = "p") -> ClientSession:
    """A further session with a modern server."""
    session = client(principal, capabilities=m.dumps(capabilities).decode(), back=Back())
    session.record.version = version
    modern = ModernLink(session, server.backends[0])
    hello = {"protocolVersion": version, "capabilities": capabilities, "clientInfo": {"name": "c", "version": "1"}}
    assert (await modern.open(m.request(0, "initialize", hello))).error is None
    session.links[server.name] = modern
    return session
