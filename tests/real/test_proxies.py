"""Every way to a server through real proxies: squid for whole programs, both for the socket alone; and when they refuse."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mcpbridge.errors import BridgeError
from mcpbridge.proxies import proxy_for
from mcpbridge.transports.proxy import open_socket
from tests.support import peers
from tests.support.certificates import self_signed
from tests.support.peers import drive, texts
from tests.support.raw import initialize
from tests.support.real_proxies import HOST, SQUID, TINYPROXY, RealProxy, squid, tinyproxy

pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(120),
    pytest.mark.skipif(SQUID is None or TINYPROXY is None, reason="squid and tinyproxy are not installed"),
]
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Place:
    """A squid, and two gateways that only it can find, with TLS and without: the ports of each by scheme."""

    proxy: RealProxy
    strict: RealProxy  # lets no tunnel through
    ports: dict[str, int]
    authority: Path

    def environment(self, login: str | None = None, strict: bool = False) -> dict[str, str]:
        url = (self.strict if strict else self.proxy).url(login)
        return {"HTTPS_PROXY": url, "http_proxy": url, "SSL_CERT_FILE": str(self.authority)}


@contextlib.contextmanager
def _gateway(folder: Path, tls: bool) -> Iterator[dict[str, int]]:
    port, tcp = peers.free_port(), peers.free_port()
    settings: Json = {"enabled": tls, "cert_file": str(folder / "cert.pem"), "key_file": str(folder / "key.pem")}
    config = {
        "server": {"port": port, "tcp_port": tcp, "tcp_health_port": 0, "allowed_hosts": [HOST], "tls": settings},
        "metrics": {"enabled": False, "endpoint": f"127.0.0.1:{peers.free_port()}"},
        "auth": {"type": "none"},
        "servers": [{"name": "dual", "command": peers.DUAL_STDIO[0], "args": peers.DUAL_STDIO[1:]}],
    }
    path = folder / f"{tls}.yaml"
    path.write_text(json.dumps(config))
    with peers.running(
        [*peers.BRIDGE, "gateway", "--config", str(path)], MCPBRIDGE_SERVER__PROTOCOLS__TCP_BINARY__ENABLED="true"
    ) as process:
        until = time.monotonic() + peers.START_TIMEOUT
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            assert process.poll() is None and time.monotonic() < until, peers.errors_of(process)
            time.sleep(0.05)
        yield dict.fromkeys(("https", "wss", "sses") if tls else ("http", "ws", "sse"), port) | {"tcps" if tls else "tcp": tcp}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("place")
    authority = self_signed(folder, HOST)
    with _gateway(folder, True) as tls, _gateway(folder, False) as plain, squid([]) as strict:
        with squid([*tls.values(), *plain.values()]) as proxy:
            yield Place(proxy, strict, tls | plain, authority)


STEPS: Sequence[Json] = (
    {"do": "call", "name": "test_tool_with_progress", "progress": True},
    {"do": "call", "name": "test_elicitation", "arguments": {"message": "well?"}},
    {"do": "call", "name": "echo", "arguments": {"payload": "x" * 300_000}},
)


@pytest.mark.parametrize(
    ("scheme", "path"),
    [
        ("https", "/mcp/dual"),
        ("http", "/mcp/dual"),
        ("wss", "/ws/dual"),
        ("ws", "/ws/dual"),
        ("sses", "/events/dual"),
        ("sse", "/events/dual"),
        ("tcps", ""),
        ("tcp", ""),
    ],
)
def test_a_server_behind_a_proxy_with_a_login_is_reached_by_every_protocol(scheme: str, path: str, place: Place) -> None:
    port, is_strict = place.ports[scheme], scheme in ("http", "sse")
    proxy = place.strict if is_strict else place.proxy
    variables = [f"{name}={value}" for name, value in place.environment(strict=is_strict).items()]
    before = len(proxy.served())
    report = drive("python-1", ["env", *variables, *peers.router(f"{scheme}://{HOST}:{port}{path}")], list(STEPS))
    assert not [entry for entry in report["steps"] if "error" in entry], report
    assert [progress["progress"] for progress in report["steps"][0]["ok"]["progress"]] == [0, 50, 100]
    assert "forty-two" in texts(report["steps"][1]) and len(texts(report["steps"][2])) > 300_000
    served = proxy.served()[before:]
    if is_strict:
        assert f"http://{HOST}:{port}/" in served and "TUNNEL" not in served
    else:
        assert "TCP_TUNNEL/200" in served and f"CONNECT {HOST}:{port}" in served and " http://" not in served


@pytest.mark.parametrize("scheme", ["https", "http"])
def test_a_login_that_the_proxy_refuses_is_told_with_the_proxy_and_without_the_login(scheme: str, place: Place) -> None:
    url = f"{scheme}://{HOST}:{place.ports[scheme]}/mcp"
    with peers.gateway({"one": url}, **place.environment("me:wr0ng-one")) as bridge:
        body = json.dumps(initialize()).encode()
        headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
        with urllib.request.urlopen(urllib.request.Request(bridge.url("one"), body, headers), timeout=20) as answer:
            error = json.load(answer)["error"]
        with urllib.request.urlopen(f"{bridge.base}/api/v1/status", timeout=5) as answer:
            status = answer.read().decode()
        log = bridge.errors()
    assert (error["code"], error["data"]["reason"], error["data"]["retryable"]) == (1027, "proxy_failed", False)
    assert f"127.0.0.1:{place.proxy.port} answered HTTP 407" in error["message"]
    for text in (json.dumps(error), status, log):
        assert "wr0ng-one" not in text and "Basic " not in text


def test_a_server_that_the_environment_excepts_is_reached_without_the_proxy(place: Place) -> None:
    """The name is known to the proxy alone, so without it there is no such host."""
    excepted = {**place.environment(), "NO_PROXY": f"other.example,.{HOST}"}
    before = len(place.proxy.served())
    with peers.gateway({"one": f"https://{HOST}:{place.ports['https']}/mcp"}, **excepted) as bridge:
        body = json.dumps(initialize()).encode()
        headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
        with urllib.request.urlopen(urllib.request.Request(bridge.url("one"), body, headers), timeout=20) as answer:
            assert "host name not resolved" in json.load(answer)["error"]["message"]
    assert place.proxy.served()[before:] == ""


@pytest.mark.parametrize("make", [squid, tinyproxy])
async def test_a_tunnel_through_either_proxy_carries_bytes_and_its_refusals_are_coded(make: Any) -> None:
    async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.readexactly(5)).upper())
        writer.close()

    server = await asyncio.start_server(shout, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with make([port]) as proxy:

        async def reach(login: str | None, port: int) -> socket.socket:
            chosen = proxy_for(f"tcps://a.example:{port}", {"HTTPS_PROXY": proxy.url(login)})
            return await open_socket("127.0.0.1", port, proxy=chosen, timeout=10)

        loop = asyncio.get_running_loop()
        with await reach(None, port) as sock:
            await loop.sock_sendall(sock, b"hello")
            assert await asyncio.wait_for(loop.sock_recv(sock, 5), 5) == b"HELLO"
        for login, wanted, status in (("", port, 407), ("me:wrong", port, None), (None, 1, 403)):
            with pytest.raises(BridgeError) as refused:
                await reach(login, wanted)
            assert refused.value.reason == "proxy_failed" and f"127.0.0.1:{proxy.port} answered HTTP" in str(refused.value)
            assert status in (None, refused.value.data["status"]) and "wrong" not in str(refused.value)
    server.close()
