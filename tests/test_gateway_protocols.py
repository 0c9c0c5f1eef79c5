"""All five protocols at one gateway: each is there, counted, shown and let go."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import websockets

from tests.interaction.cells import House, gateway_to
from tests.interaction.script import Client, Era
from tests.interaction.wires import Frames, open_wire
from tests.support import peers

PROTOCOLS = ("stdio", "websocket", "http", "sse", "tcp_binary")


@contextmanager
def gateway(folder: Path, **more: str) -> Iterator[tuple[House, str]]:
    """A gateway with every frontend open, and the address of its management listener."""
    management = f"127.0.0.1:{peers.free_port()}"
    socket = {"MCPBRIDGE_SERVER__STDIO_SOCKET": f"{folder}/gw.sock", "MCPBRIDGE_METRICS__ENDPOINT": management}
    with gateway_to(f"{sys.executable} -m mcpbridge.demo.stdio", **socket, **more) as house:
        yield house, f"http://{management}"


def read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as answer:
        text: str = answer.read().decode()
        return text


def view(url: str) -> Any:
    return json.loads(read(url))


def value(metrics: str, name: str, **labels: str) -> float:
    """The sample with these labels among others."""
    wanted = [f'{label}="{text}"' for label, text in labels.items()]
    lines = [line for line in metrics.splitlines() if line.startswith(name + "{") and all(part in line for part in wanted)]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


async def arrive(stack: AsyncExitStack, house: House, protocol: str, era: Era = "legacy") -> Client:
    """A client that has said hello."""
    client = Client(await stack.enter_async_context(open_wire(protocol, house.address(protocol), era)), era)
    listening = asyncio.ensure_future(client.listen())
    stack.callback(listening.cancel)
    if era == "legacy":
        hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
        await client.end(client.begin("initialize", protocolVersion="2025-11-25", clientInfo=hello["clientInfo"]))
        await client.wire.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
    return client


@pytest.mark.requirement(
    "http.gateway.health.protocols",
    "http.gateway.health.stdio",
    "http.gateway.health.websocket",
    "http.gateway.health.sse",
    "http.gateway.health.tcp_binary",
    "http.gateway.health.ws",
    "config.gateway.server.port",
    "config.gateway.server.tcp_port",
    "config.gateway.server.stdio_socket",
    "config.gateway.server.protocols.stdio.socket_permissions",
)
async def test_every_protocol_is_there_counted_shown_and_let_go(tmp_path: Path) -> None:
    with gateway(tmp_path, MCPBRIDGE_SERVER__PROTOCOLS__STDIO__SOCKET_PERMISSIONS="0600") as (house, management):
        assert set(house.addresses) == set(PROTOCOLS)
        assert stat.S_IMODE(os.lstat(tmp_path / "gw.sock").st_mode) == 0o600
        async with AsyncExitStack() as stack:
            clients = {protocol: await arrive(stack, house, protocol) for protocol in PROTOCOLS}
            for protocol, client in clients.items():
                names = [tool["name"] for tool in (await client.ask("tools/list"))["tools"]]
                assert names, protocol
            await asyncio.sleep(1.1)  # a snapshot is at most a second old
            whole = await asyncio.to_thread(view, f"{management}/health/protocols")
            assert ([part["name"] for part in whole["protocols"]], whole["healthy"]) == (list(PROTOCOLS), True)
            for protocol in PROTOCOLS:
                part = await asyncio.to_thread(view, f"{management}/health/{protocol}")
                assert (part["enabled"], part["healthy"], part["state"]) == (True, True, "ok")
                assert part["frontend"]["listening"] and part["frontend"]["connections"] >= 1, part
                assert part["frontend"]["address"] == house.addresses[protocol]
                assert part["requests_per_sec"] is not None
            assert (await asyncio.to_thread(view, f"{management}/health/ws"))["name"] == "websocket"
            text = await asyncio.to_thread(read, f"{management}/metrics")
            for protocol in PROTOCOLS:
                assert value(text, "mcp_gateway_requests_total", protocol=protocol, status="200") >= 2, protocol
                connected = [
                    value(text, "mcp_gateway_connections_total", protocol=protocol, state=s) for s in ("idle", "active")
                ]
                assert sum(connected) >= 1, protocol
            house.process.terminate()
            assert await asyncio.to_thread(house.process.wait, 15) == 0
    assert not (tmp_path / "gw.sock").exists()


async def test_what_is_switched_off_is_disabled_and_what_cannot_listen_is_down(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        with suppress(OSError):  # somebody else has it: as good
            taken = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", 8444)
            await stack.enter_async_context(taken)
        with gateway(tmp_path, MCPBRIDGE_SERVER__TCP_PORT="", MCPBRIDGE_SERVER__PROTOCOLS__SSE__ENABLED="false") as (house, at):
            assert set(house.addresses) == {"stdio", "websocket", "http"}
            parts = {part["name"]: part for part in (await asyncio.to_thread(view, f"{at}/api/v1/status"))["protocols"]}
            assert (parts["sse"]["state"], parts["sse"]["enabled"]) == ("disabled", False)
            assert (parts["tcp_binary"]["state"], parts["tcp_binary"]["reason"]) == ("down", "its listener is not open")


TOKEN = "a-token-of-the-tests-0123456789abcdef"


async def test_nobody_comes_in_by_any_protocol_without_signing_in(tmp_path: Path) -> None:
    signed = {"MCPBRIDGE_AUTH__TYPE": "bearer", "MCP_AUTH_TOKEN": TOKEN}
    ping = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {}}
    with gateway(tmp_path, **signed) as (house, _management):
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as http:
            for token in ("", "Bearer wrong"):
                headers = {"authorization": token} if token else {}
                accept = {"accept": "application/json, text/event-stream"}
                async with http.post(house.address("http"), json=ping, headers={**accept, **headers}) as answer:
                    assert answer.status == 401
                async with http.get(house.address("sse"), headers={"accept": "text/event-stream", **headers}) as answer:
                    assert answer.status == 401
                with pytest.raises(websockets.InvalidStatus) as refused:
                    await websockets.connect(house.address("websocket"), additional_headers=headers)
                assert refused.value.response.status_code == 401
        host, _, port = house.address("tcp_binary").rpartition(":")
        for first_frame, code in ((None, 1007), ({"authorization": "Bearer wrong"}, 1015)):  # a message before any sign-in
            frames = Frames(*await asyncio.open_connection(host, int(port)))
            await frames.greet()
            if first_frame is not None:
                frames.write(3, json.dumps(first_frame).encode())
            await frames.send(ping)
            kind, said = await asyncio.wait_for(frames.frame(), 10)
            frames.writer.close()
            with suppress(ConnectionError):
                await frames.writer.wait_closed()
            assert (kind, json.loads(said)["code"]) == (5, code)
        for first, answers in (({"authorization": "Bearer wrong"}, False), ({"authorization": f"Bearer {TOKEN}"}, True)):
            reader, writer = await asyncio.open_unix_connection(house.address("stdio"))
            writer.write(b"".join(json.dumps(line).encode() + b"\n" for line in (first, ping)))
            told = json.loads(await asyncio.wait_for(reader.readline(), 10))
            assert ("result" in told) is answers
            if not answers:
                assert told["error"]["code"] == 1015
                assert await asyncio.wait_for(reader.readline(), 10) == b""
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()


@pytest.mark.requirement("cli.mcp-client")
def test_the_small_client_signs_in_by_every_protocol_and_says_77_when_it_is_refused(tmp_path: Path) -> None:
    """Addresses that name no protocol are found out behind the sign-in too."""
    command = [sys.executable, "-m", "mcpbridge", "tools", "--token-env", "TOKEN"]
    with gateway(tmp_path, MCPBRIDGE_AUTH__TYPE="bearer", MCP_AUTH_TOKEN=TOKEN) as (house, _):
        for protocol in PROTOCOLS:
            schemes = {"tcp_binary": "tcp://", "stdio": "unix://"}
            address = schemes.get(protocol, "") + house.address(protocol)
            for token, status in ((TOKEN, 0), ("wrong-" + TOKEN, 77)):
                ended = subprocess.run(
                    [*command, address],
                    env=os.environ | {"TOKEN": token},
                    capture_output=True,
                    timeout=20,
                    check=False,
                )
                assert ended.returncode == status, (protocol, ended.stderr)
                assert bool(ended.stdout) == (status == 0)
                assert (b"refused our credentials" in ended.stderr) == (status == 77), (protocol, ended.stderr)
                assert token.encode() not in ended.stdout + ended.stderr
