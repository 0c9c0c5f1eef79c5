"""The 81 cells: which client transports meet which server transports in which eras, and the processes that a cell needs.

    legacy × legacy 5×5     legacy × modern 5×4     modern × legacy 4×5     modern × modern 4×4

HTTP+SSE is a transport of 2024-11-05 and has no modern form. One gateway stands for each kind of server, so that every client
sees that server as it is; all its frontends are open.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.interaction.script import Era, play
from tests.interaction.wires import open_wire
from tests.support import peers

PROTOCOLS = ("stdio", "websocket", "http", "sse", "tcp_binary")
ERAS: tuple[Era, ...] = ("legacy", "modern")
RELAY = str(Path(__file__).with_name("relay.py"))


@dataclass(frozen=True, slots=True)
class End:
    """One side of a cell."""

    era: Era
    protocol: str

    def __str__(self) -> str:
        return f"{self.era}-{self.protocol}"


ENDS = tuple(End(era, protocol) for era in ERAS for protocol in PROTOCOLS if (era, protocol) != ("modern", "sse"))
CELLS = tuple((client, server) for client in ENDS for server in ENDS)


@contextlib.contextmanager
def server_of(end: End) -> Iterator[str]:
    """What ``--server`` takes for a server of this kind."""
    command = peers.OWN[end.era]
    match end.protocol:
        case "stdio":
            yield " ".join([*command, "--stdio"])
        case "http":
            with peers.own_http(end.era) as url:
                yield url
        case _:
            with relayed(end.protocol, [*command, "--stdio"]) as port:
                yield {"websocket": f"ws://127.0.0.1:{port}/", "sse": f"sse://127.0.0.1:{port}/sse"}.get(
                    end.protocol, f"tcp://127.0.0.1:{port}"
                )


@contextlib.contextmanager
def relayed(over: str, command: list[str]) -> Iterator[int | str]:
    """The port, or the path, where a stdio server is reached by another transport."""
    with peers.running([sys.executable, RELAY, "--over", over, "--", *command]) as process:
        assert process.stdout
        line = process.stdout.readline()
        assert line, peers.errors_of(process)
        (place,) = json.loads(line).values()
        yield place


@dataclass(frozen=True, slots=True)
class House:
    """A gateway in front of one server: where its frontends are."""

    addresses: dict[str, str]
    process: subprocess.Popen[str]

    async def cell(self, client: End) -> list[str]:
        """Play the script as this client; what failed."""
        async with open_wire(client.protocol, self.address(client.protocol), client.era) as wire:
            return await play(wire, client.era)

    def address(self, protocol: str) -> str:
        """Where ``open_wire`` finds a frontend."""
        address = self.addresses[protocol].removeprefix("unix://").removeprefix("tcp://")
        return f"{address}/mcp" if protocol == "http" else address


@contextlib.contextmanager
def house(server: End) -> Iterator[House]:
    """A running gateway with every frontend open, in front of one server. Raises PeerFailed."""
    with server_of(server) as target, gateway_to(target) as found:
        yield found


@contextlib.contextmanager
def gateway_to(target: str, **more: str) -> Iterator[House]:
    """A running gateway with every frontend open, in front of the server ``target`` (as ``--server`` takes it)."""
    with tempfile.TemporaryDirectory(prefix="house-") as folder:
        variables = {
            "MCPBRIDGE_SERVER__PORT": "0",
            "MCPBRIDGE_SERVER__TCP_PORT": "0",
            "MCPBRIDGE_SERVER__TCP_HEALTH_PORT": "0",
            "MCPBRIDGE_SERVER__STDIO_SOCKET": f"{folder}/gw.sock",
            "MCPBRIDGE_SERVER__PROTOCOLS__STDIO__ENABLED": "true",
            "MCPBRIDGE_SERVER__PROTOCOLS__TCP_BINARY__ENABLED": "true",
            "MCPBRIDGE_SERVER__SECURITY__MAX_REQUEST_SIZE": "2MiB",
            "MCPBRIDGE_METRICS__ENDPOINT": f"127.0.0.1:{peers.free_port()}",
            **more,
        }
        with peers.running([*peers.BRIDGE, "gateway", "--server", f"s={target}"], **variables) as process:
            yield House(listeners(process), process)


def listeners(process: subprocess.Popen[str]) -> dict[str, str]:
    """The addresses of the line ``gateway ready``."""
    ends = time.monotonic() + peers.START_TIMEOUT
    while time.monotonic() < ends:
        for line in peers.errors_of(process).splitlines():
            if '"gateway ready"' in line:
                found: dict[str, str] = json.loads(line)["listeners"]
                return found
        time.sleep(0.05)
    raise peers.PeerFailed(f"the gateway is not ready: {peers.errors_of(process)}")


def run_cells(server: End, clients: tuple[End, ...] = ENDS, at_once: int = 1) -> dict[End, list[str]]:
    """The cells of one kind of server, ``at_once`` of them at a time: what failed in each. A server that starts a process per
    conversation needs most of a machine by itself."""

    async def run(gateway: House) -> dict[End, list[str]]:
        room = asyncio.Semaphore(at_once)

        async def one(client: End) -> list[str]:
            async with room:
                if client.protocol not in gateway.addresses:
                    return ["open: this frontend does not listen"]
                try:
                    return await gateway.cell(client)
                except (OSError, TimeoutError) as error:
                    return [f"open: {error!r}"]

        return dict(zip(clients, await asyncio.gather(*map(one, clients)), strict=True))

    with house(server) as gateway:
        return asyncio.run(run(gateway))
