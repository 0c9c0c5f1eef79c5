"""Scopes: what each of them allows. OWASP MCP02."""

from __future__ import annotations

import pytest

from mcpbridge.core.exchange import ANONYMOUS, Caller, Deadline, Exchange, NoReply, Principal, View
from mcpbridge.errors import BridgeError
from mcpbridge.policies.authorize import READ_METHODS, allows, authorize, require, scope_of
from mcpbridge.wire import message as m
from mcpbridge.wire.spec import METHODS


def exchange(method: str, *scopes: str) -> Exchange:
    caller = Caller("http", "modern", principal=Principal("i", "s", frozenset(scopes)))
    return Exchange(m.request(1, method), View(method), caller, NoReply(), Deadline(5.0, 0.0))


async def answer(x: Exchange) -> m.Response:
    return m.result(1, {})


@pytest.mark.parametrize(
    ("scopes", "read", "write", "admin"),
    [
        ((), False, False, False),
        (("mcp:read",), True, False, False),
        (("mcp:write",), True, True, False),
        (("mcp:admin",), True, False, True),
        (("mcp:write", "mcp:admin"), True, True, True),
        (("mcp:*",), True, True, True),
        (("openid", "profile"), False, False, False),
        (("MCP:READ", "mcp:read ", "mcp", "*", "mcp:"), False, False, False),
    ],
)
def test_what_a_scope_allows(scopes, read, write, admin):
    held = frozenset(scopes)
    assert (allows(held, "mcp:read"), allows(held, "mcp:write"), allows(held, "mcp:admin")) == (read, write, admin)


@pytest.mark.parametrize(
    "method", ["initialize", "ping", "server/discover", "tools/list", "resources/read", "subscriptions/listen"]
)
async def test_looking_needs_read(method):
    assert await authorize()(exchange(method, "mcp:read"), answer) is not None
    with pytest.raises(BridgeError):
        await authorize()(exchange(method), answer)


@pytest.mark.parametrize("method", ["tools/call", "tasks/cancel", "vendor/anything", "", "Tools/List", "tools/list "])
async def test_acting_and_the_unknown_need_write(method):
    assert await authorize()(exchange(method, "mcp:write"), answer) is not None
    with pytest.raises(BridgeError) as refused:
        await authorize()(exchange(method, "mcp:read"), answer)
    error = refused.value
    assert (error.fault.code, error.fault.status) == (1014, 403)
    assert error.data["challenge"] == 'Bearer realm="mcpbridge", error="insufficient_scope", scope="mcp:write"'
    assert error.data["scope"] == "mcp:write"


async def test_a_caller_nobody_identified_gets_nothing():
    x = exchange("ping")
    x.caller.principal = None
    with pytest.raises(BridgeError):
        await authorize()(x, answer)


def test_the_anonymous_principal_of_a_local_bridge_may_do_everything():
    require(ANONYMOUS, "mcp:admin")
    require(ANONYMOUS, "mcp:write")


def test_every_read_method_is_one_that_clients_send():
    assert {name for name in READ_METHODS if "/" in name} <= {name for name, row in METHODS.items() if row.client}
    assert scope_of("tools/call") == "mcp:write"
