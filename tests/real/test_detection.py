"""Detection of published servers, of those of both SDKs, and of our own gateway on every face."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import uvloop

from mcpbridge.core.detect import Target, Verdict
from mcpbridge.detect.race import examine
from tests.support import peers, setup

pytestmark = pytest.mark.real


def verdicts(addresses: list[str]) -> list[Verdict]:
    """One after the other, as a bridge would."""

    async def look() -> list[Verdict]:
        async with asyncio.TaskGroup() as group:
            return [await examine(Target.of(address), group.create_task) for address in addresses]

    return uvloop.run(look())


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, str]]:
    """Name -> URL of every real server."""
    with ExitStack() as stack:
        found = {kind: stack.enter_context(peers.own_http(kind)) for kind in peers.OWN}
        for mode, path in (("streamableHttp", "mcp"), ("sse", "sse")):
            port = peers.free_port()
            process = stack.enter_context(peers.running([setup.node(), peers.js("server-everything"), mode], PORT=str(port)))
            url = f"http://localhost:{port}/{path}"
            peers.wait_listening(process, url)
            found[f"everything-{mode}"] = url
        yield found


@pytest.mark.parametrize(
    ("name", "protocol", "eras"),
    [
        ("dual", "http", {"dual", "modern"}),
        ("legacy", "http", {"legacy"}),
        ("modern", "http", {"modern"}),
        ("legacy-sse", "sse", {"legacy"}),
        ("legacy-websocket", "websocket", {"legacy"}),
        ("everything-streamableHttp", "http", {"legacy"}),
        ("everything-sse", "sse", {"legacy"}),
    ],
)
@pytest.mark.requirement("promise.detection")
def test_a_real_server_is_found_out_at_its_url_and_at_its_port(servers, name, protocol, eras):
    url = servers[name]
    place = re.sub(r"^http://|/.*$", "", url.replace("http://", "", 1))
    found = verdicts([url, url, place])
    assert [(one.result, one.protocol) for one in found] == [("success", protocol)] * 3, found
    assert {one.era for one in found} <= eras
    assert all(one.duration_ms <= 1050 for one in found)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Our own gateway on its HTTP port and its TCP port: protocol -> address."""
    folder: Path = tmp_path_factory.mktemp("gateway")
    port, tcp, management, health = (peers.free_port() for _ in range(4))
    config = folder / "gateway.yaml"
    config.write_text(
        json.dumps(
            {
                "server": {
                    "host": "127.0.0.1", "port": port, "tls": {"enabled": False},
                    "tcp_port": tcp, "tcp_health_port": health, "protocols": {"stdio": {"enabled": False}},
                },
                "auth": {"type": "none"},
                "sessions": {"store": "memory"},
                "metrics": {"endpoint": f"127.0.0.1:{management}"},
                "discovery": {"providers": {"static": {"servers": [
                    {"name": "demo", "command": sys.executable, "args": ["-m", "mcpbridge.demo.stdio"]},
                ]}}},
            }
        )
    )  # fmt: skip
    tcp_on = {"MCPBRIDGE_SERVER__PROTOCOLS__TCP_BINARY__ENABLED": "true"}
    with peers.running([sys.executable, "-m", "mcpbridge", "gateway", "--config", str(config)], **tcp_on) as process:
        peers.wait_listening(process, f"http://127.0.0.1:{port}/mcp")
        deadline = time.monotonic() + 10
        while "gateway ready" not in peers.errors_of(process):
            assert time.monotonic() < deadline, peers.errors_of(process)
        yield {"http": f"127.0.0.1:{port}", "tcp_binary": f"127.0.0.1:{tcp}"}


def test_every_face_of_our_own_gateway_is_found_out(gateway):
    http, tcp = gateway["http"], gateway["tcp_binary"]
    addresses = [f"http://{http}/mcp", f"http://{http}", http, f"ws://{http}/ws", f"http://{http}/events", f"tcp://{tcp}", tcp]
    found = verdicts(addresses)
    assert [one.protocol for one in found] == ["http", "http", "http", "websocket", "sse", "tcp_binary", "tcp_binary"], found
    assert {one.era for one in found} <= {"modern", "dual", "legacy"}
