"""What an idle TCP connection costs the gateway: ``python scripts/bench/idle_tcp.py [--connections 2000]``.

Starts a gateway in front of one server, opens the connections from addresses 127.0.1.x (limits are per address), and compares
its resident memory before and after: signed in, after a modern call on each, with a legacy session on each. Prints JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.support.mcpb_client import McpbClient  # noqa: E402
from tests.support.peers import free_port, running, wait_listening  # noqa: E402

TOKEN = "bench-token-0123456789abcdef0123456789"
PER_ADDRESS = 100
WAVE = 50  # connections at work at once


def resident(pid: int) -> int:
    """Resident bytes of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


async def enter(port: int, number: int) -> McpbClient:
    sock = socket.socket()
    sock.setblocking(False)
    sock.bind((f"127.0.1.{1 + number // PER_ADDRESS}", 0))
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    peer = McpbClient(*await asyncio.open_connection(sock=sock))
    await peer.negotiate(TOKEN)
    await peer.alive()
    return peer


async def all_of(work: list[Any]) -> list[Any]:
    done = []
    for at in range(0, len(work), WAVE):
        done += await asyncio.gather(*work[at : at + WAVE])
    return done


async def measure(port: int, pid: int, connections: int, kind: str) -> int:
    """Bytes of one connection of a kind."""

    async def one(number: int) -> McpbClient:
        peer = await enter(port, number)
        if kind == "after_modern_call":
            assert "result" in await peer.call_modern(1, "tools/list")
        elif kind == "with_legacy_session":
            await peer.open_legacy()
        return peer

    warm = await all_of([one(0) for _ in range(50)])  # what the first ones import and allocate is no one's cost
    before = resident(pid)
    peers = await all_of([one(number) for number in range(100, 100 + connections)])
    each = round((resident(pid) - before) / connections)
    for peer in [*warm, *peers]:
        peer.writer.close()
    return each


def main() -> None:
    parser = argparse.ArgumentParser(description="memory of idle TCP connections")
    parser.add_argument("--connections", type=int, default=2000)
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    report: dict[str, Any] = {"connections": options.connections}
    for kind in ("signed_in", "after_modern_call", "with_legacy_session"):
        port, metrics = free_port(), free_port()
        server = {"port": free_port(), "tcp_port": port, "tcp_health_port": 0, "tls": {"enabled": False}}
        config = {
            "server": {**server, "max_connections": 20000, "protocols": {"stdio": {"enabled": False}}},
            "metrics": {"endpoint": f"127.0.0.1:{metrics}"},
            "sessions": {"max_total": 30000, "max_per_principal": 30000},
            "logging": {"level": "error"},
            "auth": {"static_tokens": [{"name": "bench", "token": TOKEN, "scopes": ["mcp:read", "mcp:write"]}]},
            "servers": [
                {"name": "echo", "command": sys.executable, "args": [str(ROOT / "scripts" / "bench" / "echo_stdio.py")]}
            ],
        }
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "gateway.json"
            path.write_text(json.dumps(config))
            enabled = {"MCPBRIDGE_SERVER__PROTOCOLS__TCP_BINARY__ENABLED": "true"}
            with running([sys.executable, "-m", "mcpbridge", "gateway", "--config", str(path)], **enabled) as process:
                wait_listening(process, f"http://127.0.0.1:{metrics}/healthz")
                report[f"bytes_each_{kind}"] = asyncio.run(measure(port, process.pid, options.connections, kind))
    print(json.dumps(report))


if __name__ == "__main__":
    main()
