"""The set of servers changes while clients are here: what stays is not touched, what goes finishes, who listens is told."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from mcpbridge.bridge import Bridge, Way
from mcpbridge.config.problems import ConfigError
from mcpbridge.config.sections import EndpointSpec, ServerSpec
from mcpbridge.core.exchange import ANONYMOUS, Caller, Deadline, Exchange, Reply, view_of
from mcpbridge.era import Crossings
from mcpbridge.errors import BridgeError
from mcpbridge.stores.memory import MemoryStore
from mcpbridge.wire import message as m
from mcpbridge.wiring import Changes, Reach
from tests.support.scripted import (
    DISCOVERED,
    META,
    WAIT,
    Back,
    Scripted,
    Talk,
    answer,
    client,
    exchange,
    initialize,
    never,
    until,
)

CALL = m.request(7, "tools/call", {"name": "t", "arguments": {}})


def http(port: int = 1, **more: Any) -> EndpointSpec:
    return EndpointSpec(url=f"http://127.0.0.1:{port}/mcp", protocol="http", **more)


def spec(name: str, *endpoints: EndpointSpec, **more: Any) -> ServerSpec:
    return ServerSpec(name=name, endpoints=endpoints or (http(),), **more)


def new(*, eras: bool = False) -> Bridge:
    return Bridge("gateway", MemoryStore(), Crossings() if eras else None, start_timeout=WAIT, list_wait=WAIT)


# What is configured


async def test_what_is_configured_alike_keeps_its_backends_and_connections() -> None:
    async with new() as bridge:
        reach = Reach(bridge)
        assert reach.apply([spec("a"), spec("b", http(2), http(3))]) == Changes(added=("a", "b"))
        before = {server.name: (server, list(server.backends)) for server in bridge.servers.values()}
        pools = dict(reach.pools)
        for _ in range(100):
            assert reach.apply([spec("a"), spec("b", http(2), http(3))]) == Changes()
        assert {server.name: (server, list(server.backends)) for server in bridge.servers.values()} == before
        assert reach.pools == pools and len(pools) == 3
        await reach.close()


async def test_an_endpoint_more_or_less_leaves_the_others_alone() -> None:
    async with new() as bridge:
        reach = Reach(bridge)
        reach.apply([spec("s", http(1), http(2))])
        server = bridge.servers["s"]
        first, second = server.backends
        assert reach.apply([spec("s", http(3), http(2, weight=2.0))]) == Changes(changed=("s",))
        assert bridge.servers["s"] is server
        assert [backend.name for backend in server.backends] == ["s/2", "s/1"]
        assert server.backends[1] is second and second.weight == 2.0 and not second.is_draining
        assert first.is_draining
        await bridge.gone(first)
        await until(lambda: len(reach.pools) == 2)
        assert server.leaving == []
        reach.apply([spec("s", http(1), http(2, weight=2.0))])
        assert [backend.name for backend in server.backends] == ["s/0", "s/1"]  # numbers are used again
        await reach.close()


async def test_connections_are_closed_when_nobody_uses_them_any_more() -> None:
    async with new() as bridge:
        reach = Reach(bridge)
        reach.apply([spec("a", http(1)), spec("b", http(1))])
        (pool,) = reach.pools.values()
        going = bridge.servers["a"].backends[0]
        assert reach.apply([spec("b", http(1))]) == Changes(removed=("a",))
        await bridge.gone(going)
        assert list(reach.pools.values()) == [pool]
        reach.apply([])
        await until(lambda: not reach.pools)
        assert not bridge.servers


async def test_other_rules_make_it_a_new_server() -> None:
    async with new() as bridge:
        reach = Reach(bridge)
        reach.apply([spec("s")])
        old = bridge.servers["s"]
        assert reach.apply([spec("s", isolation="session")]) == Changes(changed=("s",))
        assert bridge.servers["s"] is not old and bridge.servers["s"].isolation == "session"
        reach.apply([spec("s", isolation="session", namespace="other")])
        assert bridge.servers["s"].namespace == "other"
        await reach.close()


async def test_a_fault_changes_nothing() -> None:
    async with new() as bridge:
        reach = Reach(bridge)
        reach.apply([spec("a"), spec("b")])
        before = [server.backends[0] for server in bridge.servers.values()]
        bad = EndpointSpec(url="https://127.0.0.1:4/mcp", protocol="http", tls={"ca_file": "/nowhere.pem"})
        with pytest.raises(ConfigError, match="'c': the files of its tls"):
            reach.apply([spec("n", http(9)), spec("c", bad)])
        assert [server.backends[0] for server in bridge.servers.values()] == before
        assert not any(backend.is_draining for backend in before)
        await until(lambda: len(reach.pools) == 1)
        await reach.close()


# What clients see


def ends(bridge: Bridge, name: str, *replicas: Scripted) -> list[Way]:
    return [Way("http", name, one.dial) for one in replicas]


async def named(talk: Talk, request: m.Request, reply: Reply) -> m.Response:
    """A legacy server with one tool."""
    if request.method == "tools/list":
        return m.result(request.id, {"tools": [{"name": "t", "inputSchema": {"type": "object"}}]})
    return await answer(talk, request, reply)


async def newer(talk: Talk, request: m.Request, reply: Reply) -> m.Response:
    if request.method == "subscriptions/listen":
        heard = {"notifications": {"toolsListChanged": True}}
        reply.notify(m.notification("notifications/subscriptions/acknowledged", heard))
        return await never()
    if request.method == "server/discover":
        return m.result(request.id, DISCOVERED | {"capabilities": {"tools": {"listChanged": True}}})
    return m.result(request.id, {"resultType": "complete", "content": []})


class Ear:
    can_ask = False

    def __init__(self) -> None:
        self.heard: list[str] = []

    def notify(self, notification: m.Notification) -> None:
        self.heard.append(notification.method.rpartition("/")[2] if "ack" in notification.method else notification.method)

    async def ask(self, request: m.Request, asker: Reply | None = None) -> m.Response:
        raise LookupError


def of_many(bridge: Bridge, request: m.Request, reply: Reply) -> Exchange:
    caller = Caller("http", "modern", principal=ANONYMOUS)
    deadline = Deadline(WAIT, asyncio.get_running_loop().time())
    return Exchange(request, view_of(request, "modern"), caller, reply, deadline, tuple(bridge.servers.values()))


async def test_a_legacy_client_of_all_servers_gets_one_that_comes_and_loses_one_that_goes() -> None:
    first, second = Scripted(), Scripted()
    first.answer = second.answer = named
    async with new() as bridge:
        bridge.add("a", ends(bridge, "a", first))
        endpoint, back = bridge.endpoint(), Back()
        session = client(back=back)
        await bridge.sessions.add(session)

        async def listed() -> list[str]:
            response = await endpoint(exchange(m.request(1, "tools/list"), None, session))  # type: ignore[arg-type]
            assert response is not None
            return [tool["name"] for tool in json.loads(bytes(response.result or b"{}"))["tools"]]

        await endpoint(exchange(initialize(), None, session))  # type: ignore[arg-type]
        assert await listed() == ["a__t"]
        bridge.add("b", ends(bridge, "b", second))
        bridge.arrange({"a": True, "b": True})
        await until(lambda: "b" in session.links)
        await until(lambda: "notifications/tools/list_changed" in [n.method for n in back.heard])
        assert await listed() == ["a__t", "b__t"]
        back.heard.clear()
        bridge.remove(bridge.servers["a"])
        bridge.arrange({"b": True})
        assert "a" not in session.links
        assert await listed() == ["b__t"]
        async with asyncio.timeout(WAIT):
            while "notifications/tools/list_changed" not in [n.method for n in back.heard]:  # damped
                await asyncio.sleep(0.01)
        await until(lambda: first.talks[0].closes)


async def test_a_modern_client_that_listens_to_all_servers_is_told_and_hears_the_new_one() -> None:
    first, second, ear = Scripted(), Scripted(), Ear()
    first.answer = second.answer = newer
    async with new(eras=True) as bridge:
        bridge.add("a", ends(bridge, "a", first))
        endpoint = bridge.endpoint()
        wanted = m.request(5, "subscriptions/listen", {"notifications": {"toolsListChanged": True}, "_meta": META})
        listening = asyncio.ensure_future(endpoint(of_many(bridge, wanted, ear)))
        await until(lambda: ear.heard)
        assert ear.heard == ["acknowledged"]
        going = bridge.add("b", ends(bridge, "b", second))
        bridge.arrange({"a": True, "b": True})
        await until(lambda: second.talks and "subscriptions/listen" in second.talks[-1].methods)
        assert ear.heard[1:] == ["notifications/tools/list_changed"]
        bridge.remove(going)
        bridge.arrange({"a": True})
        await asyncio.wait_for(bridge.gone(going.backends[0]), WAIT)  # nobody listens there any more
        listening.cancel()


async def test_calls_go_on_while_replicas_come_and_go() -> None:
    replicas = [Scripted() for _ in range(3)]
    for one in replicas:
        one.answer = newer
    async with new(eras=True) as bridge:
        server = bridge.add("s", ends(bridge, "s", *replicas[:2]))
        for turn in range(100):
            old = server.backends[0]
            calls = [asyncio.ensure_future(bridge.one(exchange(CALL, server))) for _ in range(5)]
            await asyncio.sleep(0)
            bridge.replace(server, [server.backends[1], *ends(bridge, "s", replicas[turn % 3])])
            assert old not in server.backends
            for call in calls:
                response = await asyncio.wait_for(call, WAIT)
                assert response is not None and response.error is None
        assert len({backend.name for backend in (*server.backends, *server.leaving)}) == 2 + len(server.leaving)


async def modern_only(talk: Talk, request: m.Request, reply: Reply) -> m.Response:
    if request.method == "initialize":
        return m.error(request.id, {"code": -32601, "message": "Method not found"})
    return await newer(talk, request, reply)


@pytest.mark.parametrize("turn", [(answer, modern_only), (modern_only, answer), (answer, modern_only, answer)])
async def test_a_legacy_session_goes_on_when_all_replicas_of_its_servers_era_are_replaced_by_such_of_the_other(
    turn: tuple[Any, ...],
) -> None:
    """The new one knows the level that the client has set."""
    replicas = [Scripted() for _ in turn]
    for one, kind in zip(replicas, turn, strict=True):
        one.answer = kind
    async with new(eras=True) as bridge:
        server = bridge.add("s", ends(bridge, "s", replicas[0]))
        session = client(back=(back := Back()))
        await bridge.sessions.add(session)

        async def call(request: m.Request) -> m.Response:
            response = await asyncio.wait_for(bridge.one(exchange(request, server, session)), WAIT)
            assert response is not None and response.error is None, response
            return response

        session.initialize = initialize()
        await call(initialize())
        await call(m.request(2, "logging/setLevel", {"level": "warning"}))
        await call(CALL)
        for one in replicas[1:]:
            back.heard.clear()
            (old,) = server.backends
            bridge.replace(server, ends(bridge, "s", one))
            await asyncio.wait_for(bridge.gone(old), WAIT)
            await asyncio.gather(*(call(m.request(id, "tools/call", {"name": "t"})) for id in (8, 9)))
            said = [request for talk in one.talks for request in talk.requests]
            assert sum(request.method == "tools/call" for request in said) == 2
            assert any(b"warning" in bytes(request.encode()) for request in said)
            assert "notifications/tools/list_changed" in [n.method for n in back.heard]


async def test_a_second_round_goes_to_the_backend_that_was_taken_away_meanwhile() -> None:
    """It holds the call; the others know nothing of it."""
    replicas, asked = [Scripted(), Scripted()], {"n": 0}

    async def asks(talk: Talk, request: m.Request, reply: Reply) -> m.Response:
        if request.method == "tools/call" and request.param("requestState") is None:
            asked["n"] += 1
            wanted = {"q": {"method": "elicitation/create", "params": {"message": "?"}}}
            return m.result(request.id, {"resultType": "input_required", "requestState": "mine", "inputRequests": wanted})
        return await newer(talk, request, reply)

    for one in replicas:
        one.answer = asks
    async with new(eras=True) as bridge:
        server = bridge.add("s", ends(bridge, "s", *replicas))
        response = await bridge.one(exchange(CALL, server))
        assert response is not None and asked["n"] == 1
        state = json.loads(bytes(response.result or b""))["requestState"]
        was = next(one for one in replicas if one.talks and "tools/call" in one.talks[-1].methods)
        home = server.backends[replicas.index(was)]
        home.begin()  # something else keeps it
        bridge.replace(server, [backend for backend in server.backends if backend is not home])
        again = m.request(8, "tools/call", {"name": "t", "arguments": {}, "requestState": state, "inputResponses": {}})
        response = await bridge.one(exchange(again, server))
        assert response is not None and response.error is None
        assert was.talks[-1].methods.count("tools/call") == 2
        home.abandoned()


async def test_a_call_of_a_server_that_was_taken_away_names_the_cause() -> None:
    servers = Scripted()
    async with new() as bridge:
        server = bridge.add("s", ends(bridge, "s", servers))
        bridge.remove(server)
        with pytest.raises(BridgeError, match="it drains"):
            await bridge.one(exchange(CALL, server))
