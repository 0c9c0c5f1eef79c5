"""The window over HTTP: who sees what, who may act, and the shape of every answer. OWASP MCP07 and MCP01."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import pytest
from msgspec.structs import replace

from mcpbridge.admin.app import MAX_STREAMS, Answer, App, Asked
from mcpbridge.admin.client import fetch, watch
from mcpbridge.observe.metrics import METRICS, Registry
from mcpbridge.observe.snapshot import BackendStatus, Frontend, ProtocolStatus, Sessions, Snapshot, State, decode
from mcpbridge.policies.auth import StaticToken, bearer
from mcpbridge.policies.hosts import host_rules
from mcpbridge.transports.http1.server import HttpServer

READER, WRITER, ADMIN, OTHER = (f"{name}-token-0123456789-0123456789" for name in ("reader", "writer", "admin", "other"))
VERIFY = bearer(
    [
        StaticToken("reader", READER, frozenset({"mcp:read"})),
        StaticToken("writer", WRITER, frozenset({"mcp:write"})),
        StaticToken("admin", ADMIN, frozenset({"mcp:admin"})),
        StaticToken("other", OTHER, frozenset({"openid"})),
    ]
)
LOCAL = {"host": "localhost:9090"}
FAR = "203.0.113.9"


def snapshot(sequence: int = 1, status: State = "ok") -> Snapshot:
    return Snapshot(
        role="gateway",
        sequence=sequence,
        time="2026-11-23T14:00:00.000Z",
        instance="gw-0",
        version="0.1.0",
        uptime_sec=1.0,
        status=status,
        healthy=status == "ok",
        protocols=(ProtocolStatus("http", True, True, "ok", Frontend(True, "http://127.0.0.1:8443")),),
        backends=(BackendStatus("files", "files/0", "stdio", "ok", address="npx server-filesystem"),),
        sessions=Sessions("memory", 0, True),
    )


async def ping(asked: Asked) -> Any:
    return {"did": asked.members}


def app(**more: Any) -> App:
    given = {"verify": VERIFY, "actions": {"/ping": ping}, **more}
    return App(snapshot, Registry(lambda: 0.0), **given)


async def ask(
    method: str = "GET",
    path: str = "/api/v1/status",
    headers: Mapping[str, str] = LOCAL,
    peer: str = "127.0.0.1",
    content: bytes = b"",
    query: str = "",
    on: App | None = None,
    **more: Any,
) -> Answer:
    return await (on or app()).answer(method, path, query, headers, peer, content, **more)


def token(value: str, **more: str) -> dict[str, str]:
    return {"host": "gw.example.com", "authorization": f"Bearer {value}", **more}


def value(answer: Answer) -> Any:
    assert isinstance(answer.body, bytes)
    return json.loads(answer.body)


def sees_addresses(answer: Answer) -> bool:
    return value(answer)["backends"][0]["address"] is not None


# Shapes


@pytest.mark.requirement("http.common.json")
@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/health", 200),
        ("HEAD", "/health", 200),
        ("GET", "/nothing", 404),
        ("POST", "/health", 405),
        ("GET", "/api/v1/ping", 405),
    ],
)
async def test_every_answer_is_uncached_json(method, path, status):
    answer = await ask(method, path)
    headers = dict(answer.headers)
    assert answer.status == status
    assert headers["content-type"] == "application/json; charset=utf-8"
    assert headers["cache-control"] == "no-store"
    assert isinstance(answer.body, bytes) and answer.body.endswith(b"}\n")


@pytest.mark.requirement("http.common.error")
async def test_errors_say_what_and_what_to_do():
    answer = await ask(path="/nothing", id="abc-1")
    assert value(answer) == {
        "error": {
            "code": "MCPB-HTTP-404",
            "message": "nothing is served at this path",
            "hint": "GET /health and /api/v1/status are",
            "request_id": "abc-1",
        }
    }


@pytest.mark.requirement("http.common.method")
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"])
async def test_other_methods_are_told_the_right_ones(method):
    for path in ("/health", "/api/v1/status", "/api/v1/status/stream", "/health/stdio"):
        answer = await ask(method, path)
        assert (answer.status, dict(answer.headers)["allow"]) == (405, "GET, HEAD")
    if method != "POST":
        answer = await ask(method, "/api/v1/ping")
        assert (answer.status, dict(answer.headers)["allow"]) == (405, "POST")


@pytest.mark.parametrize(
    "path", ["/health/", "/health/nothing", "//health", "/HEALTH", "/api/v1/status/", "/api/v1", "", "/health%2f"]
)
async def test_paths_match_exactly(path):
    assert (await ask(path=path)).status == 404


# Reading


@pytest.mark.requirement("http.common.access.read")
@pytest.mark.parametrize(
    ("headers", "peer", "sees"),
    [
        (LOCAL, "127.0.0.1", True),
        (LOCAL, "127.8.8.8", True),
        ({"host": "[::1]:9090"}, "::1", True),
        (LOCAL, "::ffff:127.0.0.1", True),
        (LOCAL, "", True),
        (LOCAL, FAR, False),
        (LOCAL, "not an address", False),
        ({"host": "10.0.0.7:9090"}, "10.0.0.7", False),
        ({"host": "evil.example.com:9090"}, "127.0.0.1", False),
        ({}, "127.0.0.1", False),
        ({**LOCAL, "x-forwarded-for": "127.0.0.1"}, "127.0.0.1", False),
        ({**LOCAL, "x-forwarded-host": "localhost"}, "127.0.0.1", False),
        ({**LOCAL, "forwarded": "for=127.0.0.1"}, "127.0.0.1", False),
        ({**LOCAL, "via": "1.1 proxy"}, "127.0.0.1", False),
        (token(READER), FAR, True),
        (token(WRITER), FAR, True),
        (token(ADMIN), FAR, True),
        (token(OTHER), FAR, False),
    ],
)
async def test_only_local_callers_and_readers_see_addresses(headers, peer, sees):
    answer = await ask(headers=headers, peer=peer)
    assert answer.status == 200
    assert sees_addresses(answer) is sees


async def test_a_listed_name_is_as_good_as_loopback():
    rules = host_rules(["gw.example.com"])
    assert sees_addresses(await ask(headers={"host": "gw.example.com"}, on=app(rules=rules)))
    assert not sees_addresses(await ask(headers={"host": "evil.example.com"}, on=app(rules=rules)))


@pytest.mark.parametrize("path", ["/api/v1/status", "/api/v1/status/stream", "/health/protocols", "/health/http"])
async def test_a_wrong_token_is_refused_although_none_would_do(path):
    answer = await ask(path=path, headers=token("wrong"))
    assert (answer.status, value(answer)["error"]["code"]) == (401, "MCPB-AUTH-401")
    assert 'error="invalid_token"' in dict(answer.headers)["www-authenticate"]
    assert "wrong" not in str(answer)


@pytest.mark.parametrize("path", ["/health", "/healthz", "/readyz", "/ready"])
async def test_probes_are_answered_whatever_token_they_bring(path):
    for headers in ({}, token("wrong"), LOCAL):
        assert (await ask(path=path, headers=headers, peer=FAR, on=app(read_access="token"))).status == 200


@pytest.mark.requirement("http.common.access.read")
@pytest.mark.parametrize("path", ["/api/v1/status", "/api/v1/status/stream", "/health/protocols", "/health/stdio", "/metrics"])
async def test_a_token_can_be_demanded_from_everybody(path):
    strict = app(read_access="token")
    for headers, status in ((LOCAL, 401), (token("wrong"), 401), (token(OTHER), 403), (token(READER), 200)):
        answer = await ask(path=path, headers=headers, on=strict, metrics=True)
        assert answer.status == status
        if status == 401:
            assert dict(answer.headers)["www-authenticate"].startswith("Bearer ")
        if status == 403:
            assert 'error="insufficient_scope", scope="mcp:read"' in dict(answer.headers)["www-authenticate"]
        if not isinstance(answer.body, bytes):
            await answer.body.aclose()


async def test_without_sign_in_a_demanded_token_cannot_be_given():
    assert (await ask(headers=token(READER), on=app(verify=None, read_access="token"))).status == 401


async def test_without_sign_in_strangers_see_the_short_form():
    assert not sees_addresses(await ask(headers=token("any"), peer=FAR, on=app(verify=None)))
    assert sees_addresses(await ask(headers={**LOCAL, "authorization": "Bearer any"}, on=app(verify=None)))


async def test_metrics_are_served_where_they_belong_and_nowhere_else():
    answer = await ask(path="/metrics", metrics=True)
    assert answer.status == 200
    assert dict(answer.headers)["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert isinstance(answer.body, bytes) and all(
        (name.encode() in answer.body) == (row.role == "gateway") for name, row in METRICS.items()
    )
    assert (await ask(path="/metrics", metrics=False)).status == 404
    assert (await ask(path="/metrics", metrics=True, on=app(metrics_path=None))).status == 404


# Acting


@pytest.mark.requirement("http.common.access.action")
@pytest.mark.parametrize(
    ("headers", "peer", "status"),
    [
        (LOCAL, "127.0.0.1", 200),
        (LOCAL, "", 200),
        (LOCAL, FAR, 401),
        ({"host": "evil.example.com"}, "127.0.0.1", 401),
        ({**LOCAL, "origin": "http://localhost:9090"}, "127.0.0.1", 401),
        ({**LOCAL, "origin": "null"}, "127.0.0.1", 401),
        ({**LOCAL, "forwarded": "for=1.2.3.4"}, "127.0.0.1", 401),
        ({**LOCAL, "x-forwarded-for": "1.2.3.4"}, "127.0.0.1", 401),
        ({**LOCAL, "x-forwarded-proto": "https"}, "127.0.0.1", 401),
        (token(ADMIN), FAR, 200),
        (token(ADMIN, origin="https://app.example.com"), FAR, 200),
        (token(READER), FAR, 403),
        (token(WRITER), FAR, 403),
        (token(OTHER), FAR, 403),
        (token("wrong"), FAR, 401),
        ({**LOCAL, "authorization": f"Bearer {READER}"}, "127.0.0.1", 403),
        ({**LOCAL, "authorization": "Bearer wrong"}, "127.0.0.1", 401),
    ],
)
async def test_actions_need_the_admin_scope_or_a_local_caller(headers, peer, status):
    answer = await ask("POST", "/api/v1/ping", headers=headers, peer=peer)
    assert answer.status == status
    if status == 401:
        assert dict(answer.headers)["www-authenticate"].startswith("Bearer ")
    if status == 403:
        assert 'scope="mcp:admin"' in dict(answer.headers)["www-authenticate"]


async def test_without_sign_in_only_local_callers_act():
    quiet = app(verify=None)
    assert (await ask("POST", "/api/v1/ping", on=quiet)).status == 200
    assert (await ask("POST", "/api/v1/ping", headers={**LOCAL, "authorization": "Bearer any"}, on=quiet)).status == 200
    assert (await ask("POST", "/api/v1/ping", peer=FAR, on=quiet)).status == 401


async def test_a_refused_action_is_not_run():
    async def never(asked: Asked) -> Any:
        raise AssertionError("it ran")

    assert (await ask("POST", "/api/v1/never", peer=FAR, on=app(actions={"/never": never}))).status == 401


async def test_an_action_has_its_method_and_learns_its_place_and_who_asks():
    async def tell(asked: Asked) -> Any:
        return {"place": asked.place, "by": asked.by, "members": asked.members}

    on = app(actions={"PUT /weights": tell, "/backends/*/drain": tell})
    assert value(await ask("PUT", "/api/v1/weights", content=b'{"a":1}', on=on))["members"] == {"a": 1}
    assert dict((await ask("POST", "/api/v1/weights", on=on)).headers)["allow"] == "PUT"
    answer = await ask("POST", "/api/v1/backends/git/0/drain", headers=token(ADMIN), peer=FAR, on=on)
    assert value(answer) == {"place": "git/0", "by": "admin", "members": {}}
    assert (await ask("POST", "/api/v1/backends/drain", on=on)).status == 404
    assert (await ask("POST", "/api/v1/backends//drain", on=on)).status == 404


@pytest.mark.requirement("http.common.content-type")
@pytest.mark.parametrize(
    ("kind", "content", "status", "did"),
    [
        ("application/json", b'{"a":1}', 200, {"a": 1}),
        ("application/json; charset=utf-8", b'{"a":1}', 200, {"a": 1}),
        ("application/x-www-form-urlencoded", b'{"a":1}', 200, {"a": 1}),
        (None, b'{"a":1}', 200, {"a": 1}),
        (None, b"", 200, {}),
        (None, b" \n", 200, {}),
        ("text/plain", b"{}", 415, None),
        ("multipart/form-data", b"{}", 415, None),
        (None, b"a=1", 400, None),
        (None, b"[]", 400, None),
        (None, b"{", 400, None),
        (None, b"\xff", 400, None),
        (None, b"[" * 100_000, 400, None),
        (None, b'{"a":' + b"[" * 65 + b"]" * 65 + b"}", 400, None),
        (None, b'{"a":1e999}', 400, None),
        (None, b'{"a":' + b"1" * 65 + b"}", 400, None),
    ],
)
async def test_bodies_of_actions_are_json_whatever_curl_calls_them(kind, content, status, did):
    headers = LOCAL if kind is None else {**LOCAL, "content-type": kind}
    answer = await ask("POST", "/api/v1/ping", headers=headers, content=content)
    assert answer.status == status
    if did is not None:
        assert value(answer) == {"did": did}


@pytest.mark.requirement("limit.json")
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"weights":{"http":NaN}}', "line 1 column 20"),
        (b'{"a":1,"a":2}', "duplicate key at line 1 column 12"),
        (b"[1]", "no JSON object"),
    ],
)
async def test_a_body_that_is_no_json_is_refused_with_its_place_and_what_to_do(content, said):
    answer = await ask(
        "PUT", "/api/v1/weights", content=content, on=app(actions={"PUT /weights": lambda _asked: pytest.fail("it ran")})
    )
    error = value(answer)["error"]
    assert (answer.status, said in error["message"]) == (400, True), error
    assert error["hint"] or "an empty one will do" in error["message"]


# The stream


class Steps:
    """Snapshots that count up, and a sleep that only writes down."""

    def __init__(self, drain_at: int = 1000) -> None:
        self.sequence = 0
        self.slept: list[float] = []
        self.drain_at = drain_at

    def snapshot(self) -> Snapshot:
        return snapshot(self.sequence, "draining" if len(self.slept) >= self.drain_at else "ok")

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.sequence += 1
        await asyncio.sleep(0)

    def app(self, **more: Any) -> App:
        return App(self.snapshot, Registry(), verify=VERIFY, sleep=self.sleep, **more)


async def stream(steps: Steps, query: str = "", **more: Any) -> AsyncGenerator[bytes, None]:
    answer = await ask(path="/api/v1/status/stream", query=query, on=steps.app(), **more)
    assert (answer.status, dict(answer.headers)["content-type"]) == (200, "text/event-stream")
    assert not isinstance(answer.body, bytes)
    return answer.body


def document(event: bytes) -> Snapshot:
    head, _, rest = event.partition(b"\ndata: ")
    seen = decode(rest)
    assert head == f"id: {seen.sequence}".encode()
    return seen


@pytest.mark.requirement("http.status.stream")
async def test_the_stream_starts_at_once_and_goes_on_every_second():
    steps = Steps()
    events = await stream(steps)
    assert [document(await anext(events)).sequence for _ in range(3)] == [0, 1, 2]
    assert steps.slept == [1.0, 1.0]
    await events.aclose()


@pytest.mark.parametrize(("interval", "slept"), [("0.25", [0.25]), ("2.5", [1.0, 1.0, 0.5]), ("60", [1.0] * 60)])
async def test_the_interval_is_the_callers_choice(interval, slept):
    steps = Steps()
    events = await stream(steps, f"interval={interval}")
    await anext(events)
    await anext(events)
    assert steps.slept == slept
    await events.aclose()


@pytest.mark.parametrize(
    "query",
    ["interval=0", "interval=0.2", "interval=61", "interval=-1", "interval=nan", "interval=inf", "interval=x", "interval="],
)
async def test_other_intervals_are_refused(query):
    answer = await ask(path="/api/v1/status/stream", query=query)
    assert (answer.status, value(answer)["error"]["code"]) == (400, "MCPB-HTTP-400")


@pytest.mark.requirement("http.status.stream")
async def test_the_stream_ends_on_drain_within_a_second():
    steps = Steps(drain_at=2)
    events = [document(event) async for event in await stream(steps, "interval=60")]
    assert [seen.status for seen in events] == ["ok"]
    assert steps.slept == [1.0, 1.0]


async def test_a_stranger_watches_the_short_form():
    events = await stream(Steps(), peer=FAR)
    assert document(await anext(events)).backends[0].address is None
    await events.aclose()


async def test_a_stream_ends_with_its_token():
    class Ends:
        left = 2

        def __call__(self, header: str | None) -> Any:
            self.left -= 1
            return VERIFY(header if self.left >= 0 else "Bearer ended")

    steps = Steps()
    watched = App(steps.snapshot, Registry(), verify=Ends(), sleep=steps.sleep)
    answer = await ask(path="/api/v1/status/stream", headers=token(READER), peer=FAR, on=watched)
    assert not isinstance(answer.body, bytes)
    assert len([event async for event in answer.body]) == 1


async def test_the_number_of_streams_is_bounded_and_freed():
    steps = Steps()
    watched = steps.app()
    bodies = []
    for _ in range(MAX_STREAMS):
        answer = await ask(path="/api/v1/status/stream", on=watched)
        assert not isinstance(answer.body, bytes)
        bodies.append(answer.body)
        await anext(answer.body)
    full = await ask(path="/api/v1/status/stream", on=watched)
    assert (full.status, dict(full.headers)["retry-after"]) == (503, "1")
    for body in bodies:
        await body.aclose()
    answer = await ask(path="/api/v1/status/stream", on=watched)
    assert answer.status == 200


async def test_head_of_the_stream_has_no_body():
    answer = await ask("HEAD", "/api/v1/status/stream")
    assert (answer.status, answer.body) == (200, b"")


# Over a socket


async def test_the_client_reads_what_a_listener_serves():
    current = [snapshot(1)]
    window = App(lambda: current[0], Registry(), verify=VERIFY)
    server = HttpServer(window.handle)
    host, port = await server.start("127.0.0.1", 0)
    try:
        async with asyncio.timeout(5):
            url = f"http://{host}:{port}"
            assert await fetch(url) == snapshot(1)
            events = watch(url, READER, 0.25)
            assert await anext(events) == snapshot(1)
            current[0] = replace(snapshot(2), status="draining", healthy=False)
            rest = [seen.sequence async for seen in events]
            assert rest in ([2], [])
    finally:
        await server.close()
