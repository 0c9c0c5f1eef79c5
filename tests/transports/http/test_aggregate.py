"""An endpoint of several servers over HTTP: headers say the exposed names in front and the servers' own behind."""

from __future__ import annotations

from typing import Any

import pytest

from tests.transports.http.test_streamable import modern_server, world


@pytest.mark.parametrize(
    ("method", "params", "exposed", "own"),
    [
        ("tools/call", {"name": "s__ü t"}, "=?base64?c19fw7wgdA==?=", "=?base64?w7wgdA==?="),
        ("prompts/get", {"name": "s__p"}, "s__p", "p"),
        ("resources/read", {"uri": "mcpbridge+s:///m%3A//x"}, "mcpbridge+s:///m%3A//x", "m://x"),
        ("tasks/get", {"taskId": "s:77"}, "s:77", "77"),
        ("tasks/update", {"taskId": "s:a:b", "inputResponses": {}}, "s:a:b", "a:b"),
        ("tasks/cancel", {"taskId": "s:77"}, "s:77", "77"),
    ],
)
async def test_a_name_is_checked_as_it_is_exposed_and_goes_on_as_the_servers_own(
    method: str, params: dict[str, Any], exposed: str, own: str
) -> None:
    async with world(modern_server, aggregate=True) as client:
        status, _, body = await client.modern(1, method, params, mcp_name=exposed)
        assert (status, body["result"]["echo"]["mcp-method"], body["result"]["echo"]["mcp-name"]) == (200, method, own)
        status, _, body = await client.modern(2, method, params, mcp_name=own)
        assert (status, body["error"]["code"], body["id"]) == (400, -32020, 2)


async def test_a_method_of_nobody_is_not_found_and_a_task_of_nobody_is_unknown() -> None:
    async with world(modern_server, aggregate=True) as client:
        status, _, body = await client.modern(1, "vendor/x")
        assert (status, body["error"]["code"]) == (404, -32601)
        for id, task in enumerate(("77", "t:77", "", ":77"), 2):
            _, _, body = await client.modern(id, "tasks/get", {"taskId": task}, mcp_name=task)
            assert body["error"]["code"] == -32602
