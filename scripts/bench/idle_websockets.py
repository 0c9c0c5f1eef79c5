"""What an idle WebSocket costs the gateway: ``python scripts/bench/idle_websockets.py [--connections 2000] [--compression]``.

Starts a gateway in front of one server, opens the connections from addresses 127.0.1.x (limits are per address), and compares
the resident memory before and after, also with a legacy session on each, and times a ping. Prints one JSON line. The client
keeps bare sockets, so that its own memory and time stay out of it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.support.frames import PING, PONG, TEXT, Frame, RawPeer  # noqa: E402
from tests.support.peers import free_port, running, wait_listening  # noqa: E402

TOKEN = "bench-token-0123456789abcdef0123456789"
PER_ADDRESS = 100
WAVE = 50  # connections opened at once


def resident(pid: int) -> int:
    """Resident bytes of a process."""
    fields = Path(f"/proc/{pid}/statm").read_text().split()
    return int(fields[1]) * resource.getpagesize()


async def enter(port: int, number: int, fields: list[str]) -> RawPeer:
    source = f"127.0.1.{1 + number // PER_ADDRESS}"
    sock = socket.socket()
    sock.setblocking(False)
    sock.bind((source, 0))
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    peer = RawPeer(*await asyncio.open_connection(sock=sock), is_client=True)
    await peer.upgrade("/ws/echo", [f"Authorization: Bearer {TOKEN}", *fields], f"127.0.0.1:{port}")
    return peer


async def all_of(work: list[Any]) -> list[Any]:
    done = []
    for at in range(0, len(work), WAVE):
        done += await asyncio.gather(*work[at : at + WAVE])
    return done


async def ping(peer: RawPeer) -> float:
    began = time.perf_counter()
    peer.send(Frame(PING, b"there?"))
    assert await peer.frame() == Frame(PONG, b"there?")
    return time.perf_counter() - began


async def initialize(peer: RawPeer) -> None:
    client = {"name": "bench", "version": "1"}
    params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": client}
    peer.send(Frame(TEXT, json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}).encode()))
    assert (await peer.frame()).opcode == TEXT  # perhaps compressed
    peer.send(Frame(TEXT, b'{"jsonrpc":"2.0","method":"notifications/initialized"}'))


async def measure(port: int, pid: int, connections: int, *, compression: bool) -> dict[str, Any]:
    fields = ["Sec-WebSocket-Protocol: mcp"]
    if compression:
        fields.append("Sec-WebSocket-Extensions: permessage-deflate")
    warm = await all_of([enter(port, 0, fields) for _ in range(20)])  # what the first ones import and allocate is no one's cost
    await all_of([ping(peer) for peer in warm])
    before = resident(pid)
    began = time.perf_counter()
    peers = await all_of([enter(port, number, fields) for number in range(100, 100 + connections)])
    opened = time.perf_counter() - began
    times = sorted(await all_of([ping(peer) for peer in peers]))
    idle = resident(pid)
    await all_of([initialize(peer) for peer in peers])
    in_session = resident(pid)
    for peer in [*warm, *peers]:
        peer.writer.close()
    return {
        "connections": connections,
        "bytes_each": round((idle - before) / connections),
        "bytes_each_with_session": round((in_session - before) / connections),
        "opened_per_second": round(connections / opened),
        "p50_ping_ms": round(times[len(times) // 2] * 1000, 2),
        "p99_ping_ms": round(times[len(times) * 99 // 100] * 1000, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="memory of idle WebSockets")
    parser.add_argument("--connections", type=int, default=2000)
    parser.add_argument("--compression", action="store_true")
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    port = free_port()
    protocols: dict[str, Any] = {"websocket": {"compression": options.compression}}
    protocols |= {"stdio": {"enabled": False}, "tcp_binary": {"enabled": False}}
    config = {
        "server": {"port": port, "tls": {"enabled": False}, "max_connections": 20000, "protocols": protocols},
        "metrics": {"endpoint": f"127.0.0.1:{free_port()}"},
        "sessions": {"max_total": 30000, "max_per_principal": 30000},
        "logging": {"level": "error"},
        "auth": {"static_tokens": [{"name": "bench", "token": TOKEN, "scopes": ["mcp:read", "mcp:write"]}]},
        "servers": [{"name": "echo", "command": sys.executable, "args": [str(ROOT / "scripts" / "bench" / "echo_stdio.py")]}],
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "gateway.json"
        path.write_text(json.dumps(config))
        with running([sys.executable, "-m", "mcpbridge", "gateway", "--config", str(path)]) as process:
            wait_listening(process, f"http://127.0.0.1:{port}/healthz")
            found = asyncio.run(measure(port, process.pid, options.connections, compression=options.compression))
            print(json.dumps(found))


if __name__ == "__main__":
    main()
