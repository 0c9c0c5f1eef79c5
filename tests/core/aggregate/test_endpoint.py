"""Several servers behind one endpoint, through the real rings: each test is a client's view."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mcpbridge.core import damper
from mcpbridge.era import Crossings
from tests.golden.player import World, new_bridge, receive, start_world

MODERN = {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}
TOOL = {"name": "t", "inputSchema": {"type": "object"}}


def send(world: World, message: dict[str, Any]) -> None:
    world.client.feed(json.dumps({"jsonrpc": "2.0", **message}).encode())


async def answer(world: World, server: str, method: str, result: Any, number: int = 0, error: Any = None) -> dict[str, Any]:
    """Wait until the server is asked ``method`` and answer it; notifications in between are skipped."""
    pipe = await world.server(server, number)
    while True:
        asked = await receive(pipe)
        if "id" in asked:
            break
    assert asked["method"] == method, asked
    reply = {"jsonrpc": "2.0", "id": asked["id"], **({"error": error} if error else {"result": result})}
    pipe.feed(json.dumps(reply).encode())
    return asked


def hello(**capabilities: Any) -> dict[str, Any]:
    return {"protocolVersion": "2025-11-25", "capabilities": capabilities, "serverInfo": {"name": "x", "version": "1"}}


async def initialized(world: World, **capabilities: dict[str, Any]) -> dict[str, Any]:
    """Initialize a legacy client; each server answers with its capabilities. The client's InitializeResult."""
    params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}}
    send(world, {"id": 0, "method": "initialize", "params": params})
    for name, offered in capabilities.items():
        await answer(world, name, "initialize", hello(**offered) | {"instructions": f"I am {name}"})
    found: dict[str, Any] = (await receive(world.client))["result"]
    send(world, {"method": "notifications/initialized"})
    return found


async def test_a_legacy_client_sees_one_server_with_everything() -> None:
    async with new_bridge(Crossings()) as bridge:
        world = start_world(bridge, ["a", "b"], single=False)
        found = await initialized(world, a={"tools": {}}, b={"tools": {}, "resources": {"subscribe": True}})
        assert found["capabilities"] == {
            "tools": {"listChanged": True},
            "resources": {"listChanged": True, "subscribe": True},
            "logging": {},
        }
        assert found["instructions"] == "## a\n\nI am a\n\n## b\n\nI am b"
        assert found["serverInfo"]["name"] == "mcpbridge"


async def test_lists_are_merged_in_configured_order_with_prefixed_names_and_original_bytes() -> None:
    async with new_bridge(Crossings()) as bridge:
        world = start_world(bridge, ["b", "a"], single=False)
        await initialized(world, a={"tools": {}}, b={"tools": {}})
        send(world, {"id": 1, "method": "tools/list"})
        strange = {"name": "t", "inputSchema": {"$defs": {"x": 1.50}, "$anchor": "q"}, "zzz": [1]}
        await answer(world, "a", "tools/list", {"tools": [TOOL]})
        await answer(world, "b", "tools/list", {"tools": [strange]})
        tools = (await receive(world.client))["result"]["tools"]
        assert tools == [{**strange, "name": "b__t"}, {**TOOL, "name": "a__t"}]


async def test_a_call_goes_to_the_owner_under_its_own_name() -> None:
    async with new_bridge(Crossings()) as bridge:
        world = start_world(bridge, ["a", "b"], single=False)
        await initialized(world, a={"tools": {}}, b={"tools": {}})
        send(world, {"id": "x", "method": "tools/call", "params": {"name": "b__t", "arguments": {"n": 1}}})
        asked = await answer(world, "b", "tools/call", {"content": []})
        assert asked["params"] == {"name": "t", "arguments": {"n": 1}}
        assert (await receive(world.client)) == {"jsonrpc": "2.0", "id": "x", "result": {"content": []}}


async def test_an_unknown_tool_is_a_protocol_error() -> None:
    async with new_bridge(Crossings()) as bridge:
        world = start_world(bridge, ["a"], single=False)
        await initialized(world, a={"tools": {}})
        send(world, {"id": 1, "method": "tools/call", "params": {"name": "nobody__t"}})
        assert (await receive(world.client))["error"]["code"] == -32602


async def test_a_server_that_is_silent_delays_nobody_for_long_and_is_named() -> None:
    async with new_bridge(Crossings(), list_wait=0.05) as bridge:
        world = start_world(bridge, ["a", "dead"], single=False)
        params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}}
        send(world, {"id": 0, "method": "initialize", "params": params})
        await answer(world, "a", "initialize", hello(tools={}))
        found = (await receive(world.client))["result"]
        assert "Server 'dead' is unavailable" in found["instructions"]
        send(world, {"method": "notifications/initialized"})
        send(world, {"id": 1, "method": "tools/list"})
        await answer(world, "a", "tools/list", {"tools": [TOOL]})
        notified, listed = await receive(world.client), await receive(world.client)
        if "id" in notified:
            notified, listed = listed, notified
        assert listed["result"]["tools"] == [{**TOOL, "name": "a__t"}]
        assert list(listed["result"]["_meta"]["mcpbridge/unavailable"]) == ["dead"]
        assert notified["method"] == "notifications/message"
        assert "'dead'" in notified["params"]["data"]


async def test_a_server_that_comes_late_is_announced() -> None:
    async with new_bridge(Crossings(), list_wait=0.05) as bridge:
        world = start_world(bridge, ["a", "slow"], single=False)
        params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}}
        send(world, {"id": 0, "method": "initialize", "params": params})
        await answer(world, "a", "initialize", hello(tools={}))
        await receive(world.client)
        send(world, {"method": "notifications/initialized"})
        await answer(world, "slow", "initialize", hello(prompts={}))
        assert (await receive(world.client))["method"] == "notifications/prompts/list_changed"


async def test_pages_of_several_servers_share_one_cursor() -> None:
    async with new_bridge(Crossings()) as bridge:
        world = start_world(bridge, ["a", "b"], single=False)
        await initialized(world, a={"tools": {}}, b={"tools": {}})
        send(world, {"id": 1, "method": "tools/list"})
        await answer(world, "a", "tools/list", {"tools": [TOOL], "nextCursor": "page 2"})
        await answer(world, "b", "tools/list", {"tools": [TOOL]})
        cursor = (await receive(world.client))["result"]["nextCursor"]
        send(world, {"id": 2, "method": "tools/list", "params": {"cursor": cursor}})
        asked = await answer(world, "a", "tools/list", {"tools": [{**TOOL, "name": "u"}]})
        assert asked["params"] == {"cursor": "page 2"}
        assert (await receive(world.client))["result"] == {"tools": [{**TOOL, "name": "a__u"}]}


async def test_resources_go_by_uri_and_an_unknown_one_is_asked_of_everyone() -> None:
    async with new_bridge(Crossings()) as bridge:
        world = start_world(bridge, ["a", "b"], single=False)
        await initialized(world, a={"resources": {}}, b={"resources": {}})
        send(world, {"id": 1, "method": "resources/read", "params": {"uri": "q://1"}})
        await answer(world, "a", "resources/read", None, error={"code": -32002, "message": "no"})
        await answer(world, "b", "resources/read", {"contents": [{"uri": "q://1", "text": "x"}]})
        assert (await receive(world.client))["result"]["contents"][0]["text"] == "x"


async def test_a_modern_client_gets_one_discover_and_one_tagged_listen_over_servers_of_both_eras() -> None:
    async with new_bridge(Crossings()) as bridge:
        world = start_world(bridge, ["new", "old"], single=False)
        send(world, {"id": 1, "method": "server/discover", "params": {"_meta": MODERN}})
        said = {"resultType": "complete", "supportedVersions": ["2026-07-28"], "capabilities": {"tools": {"listChanged": True}}}
        said |= {"ttlMs": 0, "cacheScope": "private"}
        await answer(world, "new", "server/discover", said)
        await answer(world, "new", "server/discover", said)
        await answer(world, "old", "server/discover", None, error={"code": -32601, "message": "?"})
        await answer(world, "old", "initialize", hello(prompts={"listChanged": True}))
        await answer(world, "old", "initialize", hello(prompts={"listChanged": True}), number=1)
        found = (await receive(world.client))["result"]
        assert found["capabilities"] == {"tools": {"listChanged": True}, "prompts": {"listChanged": True}}
        assert found["supportedVersions"] == ["2026-07-28"]
        wanted = {"toolsListChanged": True, "promptsListChanged": True}
        send(world, {"id": "L", "method": "subscriptions/listen", "params": {"notifications": wanted, "_meta": MODERN}})
        new = await world.server("new")
        asked = await receive(new)
        tag = {"io.modelcontextprotocol/subscriptionId": asked["id"]}
        ack = {"method": "notifications/subscriptions/acknowledged", "params": {"notifications": wanted, "_meta": tag}}
        new.feed(json.dumps({"jsonrpc": "2.0", **ack}).encode())
        mine = {"_meta": {"io.modelcontextprotocol/subscriptionId": "L"}}
        acknowledged = await receive(world.client)
        assert acknowledged["params"] == {"notifications": wanted, **mine}
        (await world.server("old", 1)).feed(b'{"jsonrpc":"2.0","method":"notifications/prompts/list_changed"}')
        assert await receive(world.client) == {"jsonrpc": "2.0", "method": "notifications/prompts/list_changed", "params": mine}
        changed = {"jsonrpc": "2.0", "method": "notifications/tools/list_changed", "params": {"_meta": tag}}
        new.feed(json.dumps(changed).encode())
        assert await receive(world.client) == {"jsonrpc": "2.0", "method": "notifications/tools/list_changed", "params": mine}


async def test_a_server_that_is_not_up_delays_lists_once_and_not_each_time() -> None:
    async with new_bridge(Crossings(), list_wait=0.5) as bridge:
        world = start_world(bridge, ["a", "dead"], single=False)
        params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}}
        send(world, {"id": 0, "method": "initialize", "params": params})
        await answer(world, "a", "initialize", hello(tools={}))
        await receive(world.client)
        causes = []
        for id in (1, 2):
            send(world, {"id": id, "method": "tools/list"})
            await answer(world, "a", "tools/list", {"tools": [TOOL]})
            listed = await receive(world.client)
            while listed.get("id") != id:
                listed = await receive(world.client)
            causes.append(listed["result"]["_meta"]["mcpbridge/unavailable"]["dead"])
        assert causes == ["it is still starting"] * 2  # initialize has waited already
        await answer(world, "dead", "initialize", hello(tools={}))
        while (await receive(world.client)).get("method") != "notifications/tools/list_changed":
            pass
        send(world, {"id": 3, "method": "tools/list"})
        for name in ("a", "dead"):
            await answer(world, name, "tools/list", {"tools": [TOOL]})
        listed = await receive(world.client)
        while listed.get("id") != 3:
            listed = await receive(world.client)
        assert [tool["name"] for tool in listed["result"]["tools"]] == ["a__t", "dead__t"]


async def test_a_modern_client_waits_for_a_server_that_is_not_up_once() -> None:
    async with new_bridge(Crossings(), list_wait=0.5) as bridge:
        world = start_world(bridge, ["dead"], single=False)
        causes = []
        for id in (1, 2):
            send(world, {"id": id, "method": "tools/list", "params": {"_meta": MODERN}})
            listed = await receive(world.client)
            causes.append(listed["result"]["_meta"]["mcpbridge/unavailable"]["dead"])
        assert causes == ["no answer in 0.5 s; it may still be starting", "it is still starting"]


async def test_a_server_that_comes_late_hears_of_the_log_level() -> None:
    async with new_bridge(Crossings(), list_wait=0.05) as bridge:
        world = start_world(bridge, ["a", "slow"], single=False)
        params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}}
        send(world, {"id": 0, "method": "initialize", "params": params})
        await answer(world, "a", "initialize", hello(tools={}))
        await receive(world.client)
        send(world, {"method": "notifications/initialized"})
        send(world, {"id": 1, "method": "logging/setLevel", "params": {"level": "debug"}})
        assert (await receive(world.client))["result"] == {}
        await answer(world, "slow", "initialize", hello(logging={}))
        await answer(world, "slow", "initialize", hello(logging={}), number=1)  # a level needs a conversation of its own
        asked = await answer(world, "slow", "logging/setLevel", {}, number=1)
        assert asked["params"] == {"level": "debug"}
        (await world.server("slow", 1)).feed(b'{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"debug"}}')
        assert (await receive(world.client))["method"] == "notifications/message"


async def test_items_of_a_list_keep_their_bytes_but_for_the_name() -> None:
    schema = '{"$defs" : {"n":{"maximum":1e400,"x":0.10}}, "$anchor":"a"}'
    item = f'{{ "title" : "\\u00e4 \\ud83d", "name":@ ,"inputSchema": {schema} , "é":[ ] }}'
    async with new_bridge(Crossings()) as bridge:
        world = start_world(bridge, ["a", "b"], single=False)
        await initialized(world, a={"tools": {}}, b={"tools": {}})
        send(world, {"id": 1, "method": "tools/list"})
        for name in ("a", "b"):
            pipe = await world.server(name)
            while "id" not in (asked := await receive(pipe)):
                pass
            tools = ", ".join(item.replace("@", f'"{tool}"') for tool in ("t", "u"))
            pipe.feed(f'{{"jsonrpc":"2.0","id":{asked["id"]},"result":{{"tools":[ {tools}]}}}}'.encode())
        said = (await world.client.received.get()).decode()
        for name in ("a__t", "a__u", "b__t", "b__u"):
            assert item.replace("@", f'"{name}"') in said


async def test_without_prefixes_a_tool_is_its_first_servers_and_the_lists_say_whose() -> None:
    async with new_bridge(Crossings()) as bridge:
        world = start_world(bridge, ["a", "b"], single=False, prefix=False)
        await initialized(world, a={"tools": {}}, b={"tools": {}})
        send(world, {"id": 1, "method": "tools/call", "params": {"name": "only-b"}})
        await answer(world, "a", "tools/list", {"tools": [TOOL]})
        await answer(world, "b", "tools/list", {"tools": [TOOL, {**TOOL, "name": "only-b"}]})
        assert (await answer(world, "b", "tools/call", {"content": []}))["params"] == {"name": "only-b"}
        await receive(world.client)
        send(world, {"id": 2, "method": "tools/call", "params": {"name": "t"}})
        assert (await answer(world, "a", "tools/call", {"content": []}))["params"] == {"name": "t"}
        await receive(world.client)
        send(world, {"id": 3, "method": "tools/list"})
        await answer(world, "a", "tools/list", {"tools": [TOOL]})
        await answer(world, "b", "tools/list", {"tools": [TOOL, {**TOOL, "name": "only-b"}]})
        assert [tool["name"] for tool in (await receive(world.client))["result"]["tools"]] == ["t", "only-b"]


async def test_a_template_that_no_list_told_of_is_completed_by_whoever_knows_it() -> None:
    async with new_bridge(Crossings()) as bridge:
        world = start_world(bridge, ["a", "b"], single=False)
        await initialized(world, a={"resources": {}}, b={"resources": {}})
        ref = {"type": "ref/resource", "uri": "m://{id}"}
        send(
            world, {"id": 1, "method": "completion/complete", "params": {"ref": ref, "argument": {"name": "id", "value": "7"}}}
        )
        await answer(world, "a", "completion/complete", None, error={"code": -32602, "message": "unknown"})
        assert (await answer(world, "b", "completion/complete", {"completion": {"values": ["77"]}}))["params"]["ref"] == ref
        assert (await receive(world.client))["result"]["completion"]["values"] == ["77"]


async def test_what_a_caller_may_not_see_it_can_neither_list_nor_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    async with new_bridge(Crossings()) as bridge:
        hidden = {("tools", "t"), ("prompts", "p"), ("resources", "m://x")}
        make = bridge.endpoint
        monkeypatch.setattr(bridge, "endpoint", lambda: make(lambda _caller, kind, _server, name: (kind, name) not in hidden))
        world = start_world(bridge, ["a"], single=False)
        await initialized(world, a={"tools": {}, "prompts": {}, "resources": {}})
        lists = {"tools": TOOL, "prompts": {"name": "p"}, "resources": {"uri": "m://x", "name": "x"}}
        for id, (kind, item) in enumerate(lists.items(), 1):
            send(world, {"id": id, "method": f"{kind}/list"})
            await answer(world, "a", f"{kind}/list", {kind: [item]})
            assert (await receive(world.client))["result"][kind] == []
        ref = {"type": "ref/prompt", "name": "a__p"}
        calls: dict[str, Any] = {"tools/call": {"name": "a__t"}, "prompts/get": {"name": "a__p"}}
        calls |= {"resources/read": {"uri": "m://x"}, "completion/complete": {"ref": ref, "argument": {}}}
        for id, (method, params) in enumerate(calls.items(), 10):
            send(world, {"id": id, "method": method, "params": params})
            assert (await receive(world.client))["error"]["code"] == -32602, method


async def test_names_that_nobody_knows_have_the_lists_read_once_for_all_who_ask() -> None:
    async with new_bridge(Crossings()) as bridge:
        world = start_world(bridge, ["a", "b"], single=False, prefix=False)
        await initialized(world, a={"tools": {}}, b={"tools": {}})
        for id in (1, 2, 3):
            send(world, {"id": id, "method": "tools/call", "params": {"name": "t" if id < 3 else "nobody"}})
        await answer(world, "a", "tools/list", {"tools": []})
        await answer(world, "b", "tools/list", {"tools": [], "nextCursor": "2"})
        assert (await answer(world, "b", "tools/list", {"tools": [TOOL]}))["params"] == {"cursor": "2"}
        for _ in (1, 2):
            await answer(world, "b", "tools/call", {"content": []})
        codes = {said["id"]: said.get("error", {}).get("code") for said in [await receive(world.client) for _ in range(3)]}
        assert codes == {1: None, 2: None, 3: -32602}
        send(world, {"id": 4, "method": "tools/call", "params": {"name": "nobody"}})
        assert (await receive(world.client))["error"]["code"] == -32602
        assert (await world.server("a")).received.empty()


async def test_an_endpoint_without_servers_has_empty_lists_and_knows_no_name() -> None:
    async with new_bridge(Crossings()) as bridge:
        world = start_world(bridge, [], single=False)
        send(world, {"id": 1, "method": "tools/list", "params": {"_meta": MODERN}})
        assert (await receive(world.client))["result"]["tools"] == []
        for id, params in enumerate(({"name": "x" * 48}, {"name": "x", "requestState": "y"}, {"uri": "m://x"}), 2):
            method = "resources/read" if "uri" in params else "tools/call"
            send(world, {"id": id, "method": method, "params": {**params, "_meta": MODERN}})
            assert (await receive(world.client))["error"]["code"] == -32601
        send(world, {"id": "L", "method": "subscriptions/listen", "params": {"notifications": {}, "_meta": MODERN}})
        assert (await receive(world.client))["method"] == "notifications/subscriptions/acknowledged"


async def test_servers_whose_lists_change_one_after_the_other_are_told_of_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(damper, "WINDOW", 0.05)
    changed = {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}
    async with new_bridge(Crossings()) as bridge:
        world = start_world(bridge, ["a", "b"], single=False)
        await initialized(world, a={"tools": {"listChanged": True}}, b={"tools": {"listChanged": True}})
        for _ in range(5):
            for name in ("a", "b"):
                (await world.server(name)).feed(json.dumps(changed).encode())
        said = {"jsonrpc": "2.0", "method": "notifications/vendor"}
        (await world.server("a")).feed(json.dumps(said).encode())
        assert [await receive(world.client) for _ in range(3)] == [changed, said, changed]
        assert world.client.received.empty()


async def test_what_one_server_alone_says_of_its_lists_goes_on_as_it_comes() -> None:
    changed = {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}
    async with new_bridge(Crossings()) as bridge:
        world = start_world(bridge, ["a"], single=True)
        await initialized(world, a={"tools": {"listChanged": True}})
        for _ in range(5):
            (await world.server("a")).feed(json.dumps(changed).encode())
        assert [await receive(world.client) for _ in range(5)] == [changed] * 5
