"""Checks: what a check asks, what it makes of the answer, and how many answers turn a backend."""

from __future__ import annotations

import pytest

from mcpbridge.bridge import Bridge, Way
from mcpbridge.core.checks import Checks
from mcpbridge.core.exchange import Reply
from mcpbridge.core.server import Backend
from mcpbridge.era import Crossings
from mcpbridge.errors import BridgeError
from mcpbridge.stores.memory import MemoryStore
from mcpbridge.wire import message as m
from tests.support.scripted import DISCOVERED, WAIT, Scripted, Talk, answer, client, exchange, initialize, never

GONE = "stream_closed"


def new(failures: int = 3, recoveries: int = 2) -> Bridge:
    return Bridge("gateway", MemoryStore(), Crossings(), start_timeout=WAIT, failures=failures, recoveries=recoveries)


def network(bridge: Bridge, servers: Scripted) -> Backend:
    return bridge.add("s", [Way("http", "http://s/mcp", servers.dial)]).backends[0]


async def modern(_talk: Talk, request: m.Request, _reply: Reply) -> m.Response:
    return m.result(request.id, DISCOVERED)


async def silent(_talk: Talk, request: m.Request, _reply: Reply) -> m.Response:
    if request.method == "initialize":
        return await answer(_talk, request, _reply)
    await never()
    raise AssertionError


async def dead(*_: object) -> m.Response:
    raise BridgeError(GONE, "reset", sent=False)


async def test_a_live_legacy_conversation_is_pinged_and_no_tool_is_called() -> None:
    servers = Scripted()
    async with new() as bridge:
        backend = network(bridge, servers)
        await bridge.one(exchange(initialize(), backend.server, client()))
        assert await Checks().look(backend) is True
        assert servers.talks[0].methods == ["initialize", "ping"]
        assert len(servers.talks) == 1


async def test_a_modern_server_is_asked_what_it_is_on_the_conversation_that_calls_share() -> None:
    servers = Scripted()
    servers.answer = modern
    async with new() as bridge:
        backend = network(bridge, servers)
        assert [await Checks().look(backend) for _ in range(3)] == [True, True, True]
        assert [talk.methods for talk in servers.talks] == [["server/discover"] * 3]


@pytest.mark.requirement(
    "config.gateway.health_monitoring.failure_threshold", "config.gateway.health_monitoring.recovery_threshold"
)
async def test_so_many_failures_make_it_down_and_so_many_successes_ok() -> None:
    servers = Scripted()
    servers.answer = modern
    async with new() as bridge:
        backend, checks, states = network(bridge, servers), Checks(), []
        for reply in (modern, dead, dead, modern, dead, dead, dead, modern, modern):
            servers.answer = reply
            await checks.look(backend)
            states.append(backend.state)
    assert states == ["ok", "degraded", "degraded", "ok", "degraded", "degraded", "down", "down", "ok"]


async def test_a_server_that_was_never_up_is_down_at_once_and_up_with_its_second_answer() -> None:
    servers = Scripted()
    async with new() as bridge:
        backend, checks, states = network(bridge, servers), Checks(), []
        for reply in (dead, modern, modern):
            servers.answer = reply
            await checks.look(backend)
            states.append(backend.state)
    assert states == ["down", "down", "ok"]


async def test_one_outage_counts_once_however_many_waited_for_it() -> None:
    servers = Scripted()
    async with new() as bridge:
        backend = network(bridge, servers)
        backend.succeeded()
        error = BridgeError(GONE, sent=False)
        for _ in range(10):
            backend.failed(error)
        assert backend.state == "degraded"


async def test_silence_counts_unless_calls_are_running() -> None:
    servers = Scripted()
    async with new(failures=1) as bridge:
        backend, checks = network(bridge, servers), Checks(deadline=0.01)
        await bridge.one(exchange(initialize(), backend.server, client()))
        servers.answer = silent
        backend.begin()
        assert await checks.look(backend) is None
        assert backend.state == "ok"
        backend.abandoned()
        assert await checks.look(backend) is False
        assert backend.state == "down"
        assert "did not answer a check" in (backend.reason or "")


async def test_a_child_that_nobody_uses_is_not_started_for_a_check() -> None:
    servers = Scripted()
    async with new() as bridge:
        backend = bridge.add("s", [Way("stdio", "s", servers.dial, is_child=True)]).backends[0]
        assert await Checks().look(backend) is True  # the first look finds out what it is
        started = len(servers.talks)
        assert await Checks().look(backend) is None
        assert len(servers.talks) == started


async def test_every_verdict_is_told() -> None:
    servers, told = Scripted(), []
    async with new() as bridge:
        backend = network(bridge, servers)
        checks = Checks(told=lambda backend, healthy: told.append((backend.protocol, healthy)))
        for reply in (modern, dead):
            servers.answer = reply
            await checks.look(backend)
    assert told == [("http", True), ("http", False)]


async def test_where_connecting_is_enough_network_servers_are_touched_and_children_left_alone_once_up() -> None:
    touched: list[str] = []

    async def touch(backend: Backend) -> None:
        touched.append(backend.name)
        if len(touched) > 1:
            raise BridgeError("connection_refused", "gone", sent=False)

    servers = Scripted()
    async with new() as bridge:
        backend = network(bridge, servers)
        child = bridge.add("c", [Way("stdio", "c", servers.dial, is_child=True)]).backends[0]
        checks = Checks(touch=touch)
        assert [await checks.look(backend), backend.state] == [True, "ok"]
        assert [await checks.look(backend), backend.state] == [False, "degraded"]
        assert touched == ["s/0", "s/0"] and servers.talks == []
        assert [await checks.look(child), child.state] == [True, "ok"], "its start is how it is connected to"
        asked = [talk.methods for talk in servers.talks]
        assert await checks.look(child) is None
        assert [talk.methods for talk in servers.talks] == asked
        assert touched == ["s/0", "s/0"]
