"""A gateway looks at its own frontends: what it asks, what counts as an answer, what it makes of silence."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mcpbridge.config.health import HealthChecks, HttpCheck, SseCheck, StdioCheck
from mcpbridge.observe.snapshot import Event
from mcpbridge.self_checks import SelfChecks
from mcpbridge.wire import mcpb
from tests.support.certificates import make_tls
from tests.support.peers import SHARED_OFF, free_port, running, wait_listening

WAIT = 10.0
FIVE = ["stdio", "websocket", "http", "sse", "tcp_binary"]
ENABLED = (
    "config.gateway.server.health_checks.stdio.enabled",
    "config.gateway.server.health_checks.websocket.enabled",
    "config.gateway.server.health_checks.http.enabled",
    "config.gateway.server.health_checks.sse.enabled",
    "config.gateway.server.health_checks.tcp_binary.enabled",
)
MISMATCH = "protocol mismatch: expected magic 4D 43 50 42, got"
TOKEN = "caller-0123456789abcdef0123456789ab"


@dataclass
class Running:
    """A gateway with all five frontends."""

    base: str
    management: str
    socket: Path
    errors: Path

    def said(self) -> str:
        """Its log, without what a busy machine does to it."""
        return "".join(line for line in self.errors.read_text().splitlines(True) if '"watchdog"' not in line)

    def get(self, path: str, base: str | None = None) -> tuple[int, Any]:
        request = urllib.request.Request((base or self.base) + path, headers={"Authorization": f"Bearer {TOKEN}"})
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        try:
            with urllib.request.urlopen(request, timeout=5, context=context) as answer:
                status, said = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            status, said = error.code, error.read()
        return status, json.loads(said) if said.startswith((b"{", b"[")) else said.decode()

    def protocols(self, until: Any) -> dict[str, Any]:
        """The five, by name, once ``until`` says yes to them."""
        ends = time.monotonic() + WAIT
        while True:
            parts = {part["name"]: part for part in self.get("/api/v1/status")[1]["protocols"]}
            if until(parts):
                return parts
            assert time.monotonic() < ends, parts
            time.sleep(0.1)


@pytest.fixture(params=["plain", "tls", "mutual", "off"])
def gateway(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Running]:
    """With and without TLS; with TLS sign-in is on, and with ``mutual`` clients need a certificate."""
    port, management, is_tls = free_port(), free_port(), request.param in ("tls", "mutual")
    made = make_tls(tmp_path)
    tls: dict[str, Any] = {"enabled": is_tls, "cert_file": str(made.server_cert), "key_file": str(made.server_key)}
    if request.param == "mutual":
        tls |= {"client_auth": "require", "ca_file": str(made.authority)}
    checks = {name: {"enabled": request.param != "off"} for name in FIVE}
    checks["http"]["endpoint"], checks["sse"]["endpoint"] = "/well/http", "/health/stream"
    checks["cross_protocol_lb"] = {"endpoint": "/well/balance"}
    config = {
        "server": {
            "port": port, "tcp_port": 0, "tcp_health_port": free_port(), "stdio_socket": str(tmp_path / "gw.sock"), "tls": tls,
            "allowed_hosts": ["bridge.example.com", "localhost"],
            "health_checks": checks,
        },
        "auth": {"type": "bearer" if is_tls else "none", "static_tokens": [{"name": "caller", "token": TOKEN}]},
        "metrics": {"endpoint": f"127.0.0.1:{management}"},
        "health_monitoring": {"health_check_interval": "100ms", "failure_threshold": 2},
        "servers": [],
    }  # fmt: skip
    path, errors = tmp_path / "gateway.yaml", tmp_path / "errors"
    path.write_text(json.dumps(config))
    base = f"http://localhost:{management}"
    public = base if request.param == "mutual" else f"{'https' if is_tls else 'http'}://localhost:{port}"
    command = ["sh", "-c", f"exec {sys.executable} -m mcpbridge gateway --config {path} 2>{errors}"]
    with running(command, **dict.fromkeys(SHARED_OFF, "true")) as process:
        wait_listening(process, f"{base}/healthz")
        yield Running(public, base, tmp_path / "gw.sock", errors)


@pytest.mark.requirement(
    "http.gateway.health.probe",
    "http.gateway.health.protocol-rule",
    *ENABLED,
    "config.gateway.server.health_checks.http.endpoint",
    "config.gateway.server.health_checks.sse.endpoint",
    "config.gateway.server.health_checks.cross_protocol_lb.endpoint",
)
@pytest.mark.parametrize("gateway", ["plain", "tls", "mutual"], indirect=True)
def test_every_frontend_answers_itself_again_and_again_and_nothing_is_counted_or_logged(gateway: Running) -> None:
    first = gateway.protocols(lambda parts: all(part["last_check"] for part in parts.values()))
    said = gateway.said()
    again = gateway.protocols(lambda parts: all(parts[name]["last_check"] > first[name]["last_check"] for name in FIVE))
    for part in again.values():
        assert (part["healthy"], part["state"], part["reason"]) == (True, "ok", None)
    for path, name in (("/well/http", "http"), ("/health/stream", "sse"), ("/health/ws", "websocket")):
        assert gateway.get(path)[1]["name"] == name
    assert gateway.get("/well/balance")[1].keys() == gateway.get("/health/load-balancer")[1].keys()
    assert gateway.said() == said, "a check leaves no line"
    assert "health port" in said
    numbers = gateway.get("/metrics", gateway.management)[1]
    assert "mcp_gateway_requests_total{" not in numbers, "and is no request"
    assert gateway.get("/api/v1/status")[1]["sessions"]["active"] == 0


@pytest.mark.requirement("http.gateway.health.protocol-rule", "http.gateway.health.stdio")
@pytest.mark.parametrize("gateway", ["plain"], indirect=True)
def test_a_frontend_that_nobody_can_reach_any_more_is_down_and_the_others_are_not(gateway: Running) -> None:
    os.unlink(gateway.socket)
    parts = gateway.protocols(lambda parts: parts["stdio"]["state"] == "down")
    assert parts["stdio"]["reason"] == "its frontend does not answer: the socket: no such file or directory"
    assert [part["healthy"] for part in parts.values()] == [False, True, True, True, True]
    assert gateway.get("/health/stdio")[0] == 503
    assert (gateway.get("/health")[0], gateway.get("/health")[1]["status"]) == (200, "degraded")
    status = gateway.get("/api/v1/status")[1]
    turn = next(event for event in status["events"] if event["event"] == "frontend_state")
    assert (turn["level"], turn["protocol"], turn["server"]) == ("error", "stdio", None)


@pytest.mark.requirement(*ENABLED)
@pytest.mark.parametrize("gateway", ["off"], indirect=True)
def test_nothing_is_looked_at_where_it_is_switched_off_and_the_port_for_balancers_is_shut(gateway: Running) -> None:
    parts = gateway.protocols(lambda parts: True)
    assert [(part["state"], part["last_check"]) for part in parts.values()] == [("ok", None)] * 5
    assert "health port" not in gateway.errors.read_text() and "gateway ready" in gateway.errors.read_text()


@asynccontextmanager
async def port(answer: bytes | None, path: Path | None = None) -> AsyncIterator[str]:
    """Where every client is told ``answer``; None: nothing, for as long as it waits. ``path``: a unix socket there instead."""
    silence = asyncio.Event()
    clients: list[asyncio.Task[Any]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        clients.append(asyncio.current_task())
        if answer is None:
            await silence.wait()
        else:
            writer.write(answer)
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    at = asyncio.start_server(serve, "127.0.0.1", 0) if path is None else asyncio.start_unix_server(serve, path)
    server = await at
    try:
        yield "" if path is not None else f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        silence.set()
        server.close()
        await asyncio.gather(*clients)


def checks(told: list[Event] | None = None, **given: Any) -> SelfChecks:
    addresses = given.pop("addresses")
    events: list[Event] = [] if told is None else told
    rows = given.pop("rows", HealthChecks())
    return SelfChecks(rows, addresses, events.append, host="localhost", interval=1.0, **given)


@pytest.mark.parametrize(
    ("protocol", "scheme", "answer", "fault"),
    [
        ("http", "http", b"HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n", None),
        ("http", "http", b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n", None),
        ("http", "http", b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "it answered HTTP 404, not 405"),
        ("http", "http", b"", "it closed the connection without an answer"),
        ("sse", "http", b"SSH-2.0-OpenSSH_9.2\r\n", "it does not answer like HTTP"),
        ("sse", "https", b"SSH-2.0-OpenSSH_9.2\r\n", "tls: the port does not speak TLS"),
        ("websocket", "ws", b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n", None),
        ("websocket", "ws", b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "it answered HTTP 404, not 426"),
        ("tcp_binary", "tcp", mcpb.AGREED, None),
        ("tcp_binary", "tcp", mcpb.refuse(mcpb.mismatch("a", "b")), "it answered with a frame of type 5"),
        ("tcp_binary", "tcp", b"", "it closed the connection without an answer"),
        (
            "tcp_binary",
            "tcp",
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
            "protocol mismatch: expected magic 4D 43 50 42, got 48 54 54 50",
        ),
    ],
)
async def test_only_the_answer_of_the_protocol_itself_counts(
    protocol: str, scheme: str, answer: bytes, fault: str | None
) -> None:
    async with port(answer) as place:
        one = checks(addresses={protocol: f"{scheme}://{place}"}, failures=1)
        assert await one.look(protocol) is (fault is None)
    assert one.results[protocol].fault == fault


@pytest.mark.requirement(
    "config.gateway.server.health_checks.http.timeout",
    "config.gateway.server.health_checks.stdio.timeout",
    "config.gateway.server.health_checks.sse.timeout",
    "config.gateway.server.health_checks.websocket.timeout",
    "config.gateway.server.health_checks.tcp_binary.timeout",
)
async def test_each_frontend_has_its_time(tmp_path: Path) -> None:
    rows = HealthChecks(**{name: type(getattr(HealthChecks(), name))(timeout=0.03) for name in FIVE})
    async with port(None) as place:
        schemes = {"http": "http", "sse": "http", "websocket": "ws", "tcp_binary": "tcp"}
        addresses = {name: f"{scheme}://{place}" for name, scheme in schemes.items()}
        one = checks(addresses=addresses, failures=1, rows=rows)
        assert [await one.look(name) for name in addresses] == [False] * 4
        assert {result.fault for result in one.results.values()} == {"no answer within 0.03 s"}
    path = tmp_path / "mute"
    async with port(None, path):
        one = checks(addresses={"stdio": f"unix://{path}"}, failures=1, rows=rows)
        assert await one.look("stdio") is False


async def test_so_many_failures_and_successes_in_a_row_turn_a_frontend_and_each_turn_is_told_once() -> None:
    told: list[Event] = []
    async with port(b"HTTP/1.1 405 No\r\n\r\n") as place:
        one = checks(told, addresses={"http": f"http://{place}"}, failures=3, recoveries=2)
        well = one._addresses["http"]
        states = []
        for is_well in (True, False, False, True, False, False, False, True, False, True, True):
            one._addresses["http"] = well if is_well else "http://127.0.0.1:1"
            await one.look("http")
            states.append(one.results["http"].fault is None)
    assert states == [True, True, True, True, True, True, False, False, False, False, True]
    assert [event.message for event in told] == [
        "the frontend does not answer: connection refused",
        "the frontend answers again",
    ]


async def test_a_check_is_left_out_where_it_is_switched_off_or_no_more_client_would_be_let_in() -> None:
    rows = HealthChecks(http=HttpCheck(enabled=False), sse=SseCheck(), stdio=StdioCheck(enabled=False))
    one = checks(
        addresses={"http": "http://127.0.0.1:1", "sse": "http://127.0.0.1:1/events"}, failures=1, rows=rows,
        is_full=lambda address: address == "127.0.0.1",
    )  # fmt: skip
    assert await one.look("sse") is True
    draining = asyncio.Event()
    draining.set()
    await one.follow(draining)
    assert set(one.results) == {"sse"}


async def test_when_nothing_is_asked_whoever_accepts_is_well() -> None:
    async with port(b"SSH-2.0-OpenSSH_9.2\r\n") as place:
        one = checks(addresses={"http": f"https://{place}"}, asks=False, failures=1)
        assert await one.look("http") is True
    one = checks(addresses={"http": "https://127.0.0.1:1"}, asks=False, failures=1)
    assert await one.look("http") is False
