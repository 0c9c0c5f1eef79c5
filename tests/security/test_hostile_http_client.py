"""Clients that mean harm at the real gateway: other people's sessions, tokens in odd places, paths and names in disguise."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.support.peers import free_port, running, wait_listening
from tests.support.raw import LEGACY, MODERN, initialize, modern_meta, request

pytestmark = pytest.mark.security

ALICE, BOB, READER = (name * 7 + "0123456789abcdef" for name in ("alice-", "bobby-", "reads-"))
SERVER = """
import json, sys
for line in sys.stdin:
    request = json.loads(line)
    if "id" not in request:
        continue
    answer = {"jsonrpc": "2.0", "id": request["id"], "result": {}}
    if request["method"] == "initialize":
        info = {"name": "echo", "version": "1"}
        answer["result"] = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": info}
    elif request["method"] == "tools/list":
        answer["result"] = {"tools": [{"name": "echo", "inputSchema": {"type": "object"}}]}
    elif request["method"] == "tools/call":
        answer["result"] = {"content": [{"type": "text", "text": "called"}]}
    elif request["method"] == "server/discover":
        del answer["result"]
        answer["error"] = {"code": -32601, "message": "Method not found"}
    print(json.dumps(answer), flush=True)
"""


class Gateway:
    """Where one gateway listens, and a way to send it exactly these bytes."""

    def __init__(self, port: int, management: int) -> None:
        self.port = port
        self.management = management

    @asynccontextmanager
    async def connection(self, port: int = 0) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        async with asyncio.timeout(20):
            reader, writer = await asyncio.open_connection("127.0.0.1", port or self.port, limit=1 << 24)
            try:
                yield reader, writer
            finally:
                writer.close()

    async def ask(
        self,
        target: str,
        body: Any = None,
        *,
        method: str = "POST",
        token: str | None = ALICE,
        host: str | None = None,
        port: int = 0,
        fields: tuple[str, ...] = (),
    ) -> tuple[int, dict[str, str], bytes]:
        """One request on a connection of its own; status, headers and body of the answer (the head only of a stream)."""
        data = b"" if body is None else json.dumps(body).encode()
        lines = [f"{method} {target} HTTP/1.1", f"Host: {host or f'127.0.0.1:{port or self.port}'}", *fields]
        if token is not None:
            lines.append(f"Authorization: Bearer {token}")
        if body is not None:
            lines.append("Content-Type: application/json")
            lines.append("Accept: application/json, text/event-stream")
        lines.append(f"Content-Length: {len(data)}")
        async with self.connection(port) as (reader, writer):
            writer.write("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + data)
            return await answer(reader)

    async def session(self, token: str) -> str:
        """A new session of the token's holder."""
        status, headers, _body = await self.ask("/mcp", initialize(), token=token)
        assert status == 200
        return headers["mcp-session-id"]


async def answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return int(head[0].split(" ")[1]), headers, body


def reason(body: bytes) -> Any:
    return json.loads(body)["error"]["data"]["reason"]


def call(id: int = 1) -> Any:
    return request(id, "tools/call", name="echo", arguments={})


def modern(id: int = 1) -> Any:
    return request(id, "tools/call", name="echo", arguments={}, _meta=modern_meta())


MODERN_FIELDS = (f"MCP-Protocol-Version: {MODERN}", "Mcp-Method: tools/call", "Mcp-Name: echo")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("gateway")
    (folder / "server.py").write_text(SERVER)
    port, management = free_port(), free_port()
    config = {
        "server": {"port": port, "tls": {"enabled": False}},
        "metrics": {"endpoint": f"127.0.0.1:{management}"},
        "auth": {
            "static_tokens": [
                {"name": "alice", "token": ALICE, "scopes": ["mcp:read", "mcp:write"]},
                {"name": "bob", "token": BOB, "scopes": ["mcp:read", "mcp:write"]},
                {"name": "reader", "token": READER, "scopes": ["mcp:read"]},
            ]
        },
        "servers": [{"name": "echo", "command": sys.executable, "args": [str(folder / "server.py")]}],
    }
    path = folder / "gateway.yaml"
    path.write_text(json.dumps(config))
    with running([sys.executable, "-m", "mcpbridge", "gateway", "--config", str(path)]) as process:
        wait_listening(process, f"http://127.0.0.1:{port}/healthz")
        yield Gateway(port, management)


# Other people's sessions


@pytest.mark.parametrize("method", ["POST", "GET", "DELETE"])
async def test_a_session_of_somebody_else_is_as_unknown_as_one_that_never_was(gateway: Gateway, method: str) -> None:
    mine = await gateway.session(ALICE)
    body = call() if method == "POST" else None
    accept = ("Accept: text/event-stream",) if method == "GET" else ()
    outcomes = []
    for id in (mine, mine[:-1] + ("A" if mine[-1] != "A" else "B"), "x" * len(mine)):
        status, _headers, said = await gateway.ask(
            "/mcp",
            body,
            method=method,
            token=BOB,
            fields=(f"Mcp-Session-Id: {id}", "Last-Event-ID: 0-0", "X-Request-Id: same", *accept),
        )
        outcomes.append((status, reason(said), said.replace(id.encode(), b"")))
    assert outcomes == [(404, "session_unknown", outcomes[0][2])] * 3
    status, _headers, said = await gateway.ask("/mcp", call(), fields=(f"Mcp-Session-Id: {mine}",))
    assert (status, json.loads(said)["result"]["content"][0]["text"]) == (200, "called"), "its owner noticed"


@pytest.mark.parametrize("message", ["notifications/cancelled", "an answer"])
async def test_nothing_is_said_into_a_session_of_somebody_else(gateway: Gateway, message: str) -> None:
    mine = await gateway.session(ALICE)
    cancelled = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}
    body = cancelled if message.startswith("n") else {"jsonrpc": "2.0", "id": 1, "result": {}}
    status, _headers, said = await gateway.ask("/mcp", body, token=BOB, fields=(f"Mcp-Session-Id: {mine}",))
    assert (status, reason(said)) == (404, "session_unknown")


async def test_a_client_cannot_choose_the_id_of_its_session(gateway: Gateway) -> None:
    status, headers, _said = await gateway.ask("/mcp", initialize(), fields=("Mcp-Session-Id: chosen-by-the-attacker",))
    assert status != 200 or headers["mcp-session-id"] != "chosen-by-the-attacker"
    status, _headers, said = await gateway.ask("/mcp", call(), fields=("Mcp-Session-Id: chosen-by-the-attacker",))
    assert (status, reason(said)) == (404, "session_unknown")


# Tokens in odd places


ODD = {
    "in the query": ("/mcp?access_token={}&token={}&authorization=Bearer%20{}", ()),
    "in a cookie": ("/mcp", ("Cookie: token={}; access_token={}; Authorization=Bearer {}",)),
    "in other fields": ("/mcp", ("X-Api-Key: {}", "X-Auth-Token: {}", "Proxy-Authorization: Bearer {}")),
    "as forwarded by a proxy": ("/mcp", ("X-Forwarded-Authorization: Bearer {}", "X-Forwarded-User: alice")),
    "as basic": ("/mcp", ("Authorization: Basic {base64}",)),
    "without a scheme": ("/mcp", ("Authorization: {}",)),
    "with another scheme": ("/mcp", ("Authorization: Token {}",)),
    "with something behind it": ("/mcp", ("Authorization: Bearer {}, Bearer {}",)),
    "with a quote": ("/mcp", ('Authorization: Bearer "{}"',)),
    "cut": ("/mcp", ("Authorization: Bearer {cut}",)),
    "as a field of WebSocket": ("/mcp", ("Sec-WebSocket-Protocol: bearer, {}",)),
    "empty": ("/mcp", ("Authorization: Bearer ",)),
    "missing": ("/mcp", ()),
}


@pytest.mark.parametrize("target", ["/mcp", "/mcp/echo", "/api/v1/mcp", "/api/v1/execute"])
@pytest.mark.parametrize("name", ODD)
async def test_a_token_counts_in_its_own_field_alone(gateway: Gateway, name: str, target: str) -> None:
    path, fields = ODD[name]
    encoded = base64.b64encode(f"alice:{ALICE}".encode()).decode()

    def filled(text: str) -> str:
        return text.replace("{base64}", encoded).replace("{cut}", ALICE[:-1]).replace("{}", ALICE)

    status, headers, said = await gateway.ask(
        filled(path).replace("/mcp", target), modern(), token=None, fields=(*MODERN_FIELDS, *map(filled, fields))
    )
    assert (status, reason(said)) == (401, "unauthorized")
    assert headers["www-authenticate"].startswith("Bearer ")
    assert ALICE.encode() not in said and ALICE not in str(headers)


async def test_two_tokens_are_refused_before_one_is_chosen(gateway: Gateway) -> None:
    status, headers, _said = await gateway.ask("/mcp", modern(), fields=(*MODERN_FIELDS, f"Authorization: Bearer {BOB}"))
    assert (status, headers["connection"]) == (400, "close")


@pytest.mark.parametrize("method", ["tools/call", "evil/unknown", "tools/callx", "notifications/unknown"])
@pytest.mark.parametrize("target", ["/mcp", "/api/v1/execute"])
async def test_a_reader_acts_nowhere(gateway: Gateway, method: str, target: str) -> None:
    message = request(1, method, name="echo", _meta=modern_meta())
    if method.startswith("notifications"):
        del message["id"]
    fields = (f"MCP-Protocol-Version: {MODERN}", f"Mcp-Method: {method}", "Mcp-Name: echo")
    status, headers, said = await gateway.ask(target, message, token=READER, fields=fields)
    assert (status, reason(said)) == (403, "forbidden")
    assert 'error="insufficient_scope"' in headers["www-authenticate"]


async def test_a_header_that_names_a_harmless_method_lets_no_call_through(gateway: Gateway) -> None:
    fields = (f"MCP-Protocol-Version: {MODERN}", "Mcp-Method: tools/list", "Mcp-Name: echo")
    status, _headers, said = await gateway.ask("/mcp", modern(), token=READER, fields=fields)
    assert status in (400, 403)
    assert b"called" not in said


# Paths and names in disguise


@pytest.mark.parametrize(
    "target",
    [
        "/mcp/%2e%2e/api/v1/execute",
        "/mcp/../api/v1/execute",
        "/mcp/./echo",
        "/mcp/%65cho",
        "/mcp%2fecho",
        "/mcp/echo%00",
        "/mcp/echo/",
        "/mcp/echo/..",
        "/mcp/",
        "//mcp",
        "/MCP",
        "/mcp;v=1",
        "/mcp/echo;x",
        "/mcp\\echo",
        "/api/v1/../../mcp",
        "/api/v1/execute/",
        "/mcp/__proto__",
        "/mcp/" + "a" * 4000,
    ],
    ids=lambda target: target[:30],
)
async def test_a_path_means_what_is_written_and_nothing_else(gateway: Gateway, target: str) -> None:
    status, _headers, said = await gateway.ask(target, modern(), fields=MODERN_FIELDS)
    assert status in (400, 404)
    assert b"called" not in said


@pytest.mark.parametrize("target", ["http://127.0.0.1/mcp", "http://evil.example/mcp", "*", "mcp", "127.0.0.1:80", "/mcp#x"])
async def test_a_target_that_is_no_path_is_refused(gateway: Gateway, target: str) -> None:
    status, headers, _said = await gateway.ask(target, modern(), fields=MODERN_FIELDS)
    assert (status, headers["connection"]) == (400, "close")


@pytest.mark.parametrize("target", ["/mcp", "/mcp/echo", "/api/v1/execute", "/health", "/api/v1/status", "/nothing"])
@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("evil.example", None, 421),
        ("127.0.0.1.evil.example", None, 421),
        ("2130706433", None, 421),
        ("127.1", None, 421),
        ("0.0.0.0", None, 421),
        ("localhost.", None, 421),
        (None, "null", 403),
        (None, "http://evil.example", 403),
        (None, "http://localhost.evil.example", 403),
        (None, "http://127.0.0.1:1", 403),
        (None, "file://", 403),
        ("evil.example", "http://evil.example", 403),
    ],
)
async def test_a_page_of_somebody_else_reaches_no_face(
    gateway: Gateway, target: str, host: str | None, origin: str | None, status: int
) -> None:
    fields = (*MODERN_FIELDS, *((f"Origin: {origin}",) if origin else ()))
    found, headers, said = await gateway.ask(target, modern(), host=host, fields=fields)
    assert found == status
    assert "access-control-allow-origin" not in headers and b"called" not in said


@pytest.mark.parametrize("field", ["X-Forwarded-Host: 127.0.0.1", "X-Original-URL: /mcp", "X-HTTP-Method-Override: POST"])
async def test_no_field_speaks_for_the_request_line_or_the_host(gateway: Gateway, field: str) -> None:
    status, _headers, _said = await gateway.ask("/mcp", modern(), host="evil.example", fields=(*MODERN_FIELDS, field))
    assert status == 421
    status, _headers, _said = await gateway.ask("/nothing", modern(), fields=(*MODERN_FIELDS, field))
    assert status == 404
    status, _headers, _said = await gateway.ask("/mcp", method="PUT", fields=(*MODERN_FIELDS, field))
    assert status == 405


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("target", ["/mcp", "/metrics", "/api/v1/status", "/api/v1/execute"])
async def test_the_management_listener_serves_looks_alone(gateway: Gateway, method: str, target: str) -> None:
    status, _headers, said = await gateway.ask(target, modern(), method=method, port=gateway.management, fields=MODERN_FIELDS)
    assert status in (404, 405)
    assert b"called" not in said


# Quantities


async def test_ten_thousand_pipelined_requests_are_answered_in_order_and_starve_nobody(gateway: Gateway) -> None:
    count = 10_000
    one = f"GET /nothing/%d HTTP/1.1\r\nHost: 127.0.0.1:{gateway.port}\r\nX-Request-Id: r%d\r\n\r\n"
    async with gateway.connection() as (reader, writer), asyncio.TaskGroup() as group:

        async def read() -> list[str]:
            return [(await answer(reader))[1]["x-request-id"] for _ in range(count)]

        answered = group.create_task(read())
        writer.write("".join([one % (n, n) for n in range(count)]).encode())
        status, _headers, said = await gateway.ask("/mcp", modern(), fields=MODERN_FIELDS)
        assert (status, json.loads(said)["result"]["content"][0]["text"]) == (200, "called")
        assert not answered.done(), "the other client waited for all of them"
    assert answered.result() == [f"r{n}" for n in range(count)]


async def test_a_head_that_is_never_finished_keeps_nobody_else_out(gateway: Gateway) -> None:
    slow = [await asyncio.open_connection("127.0.0.1", gateway.port) for _ in range(80)]
    try:
        for _reader, writer in slow:
            writer.write(b"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ")
        status, _headers, said = await gateway.ask("/mcp", modern(), fields=MODERN_FIELDS)
        assert (status, json.loads(said)["result"]["content"][0]["text"]) == (200, "called")
    finally:
        for _reader, writer in slow:
            writer.close()


@pytest.mark.parametrize("name", ["Mcp-Session-Id", "Mcp-Protocol-Version", "Mcp-Method", "Mcp-Name", "Content-Type", "Origin"])
async def test_a_field_that_decides_something_comes_once(gateway: Gateway, name: str) -> None:
    status, headers, _said = await gateway.ask("/mcp", call(), fields=(f"{name}: {LEGACY}", f"{name}: {LEGACY}"))
    assert (status, headers["connection"]) == (400, "close")


@pytest.mark.parametrize("kind", ["text/plain", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded", ""])
async def test_a_form_of_a_web_page_is_no_message(gateway: Gateway, kind: str) -> None:
    """What a page may send without asking first (CORS "simple" requests) is not taken as MCP."""
    data = json.dumps(modern()).encode()
    head = [
        "POST /mcp HTTP/1.1",
        f"Host: 127.0.0.1:{gateway.port}",
        f"Authorization: Bearer {ALICE}",
        *MODERN_FIELDS,
        *([f"Content-Type: {kind}"] if kind else []),
        f"Content-Length: {len(data)}",
    ]
    async with gateway.connection() as (reader, writer):
        writer.write("\r\n".join(head).encode() + b"\r\n\r\n" + data)
        status, _headers, said = await answer(reader)
    assert status == 415 and b"called" not in said


# What the HTTP engine itself refuses


@pytest.mark.requirement("http.common.error", "limit.body")
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("target", ["/mcp", "/mcp/echo", "/api/v1/execute", "/health"])
async def test_two_megabytes_are_refused_in_the_form_of_the_face(gateway: Gateway, target: str, chunked: bool) -> None:
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {2 << 20}"
    head = f"POST {target} HTTP/1.1\r\nHost: 127.0.0.1:{gateway.port}\r\nX-Request-Id: big\r\n{framing}\r\n\r\n"
    async with gateway.connection() as (reader, writer):
        writer.write(head.encode() + (b"200000\r\n" if chunked else b""))
        status, headers, body = await answer(reader)
    error = json.loads(body)["error"]
    assert (status, headers["connection"], headers["x-request-id"]) == (413, "close", "big")
    if target == "/health":
        assert (error["code"], error["request_id"]) == ("MCPB-HTTP-413", "big")
    else:
        assert (error["code"], error["data"]["reason"], error["data"]["request_id"]) == (1017, "request_too_large", "big")


@pytest.mark.requirement("http.common.request-id")
async def test_an_id_that_would_split_a_header_or_a_log_line_is_not_sent_back(gateway: Gateway) -> None:
    for given in ("a b", 'x","level":"error', "a;b", "x" * 256, "é"):
        status, headers, _said = await gateway.ask("/mcp", modern(), fields=(*MODERN_FIELDS, f"X-Request-Id: {given}"))
        assert status == 200 and len(headers["x-request-id"]) == 16
    status, headers, _said = await gateway.ask("/mcp", modern(), fields=(*MODERN_FIELDS, "X-Request-Id: abc-1"))
    assert (status, headers["x-request-id"]) == (200, "abc-1")
