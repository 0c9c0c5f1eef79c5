"""One listen over several servers, through the real rings: what is acknowledged, what waits, who comes late."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from mcpbridge.core import damper
from mcpbridge.core.aggregate import listen as module
from mcpbridge.era import Crossings
from tests.golden.player import World, new_bridge, receive, start_world

META = {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}
TAG = "io.modelcontextprotocol/subscriptionId"
MINE = {TAG: "L"}
Json = dict[str, Any]


def send(world: World, message: Json) -> None:
    world.client.feed(json.dumps({"jsonrpc": "2.0", **message}).encode())


def listen(world: World, **wanted: Any) -> None:
    send(world, {"id": "L", "method": "subscriptions/listen", "params": {"notifications": wanted, "_meta": META}})


async def asked(world: World, server: str, *, number: int = 0, result: Any = None) -> Json:
    """The next request that this server gets; ``result`` answers it."""
    pipe = await world.server(server, number)
    while "id" not in (message := await receive(pipe)) or "method" not in message:
        pass
    if result is not None:
        pipe.feed(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}).encode())
    return dict(message)


async def tell(world: World, server: str, id: Any, method: str, **params: Any) -> None:
    message = {"jsonrpc": "2.0", "method": f"notifications/{method}", "params": {**params, "_meta": {TAG: id}}}
    (await world.server(server)).feed(json.dumps(message).encode())


async def acknowledge(world: World, server: str, heard: Json, **honoured: Any) -> None:
    await tell(world, server, heard["id"], "subscriptions/acknowledged", notifications=honoured)


async def is_modern(world: World, *servers: str, **capabilities: Any) -> None:
    """Each server says what it is when the bridge looks."""
    said = {"resultType": "complete", "supportedVersions": ["2026-07-28"], "capabilities": capabilities}
    for server in servers:
        assert (await asked(world, server, result={**said, "ttlMs": 0, "cacheScope": "private"}))["method"] == "server/discover"


async def test_what_no_server_honours_is_not_acknowledged_and_each_hears_of_its_own_only() -> None:
    async with new_bridge(Crossings()) as bridge:
        world = start_world(bridge, ["a", "b"], single=False)
        send(world, {"id": 1, "method": "resources/list", "params": {"_meta": META}})
        await is_modern(world, "a", "b", resources={"subscribe": True})
        await asked(world, "a", result={"resources": [{"uri": "m://x", "name": "x"}, {"uri": "m://no", "name": "n"}]})
        await asked(world, "b", result={"resources": [{"uri": "m://x", "name": "x"}]})
        await receive(world.client)
        alias = "mcpbridge+b:///m%3A//x"
        uris = ["m://no", alias, "m://x"]
        listen(world, promptsListChanged=True, resourceSubscriptions=uris, taskIds=["b:1", "nobody:2"], vendor={"x": 1.0})
        a, b = await asked(world, "a"), await asked(world, "b")
        shared = {"promptsListChanged": True, "vendor": {"x": 1.0}}
        assert a["params"]["notifications"] == {**shared, "resourceSubscriptions": ["m://no", "m://x"]}
        assert b["params"]["notifications"] == {**shared, "resourceSubscriptions": ["m://x"], "taskIds": ["1"]}
        await acknowledge(world, "a", a, resourceSubscriptions=["m://x"])
        await acknowledge(world, "b", b, resourceSubscriptions=["m://x"], taskIds=["1"], vendor={"x": 1.0})
        acknowledged = await receive(world.client)
        assert acknowledged["params"] == {
            "notifications": {"resourceSubscriptions": [alias, "m://x"], "taskIds": ["b:1"], "vendor": {"x": 1.0}},
            "_meta": MINE,
        }
        await tell(world, "b", b["id"], "resources/updated", uri="m://x")
        assert (await receive(world.client))["params"] == {"uri": alias, "_meta": MINE}
        await tell(world, "a", a["id"], "resources/updated", uri="m://x/part")
        assert (await receive(world.client))["params"] == {"uri": "m://x/part", "_meta": MINE}


async def test_what_changes_before_the_acknowledgement_is_told_after_it_and_once() -> None:
    async with new_bridge(Crossings()) as bridge:
        world = start_world(bridge, ["a", "b"], single=False)
        listen(world, toolsListChanged=True)
        await is_modern(world, "a", "b", tools={"listChanged": True})
        a, b = await asked(world, "a"), await asked(world, "b")
        await acknowledge(world, "a", a, toolsListChanged=True)
        for _ in range(3):
            await tell(world, "a", a["id"], "tools/list_changed")
        assert world.client.received.empty()
        await acknowledge(world, "b", b, toolsListChanged=True)
        assert (await receive(world.client))["method"] == "notifications/subscriptions/acknowledged"
        assert (await receive(world.client))["method"] == "notifications/tools/list_changed"
        await asyncio.sleep(0)
        assert world.client.received.empty()


async def test_a_server_that_comes_late_delays_one_listen_and_is_announced(monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "ACKNOWLEDGE", 0.05)
    async with new_bridge(Crossings()) as bridge:
        world = start_world(bridge, ["a", "late"], single=False)
        listen(world, toolsListChanged=True, resourceSubscriptions=["m://x"])
        await is_modern(world, "a", tools={})
        await acknowledge(world, "a", await asked(world, "a"), toolsListChanged=True)
        acknowledged = await receive(world.client)
        assert acknowledged["params"]["notifications"] == {"toolsListChanged": True}
        await is_modern(world, "late", tools={}, resources={})
        await acknowledge(world, "late", await asked(world, "late"), resourceSubscriptions=["m://x"])
        assert (await receive(world.client))["method"] == "notifications/tools/list_changed"
        assert (await receive(world.client))["params"] == {"uri": "m://x", "_meta": MINE}


async def test_a_server_that_is_lost_comes_back_into_the_open_stream(monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "RECONNECT", 0.01)
    async with new_bridge(Crossings()) as bridge:
        world = start_world(bridge, ["a"], single=False)
        listen(world, toolsListChanged=True)
        await is_modern(world, "a", tools={})
        await acknowledge(world, "a", await asked(world, "a"), toolsListChanged=True)
        await receive(world.client)
        (await world.server("a")).end(ConnectionResetError("gone"))
        pipe = await world.server("a", 1)
        while (heard := await receive(pipe))["method"] != "subscriptions/listen":
            discovered = {"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}}
            pipe.feed(json.dumps({"jsonrpc": "2.0", "id": heard["id"], "result": discovered}).encode())
        tag = {TAG: heard["id"]}
        said = {"method": "notifications/subscriptions/acknowledged", "params": {"notifications": {}, "_meta": tag}}
        pipe.feed(json.dumps({"jsonrpc": "2.0", **said}).encode())
        changed = await receive(world.client)
        assert (changed["method"], changed["params"]) == ("notifications/tools/list_changed", {"_meta": MINE})


async def test_a_filter_that_is_none_is_refused() -> None:
    async with new_bridge(Crossings()) as bridge:
        world = start_world(bridge, ["a"], single=False)
        bad: list[Json] = [{"resourceSubscriptions": "m://x"}, {"taskIds": [1]}, {"resourceSubscriptions": ["x"] * 1001}]
        for id, wanted in enumerate(bad):
            send(world, {"id": id, "method": "subscriptions/listen", "params": {"notifications": wanted, "_meta": META}})
            assert (await receive(world.client))["error"]["code"] == -32602


async def test_a_server_that_acknowledges_nonsense_honours_nothing() -> None:
    async with new_bridge(Crossings()) as bridge:
        world = start_world(bridge, ["a", "b"], single=False)
        listen(world, resourceSubscriptions=["m://x"], taskIds=["b:1"])
        await is_modern(world, "a", "b")
        a, b = await asked(world, "a"), await asked(world, "b")
        await acknowledge(world, "a", a, resourceSubscriptions=["m://y", 5], taskIds="1")
        await tell(world, "b", b["id"], "subscriptions/acknowledged", notifications=[1])
        assert (await receive(world.client))["params"] == {"notifications": {}, "_meta": MINE}


async def test_servers_whose_lists_change_one_after_the_other_are_told_of_together(monkeypatch: Any) -> None:
    monkeypatch.setattr(damper, "WINDOW", 0.05)
    async with new_bridge(Crossings()) as bridge:
        world = start_world(bridge, ["a", "b"], single=False)
        listen(world, toolsListChanged=True, promptsListChanged=True)
        await is_modern(world, "a", "b", tools={}, prompts={})
        heard = {server: await asked(world, server) for server in ("a", "b")}
        for server in ("a", "b"):
            await acknowledge(world, server, heard[server], toolsListChanged=True, promptsListChanged=True)
        assert (await receive(world.client))["method"] == "notifications/subscriptions/acknowledged"
        for server in ("a", "b") * 5:
            await tell(world, server, heard[server]["id"], "tools/list_changed")
        await tell(world, "b", heard["b"]["id"], "prompts/list_changed")
        said = [await receive(world.client) for _ in range(3)]
        assert [(one["method"], one["params"]["_meta"]) for one in said] == [
            ("notifications/tools/list_changed", MINE),
            ("notifications/prompts/list_changed", MINE),
            ("notifications/tools/list_changed", MINE),
        ]
        assert world.client.received.empty()
