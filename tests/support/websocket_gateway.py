"""A real gateway with two small servers behind it, and clients over WebSocket that send exactly what a test says."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.support.frames import TEXT, Frame, RawPeer, upgrade_request
from tests.support.peers import free_port, running, wait_listening
from tests.support.raw import INITIALIZED, initialize

ALICE, BOB = (name * 7 + "0123456789abcdef" for name in ("alice-", "bobby-"))
LIMIT = 65536
SERVER = """
import json, sys, threading, time
def say(message):
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\\n")
    sys.stdout.flush()
waiting = {}
def call(message):
    arguments = message["params"].get("arguments", {})
    if "wait" in arguments:
        gone = waiting[message["id"]] = threading.Event()
        gone.wait(arguments["wait"])
        if gone.is_set():
            with open(arguments["file"], "w") as file:
                file.write("cancelled")
            return
    say({"id": message["id"], "result": {"content": [{"type": "text", "text": "*" * arguments.get("size", 1)}]}})
for line in sys.stdin:
    message = json.loads(line)
    method = message.get("method")
    if method == "notifications/cancelled":
        waiting[message["params"]["requestId"]].set()
    if "id" not in message or method is None:
        continue
    if method == "initialize":
        info = {"name": "echo", "version": "1"}
        version = message["params"]["protocolVersion"]
        say({"id": message["id"], "result": {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": info}})
    elif method == "tools/call":
        threading.Thread(target=call, args=(message,), daemon=True).start()
    elif method == "tools/list":
        say({"id": message["id"], "result": {"tools": [{"name": "echo", "inputSchema": {"type": "object"}}]}})
    elif method == "server/discover":
        say({"id": message["id"], "error": {"code": -32601, "message": "Method not found"}})
    else:
        say({"id": message["id"], "result": {}})
"""


class Gateway:
    def __init__(self, port: int, process: subprocess.Popen[str]) -> None:
        self.port = port
        self.process = process

    @asynccontextmanager
    async def peer(self) -> AsyncIterator[RawPeer]:
        async with asyncio.timeout(20):
            peer = RawPeer(*await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 25), is_client=True)
            try:
                yield peer
            finally:
                await peer.leave()

    @asynccontextmanager
    async def client(self, path: str = "/ws", token: str = ALICE, *fields: str) -> AsyncIterator[RawPeer]:
        async with self.peer() as peer:
            await peer.upgrade(path, [f"Authorization: Bearer {token}", *fields], f"127.0.0.1:{self.port}")
            yield peer

    async def refused(self, path: str, *fields: str, host: str = "", version: str = "13") -> tuple[int, dict[str, str]]:
        async with self.peer() as peer:
            peer.write(upgrade_request(path, host or f"127.0.0.1:{self.port}", fields, version=version))
            return await peer.head()


def started(
    folder: Path, *, auth: dict[str, Any] | None = None, servers: list[Any] | None = None, port: int = 0, **server: Any
) -> Iterator[Gateway]:
    """A gateway in front of the servers ``one`` and ``two``, or of these; ``auth`` and ``server`` are added to its file."""
    (folder / "echo.py").write_text(SERVER)
    port = port or free_port()
    own = {"command": sys.executable, "args": [str(folder / "echo.py")]}
    config = {
        "server": {
            "port": port,
            "tls": {"enabled": False},
            "security": {"max_message_size": LIMIT},
            "protocols": {"stdio": {"enabled": False}, "tcp_binary": {"enabled": False}},
            **server,
        },
        "metrics": {"endpoint": f"127.0.0.1:{free_port()}"},
        "auth": {
            "static_tokens": [
                {"name": "alice", "token": ALICE, "scopes": ["mcp:read", "mcp:write"]},
                {"name": "bob", "token": BOB, "scopes": ["mcp:read", "mcp:write"]},
            ],
            **(auth or {}),
        },
        "servers": servers or [{"name": "one", **own}, {"name": "two", **own}],
    }
    path = folder / "gateway.yaml"
    path.write_text(json.dumps(config))
    with running([sys.executable, "-m", "mcpbridge", "gateway", "--config", str(path)]) as process:
        wait_listening(process, f"http://127.0.0.1:{port}/healthz")
        yield Gateway(port, process)


def say(peer: RawPeer, message: Any) -> None:
    peer.send(Frame(TEXT, json.dumps(message).encode()))


async def ask(peer: RawPeer, message: Any) -> Any:
    """The answer to a request; notifications before it are skipped."""
    say(peer, message)
    while (answer := json.loads(await peer.message())).get("id") != message["id"]:
        assert "method" in answer and "id" not in answer, answer
    return answer


async def open_session(peer: RawPeer) -> None:
    assert "result" in await ask(peer, initialize())
    say(peer, INITIALIZED)
