"""Which conversation stands for a modern client at a legacy server, and what it hears there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from mcpbridge.bridge import Bridge
from mcpbridge.core.exchange import NoReply, Reply
from mcpbridge.era import Crossings
from mcpbridge.era.parking import Parking
from mcpbridge.stores.memory import MemoryStore
from mcpbridge.wire import message as m
from tests.support.asking import (
    ALL,
    BOB,
    FORM,
    ROOTS,
    YES,
    Asking,
    asked,
    call,
    legacy,
    methods,
    plain,
    refused,
    retry,
    say,
)
from tests.support.scripted import WAIT, Talk, answer


@pytest.fixture
async def parking() -> Parking:
    return Parking()


@pytest.fixture
async def bridge(parking: Parking) -> AsyncIterator[Bridge]:
    async with asyncio.timeout(4 * WAIT), Bridge("gateway", MemoryStore(), Crossings(parking), start_timeout=WAIT) as bridge:
        yield bridge


async def test_calls_that_may_be_asked_have_a_conversation_each_and_take_it_over_from_each_other(bridge: Bridge) -> None:
    servers = Asking(FORM)
    server = legacy(bridge, servers)
    one, two = await asked(bridge, server), await asked(bridge, server)
    await say(bridge, server, call("completion/complete"))
    assert methods(servers) == [["initialize", "tools/call", "completion/complete"], ["initialize", "tools/call"]]
    for said in (one, two):
        await say(bridge, server, retry(said["requestState"], {"elicitation_1": YES}))
    await asked(bridge, server)
    await asked(bridge, server)
    assert len(servers.talks) == 2


async def test_a_conversation_belongs_to_one_principal_and_one_capability_set(bridge: Bridge) -> None:
    servers = Asking()
    server = legacy(bridge, servers)
    for capabilities in (ALL, dict(reversed(ALL.items())), {"roots": {"listChanged": True}}, {"roots": {}}, {}):
        await say(bridge, server, call(capabilities=capabilities))
    await say(bridge, server, call(), BOB)
    declared = [m.loads(talk.requests[0].param("capabilities") or b"") for talk in servers.talks]
    assert declared == [ALL, {"roots": {}}, {}, ALL]


async def test_extensions_stay_behind_and_a_capability_that_is_no_object_is_refused(bridge: Bridge) -> None:
    servers = Asking()
    server = legacy(bridge, servers)
    await say(bridge, server, call(capabilities={"elicitation": {}, "extensions": {"a/b": {}}, "experimental": {"x": {}}}))
    assert m.loads(servers.talks[0].requests[0].param("capabilities") or b"") == {"elicitation": {}, "experimental": {"x": {}}}
    with refused("invalid_params"):
        await say(bridge, server, call(capabilities={"roots": True}))


async def test_the_roots_that_a_client_gave_are_known_between_its_calls(bridge: Bridge) -> None:
    servers = Asking(ROOTS)
    server = legacy(bridge, servers)
    said = await asked(bridge, server)
    roots = {"roots": [{"uri": "file:///a"}]}
    await say(bridge, server, retry(said["requestState"], {"roots_1": roots}))
    assert plain(await servers.talks[0].inbox.asked(ROOTS)) == roots
    assert plain(await servers.talks[0].inbox.asked(FORM)) == {"code": -32601}


async def test_log_messages_come_only_while_a_round_asks_for_them(bridge: Bridge) -> None:
    servers = Asking()
    line = m.notification("notifications/message", {"level": "info", "data": 1})

    async def talkative(talk: Talk, request: m.Request, reply: Reply) -> m.Response:
        if request.method != "tools/call":
            return await answer(talk, request, reply)
        talk.inbox.notified(line)
        await talk.inbox.asked(FORM)
        talk.inbox.notified(line)
        return m.result(request.id, {"content": []})

    class Ear(NoReply):
        def __init__(self) -> None:
            self.heard: list[str] = []

        def notify(self, notification: m.Notification) -> None:
            self.heard.append(notification.method)

    servers.answer = talkative
    server = legacy(bridge, servers)
    ears = [Ear(), Ear()]
    level = {"io.modelcontextprotocol/logLevel": "info"}
    said = await say(bridge, server, call(), reply=ears[0])
    await say(bridge, server, retry(said["requestState"], {"elicitation_1": YES}, meta=level), reply=ears[1])
    assert [ear.heard for ear in ears] == [[], ["notifications/message"]]
    assert methods(servers) == [["initialize", "tools/call", "logging/setLevel"]]
