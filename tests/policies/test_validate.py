"""What a request must bring in its version before anything is done for it."""

from __future__ import annotations

from typing import Any

import pytest

from mcpbridge.core.exchange import Caller, Deadline, Era, Exchange, NoReply, view_of
from mcpbridge.errors import BridgeError
from mcpbridge.policies.validate import validate
from mcpbridge.wire import message as m
from tests.support.scripted import META

VERSION = "2026-07-28"


async def through(message: Any, era: Era, protocol: str = "stdio", **headers: str) -> m.Response | None:
    async def handler(x: Exchange) -> m.Response:
        return m.result(1, {})

    given = {name.replace("_", "-"): value for name, value in headers.items()}
    x = Exchange(message, view_of(message, era), Caller(protocol, era, headers=given), NoReply(), Deadline(1.0, 0.0))
    return await validate()(x, handler)


async def test_a_method_of_the_other_era_is_refused_and_an_unknown_one_goes_to_its_server() -> None:
    with pytest.raises(BridgeError) as caught:
        await through(m.request(1, "logging/setLevel", {"level": "info", "_meta": META}), "modern")
    assert caught.value.reason == "method_not_found"
    assert await through(m.request(1, "com.example/own", {"_meta": META}), "modern")
    assert await through(m.request(1, "com.example/own"), "legacy")


async def test_a_modern_request_without_its_metadata_is_refused() -> None:
    with pytest.raises(BridgeError) as caught:
        await through(m.request(1, "tools/list", {"_meta": {"io.modelcontextprotocol/protocolVersion": VERSION}}), "modern")
    assert caught.value.fault.blames == "client"


async def test_over_http_the_headers_must_say_what_the_body_says() -> None:
    request = m.request(1, "tools/call", {"name": "t", "_meta": META})
    said = {"mcp_protocol_version": VERSION, "mcp_method": "tools/call", "mcp_name": "t"}
    assert await through(request, "modern", "http", **said)
    assert await through(request, "modern", "stdio")
    for name in said:
        with pytest.raises(BridgeError) as caught:
            await through(request, "modern", "http", **(said | {name: "other"}))
        assert caught.value.reason in ("header_mismatch", "unsupported_version")


@pytest.mark.parametrize(
    ("version", "passes"), [(None, True), ("2025-06-18", True), ("2025-11-25", True), ("1999-01-01", False)]
)
async def test_a_legacy_http_client_may_only_name_a_version_that_exists(version: str | None, passes: bool) -> None:
    headers = {} if version is None else {"mcp_protocol_version": version}
    if passes:
        assert await through(m.request(1, "tools/list"), "legacy", "http", **headers)
    else:
        with pytest.raises(BridgeError, match="not supported"):
            await through(m.request(1, "tools/list"), "legacy", "http", **headers)
