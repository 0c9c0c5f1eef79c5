"""One legacy client with one legacy server: sharing, promotion, crash and replay."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from mcpbridge.bridge import Bridge
from mcpbridge.core import link as module
from mcpbridge.core import pool as pool_module
from mcpbridge.core.client_session import ClientSession
from mcpbridge.core.exchange import NoReply, Reply
from mcpbridge.core.link import Link
from mcpbridge.core.server import Server
from mcpbridge.errors import BridgeError
from mcpbridge.stores.memory import MemoryStore
from mcpbridge.wire import message as m
from tests.support.scripted import (
    INITIALIZED,
    WAIT,
    Back,
    Scripted,
    Talk,
    add,
    answer,
    client,
    exchange,
    initialize,
    never,
    until,
)

ROOTS = '{"roots":{}}'
CRASH = BridgeError("server_exited", "s: exit status 3")
LEVEL = m.request(1, "logging/setLevel", {"level": "debug"})
SUBSCRIBE = m.request(2, "resources/subscribe", {"uri": "a:1"})


@pytest.fixture
async def bridge() -> AsyncIterator[Bridge]:
    async with Bridge("gateway", MemoryStore(), None, start_timeout=WAIT) as bridge:
        yield bridge


@pytest.fixture
def servers() -> Scripted:
    return Scripted()


async def linked(server: Server, session: ClientSession) -> Link:
    """A link that is open, and its client's `initialized`."""
    link = session.links[server.name] = Link(session, server.backends[0])
    assert (await link.open(initialize())).error is None
    session.initialized = INITIALIZED
    await link.notify(INITIALIZED)
    return link


async def test_clients_of_one_principal_that_declare_nothing_share_with_the_same_ids(bridge: Bridge, servers: Scripted) -> None:
    server = add(bridge, servers)
    one, two, other = client(), client(), client("q")
    links = [await linked(server, session) for session in (one, two, other)]
    answers = await asyncio.gather(
        *(link.call(exchange(m.request(1, f"m{number}"), server, link.session)) for number, link in enumerate(links))
    )
    assert [(a.id, m.loads(a.result or b"")["by"]) for a in answers] == [(1, "m0"), (1, "m1"), (1, "m2")]
    assert [talk.methods for talk in servers.talks] == [["initialize", "m0", "m1"], ["initialize", "m2"]]
    assert [talk.notifications for talk in servers.talks] == [[INITIALIZED]] * 2


async def test_a_client_that_sets_a_level_gets_a_conversation_of_its_own_and_the_others_keep_theirs(
    bridge: Bridge, servers: Scripted
) -> None:
    server = add(bridge, servers)
    one, two = await linked(server, client()), await linked(server, client())
    await one.call(exchange(LEVEL, server, one.session))
    await two.call(exchange(m.request(1, "tools/list"), server, two.session))
    assert [talk.methods for talk in servers.talks] == [["initialize", "tools/list"], ["initialize", "logging/setLevel"]]
    assert servers.talks[1].notifications == [INITIALIZED]
    servers.talks[1].inbox.notified(m.notification("notifications/message", {"data": 1}))
    assert [len(link.session.back.heard) for link in (one, two)] == [1, 0]  # type: ignore[attr-defined]


async def test_a_promotion_that_finds_no_room_leaves_the_client_where_it_was(
    bridge: Bridge, servers: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "QUEUE_WAIT", 0.0)
    server = add(bridge, servers, limit=1)
    link = await linked(server, client())
    with pytest.raises(BridgeError, match="server busy"):
        await link.call(exchange(LEVEL, server, link.session))
    assert (await link.call(exchange(m.request(2, "tools/list"), server, link.session))).error is None


async def test_a_server_that_crashes_is_started_again_and_told_what_its_client_said(bridge: Bridge, servers: Scripted) -> None:
    server = add(bridge, servers)
    link = await linked(server, client(capabilities=ROOTS))
    for request in (
        LEVEL,
        SUBSCRIBE,
        m.request(3, "resources/subscribe", {"uri": "b:1"}),
        m.request(4, "resources/unsubscribe", {"uri": "b:1"}),
    ):
        await link.call(exchange(request, server, link.session))
    servers.talks[0].dies(CRASH)
    back = link.session.back
    assert isinstance(back, Back)
    await until(lambda: back.heard)
    assert servers.talks[1].methods == ["initialize", "logging/setLevel", "resources/subscribe"]
    assert servers.talks[1].notifications == [INITIALIZED]
    assert [n.method for n in back.heard] == ["notifications/tools/list_changed"]
    assert servers.talks[0].closes == 1  # its pipes and its family are let go


async def test_a_crash_during_a_call_fails_it_with_the_cause_and_not_a_second_time(bridge: Bridge, servers: Scripted) -> None:
    server = add(bridge, servers)
    link = await linked(server, client(capabilities=ROOTS))
    servers.answer = lambda *_: never()
    call = asyncio.ensure_future(bridge.one(exchange(m.request(1, "tools/call", {"name": "t"}), server, link.session)))
    await until(lambda: "tools/call" in servers.talks[0].methods)
    servers.answer = answer
    servers.talks[0].dies(CRASH)
    with pytest.raises(BridgeError, match="exit status 3"):
        await asyncio.wait_for(call, WAIT)
    assert (await bridge.one(exchange(m.request(1, "tools/list"), server, link.session))) is not None
    assert not any("tools/call" in talk.methods for talk in servers.talks[1:])


async def test_a_call_that_may_run_twice_is_said_again_to_the_server_that_comes_back(bridge: Bridge, servers: Scripted) -> None:
    server = add(bridge, servers)
    link = await linked(server, client(capabilities=ROOTS))
    servers.answer = lambda *_: never()
    x = exchange(m.request(1, "tools/list"), server, link.session)
    call = asyncio.ensure_future(bridge.one(x))
    await until(lambda: "tools/list" in servers.talks[0].methods)
    servers.answer = answer
    servers.talks[0].dies(CRASH)
    response = await asyncio.wait_for(call, WAIT)
    assert response is not None and response.error is None
    assert x.attempts == 2


@pytest.mark.parametrize(("reason", "attempts"), [("stream_closed", 2), ("bad_answer", 1)])
async def test_a_call_is_said_again_once_at_most_and_not_where_its_conversation_goes_on(
    bridge: Bridge, servers: Scripted, reason: str, attempts: int
) -> None:
    server = add(bridge, servers)
    link = await linked(server, client(capabilities=ROOTS))

    async def nonsense(talk: Talk, request: m.Request, reply: Reply) -> m.Response:
        if request.method == "tools/list":
            raise BridgeError(reason)
        return await answer(talk, request, reply)

    servers.answer = nonsense
    x = exchange(m.request(1, "tools/list"), server, link.session)
    with pytest.raises(BridgeError) as caught:
        await bridge.one(x)
    assert (caught.value.reason, x.attempts) == (reason, attempts)


async def test_a_server_that_is_silent_during_the_replay_does_not_hold_up_its_client_for_ever(
    bridge: Bridge, servers: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REPLAY", 0.01)
    server = add(bridge, servers)
    link = await linked(server, client(capabilities=ROOTS))
    await link.call(exchange(LEVEL, server, link.session))

    async def forgetful(talk: Talk, request: m.Request, reply: Reply) -> m.Response:
        return await (never() if request.method == "logging/setLevel" else answer(talk, request, reply))

    servers.answer = forgetful
    servers.talks[0].dies(CRASH)
    response = await asyncio.wait_for(link.call(exchange(m.request(9, "tools/list"), server, link.session)), WAIT)
    assert response.error is None


async def test_a_call_that_ends_during_the_replay_does_not_leave_it_half_done(bridge: Bridge, servers: Scripted) -> None:
    server = add(bridge, servers)
    link = await linked(server, client(capabilities=ROOTS))
    await link.call(exchange(LEVEL, server, link.session))
    await link.call(exchange(SUBSCRIBE, server, link.session))
    go = asyncio.Event()

    async def slow(talk: Talk, request: m.Request, reply: Reply) -> m.Response:
        if request.method == "logging/setLevel":
            await go.wait()
        return await answer(talk, request, reply)

    servers.answer = slow
    assert link._talk is not None
    link._talk.closed(None)  # as when the server forgot the session
    call = asyncio.ensure_future(link.call(exchange(m.request(9, "tools/list"), server, link.session)))
    await until(lambda: len(servers.talks) == 2 and "logging/setLevel" in servers.talks[1].methods)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    go.set()
    await link.call(exchange(m.request(10, "tools/list"), server, link.session))
    assert len(servers.talks) == 2
    assert servers.talks[1].methods == ["initialize", "logging/setLevel", "resources/subscribe", "tools/list"]


async def test_a_server_that_refuses_its_client_after_a_restart_is_a_backend_error(bridge: Bridge, servers: Scripted) -> None:
    server = add(bridge, servers)
    link = await linked(server, client(capabilities=ROOTS))

    async def refuse(talk: Talk, request: m.Request, reply: Reply) -> m.Response:
        return m.error(request.id, {"code": -32000, "message": "not any more"})

    servers.answer = refuse
    servers.talks[0].dies(CRASH)
    with pytest.raises(BridgeError, match="not any more") as caught:
        await link.call(exchange(m.request(1, "tools/list"), server, link.session))
    assert (caught.value.reason, caught.value.sent) == ("backend_error", False)


async def test_a_session_that_ends_while_its_link_opens_leaves_no_conversation(bridge: Bridge, servers: Scripted) -> None:
    server = add(bridge, servers)
    session = client(capabilities=ROOTS)
    go = asyncio.Event()

    async def slow(talk: Talk, request: m.Request, reply: Reply) -> m.Response:
        await go.wait()
        return await answer(talk, request, reply)

    servers.answer = slow
    opening = asyncio.ensure_future(Link(session, server.backends[0]).open(initialize()))
    await until(lambda: servers.talks and servers.talks[0].requests)
    await session.close()
    go.set()
    with pytest.raises(BridgeError, match="session has ended"):
        await asyncio.wait_for(opening, WAIT)
    await until(lambda: servers.talks[0].closes)
    assert server.backends[0].pool.size == 0


async def test_a_link_whose_session_is_over_is_not_started_again(bridge: Bridge, servers: Scripted) -> None:
    server = add(bridge, servers)
    link = await linked(server, client(capabilities=ROOTS))
    await link.session.close()
    servers.talks[0].inbox.closed(CRASH)
    with pytest.raises(BridgeError, match="session has ended"):
        await link.call(exchange(m.request(1, "tools/list"), server, link.session))
    assert len(servers.talks) == 1


async def test_two_calls_with_one_id_are_both_in_flight(bridge: Bridge, servers: Scripted) -> None:
    server = add(bridge, servers, isolation="session")
    link = await linked(server, client(back=Back(is_listening=False)))
    go = asyncio.Event()

    async def slow(talk: Talk, request: m.Request, reply: Reply) -> m.Response:
        if request.method == "slow":
            await go.wait()
        return await answer(talk, request, reply)

    servers.answer = slow
    first = asyncio.ensure_future(link.call(exchange(m.request(1, "slow"), server, link.session)))
    await until(lambda: "slow" in servers.talks[0].methods)
    await link.call(exchange(m.request(1, "fast"), server, link.session))
    assert not link.is_idle
    go.set()
    await asyncio.wait_for(first, WAIT)
    assert link.is_idle


async def test_a_question_pauses_every_call_in_flight_and_goes_to_the_client(bridge: Bridge, servers: Scripted) -> None:
    server = add(bridge, servers)
    link = await linked(server, client(capabilities=ROOTS))
    servers.answer = lambda *_: never()
    x = exchange(m.request(1, "tools/call"), server, link.session)
    call = asyncio.ensure_future(link.call(x))
    await until(lambda: "tools/call" in servers.talks[0].methods)
    paused: list[bool] = []
    back = link.session.back
    assert isinstance(back, Back)

    async def ask(request: m.Request, reply: Reply) -> m.Response:
        paused.append(x.deadline.paused)
        return m.result(request.id, {"roots": []})

    back.ask = ask  # type: ignore[method-assign]
    answered = await servers.talks[0].inbox.asked(m.request(7, "roots/list"))
    assert m.loads(answered.result or b"") == {"roots": []}
    assert paused == [True]
    assert not x.deadline.paused
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


async def test_a_question_that_the_client_never_answers_ends(
    bridge: Bridge, servers: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "QUESTION_WAIT", 0.01)
    link = await linked(add(bridge, servers), client(capabilities=ROOTS))
    back = link.session.back
    assert isinstance(back, Back)
    back.ask = lambda *_: never()  # type: ignore[method-assign]
    with pytest.raises(BridgeError, match="did not answer"):
        await asyncio.wait_for(servers.talks[0].inbox.asked(m.request(7, "roots/list")), WAIT)


async def test_what_a_pipe_says_during_the_only_call_belongs_to_that_call(bridge: Bridge, servers: Scripted) -> None:
    server = add(bridge, servers)
    link = await linked(server, client(capabilities=ROOTS))
    servers.answer = lambda *_: never()
    heard: list[m.Notification] = []

    class Reply(NoReply):
        def notify(self, notification: m.Notification) -> None:
            heard.append(notification)

    call = asyncio.ensure_future(link.call(exchange(m.request(1, "tools/call"), server, link.session, reply=Reply())))
    await until(lambda: "tools/call" in servers.talks[0].methods)
    servers.talks[0].inbox.notified(m.notification("notifications/message", {"data": 1}))
    servers.talks[0].inbox.notified(m.notification("notifications/tools/list_changed"))
    assert [n.method for n in heard] == ["notifications/message"]
    assert [n.method for n in link.session.back.heard] == ["notifications/tools/list_changed"]  # type: ignore[attr-defined]
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
