"""One server that answers nonsense behind an endpoint of several: the others' lists and hello stay (OWASP MCP09, MCP10)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mcpbridge.era import Crossings
from tests.golden.player import World, new_bridge, receive, start_world

pytestmark = pytest.mark.security

GOOD_HELLO = '{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"good","version":"1"}}'
LISTS = [
    '{"tools":{"a":1}}',
    '{"tools":null}',
    '{"tools":[1,"x",null]}',
    '{"tools":[{"name":"a","name":"b"}]}',
    r'{"tools":[{"name":"\ud800"}]}',
    '{"tools":[],"ttlMs":1e999}',
    '{"tools":[],"ttlMs":"soon","nextCursor":7}',
    "[1]",
    "5",
    '{"tools":[],"tools":[]}',
]
HELLOS = [
    "[1]",
    '{"capabilities":[]}',
    '{"protocolVersion":"2025-11-25","capabilities":{"tools":1,"resources":[1],"prompts":null},"serverInfo":{}}',
    r'{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"instructions":"\ud800","serverInfo":{}}',
    '{"capabilities":{"tools":{},"tools":{}}}',
]


def send(world: World, message: dict[str, Any]) -> None:
    world.client.feed(json.dumps({"jsonrpc": "2.0", **message}).encode())


async def answer(world: World, server: str, raw_result: str, member: str = "result") -> None:
    """Answer the next request that this server gets with exactly these bytes."""
    pipe = await world.server(server)
    while "id" not in (asked := await receive(pipe)):
        pass
    pipe.feed(f'{{"jsonrpc":"2.0","id":{asked["id"]},"{member}":{raw_result}}}'.encode())


async def initialized(world: World, evil: str) -> dict[str, Any]:
    params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}}
    send(world, {"id": 0, "method": "initialize", "params": params})
    await answer(world, "evil", evil)
    await answer(world, "good", GOOD_HELLO)
    return await receive(world.client)


@pytest.mark.parametrize("hello", HELLOS)
async def test_a_nonsensical_hello_does_not_take_the_endpoint_down(hello: str) -> None:
    async with new_bridge(Crossings()) as bridge:
        world = start_world(bridge, ["evil", "good"], single=False)
        found = await initialized(world, hello)
        assert found["result"]["capabilities"]["tools"] == {"listChanged": True}


@pytest.mark.parametrize("listing", LISTS)
async def test_a_nonsensical_list_does_not_take_the_others_down(listing: str) -> None:
    async with new_bridge(Crossings()) as bridge:
        world = start_world(bridge, ["evil", "good"], single=False)
        await initialized(world, GOOD_HELLO)
        send(world, {"id": 1, "method": "tools/list"})
        await answer(world, "evil", listing)
        await answer(world, "good", '{"tools":[{"name":"t","inputSchema":{"type":"object"}}]}')
        found = await receive(world.client)
        assert [tool["name"] for tool in found["result"]["tools"]] == ["good__t"]


async def test_an_unreadable_error_of_one_list_names_that_server() -> None:
    async with new_bridge(Crossings()) as bridge:
        world = start_world(bridge, ["evil", "good"], single=False)
        await initialized(world, GOOD_HELLO)
        send(world, {"id": 1, "method": "tools/list"})
        await answer(world, "evil", '{"code":1,"code":2,"message":"x"}', "error")
        await answer(world, "good", '{"tools":[{"name":"t","inputSchema":{"type":"object"}}]}')
        found = await receive(world.client)
        assert [tool["name"] for tool in found["result"]["tools"]] == ["good__t"]
        assert "evil" in found["result"]["_meta"]["mcpbridge/unavailable"]


async def test_a_listing_hides_nothing_of_a_good_item_next_to_a_bad_one() -> None:
    async with new_bridge(Crossings()) as bridge:
        world = start_world(bridge, ["evil", "good"], single=False)
        await initialized(world, GOOD_HELLO)
        send(world, {"id": 1, "method": "tools/list"})
        await answer(world, "evil", '{"tools":[7,{"name":"ok","inputSchema":{"type":"object"}}]}')
        await answer(world, "good", '{"tools":[]}')
        found = await receive(world.client)
        assert [tool["name"] for tool in found["result"]["tools"]] == ["evil__ok"]
