"""A gateway that has too much to do, or too little to do it with: who is refused, with which words, and that it stays up."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.frames import RawPeer
from tests.support.peers import free_port, running, wait_listening
from tests.support.raw import initialize
from tests.support.websocket_gateway import ask as ask_frame

DEMO = {"name": "s", "command": sys.executable, "args": ["-m", "mcpbridge.demo.stdio"]}
WAIT = 15.0


def ask(url: str, body: Any = None) -> tuple[int, Any, Any]:
    """Status, headers and JSON body of one answer on a connection of its own."""
    data = None if body is None else json.dumps(body).encode()
    sent = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, sent), timeout=5) as answer:
            return answer.status, answer.headers, json.loads(answer.read() or b"null")
    except urllib.error.HTTPError as error:
        return error.code, error.headers, json.load(error)


class Gateway:
    def __init__(self, pid: int, base: str, management: str, folder: Path) -> None:
        self.pid = pid
        self.base = base
        self.management = management
        self.folder = folder

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", int(self.base.rpartition(":")[2])

    def files(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def seconds_worked(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def ping(self) -> bool:
        """Whether a new client gets in."""
        try:
            return ask(f"{self.base}/healthz")[0] == 200
        except OSError:  # cut off, or turned away while it still wrote
            return False


@contextmanager
def gateway(folder: Path, shell: str = "", **sections: Any) -> Iterator[Gateway]:
    """A gateway with one stdio server; ``shell`` is said before it starts."""
    port, management = free_port(), free_port()
    config = {
        "auth": {"type": "none"},
        "metrics": {"endpoint": f"127.0.0.1:{management}"},
        "servers": [DEMO],
        **sections,
        "server": {
            "port": port, "tcp_port": free_port(), "tcp_health_port": 0, "max_connections_per_ip": 5000,
            "stdio_socket": str(folder / "s"), "tls": {"enabled": False}, **sections.get("server", {}),
        },
    }  # fmt: skip
    path = folder / "gateway.yaml"
    path.write_text(json.dumps(config))
    command = [sys.executable, "-m", "mcpbridge", "gateway", "--config", str(path)]
    if shell:
        command = ["/bin/sh", "-c", f'{shell}; exec "$@"', "sh", *command]
    with running(
        command, **{f"MCPBRIDGE_SERVER__PROTOCOLS__{name}__ENABLED": "true" for name in ("STDIO", "TCP_BINARY")}
    ) as process:
        wait_listening(process, f"http://127.0.0.1:{port}/healthz")
        yield Gateway(process.pid, f"http://127.0.0.1:{port}", f"http://127.0.0.1:{management}", folder)


def until(what: str, happened: Any) -> float:
    """Seconds until it has happened."""
    began = time.monotonic()
    while not happened():
        assert time.monotonic() - began < WAIT, what
        time.sleep(0.02)
    return time.monotonic() - began


@pytest.mark.requirement("config.gateway.overload")
async def test_beyond_its_memory_a_gateway_refuses_new_work_on_every_protocol_and_goes_on_telling_how_it_is(
    tmp_path: Path,
) -> None:
    with gateway(tmp_path, overload={"memory_limit": "1MiB"}) as one:
        meta = {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": meta}}
        until("the first look", lambda: ask(f"{one.base}/api/v1/execute", body)[0] == 503)
        status, headers, answer = ask(f"{one.base}/api/v1/execute", body)
        assert (status, headers["retry-after"], headers["connection"]) == (503, "2", "close")
        assert (answer["error"]["code"], answer["error"]["data"]["reason"]) == (1009, "server_busy")
        assert answer["error"]["data"]["retry_after"] == 2
        assert "this gateway is overloaded: " in answer["error"]["message"]
        assert "MiB of memory are used, 1 MiB are allowed" in answer["error"]["message"]
        assert ask(f"{one.base}/mcp", initialize())[2]["error"]["code"] == 1009
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "s"))
        writer.write(json.dumps(initialize()).encode() + b"\n")
        assert json.loads(await asyncio.wait_for(reader.readline(), WAIT))["error"]["code"] == 1009
        writer.close()
        assert [ask(f"{where}/healthz")[0] for where in (one.base, one.management)] == [200, 200]
        events = ask(f"{one.management}/api/v1/status")[2]["events"]
        assert any(event["event"] == "overload" and event["message"].startswith("overload level 2: ") for event in events)


async def test_who_is_here_when_the_loop_stays_late_is_refused_in_its_own_protocol_and_later_nobody_new_gets_in(
    tmp_path: Path,
) -> None:
    with gateway(tmp_path, overload={"loop_lag": "0.01ms"}) as one:  # always
        peer = RawPeer(*await asyncio.open_connection(*one.address, limit=1 << 25), is_client=True)
        try:
            async with asyncio.timeout(4 * WAIT):
                await outlive(one, peer)
        finally:
            await peer.leave()


async def outlive(one: Gateway, peer: RawPeer) -> None:
    """All levels, one after the other, as a WebSocket client and one that comes new see them."""
    await peer.upgrade("/ws", [], f"127.0.0.1:{one.address[1]}")
    assert "result" in await ask_frame(peer, initialize())
    while "result" in (answer := await ask_frame(peer, {"jsonrpc": "2.0", "id": 2, "method": "tools/list"})):
        await asyncio.sleep(0.1)
    assert (answer["error"]["code"], answer["error"]["data"]["retry_after"]) == (1009, 2)
    assert "the event loop is" in answer["error"]["message"]
    assert "result" in await ask_frame(peer, {"jsonrpc": "2.0", "id": 3, "method": "ping"})
    while (await asyncio.to_thread(ask, f"{one.base}/healthz"))[0] != 503:
        await asyncio.sleep(0.1)
    status, headers, answer = await asyncio.to_thread(ask, f"{one.base}/healthz")
    assert (status, headers["retry-after"], answer["error"]["code"]) == (503, "1", "MCPB-HTTP-503")
    assert "result" in await ask_frame(peer, {"jsonrpc": "2.0", "id": 4, "method": "ping"})
    assert (await asyncio.to_thread(ask, f"{one.management}/healthz"))[0] == 200
