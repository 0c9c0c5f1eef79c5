"""A legacy client with a modern server: one listen stream carries what the server says by itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from mcpbridge.bridge import Bridge
from mcpbridge.core.exchange import Reply
from mcpbridge.core.server import Server
from mcpbridge.era import Crossings, clients
from mcpbridge.era.clients import ModernLink
from mcpbridge.errors import BridgeError
from mcpbridge.stores.memory import MemoryStore
from mcpbridge.wire import message as m
from mcpbridge.wire.spec import LOG_LEVEL
from tests.support.scripted import DISCOVERED, WAIT, Back, Scripted, Talk, add, client, exchange, initialize, never, until

CAPABLE = DISCOVERED | {"capabilities": {"tools": {"listChanged": True}, "resources": {}}}
SUBSCRIBE = m.request(5, "resources/subscribe", {"uri": "a:1"})


class Modern(Scripted):
    """A modern server that acknowledges every listen and holds it until it is cancelled."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = self.serve
        self.listens: list[tuple[m.Request, Reply]] = []
        self.ended = 0
        self.capable = CAPABLE

    async def serve(self, talk: Talk, request: m.Request, reply: Reply) -> m.Response:
        if request.method == "server/discover":
            return m.result(request.id, self.capable)
        if request.method == "subscriptions/listen":
            self.listens.append((request, reply))
            wanted = m.loads(request.param("notifications") or b"{}")
            reply.notify(m.notification("notifications/subscriptions/acknowledged", {"notifications": wanted}))
            try:
                await never()
            finally:
                self.ended += 1
        return m.result(request.id, {"resultType": "complete", "meta": m.loads(m.join(request.meta))})


@pytest.fixture
async def bridge() -> AsyncIterator[Bridge]:
    async with Bridge("gateway", MemoryStore(), Crossings(), start_timeout=WAIT) as bridge:
        yield bridge


@pytest.fixture
def servers() -> Modern:
    return Modern()


async def linked(server: Server) -> tuple[ModernLink, Back]:
    back = Back()
    session = client(back=back)
    link = ModernLink(session, server.backends[0])
    session.links[server.name] = link
    assert (await link.open(initialize())).error is None
    return link, back


async def call(link: ModernLink, server: Server, request: m.Request) -> m.Response:
    return await link.call(exchange(request, server, link.session))


async def test_the_level_of_a_session_goes_with_its_calls_but_never_with_its_listens(bridge: Bridge, servers: Modern) -> None:
    server = add(bridge, servers)
    link, _ = await linked(server)
    await call(link, server, m.request(1, "logging/setLevel", {"level": "debug"}))
    answer = await call(link, server, m.request(2, "tools/list"))
    assert m.loads(answer.result or b"")["meta"][LOG_LEVEL] == "debug"
    await call(link, server, SUBSCRIBE)
    assert len(servers.listens) == 2
    # on a pipe a log message would be taken for the listen's, whoever's call it belongs to
    assert not any(LOG_LEVEL in request.meta for request, _ in servers.listens)


async def test_a_subscription_replaces_the_listen_and_ends_the_old_one(bridge: Bridge, servers: Modern) -> None:
    server = add(bridge, servers)
    link, back = await linked(server)
    await until(lambda: servers.listens)
    await call(link, server, SUBSCRIBE)
    await until(lambda: servers.ended == 1)
    servers.listens[1][1].notify(m.notification("notifications/resources/updated", {"uri": "a:1"}))
    assert [n.method for n in back.heard] == ["notifications/resources/updated"]
    await link.session.close()
    await until(lambda: servers.ended == 2)


async def test_a_subscription_that_the_server_does_not_honour_is_refused(bridge: Bridge, servers: Modern) -> None:
    server = add(bridge, servers)
    link, _ = await linked(server)

    async def refuse(talk: Talk, request: m.Request, reply: Reply) -> m.Response:
        reply.notify(m.notification("notifications/subscriptions/acknowledged", {"notifications": {}}))
        return await servers.serve(talk, request, type("Mute", (), {"notify": lambda *_: None})())

    await until(lambda: servers.listens)
    servers.answer = refuse
    with pytest.raises(BridgeError, match="does not offer"):
        await call(link, server, SUBSCRIBE)
    await until(lambda: servers.ended == 1)


async def test_what_changes_nothing_opens_no_listen_and_the_last_subscription_ends_it(bridge: Bridge, servers: Modern) -> None:
    servers.capable = DISCOVERED | {"capabilities": {"resources": {}}}
    server = add(bridge, servers)
    link, _ = await linked(server)
    other, drop = (
        m.request(5, f"resources/{what}", {"uri": uri}) for what, uri in (("unsubscribe", "b:1"), ("unsubscribe", "a:1"))
    )
    for request in (other, SUBSCRIBE, SUBSCRIBE, other):
        assert (await call(link, server, request)).error is None
    assert len(servers.listens) == 1
    assert (await call(link, server, drop)).error is None
    await until(lambda: servers.ended == 1)
    assert len(servers.listens) == 1
    assert (await call(link, server, SUBSCRIBE)).error is None
    assert len(servers.listens) == 2


async def test_each_change_of_the_set_is_one_listen_with_the_whole_set(bridge: Bridge, servers: Modern) -> None:
    server = add(bridge, servers)
    link, _ = await linked(server)
    for method, uri in (("subscribe", "a:1"), ("subscribe", "b:1"), ("unsubscribe", "a:1")):
        await call(link, server, m.request(5, f"resources/{method}", {"uri": uri}))
    wanted = [m.loads(request.param("notifications") or b"").get("resourceSubscriptions") for request, _ in servers.listens]
    assert wanted == [None, ["a:1"], ["a:1", "b:1"], ["b:1"]]
    await until(lambda: servers.ended == 3)


async def test_only_what_vendors_notify_has_a_form_in_the_other_era(bridge: Bridge, servers: Modern) -> None:
    server = add(bridge, servers)
    link, _ = await linked(server)
    vendor = m.notification("com.example/note", {"n": 1.5, "_meta": {LOG_LEVEL: "debug", "own": 1}})
    for note in (m.notification("notifications/initialized"), m.notification("notifications/roots/list_changed"), vendor):
        await link.notify(note)
    told = servers.talks[0].notifications
    assert [(note.method, m.loads(m.join(note.params or {}))) for note in told] == [
        ("com.example/note", {"n": 1.5, "_meta": {"own": 1}})
    ]


@pytest.mark.parametrize("method", ["server/discover", "subscriptions/listen", "tasks/get", "tasks/list"])
async def test_methods_of_the_other_era_do_not_exist_for_the_client(bridge: Bridge, servers: Modern, method: str) -> None:
    server = add(bridge, servers)
    link, _ = await linked(server)
    with pytest.raises(BridgeError) as caught:
        await call(link, server, m.request(1, method, {"taskId": "x"}))
    assert caught.value.reason == "method_not_found"


@pytest.mark.parametrize("capabilities", [[], 7, {"tools": 7}, {"tools": []}])
async def test_a_server_that_says_nonsense_of_itself_is_to_blame(bridge: Bridge, servers: Modern, capabilities: object) -> None:
    servers.capable = DISCOVERED | {"capabilities": capabilities}
    server = add(bridge, servers)
    with pytest.raises(BridgeError) as caught:
        await linked(server)
    assert caught.value.reason == "bad_answer"
    assert not server.hello


@pytest.mark.parametrize(
    "said", [7, [], {"resourceSubscriptions": 7}, {"resourceSubscriptions": [7]}, {"resourceSubscriptions": {}}]
)
async def test_an_acknowledgement_that_is_none_honours_nothing(bridge: Bridge, servers: Modern, said: object) -> None:
    server = add(bridge, servers)
    link, _ = await linked(server)
    await until(lambda: servers.listens)

    async def nonsense(talk: Talk, request: m.Request, reply: Reply) -> m.Response:
        reply.notify(m.notification("notifications/subscriptions/acknowledged", {"notifications": said}))
        return await never()  # type: ignore[no-any-return]

    servers.answer = nonsense
    with pytest.raises(BridgeError, match="does not offer"):
        await call(link, server, SUBSCRIBE)


async def test_a_server_that_never_answers_discover_does_not_hold_the_client_for_ever(bridge: Bridge, servers: Modern) -> None:
    server = add(bridge, servers)
    server.backends[0].pool.start_timeout = 0.01
    servers.answer = lambda *_: never()
    with pytest.raises(BridgeError) as caught:
        await asyncio.wait_for(linked(server), WAIT)
    assert caught.value.reason == "timeout"


async def test_a_lost_listen_is_opened_again_and_what_may_have_changed_is_told(
    bridge: Bridge, servers: Modern, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients, "RECONNECT", 0.0)
    server = add(bridge, servers)
    _link, back = await linked(server)
    await until(lambda: servers.listens)
    servers.talks[0].dies(BridgeError("stream_closed", "s"))
    await until(lambda: len(servers.listens) == 2)
    await until(lambda: back.heard)
    assert [n.method for n in back.heard] == ["notifications/tools/list_changed"]


async def test_a_restarted_server_hears_of_the_whole_set_again_and_the_client_of_each_resource(
    bridge: Bridge, servers: Modern, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients, "RECONNECT", 0.0)
    server = add(bridge, servers)
    link, back = await linked(server)
    await call(link, server, SUBSCRIBE)
    servers.talks[0].dies(BridgeError("stream_closed", "s"))
    await until(lambda: len(back.heard) == 2)
    assert m.loads(servers.listens[-1][0].param("notifications") or b"")["resourceSubscriptions"] == ["a:1"]
    assert [(n.method, bytes(n.param("uri") or b"")) for n in back.heard] == [
        ("notifications/tools/list_changed", b""),
        ("notifications/resources/updated", b'"a:1"'),
    ]
    servers.listens[-1][1].notify(m.notification("notifications/resources/updated", {"uri": "a:1"}))
    assert len(back.heard) == 3


async def test_a_session_that_ends_during_a_subscription_leaves_no_listen(bridge: Bridge, servers: Modern) -> None:
    server = add(bridge, servers)
    link, _ = await linked(server)
    await until(lambda: servers.listens)
    running = asyncio.ensure_future(call(link, server, SUBSCRIBE))
    await asyncio.sleep(0)
    await link.session.close()
    await asyncio.gather(running, return_exceptions=True)
    await until(lambda: servers.ended == len(servers.listens))
    outcome: Any = running.exception()
    assert outcome is None or isinstance(outcome, BridgeError)


@pytest.mark.parametrize(
    "refusal",
    [
        BridgeError("backend_error", "HTTP 406", status=406),
        BridgeError("http_not_found", "HTTP 404", status=404),
        m.error(0, {"code": -32600, "message": "Invalid Request"}),
        m.error(0, {"code": -32602, "message": "Invalid params"}),
    ],
    ids=["HTTP 406", "HTTP 404", "-32600", "-32602"],
)
async def test_a_modern_server_that_does_not_say_why_it_refuses_initialize_is_asked(
    bridge: Bridge, servers: Modern, refusal: BridgeError | m.Response
) -> None:
    async def silent(talk: Talk, request: m.Request, reply: Reply) -> m.Response:
        if request.method != "initialize":
            return await servers.serve(talk, request, reply)
        if isinstance(refusal, BridgeError):
            raise refusal
        return refusal

    server = add(bridge, servers)
    server.backends[0].pool._backoff = None  # as over HTTP
    servers.answer = silent
    session = client()
    response = await bridge.one(exchange(initialize(), server, session))
    assert response is not None
    assert m.loads(response.result or b"")["protocolVersion"] == "2025-11-25"
    assert isinstance(session.links[server.name], ModernLink)
    assert server.backends[0].speaks.get("legacy") is not False  # nobody said so


@pytest.mark.parametrize(
    "refusal",
    [
        BridgeError("connection_refused", "x"),
        BridgeError("backend_error", "HTTP 401", status=401),
        m.error(0, {"code": -32000}),
    ],
    ids=["refused", "HTTP 401", "-32000"],
)
async def test_an_outage_or_another_reason_is_told_and_asks_no_further(
    bridge: Bridge, servers: Modern, refusal: BridgeError | m.Response
) -> None:
    async def refuse(talk: Talk, request: m.Request, reply: Reply) -> m.Response:
        if isinstance(refusal, BridgeError):
            raise refusal
        return refusal

    server = add(bridge, servers)
    servers.answer = refuse
    outcome = await asyncio.gather(bridge.one(exchange(initialize(), server, client())), return_exceptions=True)  # type: ignore[arg-type]
    assert isinstance(outcome[0], type(refusal))
    assert [talk.methods for talk in servers.talks] == [["initialize"]]


async def test_a_server_that_was_modern_only_and_is_legacy_now_is_found_out(bridge: Bridge, servers: Modern) -> None:
    server = add(bridge, servers)
    server.backends[0].speaks.update({"legacy": False, "modern": True})
    plain = Scripted()
    servers.answer = plain.answer  # the same endpoint, another program
    session = client()
    response = await bridge.one(exchange(initialize(), server, session))
    assert response is not None
    assert response.error is None
    assert session.links
