"""Mcp-Param-* of modern HTTP clients: checked by the schema the server listed last, computed anew towards the server."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any

import pytest

from mcpbridge.core import mirror as module
from mcpbridge.core.mirror import AnnotatedTools
from mcpbridge.transports.http1.server import HttpRequest, Responder
from mcpbridge.wire import message as m
from tests.transports.http.test_streamable import DISCOVER, JSON, Client, LegacyServer, result, world


def tool(name: str, **properties: Any) -> dict[str, Any]:
    return {"name": name, "inputSchema": {"type": "object", "properties": properties}}


REGION = {"type": "string", "x-mcp-header": "Region"}
COUNT = {"type": "integer", "x-mcp-header": "Count"}
TOOLS = [
    tool("plain", region={"type": "string"}),
    tool("where", region=REGION),
    tool("many", count=COUNT, limits={"type": "object", "properties": {"dry": {"type": "boolean", "x-mcp-header": "Dry"}}}),
    tool("wrong", amount={"type": "number", "x-mcp-header": "Amount"}),
]


class Server:
    """A modern HTTP server with annotated tools, one per page; it remembers what it was asked and with which headers."""

    def __init__(self, tools: list[dict[str, Any]] | None = None) -> None:
        self.tools = TOOLS if tools is None else tools
        self.asked: Counter[str] = Counter()
        self.params: dict[str, str] = {}
        self.lists = True

    async def __call__(self, request: HttpRequest, responder: Responder, message: Any) -> None:
        method = message.get("method")
        self.asked[method] += 1
        if method == "server/discover":
            await responder.respond(200, JSON, result(message["id"], DISCOVER))
        elif method == "initialize":
            error = {"code": -32601, "message": "Method not found"}
            await responder.respond(404, JSON, json.dumps({"jsonrpc": "2.0", "id": message["id"], "error": error}).encode())
        elif method == "tools/list" and not self.lists:
            error = {"code": -32603, "message": "not now"}
            await responder.respond(200, JSON, json.dumps({"jsonrpc": "2.0", "id": message["id"], "error": error}).encode())
        elif method == "tools/list":
            at = int(message["params"].get("cursor", "0"))
            page = {"resultType": "complete", "tools": self.tools[at : at + 1], "ttlMs": 0, "cacheScope": "private"}
            more = {"nextCursor": str(at + 1)} if at + 1 < len(self.tools) else {}
            await responder.respond(200, JSON, result(message["id"], page | more))
        else:
            self.params = {k: v for k, v in request.headers.items() if k.startswith("mcp-param-")}
            await responder.respond(200, JSON, result(message["id"], {"resultType": "complete", "ok": True}))


async def call(client: Client, name: str, arguments: dict[str, Any], **headers: str) -> tuple[int, Any]:
    status, _, body = await client.modern("id", "tools/call", {"name": name, "arguments": arguments}, **headers)
    assert body["id"] == "id"
    return status, body


async def is_refused(client: Client, name: str, arguments: dict[str, Any], **headers: str) -> bool:
    status, body = await call(client, name, arguments, **headers)
    if status == 200:
        assert body["result"]["ok"]
        return False
    assert (status, body["error"]["code"], body["error"]["data"]["reason"]) == (400, -32020, "header_mismatch")
    return True


async def test_headers_that_say_what_the_arguments_say_pass_and_reach_the_server_computed_anew() -> None:
    server = Server()
    async with world(server) as client:
        assert not await is_refused(client, "where", {"region": "west"}, mcp_param_region="west")
        assert server.params == {"mcp-param-region": "west"}
        assert not await is_refused(client, "where", {"region": "ü"}, mcp_param_region="=?base64?w7w=?=")
        assert server.params == {"mcp-param-region": "=?base64?w7w=?="}
        assert not await is_refused(client, "many", {"count": 42}, mcp_param_count="42.0")
        assert server.params == {"mcp-param-count": "42"}
        assert not await is_refused(client, "many", {"count": None, "limits": {"dry": False}}, mcp_param_dry="false")
        assert server.params == {"mcp-param-dry": "false"}


@pytest.mark.parametrize(
    ("name", "arguments", "headers"),
    [
        ("where", {"region": "west"}, {}),
        ("where", {"region": "west"}, {"mcp_param_region": "east"}),
        ("where", {"region": "west"}, {"mcp_param_region": "West"}),
        ("where", {"region": None}, {"mcp_param_region": "null"}),
        ("where", {}, {"mcp_param_region": "west"}),
        ("where", {"region": "x"}, {"mcp_param_region": "=?base64?***?="}),
        ("many", {"count": 42}, {"mcp_param_count": "43"}),
        ("many", {"limits": {"dry": True}}, {"mcp_param_dry": "True"}),
        ("many", {"count": 42, "limits": {"dry": True}}, {"mcp_param_count": "42"}),
    ],
)
async def test_headers_that_do_not_are_refused_before_the_server_is_called(
    name: str, arguments: dict[str, Any], headers: dict[str, str]
) -> None:
    server = Server()
    async with world(server) as client:
        assert await is_refused(client, name, arguments, **headers)
        assert server.asked["tools/call"] == 0


async def test_headers_of_no_annotated_argument_are_not_looked_at_and_go_on() -> None:
    server = Server()
    async with world(server) as client:
        assert not await is_refused(client, "plain", {"region": "a"}, mcp_param_region="b", mcp_param_other="=?base64?*?=")
        assert server.params == {"mcp-param-region": "b", "mcp-param-other": "=?base64?*?="}
        assert not await is_refused(client, "where", {"region": "a"}, mcp_param_region="a", mcp_param_other="c")
        assert server.params == {"mcp-param-region": "a", "mcp-param-other": "c"}


async def test_the_schemas_are_read_once_for_all_and_not_for_every_call() -> None:
    server = Server()
    async with world(server) as client:
        calls = [call(client, "plain", {"n": n}) for n in range(20)]
        assert {status for status, _ in await asyncio.gather(*calls)} == {200}
        assert server.asked["tools/list"] == len(TOOLS)


async def test_a_list_that_passed_is_enough() -> None:
    server = Server(TOOLS[1:2])
    async with world(server) as client:
        await client.modern(1, "tools/list")
        assert await is_refused(client, "where", {"region": "west"})
        assert server.asked["tools/list"] == 1


async def test_a_changed_schema_counts_from_the_list_that_tells_it(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server([tool("where", region=REGION)])
    async with world(server) as client:
        assert not await is_refused(client, "where", {"region": "a"}, mcp_param_region="a")
        server.tools = [tool("where", region={"type": "string", "x-mcp-header": "Zone"})]
        monkeypatch.setattr(module, "FRESH", 0.0)  # what was read is old now: it is read again before anything is refused
        assert not await is_refused(client, "where", {"region": "a"}, mcp_param_zone="a")
        server.tools = [tool("where", region={"type": "string"})]
        await client.modern(1, "tools/list")
        assert not await is_refused(client, "where", {"region": "a"})


async def test_wrong_calls_do_not_make_the_bridge_list_without_end() -> None:
    server = Server()
    async with world(server) as client:
        for _ in range(5):
            assert await is_refused(client, "where", {"region": "a"})
        assert server.asked["tools/list"] == len(TOOLS)


async def test_a_server_that_does_not_tell_its_tools_is_called_unchecked_and_not_asked_again_at_once() -> None:
    server = Server()
    server.lists = False
    async with world(server) as client:
        for _ in range(3):
            assert not await is_refused(client, "where", {"region": "a"}, mcp_param_region="b")
        assert server.asked["tools/list"] == 1


async def test_a_tool_with_wrong_annotations_is_left_out_and_everything_else_of_the_list_stays() -> None:
    server = Server([TOOLS[3] | {"x": 1.50}, TOOLS[0]])
    async with world(server) as client:
        _, _, body = await client.modern(1, "tools/list")
        assert body["result"] == {"resultType": "complete", "tools": [], "ttlMs": 0, "cacheScope": "private", "nextCursor": "1"}
        _, _, body = await client.modern(1, "tools/list", {"cursor": "1"})
        assert body["result"]["tools"] == [TOOLS[0]]


async def test_a_legacy_client_never_sees_what_a_modern_http_server_may_not_be_called_with() -> None:
    server = Server([TOOLS[3]])
    async with world(server) as client:
        await client.initialize()
        _, _, body = await client.post({"id": 1, "method": "tools/list"})
        assert body["result"]["tools"] == []


async def test_a_legacy_servers_tools_are_checked_for_modern_clients_and_untouched_for_legacy_ones() -> None:
    class Legacy(LegacyServer):
        async def call(self, message: Any, responder: Responder) -> None:
            if message["method"] == "tools/list":
                await responder.respond(200, JSON, result(message["id"], {"tools": TOOLS}))
            else:
                await super().call(message, responder)

    async with world(Legacy()) as client:
        assert await is_refused(client, "where", {"region": "a"})
        assert not await is_refused(client, "where", {"region": "a"}, mcp_param_region="a")
        _, _, body = await client.modern(1, "tools/list")
        assert [t["name"] for t in body["result"]["tools"]] == ["plain", "where", "many"]
        await client.initialize()
        _, _, body = await client.post({"id": 1, "method": "tools/list"})
        assert body["result"]["tools"] == TOOLS


def test_a_result_that_is_no_list_of_tools_teaches_nothing_and_comes_back_as_it_is() -> None:
    tools = AnnotatedTools()
    for text in (b'"x-mcp-header"', b'{"tools":{"x-mcp-header":1}}', b'{"tools":[1,{"name":3,"x-mcp-header":1}]}'):
        raw = m.Raw(text)
        assert tools.learn(raw) is raw
    assert tools.revision == 0


def test_arguments_that_no_float_holds_are_no_header_and_no_failure() -> None:
    tools = AnnotatedTools()
    tools.learn(m.Raw(json.dumps({"tools": [TOOLS[2]]}).encode()))
    assert [item.header for item in tools.of("many")] == ["count", "dry"]
    request = m.Request(1, "tools/call", {"name": m.Raw(b'"many"'), "arguments": m.Raw(b'{"count":1e999}')})
    assert not tools.is_plain(request)
