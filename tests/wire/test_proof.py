"""The grammar of proofs: what an answer says, and that nothing else says it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpbridge.errors import BridgeError, to_wire
from mcpbridge.wire.proof import (
    DISCOVER_ID,
    INITIALIZE_ID,
    HttpReply,
    differs_by_slash,
    judge,
    judge_events,
    judge_post,
    post,
    question,
)

HELLO = {"supportedVersions": ["2026-07-28"], "capabilities": {}}
OLD_HELLO = {"protocolVersion": "2025-06-18", "capabilities": {}, "serverInfo": {"name": "x", "version": "1"}}


def answer(id, **members):
    return json.dumps({"jsonrpc": "2.0", "id": id, **members}).encode()


@pytest.mark.parametrize(
    ("hello", "era"),
    [
        (HELLO, "modern"),
        ({**HELLO, "supportedVersions": ["2026-07-28", "2025-06-18"]}, "dual"),
        ({**HELLO, "supportedVersions": ["2027-01-31"]}, "modern"),
        ({**HELLO, "supportedVersions": ["2025-06-18"]}, None),
        ({**HELLO, "supportedVersions": []}, None),
        ({**HELLO, "supportedVersions": ["latest"]}, None),
        ({**HELLO, "supportedVersions": "2026-07-28"}, None),
        ({**HELLO, "capabilities": []}, None),
        ({"supportedVersions": ["2026-07-28"]}, None),
        ({}, None),
        (OLD_HELLO, None),
    ],
)
def test_a_discover_result_has_dated_versions_and_capabilities(hello, era):
    found = judge(answer(DISCOVER_ID, result=hello), "server/discover")
    assert found is not None and found.era == era


@pytest.mark.parametrize(
    ("hello", "era"),
    [
        (OLD_HELLO, "legacy"),
        ({**OLD_HELLO, "protocolVersion": "1"}, None),
        ({**OLD_HELLO, "serverInfo": {}}, None),
        ({**OLD_HELLO, "capabilities": None}, None),
        (HELLO, None),
        ([], None),
    ],
)
def test_an_initialize_result_has_a_dated_version_capabilities_and_a_name(hello, era):
    found = judge(answer(INITIALIZE_ID, result=hello), "initialize")
    assert found is not None and found.era == era


@pytest.mark.parametrize(
    ("error", "status", "era"),
    [
        ({"code": -32022, "message": "x", "data": {"supported": ["2026-07-28"], "requested": "y"}}, 400, "modern"),
        ({"code": -32022, "message": "x", "data": {"supported": ["2026-07-28"], "requested": "y"}}, 0, "modern"),
        ({"code": -32022, "message": "x", "data": {"supported": ["2025-06-18"]}}, 400, None),
        ({"code": -32022, "message": "x"}, 400, None),
        ({"code": -32021, "message": "x", "data": {"requiredCapabilities": {}}}, 400, "modern"),
        ({"code": -32021, "message": "x", "data": []}, 400, None),
        ({"code": -32020, "message": "x"}, 400, "modern"),
        ({"code": -32020, "message": "x"}, 200, None),
        ({"code": -32601, "message": "x"}, 404, None),
        ({"code": -32000, "message": "x"}, 400, None),
        ("no", 400, None),
    ],
)
def test_an_error_is_modern_only_in_the_shape_its_schema_has(error, status, era):
    found = judge(answer(DISCOVER_ID, error=error), "server/discover", status)
    assert found is None or found.era == era
    assert (found is not None and found.era == era) or era is None


@pytest.mark.parametrize(
    "raw",
    [question("server/discover"), question("initialize"), answer(1, result=HELLO), answer(str(DISCOVER_ID), result=HELLO),
     b"", b"{}", b"[]", b"null", b"SSH-2.0", b'{"jsonrpc":"2.0","method":"notifications/message"}', b"\xff\xfe"],
)  # fmt: skip
def test_an_echo_another_id_and_noise_are_no_answer(raw):
    assert judge(raw, "server/discover") is None
    assert judge(raw, "initialize") is None


def test_a_byte_order_mark_and_white_space_around_an_answer_do_not_hide_it():
    found = judge(b"\xef\xbb\xbf" + answer(DISCOVER_ID, result=HELLO) + b"\r\n", "server/discover")
    assert found is not None and found.era == "modern"


def http(status, body=b"", kind="application/json", **headers):
    fields = {"content-type": kind, "content-length": len(body), **{k.replace("_", "-"): v for k, v in headers.items()}}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status} X\r\n{head}\r\n".encode() + body


def read(data, asked="server/discover", step=1 << 20):
    reply, found = HttpReply(), None
    for at in range(0, len(data), step):
        reply.feed(data[at : at + step])
        found = judge_post(reply, asked)
        if found is not None:
            return found
    reply.feed(b"")
    return judge_post(reply, asked)


@given(st.integers(1, 40), st.booleans())
def test_any_chunking_gives_the_same_finding(step, streamed):
    body = answer(DISCOVER_ID, result=HELLO)
    data = http(200, b": hi\n\ndata: " + body + b"\n\n", "text/event-stream") if streamed else http(200, body)
    assert read(data, step=step) == read(data)
    assert read(data).era == "modern"


@pytest.mark.parametrize("status", [201, 202, 401, 403, 429, 500, 502, 503])
def test_a_proof_in_the_body_of_another_status_is_none(status):
    assert read(http(status, answer(DISCOVER_ID, result=HELLO))).era is None


def test_a_bridge_whose_servers_are_away_is_still_a_bridge_and_an_error_that_looks_like_its_own_is_not():
    said = to_wire(BridgeError("server_exited", "x"))
    for status in (200, 502, 503, 504):
        assert read(http(status, answer(DISCOVER_ID, error=said))).era == "modern"
    assert read(http(200, answer(INITIALIZE_ID, error=said)), "initialize").era == "legacy"
    assert read(http(500, answer(DISCOVER_ID, error=said))).era is None
    assert read(http(502, answer(None, error=said))).era is None
    for wrong in ({"code": 1018}, {"code": 1018, "data": {"reason": "x"}}, said | {"code": 1004}, said | {"code": "1018"}):
        assert read(http(200, answer(DISCOVER_ID, error=wrong))).era is None
    wanted = to_wire(BridgeError("unauthorized"))
    assert judge(answer(DISCOVER_ID, error=wanted), "server/discover").era == "unknown_auth_required"
    method = to_wire(BridgeError("method_not_found", "x"))  # the specification's codes are anybody's
    assert read(http(200, answer(DISCOVER_ID, error=method))).era is None


def test_the_session_of_initialize_comes_with_the_finding():
    found = read(http(200, answer(INITIALIZE_ID, result=OLD_HELLO), mcp_session_id="s1"), "initialize")
    assert (found.era, found.session) == ("legacy", "s1")


def test_only_a_bearer_challenge_says_that_sign_in_is_needed():
    assert read(http(401, www_authenticate='Bearer resource_metadata="https://a/b"')).said.endswith("resource_metadata")
    assert read(http(401, www_authenticate='Basic realm="a", bearer')).era == "unknown_auth_required"
    assert read(http(401, www_authenticate='Basic realm="bearer"')).era is None
    assert read(http(401)).era is None
    assert read(http(404, www_authenticate="Bearer")).era is None


def test_a_port_that_wants_tls_says_so():
    assert read(b"\x15\x03\x01\x00\x02\x02\x46").tls
    assert read(http(400, b"<h1>400 The plain HTTP request was sent to HTTPS port</h1>", "text/html")).tls
    assert read(http(400, b"This port speaks HTTPS. Use https:// in the URL.\n", "text/plain")).tls  # our own words
    assert not read(http(400, b"no", "text/html")).tls


@pytest.mark.parametrize(
    ("location", "other"),
    [
        ("/mcp/", "/mcp/"),
        ("http://a:1/mcp/", "/mcp/"),
        ("/mcp/?x=1", "/mcp/?x=1"),
        ("/mcp", None),
        ("/login", None),
        ("http://b:1/mcp/", None),
        ("https://a:1/mcp/", None),
        ("//b/mcp/", None),
    ],
)
def test_only_a_redirect_that_adds_a_slash_is_followed(location, other):
    assert differs_by_slash("/mcp", location, "http://a:1") == other


@pytest.mark.parametrize(
    ("data", "era"),
    [
        (b"event: endpoint\ndata: /messages?s=1\n\n", "legacy"),
        (b": c\n\nevent: endpoint\r\ndata: http://a:1/m\r\n\r\n", "legacy"),
        (b"event: endpoint\ndata: http://A:1/m\n\n", "legacy"),
        (b"event: endpoint\ndata: http://b:1/m\n\n", None),
        (b"event: endpoint\ndata: //a:2/m\n\n", None),
        (b"event: endpoint\ndata: https://a:1/m\n\n", None),
        (b"event: endpoint\ndata: http://[x/m\n\n", None),
        (b"event: endpoint\ndata: \xff\n\n", None),
        (b"data: hello\n\nevent: endpoint\ndata: /m\n\n", None),
    ],
)
def test_an_endpoint_event_proves_the_old_transport_when_it_stays_at_home(data, era):
    reply = HttpReply()
    reply.feed(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n" + data)
    found = judge_events(reply, "http://a:1/sse")
    assert found is not None and found.era == era


def test_a_probe_carries_no_credentials_and_asks_for_nothing_packed():
    for asked in ("server/discover", "initialize"):
        head = post(asked, "/mcp", "a:1", "t").lower()
        assert b"authorization" not in head and b"cookie" not in head and b"accept-encoding: identity" in head
