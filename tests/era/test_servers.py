"""A modern client with a legacy server: shared conversations, listens that are told everything, levels."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from mcpbridge.bridge import Bridge
from mcpbridge.core.exchange import NoReply, Principal, Reply
from mcpbridge.core.route import tell
from mcpbridge.core.server import Server
from mcpbridge.era import Crossings
from mcpbridge.era import servers as module
from mcpbridge.errors import BridgeError
from mcpbridge.stores.memory import MemoryStore
from mcpbridge.wire import message as m
from mcpbridge.wire.spec import SUBSCRIPTION_ID
from tests.support.scripted import DISCOVERED, META, WAIT, Scripted, Talk, add, answer, exchange, never, until

BOTH = {"toolsListChanged": True, "resourceSubscriptions": ["a:1", "b:1"]}


class Ear(NoReply):
    def __init__(self) -> None:
        self.heard: list[m.Notification] = []

    def notify(self, notification: m.Notification) -> None:
        self.heard.append(notification)

    @property
    def methods(self) -> list[str]:
        return [n.method.removeprefix("notifications/") for n in self.heard]


@pytest.fixture
async def bridge() -> AsyncIterator[Bridge]:
    async with Bridge("gateway", MemoryStore(), Crossings(), start_timeout=WAIT) as bridge:
        yield bridge


@pytest.fixture
def servers() -> Scripted:
    return Scripted()


def legacy(bridge: Bridge, servers: Scripted) -> Server:
    server = add(bridge, servers)
    server.backends[0].speaks.update({"modern": False, "legacy": True})
    return server


def request(method: str, **params: object) -> m.Request:
    return m.request(1, method, {**params, "_meta": META})


async def listening(bridge: Bridge, server: Server, wanted: object = BOTH) -> tuple[asyncio.Task[object], Ear]:
    ear = Ear()
    x = exchange(request("subscriptions/listen", notifications=wanted), server, reply=ear)
    task: asyncio.Task[object] = asyncio.ensure_future(bridge.one(x))  # type: ignore[arg-type]
    return task, ear


async def over(task: asyncio.Task[object]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_vendors_notification_reaches_the_server_on_the_conversation_of_its_client(
    bridge: Bridge, servers: Scripted
) -> None:
    server = legacy(bridge, servers)
    await bridge.one(exchange(request("tools/list"), server))
    note = m.notification("com.example/note", {"n": 1.5, "_meta": {**META, "own": 1}})
    x = exchange(request("tools/list"), server)
    x.message = note
    await tell(x, server)
    assert len(servers.talks) == 1
    assert [(told.method, m.loads(m.join(told.params or {}))) for told in servers.talks[0].notifications[1:]] == [
        ("com.example/note", {"n": 1.5, "_meta": {"own": 1}})
    ]


async def test_modern_clients_share_a_conversation_by_principal(bridge: Bridge, servers: Scripted) -> None:
    server = legacy(bridge, servers)
    for subject in ("a", "a", "b"):
        x = exchange(request("tools/list"), server, principal=Principal("", subject))
        response = await bridge.one(x)
        assert response is not None
        assert m.loads(response.result or b"")["resultType"] == "complete"
    assert [talk.methods for talk in servers.talks] == [
        ["initialize", "tools/list", "tools/list"],
        ["initialize", "tools/list"],
    ]


async def test_nothing_is_said_before_the_acknowledgement_and_nothing_that_happened_before_it_is_lost(
    bridge: Bridge, servers: Scripted
) -> None:
    server = legacy(bridge, servers)

    async def changing(talk: Talk, request: m.Request, reply: Reply) -> m.Response:
        if request.method == "resources/subscribe" and m.loads(request.param("uri") or b"") == "b:1":
            for _ in range(3):
                talk.inbox.notified(m.notification("notifications/resources/updated", {"uri": "a:1"}))
            talk.inbox.notified(m.notification("notifications/tools/list_changed"))
        return await answer(talk, request, reply)

    servers.answer = changing
    task, ear = await listening(bridge, server)
    await until(lambda: len(ear.heard) >= 3)
    assert ear.methods == ["subscriptions/acknowledged", "resources/updated", "tools/list_changed"]
    assert all(m.loads(n.meta[SUBSCRIPTION_ID]) == 1 for n in ear.heard)
    await over(task)


async def test_a_server_that_dies_right_after_the_last_subscription_is_noticed(
    bridge: Bridge, servers: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RECONNECT", 0.0)
    server = legacy(bridge, servers)

    async def dying(talk: Talk, request: m.Request, reply: Reply) -> m.Response:
        if request.method == "resources/subscribe" and len(servers.talks) == 1:
            servers.answer = answer
            asyncio.get_running_loop().call_soon(talk.inbox.closed, BridgeError("server_exited", "s"))
        return await answer(talk, request, reply)

    servers.answer = dying
    task, ear = await listening(bridge, server, {"resourceSubscriptions": ["a:1"]})
    await until(lambda: len(servers.talks) == 2 and "resources/subscribe" in servers.talks[1].methods)
    assert ear.methods[0] == "subscriptions/acknowledged"
    await over(task)


async def test_a_subscription_that_is_never_answered_is_not_honoured_and_holds_nothing_up(
    bridge: Bridge, servers: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SUBSCRIBE_WAIT", 0.01)
    server = legacy(bridge, servers)

    async def silent(talk: Talk, request: m.Request, reply: Reply) -> m.Response:
        return await (never() if request.method == "resources/subscribe" else answer(talk, request, reply))

    servers.answer = silent
    task, ear = await listening(bridge, server)
    await until(lambda: ear.heard)
    assert m.loads(ear.heard[0].param("notifications") or b"") == {"toolsListChanged": True}
    await over(task)


async def test_a_lost_server_is_listened_to_again_and_everything_counts_as_changed(
    bridge: Bridge, servers: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RECONNECT", 0.0)
    server = legacy(bridge, servers)
    task, ear = await listening(bridge, server)
    await until(lambda: ear.heard)
    servers.talks[0].dies(BridgeError("server_exited", "s: exit status 1"))
    await until(lambda: len(ear.heard) >= 4)
    assert ear.methods == ["subscriptions/acknowledged", "tools/list_changed", "resources/updated", "resources/updated"]
    await over(task)


async def test_the_last_listener_takes_the_subscription_back(bridge: Bridge, servers: Scripted) -> None:
    server = legacy(bridge, servers)
    one, ear_one = await listening(bridge, server, {"resourceSubscriptions": ["a:1"]})
    await until(lambda: ear_one.heard)
    two, ear_two = await listening(bridge, server, {"resourceSubscriptions": ["a:1"]})
    await until(lambda: ear_two.heard)
    await over(one)
    await over(two)
    await until(lambda: "resources/unsubscribe" in servers.talks[0].methods)
    assert servers.talks[0].methods == ["initialize", "resources/subscribe", "resources/unsubscribe"]


async def test_a_forgotten_session_is_opened_again_for_the_call_that_found_out(bridge: Bridge, servers: Scripted) -> None:
    server = legacy(bridge, servers)

    async def forgets(talk: Talk, request: m.Request, reply: Reply) -> m.Response:
        if request.method == "tools/list" and len(servers.talks) == 1:
            talk.inbox.closed(None)
            raise BridgeError("backend_session_lost", "s", sent=False)
        return await answer(talk, request, reply)

    servers.answer = forgets
    response = await bridge.one(exchange(request("tools/list"), server))
    assert response is not None
    assert response.error is None
    assert len(servers.talks) == 2


@pytest.mark.parametrize("method", ["tasks/get", "tasks/list", "tasks/cancel", "ping", "initialize"])
async def test_what_exists_in_the_other_era_only_is_not_found(bridge: Bridge, servers: Scripted, method: str) -> None:
    server = legacy(bridge, servers)
    with pytest.raises(BridgeError, match="does not exist"):
        await bridge.one(exchange(request(method), server))
    assert not any(method in talk.methods[1:] for talk in servers.talks)


async def test_only_what_belongs_to_the_call_comes_on_its_stream(bridge: Bridge, servers: Scripted) -> None:
    server = legacy(bridge, servers)
    task, listener = await listening(bridge, server)
    await until(lambda: listener.heard)
    ear = Ear()

    async def talkative(talk: Talk, request: m.Request, reply: Reply) -> m.Response:
        said = ("tools/list_changed", "elicitation/complete", "message", "progress", "vendor/x")
        for method in said if request.method == "tools/call" else ():
            reply.notify(m.notification(f"notifications/{method}", {"progressToken": 1}))
        return await answer(talk, request, reply)

    servers.answer = talkative
    await bridge.one(exchange(request("tools/call", name="t"), server, reply=ear))
    assert ear.methods == ["vendor/x"]
    await until(lambda: len(listener.heard) >= 2)
    assert listener.methods == ["subscriptions/acknowledged", "tools/list_changed"]
    await over(task)


async def test_a_server_that_was_legacy_and_is_modern_only_now_costs_one_call(bridge: Bridge, servers: Scripted) -> None:
    server = legacy(bridge, servers)

    async def modern(talk: Talk, request: m.Request, reply: Reply) -> m.Response:
        if request.method == "initialize":
            return m.error(request.id, {"code": -32601, "message": "Method not found"})
        return m.result(request.id, DISCOVERED if request.method == "server/discover" else {"resultType": "complete"})

    servers.answer = modern
    with pytest.raises(BridgeError, match="refused to initialize"):
        await bridge.one(exchange(request("tools/list"), server))
    response = await bridge.one(exchange(request("tools/list"), server))
    assert response is not None
    assert response.error is None
