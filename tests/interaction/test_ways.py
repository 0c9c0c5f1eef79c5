"""The script over the other forms of stdio, unix sockets and named pipes, and through a router that uses a gateway."""

from __future__ import annotations

import asyncio
import os
import shlex
from pathlib import Path

import pytest

from tests.interaction.cells import ERAS, gateway_to, relayed
from tests.interaction.script import Era, play
from tests.interaction.wires import open_command, open_wire
from tests.support import peers

pytestmark = [pytest.mark.interaction, pytest.mark.timeout(120)]


@pytest.mark.parametrize("era", ERAS)
async def test_a_server_behind_a_unix_socket(era: Era) -> None:
    with relayed("unix", [*peers.OWN[era], "--stdio"]) as path, gateway_to(f"unix://{path}") as house:
        async with open_wire("stdio", house.address("stdio"), era) as wire:
            assert await play(wire, era) == []


async def test_a_server_behind_named_pipes_and_a_client_at_others(tmp_path: Path) -> None:
    """A modern server, for one conversation is all that a pair of pipes has room for."""
    for end in ("in", "out"):
        os.mkfifo(tmp_path / f"server.{end}")
    served = shlex.join([*peers.OWN["modern"], "--stdio"])
    loop = f"while :; do {served} < {tmp_path}/server.in > {tmp_path}/server.out; done"
    ours = {"MCPBRIDGE_SERVER__PROTOCOLS__STDIO__PIPE": f"{tmp_path}/gateway"}
    with peers.running(["sh", "-c", loop]), gateway_to(f"pipe://{tmp_path}/server", **ours) as house:
        assert house.addresses["stdio"].endswith(f"pipe://{tmp_path}/gateway")
        async with asyncio.timeout(peers.START_TIMEOUT):  # a process per conversation: the bridge's own first one costs time
            while '"backend ok"' not in peers.errors_of(house.process):
                await asyncio.sleep(0.05)
        for era in ERAS:
            async with open_command(f"cat > {tmp_path}/gateway.in", f"cat < {tmp_path}/gateway.out") as wire:
                assert await play(wire, era) == []


@pytest.mark.requirement("config.router.gateway.url")
@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("protocol", ["websocket", "http", "sse", "tcp_binary"])
async def test_a_router_reaches_its_gateway_by_any_transport(protocol: str, era: Era, tmp_path: Path) -> None:
    with gateway_to(shlex.join([*peers.OWN["legacy"], "--stdio"])) as house:
        url = house.addresses[protocol]
        url = url.replace("http://", "sse://") if protocol == "sse" else url
        (tmp_path / "router.yaml").write_text(f"gateway: {{url: '{url}'}}\nmetrics: {{enabled: false}}\n")
        command = shlex.join([*peers.BRIDGE, "router", "--config", str(tmp_path / "router.yaml"), "--log-level", "error"])
        async with open_command(command) as wire:
            assert await play(wire, era) == []
