"""The access log: every outcome has one line and every request one count."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
from msgspec import Raw

from mcpbridge.core.exchange import Caller, Deadline, Exchange, Handler, NoReply, Principal, SessionOp, View
from mcpbridge.errors import BridgeError
from mcpbridge.observe import log
from mcpbridge.observe.metrics import Registry
from mcpbridge.policies.access_log import access_log
from mcpbridge.policies.auth import authenticate, bearer
from mcpbridge.wire import message as m


@pytest.fixture
def lines() -> Iterator[Any]:
    stream = io.StringIO()
    log.configure("debug", "json", stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    log.configure()


def exchange(message: Any = None, era: Any = "modern", **headers: str) -> Exchange:
    message = message or m.request(7, "tools/call")
    caller = Caller("http", era, "203.0.113.9", {name.replace("_", "-"): value for name, value in headers.items()})
    return Exchange(message, View(message.method), caller, NoReply(), Deadline(5.0, 0.0))


def ticks(*times: float) -> Any:
    return iter(times).__next__


async def run(x: Exchange, handler: Handler, registry: Registry | None = None) -> m.Response | None:
    return await access_log(registry or Registry(), clock=ticks(10.0, 10.25))(x, handler)


def counts(registry: Registry) -> dict[tuple[str, ...], float]:
    return {reading.labels: reading.value for reading in registry.collect().get("mcp_gateway_requests_total", [])}


def raising(error: BaseException) -> Handler:
    async def handler(x: Exchange) -> m.Response:
        raise error

    return handler


async def ok(x: Exchange) -> m.Response:
    return m.result(7, {})


async def test_an_answered_request_has_one_line_at_debug(lines):
    x = exchange()
    x.caller.request_id = "abc-1"
    x.caller.principal = Principal("issuer", "alice")
    await run(x, ok)
    (line,) = lines()
    assert (line["level"], line["component"], line["protocol"], line["message"]) == ("debug", "access", "http", "answered")
    assert (line["method"], line["rpc_id"], line["status"], line["duration_ms"]) == ("tools/call", 7, 200, 250.0)
    assert (line["caller"], line["request_id"]) == ("203.0.113.9", "abc-1")
    assert len(line["principal_hash"]) == 8 and "alice" not in json.dumps(line)


@pytest.mark.requirement("metric.mcp_gateway_requests_total", "metric.mcp_gateway_request_duration_histogram_seconds")
async def test_a_request_is_counted_with_its_status_and_duration():
    registry = Registry()
    await run(exchange(), ok, registry)
    assert counts(registry) == {("POST", "200", "http"): 1.0}
    readings = registry.collect()
    for name in ("mcp_gateway_request_duration_seconds", "mcp_gateway_request_duration_histogram_seconds"):
        (reading,) = readings[name]
        assert (reading.labels, reading.count, reading.sum) == (("http",), 1, 0.25)


@pytest.mark.requirement("metric.mcp_gateway_requests_total")
@pytest.mark.parametrize(
    ("error", "era", "status", "level", "code"),
    [
        (BridgeError("unauthorized"), "modern", "401", "info", 1015),
        (BridgeError("method_not_found"), "modern", "404", "info", -32601),
        (BridgeError("method_not_found"), "legacy", "200", "info", -32601),
        (BridgeError("timeout"), "modern", "504", "warn", 1008),
        (BridgeError("draining"), "legacy", "503", "warn", 1012),  # although HTTP says 200
        (RuntimeError("secret detail"), "modern", "500", "warn", None),
        (asyncio.CancelledError(), "modern", "499", "debug", None),
    ],
)
async def test_every_failure_passes_through_logged_and_counted(lines, error, era, status, level, code):
    registry = Registry()
    with pytest.raises(type(error)):
        await run(exchange(era=era), raising(error), registry)
    (line,) = lines()
    assert (line["level"], line["status"], line.get("error_code")) == (level, int(status), code)
    assert "secret detail" not in json.dumps(line)
    assert counts(registry) == {("POST", status, "http"): 1.0}


@pytest.mark.parametrize(
    ("answer", "era", "status"),
    [
        (m.error(7, {"code": -32602, "message": "no such tool"}), "modern", "400"),
        (m.error(7, {"code": -32602, "message": "no such tool"}), "legacy", "200"),
        (m.error(7, {"code": 42, "message": "theirs"}), "modern", "200"),
        (m.Response(7, None, Raw(b'"no object"')), "modern", "200"),
    ],
)
async def test_an_error_a_server_answered_counts_with_the_status_its_client_sees(answer, era, status):
    registry = Registry()

    async def handler(x: Exchange) -> m.Response:
        return answer

    assert await run(exchange(era=era), handler, registry) is answer
    assert counts(registry) == {("POST", status, "http"): 1.0}


@pytest.mark.parametrize("message", [m.notification("notifications/initialized"), SessionOp("DELETE")])
async def test_what_finishes_no_request_is_logged_and_not_counted(lines, message):
    registry = Registry()

    async def nothing(x: Exchange) -> None:
        return None

    await run(exchange(message), nothing, registry)
    assert counts(registry) == {}
    assert len(lines()) == 1


async def test_a_listen_stream_is_counted_without_a_duration():
    registry = Registry()
    await run(exchange(m.request(7, "subscriptions/listen")), ok, registry)
    assert counts(registry) == {("POST", "200", "http"): 1.0}
    assert "mcp_gateway_request_duration_seconds" not in registry.collect()


async def test_a_refusal_of_the_sign_in_is_seen_and_holds_no_token(lines):
    registry = Registry()
    sign_in = authenticate(bearer())
    token = "token-0123456789-0123456789-0123456789"

    async def inner(x: Exchange) -> m.Response | None:
        return await sign_in(x, ok)

    with pytest.raises(BridgeError):
        await run(exchange(authorization=f"Bearer {token}", x_request_id="bad id\nforged"), inner, registry)
    assert counts(registry) == {("POST", "401", "http"): 1.0}
    assert all(token not in json.dumps(line) and "forged" not in json.dumps(line) for line in lines())


async def test_a_session_id_is_logged_as_a_hash(lines):
    x = exchange(era="legacy")
    x.session_id = "session-id-of-a-client"
    await run(x, ok)
    (line,) = lines()
    assert len(line["session_hash"]) == 8 and "session-id-of-a-client" not in json.dumps(line)


async def test_at_level_info_an_answered_request_writes_nothing():
    stream = io.StringIO()
    log.configure("info", "json", stream)
    try:
        await run(exchange(), ok)
    finally:
        log.configure()
    assert stream.getvalue() == ""
