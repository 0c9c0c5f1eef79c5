"""Three gateways behind a real HAProxy are restarted one after the other under load, and no call fails.

HAProxy has the configuration that ``deploy/haproxy`` gives to people, but for its addresses.

Source: issue 5, "Acceptance"; reliability section 3, row 19.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.chaos.history import RETRY_SAFE
from tests.chaos.world import SLACK, World, backends, document, gateway
from tests.support import peers
from tests.support.counts import count
from tests.support.http_oracles import HAPROXY
from tests.support.results import Results
from tests.support.setup import ROOT

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.timeout(300),
    pytest.mark.skipif(HAPROXY is None, reason="HAProxy is not installed (scripts/system.sh)"),
]
DEADLINE = 10.0  # seconds of a call
PERIOD = 0.1  # seconds between two calls of one caller
START = 30.0  # seconds until a gateway is ready


class Gateways:
    """Gateways of one configuration, each at a port of its own, behind HAProxy at ``base``."""

    def __init__(self, folder: Path, file: Path) -> None:
        self.folder, self.file = folder, file
        self.ports = [peers.free_port() for _ in range(3)]
        self.processes: list[subprocess.Popen[str]] = []
        self.tasks: list[Path] = []
        self.base = f"http://127.0.0.1:{(port := peers.free_port())}"
        self._lives = [contextlib.ExitStack() for _ in self.ports]
        self._front = port

    def start(self, number: int) -> None:
        """Start one; returns when it is ready."""
        process, tasks = self._lives[number].enter_context(gateway(self.file, port=self.ports[number]))
        self.processes[number : number + 1] = [process]
        self.tasks[number : number + 1] = [tasks]
        until = time.monotonic() + START
        while not self._is_ready(number):
            assert process.poll() is None and time.monotonic() < until, peers.errors_of(process)
            time.sleep(0.05)

    def _is_ready(self, number: int) -> bool:
        with contextlib.suppress(OSError):  # also one that is answered with another status
            with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[number]}/readyz", timeout=5) as answer:
                return bool(answer.status == 200)
        return False

    def stop(self, number: int) -> int:
        """End one by SIGTERM; its exit status."""
        process = self.processes[number]
        process.send_signal(signal.SIGTERM)
        status = process.wait(60)
        self._lives[number].close()
        return status

    def haproxy(self) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
        text = (ROOT / "deploy/haproxy/haproxy.cfg").read_text()
        own = {"bind :8443": f"bind 127.0.0.1:{self._front}", "hdr Host mcp.example.com": "hdr Host localhost"}
        own |= {f"10.0.0.1{at + 1}:8443": f"127.0.0.1:{port}" for at, port in enumerate(self.ports)}
        own["maxconn 20000"] = f"maxconn 2000\n    stats socket {self.folder}/haproxy.sock"
        for theirs, ours in own.items():
            assert theirs in text
            text = text.replace(theirs, ours)
        path = self.folder / "haproxy.cfg"
        path.write_text(text)
        return peers.running([str(HAPROXY), "-db", "-f", str(path)])

    def states(self) -> list[str]:
        """What HAProxy thinks of each of them."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(5)
            sock.connect(f"{self.folder}/haproxy.sock")
            sock.sendall(b"show stat\n")
            told = b"".join(iter(lambda: sock.recv(65536), b"")).decode()
        rows = [line.split(",") for line in told.splitlines() if line]
        at = rows[0].index("status")
        return [row[at] for row in rows if row[1].startswith("gateway-")]

    async def are_up(self) -> None:
        """Wait until HAProxy sends calls to all of them."""
        async with asyncio.timeout(START):
            while self.states() != ["UP"] * len(self.ports):
                await asyncio.sleep(0.1)

    def close(self) -> None:
        for life in self._lives:
            life.close()


@contextlib.asynccontextmanager
async def fleet() -> AsyncIterator[tuple[Gateways, World]]:
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chaos-")))
        replicas, entries = await backends(stack, folder, {"s": ("http/modern", "http/modern")})
        file = folder / "gateway.yaml"
        file.write_text(json.dumps(document(entries, routing={"request_timeout": f"{DEADLINE:g}s"})))
        gateways = Gateways(folder, file)
        stack.callback(gateways.close)
        for number in range(len(gateways.ports)):
            await asyncio.to_thread(gateways.start, number)
        process = stack.enter_context(gateways.haproxy())
        async with asyncio.timeout(START):
            while not (folder / "haproxy.sock").exists():
                assert process.poll() is None, peers.errors_of(process)
                await asyncio.sleep(0.05)
        await gateways.are_up()
        yield gateways, World(replicas, gateways.base, gateways.processes[0], gateways.tasks[0])


@contextlib.asynccontextmanager
async def load(place: World, rate: int) -> AsyncIterator[None]:
    """So many calls a second of modern clients, each with a connection of its own; half of them may not run twice."""
    is_over = False

    async def caller(number: int) -> None:
        client = place.client("s", "modern", f"c{number}")
        due = time.monotonic() + number * PERIOD / callers
        try:
            while not is_over:
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                await client.call(RETRY_SAFE if number % 2 else "tools/call", timeout=DEADLINE + SLACK)
                due += PERIOD
        finally:
            await client.close()

    callers = max(1, round(rate * PERIOD))
    async with asyncio.TaskGroup() as group:
        for number in range(callers):
            group.create_task(caller(number))
        try:
            yield
        finally:
            is_over = True


async def test_a_rolling_restart_behind_haproxy_fails_no_call_of_modern_clients(results: Results) -> None:
    async with fleet() as (gateways, place):
        began, calls = time.monotonic(), place.history.calls
        async with load(place, count("rolling_rate")):
            for number in range(count("rolling_restarts")):
                served = len(calls)
                assert await asyncio.to_thread(gateways.stop, number) == 0
                assert len(calls) > served
                await asyncio.to_thread(gateways.start, number)
                await gateways.are_up()
        took = time.monotonic() - began
        failed = [*place.history.failures(), *place.history.failures("tools/call")]
        results["rolling-restart"] = {
            "gateways": count("rolling_restarts"),
            "seconds": round(took, 1),
            "calls": len(calls),
            "calls per second": round(len(calls) / took),
            "failed": len(failed),
        }
        assert not failed, "\n".join(failed[:20])
        assert not (wrong := place.history.wrong(place.runs(), DEADLINE + SLACK)), "\n".join(wrong[:20])
