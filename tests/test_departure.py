"""A real gateway that gets SIGTERM: what each kind of client sees, and when nothing new is taken any more."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support import mcpb_client, raw
from tests.support.frames import close
from tests.support.peers import free_port, running, wait_listening
from tests.support.websocket_gateway import SERVER, Gateway, ask, open_session, say

CALL = raw.request(7, "tools/call", name="echo", arguments={}, _meta=raw.modern_meta())
CALLING = {"mcp_protocol_version": raw.MODERN, "mcp_method": "tools/call", "mcp_name": "echo"}


class Going(Gateway):
    """A gateway with every frontend open, and what it is asked."""

    def __init__(self, port: int, process: Any, folder: Path, tcp: int, stack: AsyncExitStack) -> None:
        super().__init__(port, process)
        self.base = f"http://127.0.0.1:{port}"
        self.socket = str(folder / "s")
        self.tcp = tcp
        self.stack = stack

    def http(self) -> raw.HttpClient:
        client = raw.HttpClient(f"{self.base}/mcp/one")
        self.stack.push_async_callback(client.close)
        return client

    def status(self, path: str) -> tuple[int, Any]:
        try:
            with urllib.request.urlopen(f"{self.base}{path}", timeout=5) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    async def is_closed(self) -> bool:
        """Whether it takes no more connections."""
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except ConnectionRefusedError:
            return True
        writer.close()
        return False

    async def stream(self, path: str, **headers: str) -> asyncio.StreamReader:
        """An event stream, behind its head."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.stack.callback(writer.close)
        fields = {"host": f"127.0.0.1:{self.port}", "accept": "text/event-stream", **headers}
        lines = [f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items()]
        writer.write(f"GET {path} HTTP/1.1\r\n{''.join(lines)}\r\n".encode())
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        return reader

    def wait(self) -> Awaitable[int]:
        return asyncio.to_thread(self.process.wait, 20)


@asynccontextmanager
async def serving(folder: Path, **server: Any) -> AsyncIterator[Going]:
    (folder / "echo.py").write_text(SERVER)
    port, tcp = free_port(), free_port()
    config = {
        "server": {
            "port": port,
            "tcp_port": tcp,
            "tcp_health_port": 0,
            "stdio_socket": str(folder / "s"),
            "tls": {"enabled": False},
            **server,
        },
        "metrics": {"endpoint": f"127.0.0.1:{free_port()}"},
        "auth": {"type": "none"},
        "servers": [{"name": "one", "command": sys.executable, "args": [str(folder / "echo.py")]}],
    }
    path = folder / "gateway.yaml"
    path.write_text(json.dumps(config))
    opened = {f"MCPBRIDGE_SERVER__PROTOCOLS__{name}__ENABLED": "true" for name in ("STDIO", "TCP_BINARY")}
    with running([sys.executable, "-m", "mcpbridge", "gateway", "--config", str(path)], **opened) as process:
        await asyncio.to_thread(wait_listening, process, f"http://127.0.0.1:{port}/healthz")
        async with asyncio.timeout(40), AsyncExitStack() as stack:
            yield Going(port, process, folder, tcp, stack)


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not (found := condition()) or (isinstance(found, Awaitable) and not await found):
            await asyncio.sleep(0.02)


@pytest.mark.requirement("config.gateway.server.drain_timeout")
async def test_who_watches_a_gateway_is_told_before_it_takes_nothing_new(tmp_path: Path) -> None:
    """Until then every call is answered, on connections old and new; each answer ends its connection."""
    async with serving(tmp_path, drain_delay="20s") as gateway:
        kept = gateway.http()
        assert "connection" not in (await kept.post(CALL, **CALLING)).headers
        await until(lambda: gateway.status("/readyz") == (200, {"ready": True, "reasons": []}))
        gateway.process.send_signal(signal.SIGTERM)
        await until(lambda: gateway.status("/readyz") == (503, {"ready": False, "reasons": ["draining"]}))
        for client in (kept, gateway.http()):
            answer = await client.post(CALL, **CALLING)
            assert (answer.status, answer.headers["connection"]) == (200, "close")
            assert "result" in answer.messages[0]
        assert (await asyncio.to_thread(gateway.status, "/healthz"))[0] == 200
        gateway.process.send_signal(signal.SIGTERM)  # the second one: at once
        assert await gateway.wait() == 143


async def test_after_the_delay_or_with_nobody_who_watches_it_ends_as_soon_as_all_is_answered(tmp_path: Path) -> None:
    async with serving(tmp_path, drain_delay="300ms") as gateway:
        await until(lambda: gateway.status("/readyz") == (200, {"ready": True, "reasons": []}))
        gateway.process.send_signal(signal.SIGTERM)
        assert await gateway.wait() == 0
    async with serving(tmp_path, drain_delay="10m", drain_timeout="10m") as gateway:
        gateway.process.send_signal(signal.SIGTERM)
        assert await gateway.wait() == 0


async def test_what_is_in_flight_is_answered_and_every_kind_of_client_is_let_go_in_its_own_way(tmp_path: Path) -> None:
    wait = {"wait": 1.0, "file": str(tmp_path / "cut")}
    async with serving(tmp_path) as gateway, gateway.client("/ws/one") as websocket, mcpb_client.client(gateway.tcp) as frames:
        session = gateway.http()
        await session.open_legacy()
        back = await gateway.stream("/mcp/one", mcp_session_id=session.session or "", mcp_protocol_version=raw.LEGACY)
        sse, status = await gateway.stream("/events"), await gateway.stream("/api/v1/status/stream?interval=60")
        lines, to_lines = await asyncio.open_unix_connection(gateway.socket)
        gateway.stack.callback(to_lines.close)
        await open_session(websocket)
        assert "result" in await frames.call_modern(1, "tools/list")
        slow = raw.request(9, "tools/call", name="one__echo", arguments=wait, _meta=raw.modern_meta())
        say(websocket, raw.request(8, "tools/call", name="echo", arguments=wait))
        frames.send({**slow, "params": {**slow["params"], "name": "echo"}})
        to_lines.write(json.dumps({**slow, "params": {**slow["params"], "name": "echo"}}).encode() + b"\n")
        busy = gateway.http()
        waiting = asyncio.create_task(
            busy.post(raw.request(7, "tools/call", name="echo", arguments=wait, _meta=raw.modern_meta()), **CALLING)
        )
        assert "result" in await ask(websocket, raw.request(3, "ping"))
        await frames.alive()
        kept = gateway.http()
        assert (await kept.post(CALL, **CALLING)).status == 200
        gateway.process.send_signal(signal.SIGTERM)
        await until(gateway.is_closed)
        late = await kept.post(CALL, **CALLING)  # it was under way, as far as anybody can tell
        assert (late.status, late.headers["connection"]) == (200, "close")
        answer = await waiting
        assert (answer.status, answer.headers["connection"], answer.messages[0]["id"]) == (200, "close", 7)
        assert json.loads(await websocket.message())["id"] == 8
        assert await websocket.frame() == close(1001)
        websocket.send(close(1001))
        assert (await frames.answer(9))["result"]
        await frames.end()
        assert json.loads(await lines.readline())["id"] == 9
        assert await lines.read() == b""
        for stream in (back, sse, status):
            assert (await stream.read()).endswith(b"0\r\n\r\n")
        assert await gateway.wait() == 0
        assert not Path(gateway.socket).exists()
    assert not (tmp_path / "cut").exists()


async def test_what_takes_longer_than_it_may_is_cut_off(tmp_path: Path) -> None:
    async with serving(tmp_path, drain_timeout="500ms") as gateway:
        client = gateway.http()
        arguments = {"wait": 60, "file": str(tmp_path / "cut")}
        call = raw.request(7, "tools/call", name="echo", arguments=arguments, _meta=raw.modern_meta())
        waiting = asyncio.create_task(client.post(call, **CALLING))
        await until(lambda: gateway.status("/api/v1/status")[1]["backends"][0]["in_flight"])
        gateway.process.send_signal(signal.SIGTERM)
        assert await gateway.wait() == 143
        with pytest.raises((EOFError, ConnectionError)):
            await waiting
