"""The sessions policy: initialize, strangers, cancellation, what is in flight."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mcpbridge.core.client_session import ClientSessions
from mcpbridge.core.exchange import Caller, Deadline, Exchange, NoReply, Principal, SessionOp, View, view_of
from mcpbridge.core.session import Session
from mcpbridge.errors import BridgeError
from mcpbridge.policies import sessions as module
from mcpbridge.policies.sessions import sessions
from mcpbridge.stores.memory import MemoryStore
from mcpbridge.wire import message as m
from tests.support.scripted import HELLO, VERSION, Back, never, until

WAIT = 5.0


class World:
    """The policy over a store, and HTTP clients' messages through it."""

    def __init__(self) -> None:
        self.live = ClientSessions(MemoryStore())
        self.policy = sessions(self.live, self._mint)
        self.backs: list[Back] = []
        self.seen: list[Exchange] = []
        self.handler: Any = self._answer

    def _mint(self, _record: Session) -> str:
        return f"id{len(self.backs) + 1}"

    async def _answer(self, x: Exchange) -> m.Response | None:
        self.seen.append(x)
        return m.result(x.message.id, HELLO) if isinstance(x.message, m.Request) else None

    def back(self, _record: Session) -> Back:
        self.backs.append(Back(is_listening=False))
        return self.backs[-1]

    async def send(
        self, message: Any, id: str | None = None, who: str = "p", connection: object | None = None
    ) -> m.Response | None:
        view = View(message.method) if isinstance(message, SessionOp) else view_of(message, "legacy")
        caller = Caller("http", "legacy", principal=Principal("", who), connection=connection)
        x = Exchange(message, view, caller, NoReply(), Deadline(WAIT, asyncio.get_running_loop().time()), None, session_id=id)
        x.open_back = self.back
        return await self.policy(x, self.handler)


def hello(**params: Any) -> m.Request:
    return m.request(0, "initialize", {"protocolVersion": VERSION, "capabilities": {}, "clientInfo": {"name": "c"}} | params)


async def test_initialize_makes_a_session_that_only_its_principal_may_use() -> None:
    world = World()
    await world.send(hello())
    await world.send(m.request(1, "tools/list"), "id1")
    assert world.seen[1].session is world.seen[0].session
    for id, who in (("id1", "stranger"), ("id9", "p")):
        with pytest.raises(BridgeError) as caught:
            await world.send(m.request(1, "tools/list"), id, who)
        assert caught.value.reason == "session_unknown"
    with pytest.raises(BridgeError) as caught:
        await world.send(m.request(1, "tools/list"))
    assert caught.value.reason == "session_required"


@pytest.mark.requirement("cli.router.initialize-empty")
async def test_an_initialize_without_members_gets_defaults() -> None:
    world = World()
    await world.send(m.request(0, "initialize"))
    session = world.seen[0].session
    assert session is not None
    assert (session.record.version, session.record.capabilities) == (VERSION, "{}")


@pytest.mark.parametrize("name", ["capabilities", "clientInfo"])
async def test_an_initialize_with_a_member_of_another_kind_is_refused_and_leaves_no_session(name: str) -> None:
    world = World()
    with pytest.raises(BridgeError, match=name):
        await world.send(hello(**{name: 5}))
    assert len(world.live) == 0


@pytest.mark.parametrize("outcome", ["raises", "refuses"])
async def test_an_initialize_that_fails_leaves_no_session(outcome: str) -> None:
    world = World()

    async def fail(x: Exchange) -> m.Response:
        if outcome == "raises":
            raise BridgeError("timeout", "x")
        return m.error(0, {"code": -32000, "message": "no"})

    world.handler = fail
    if outcome == "raises":
        with pytest.raises(BridgeError):
            await world.send(hello())
    else:
        response = await world.send(hello())
        assert response is not None
        assert response.error is not None
    assert len(world.live) == 0
    assert world.backs[0].is_closed


async def test_a_second_initialize_on_a_session_is_refused() -> None:
    world = World()
    await world.send(hello())
    x = world.seen[0]
    again = Exchange(hello(), view_of(hello(), "legacy"), x.caller, NoReply(), x.deadline, None, x.session)
    with pytest.raises(BridgeError, match="initialized already"):
        await world.policy(again, world.handler)


async def test_a_cancelled_notification_in_another_post_ends_the_call_it_names() -> None:
    world = World()
    await world.send(hello())
    begun = asyncio.Event()

    async def hang(x: Exchange) -> m.Response:
        world.seen.append(x)
        begun.set()
        return await never()

    world.handler = hang
    call = asyncio.ensure_future(world.send(m.request("a", "tools/call"), "id1"))
    await asyncio.wait_for(begun.wait(), WAIT)
    for wrong in ("b", {}, [], None):
        await world.send(m.notification("notifications/cancelled", {"requestId": wrong}), "id1")
    assert not call.done()
    await world.send(m.notification("notifications/cancelled", {"requestId": "a", "reason": "bored"}), "id1")
    with pytest.raises(asyncio.CancelledError):
        await call
    assert world.seen[-1].cancel_reason == "bored"
    assert not world.seen[-1].session.calls  # type: ignore[union-attr]


async def test_an_id_in_flight_is_refused_and_so_are_more_calls_than_a_session_may_have(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_CALLS", 2)
    world = World()
    await world.send(hello())
    world.handler = lambda _x: never()
    calls = [asyncio.ensure_future(world.send(m.request(id, "tools/call"), "id1")) for id in (1, 2)]
    session = next(iter(world.live))
    await until(lambda: len(session.calls) == 2)
    with pytest.raises(BridgeError, match="in flight"):
        await world.send(m.request(1, "tools/call"), "id1")
    with pytest.raises(BridgeError, match="queue full"):
        await world.send(m.request(3, "tools/call"), "id1")
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    assert not session.calls


async def test_delete_ends_the_session_and_its_calls() -> None:
    world = World()
    await world.send(hello())
    world.handler = lambda _x: never()
    call = asyncio.ensure_future(world.send(m.request(1, "tools/call"), "id1"))
    session = next(iter(world.live))
    await until(lambda: session.calls)
    assert await world.send(SessionOp("DELETE"), "id1") is None
    with pytest.raises(asyncio.CancelledError):
        await call
    with pytest.raises(BridgeError, match="initialize again"):
        await world.send(SessionOp("GET"), "id1")
