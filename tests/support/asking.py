"""A legacy server that asks during its calls, and a modern client that answers by retries."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from mcpbridge.bridge import Bridge
from mcpbridge.core.exchange import Principal, Reply
from mcpbridge.core.server import Server
from mcpbridge.errors import BridgeError
from mcpbridge.wire import message as m
from tests.support.scripted import META, Scripted, Talk, add, answer, exchange

ALL = {"elicitation": {"form": {}, "url": {}}, "sampling": {}, "roots": {}}
NAME = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
FORM = m.request("q", "elicitation/create", {"message": "Your name?", "requestedSchema": NAME})
SAMPLE = m.request("q", "sampling/createMessage", {"messages": [], "maxTokens": 1})
ROOTS = m.request("q", "roots/list")
YES = {"action": "accept", "content": {"name": "Ann"}}
ANN, BOB = Principal("i", "ann"), Principal("i", "bob")


class Asking(Scripted):
    """A legacy server whose tools ask: ``asks`` are put at once, and the result tells the answers."""

    def __init__(self, *asks: m.Request) -> None:
        super().__init__()
        self.asks: tuple[m.Request, ...] = asks
        self.told: list[Any] = []  # what its questions were answered with
        self.cut: list[Talk] = []  # where a call was cancelled
        self.is_named = False  # whether the transport says which call asks
        self.answer = self.serve

    async def serve(self, talk: Talk, request: m.Request, reply: Reply) -> m.Response:
        if request.method not in ("tools/call", "prompts/get", "resources/read"):
            return await answer(talk, request, reply)
        ask = reply.ask if self.is_named else talk.inbox.asked
        try:
            said = [plain(one) for one in await asyncio.gather(*(ask(question) for question in self.asks))]
        except asyncio.CancelledError:
            self.cut.append(talk)
            raise
        self.told += said
        return m.result(request.id, {"said": said, "arguments": request.param("arguments")})


def methods(servers: Scripted) -> list[list[str]]:
    """What each conversation heard, without the reading of schemas that an HTTP client's first call brings."""
    return [[method for method in talk.methods if method != "tools/list"] for talk in servers.talks]


def plain(response: m.Response) -> Any:
    return m.loads(response.result) if response.result is not None else {"code": m.loads(response.error or b"")["code"]}


def call(method: str = "tools/call", capabilities: object = ALL, id: int | str = 1, **params: object) -> m.Request:
    meta = {**META, "io.modelcontextprotocol/clientCapabilities": capabilities, **params.pop("meta", {})}  # type: ignore[dict-item]
    return m.request(id, method, {"name": "t", "arguments": {"n": 1}, **params, "_meta": meta})


def retry(state: object, answers: object = None, **params: Any) -> m.Request:
    brought = {} if answers is None else {"inputResponses": answers}
    return call(requestState=state, **brought, **params)


def legacy(bridge: Bridge, scripted: Scripted, name: str = "s", **options: Any) -> Server:
    server = add(bridge, scripted, name, **options)
    server.backends[0].speaks.update({"modern": False, "legacy": True})
    return server


def result(response: m.Response | None) -> Any:
    assert response is not None
    return m.loads(response.result or response.error or b"")


async def say(
    bridge: Bridge, server: Server, request: m.Request, principal: Principal = ANN, reply: Reply | None = None
) -> Any:
    return result(await bridge.one(exchange(request, server, principal=principal, reply=reply)))


async def asked(bridge: Bridge, server: Server, request: m.Request | None = None, principal: Principal = ANN) -> Any:
    said = await say(bridge, server, request or call(), principal)
    assert said["resultType"] == "input_required"
    return said


@contextmanager
def refused(reason: str, code: int = -32602) -> Iterator[None]:
    with pytest.raises(BridgeError) as caught:
        yield
    assert (caught.value.reason, caught.value.fault.code) == (reason, code)
