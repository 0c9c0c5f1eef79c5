"""The world of the chaos suite: a real gateway, replicas in processes behind fault proxies, callers that write history."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.chaos.history import RETRY_SAFE, Call, History
from tests.interaction.cells import listeners
from tests.support import peers, raw
from tests.support.fault_proxy import FaultProxy
from tests.support.garbled_server import endpoint

HERE = Path(__file__).resolve().parent
SLACK = 2.0  # seconds a busy machine may add to a deadline
QUIET = 60.0  # seconds until everything is as it was before


class Replica:
    """One backend: a process that can be killed, stopped and told to garble, behind a proxy unless it is a child."""

    def __init__(self, over: str, era: str, folder: Path, name: str) -> None:
        self.over, self.era, self.folder, self.name = over, era, folder, name
        self.port = peers.free_port() if over != "stdio" else 0
        self.process: subprocess.Popen[bytes] | None = None
        self.proxy = FaultProxy(f"127.0.0.1:{self.port}")
        self.wrapper: Callable[[list[str]], list[str]] = list  # what a child is started by

    def __str__(self) -> str:
        return self.name

    @property
    def command(self) -> list[str]:
        """Its own program."""
        return [sys.executable, *self._arguments]

    @property
    def _arguments(self) -> list[str]:
        return [str(HERE / "replica.py"), self.over, self.era, str(self.folder), self.name]

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[dict[str, Any]]:
        """Its endpoint in the configuration, while its proxy is there."""
        if self.over == "stdio":
            program, *arguments = self.wrapper(self.command)
            yield {"command": program, "args": arguments}
            return
        self.listens()
        async with self.proxy:
            yield endpoint(self.over, self.proxy.address)

    def start(self) -> None:
        """Start the process; returns when it listens. A child is started by the gateway."""
        if self.over != "stdio":
            self.spawn()
            self.listens()

    def spawn(self) -> None:
        self.process = subprocess.Popen([*self.command, str(self.port)], stdout=subprocess.PIPE, env=peers.environment())

    def listens(self) -> None:
        """Wait until it does."""
        assert self.process is not None and self.process.stdout
        assert self.process.stdout.readline() == b"ready\n"

    def pids(self) -> list[int]:
        if self.over != "stdio":
            return [self.process.pid] if self.process is not None and self.process.poll() is None else []
        found = [int(path.stem.rpartition("-")[2]) for path in self.folder.glob(f"{self.name}-*.pid")]
        return [pid for pid in found if Path(f"/proc/{pid}/stat").exists()]

    def send(self, number: int) -> None:
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill(self) -> None:
        self.send(signal.SIGKILL)
        if self.process is not None:
            self.process.wait(10)
            if self.process.stdout:
                self.process.stdout.close()

    def garble(self, is_on: bool, fault: str = "") -> None:
        path = self.folder / f"{self.name}.garble"
        path.write_text(fault) if is_on else path.unlink(missing_ok=True)

    def runs(self) -> list[str]:
        """The tokens of what it executed."""
        path = self.folder / f"{self.name}.runs"
        return path.read_text().split() if path.exists() else []


@dataclass(frozen=True, slots=True)
class Level:
    """What a process holds."""

    fds: int
    tasks: int
    rss: int  # bytes


class World:
    """One running set. ``servers``: name -> its replicas."""

    def __init__(
        self,
        servers: dict[str, list[Replica]],
        base: str,
        process: subprocess.Popen[str],
        tasks: Path,
        file: Path | None = None,
    ) -> None:
        self.servers = servers
        self.base = base
        self.process = process
        self.history = History()
        self.file = file  # of its configuration
        self._tasks = tasks

    def runs(self) -> list[str]:
        return [token for replicas in self.servers.values() for replica in replicas for token in replica.runs()]

    async def level(self) -> Level:
        """What the gateway holds now."""
        self._tasks.unlink(missing_ok=True)
        self.process.send_signal(signal.SIGUSR2)
        async with asyncio.timeout(5):
            while not self._tasks.exists():
                await asyncio.sleep(0.01)
        folder = Path(f"/proc/{self.process.pid}")
        pages = int((folder / "statm").read_text().split()[1])
        return Level(len(list((folder / "fd").iterdir())), int(self._tasks.read_text()), pages * os.sysconf("SC_PAGE_SIZE"))

    async def settles(self, before: Level, *, fds: int = 0, tasks: int = 0, rss: int = 24 << 20) -> str:
        """Wait until the gateway holds at most so much more than ``before``; what is still too much after QUIET, or nothing."""
        until = time.monotonic() + QUIET
        while True:
            now = await self.level()
            is_calm = now.fds <= before.fds + fds and now.tasks <= before.tasks + tasks and now.rss <= before.rss + rss
            if is_calm or time.monotonic() > until:
                return "" if is_calm else f"before {before}, now {now}"
            await asyncio.sleep(0.2)

    def client(self, server: str, era: str, name: str) -> Client:
        return Client(self, server, era, name)


class Client:
    """One client of one server over Streamable HTTP, whose calls are history."""

    def __init__(self, world: World, server: str, era: str, name: str) -> None:
        self.world, self.era, self.name = world, era, name
        self.url = f"{world.base}/mcp/{server}"
        self.http = raw.HttpClient(self.url)
        self.last = 0

    async def open(self) -> None:
        if self.era == "legacy":
            await self.http.open_legacy()

    async def call(self, method: str = RETRY_SAFE, *, name: str = "t", timeout: float = 60.0, padding: int = 0) -> Call:
        """Make one call; whatever becomes of it is in the history. ``padding``: bytes more of arguments."""
        self.last += 1
        call = Call(self.name, method, f"{self.name}-{self.last}", time.monotonic())
        self.world.history.calls.append(call)
        params: raw.Json = {"name": name, "arguments": {"token": call.token, "padding": "x" * padding}}
        headers = {"mcp_protocol_version": raw.LEGACY}
        if self.era == "modern":
            params["_meta"] = raw.modern_meta()
            headers = {"mcp_protocol_version": raw.MODERN, "mcp_method": method, "mcp_name": name}
        try:
            answer = await self.http.post(raw.request(self.last, method, **params), timeout=timeout, **headers)
            call.answers = [one for one in answer.messages if one.get("id") == self.last and "method" not in one]
            call.lost = "" if call.answers else f"HTTP {answer.status} {answer.body[:200]!r}"
        except (OSError, EOFError, TimeoutError, asyncio.IncompleteReadError) as error:
            call.lost = repr(error)
            await self.http.close()
        call.took = time.monotonic() - call.began
        return call

    async def close(self) -> None:
        await self.http.close()


@contextlib.asynccontextmanager
async def world(
    servers: dict[str, Sequence[str]],
    *,
    wrappers: dict[str, Callable[[list[str]], list[str]]] | None = None,
    files: int | None = None,
    **config: Any,
) -> AsyncIterator[World]:
    """A gateway in front of ``servers``: name -> the replicas as ``OVER/ERA``. ``config``: more of its configuration.

    ``wrappers``: server -> what its children are started by; ``files``: how many the gateway may have open.
    """
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chaos-")))
        replicas, entries = await backends(stack, folder, servers, wrappers)
        file = folder / "gateway.yaml"
        file.write_text(json.dumps(document(entries, **config)))
        process, tasks = stack.enter_context(gateway(file, files=files))
        addresses = await asyncio.to_thread(listeners, process)
        yield World(replicas, addresses["http"], process, tasks, file)


async def backends(
    stack: contextlib.AsyncExitStack,
    folder: Path,
    servers: dict[str, Sequence[str]],
    wrappers: dict[str, Callable[[list[str]], list[str]]] | None = None,
) -> tuple[dict[str, list[Replica]], list[dict[str, Any]]]:
    """Replicas that run for as long as ``stack``, by server, and the servers as a configuration names them."""
    replicas: dict[str, list[Replica]] = {}
    entries: list[dict[str, Any]] = []
    for name, kinds in servers.items():
        each = [kind.split("/") for kind in kinds]
        replicas[name] = [Replica(over, era, folder, f"{name}-{at}-{over}") for at, (over, era) in enumerate(each)]
    for replica in [one for some in replicas.values() for one in some if one.over != "stdio"]:
        replica.spawn()
        stack.callback(replica.kill)
    for name, members in replicas.items():
        for replica in members if wrappers and name in wrappers else ():
            replica.wrapper = wrappers[name]
        entries.append({"name": name, "endpoints": [await stack.enter_async_context(one.running()) for one in members]})
    return replicas, entries


def document(entries: list[dict[str, Any]], **config: Any) -> dict[str, Any]:
    """The configuration of a gateway in front of these servers."""
    return {
        "auth": {"type": "none"},
        "server": {"tls": {"enabled": False}},
        "discovery": {"providers": {"static": {"servers": entries}}},
        **config,
    }


@contextlib.contextmanager
def gateway(file: Path, *, port: int = 0, files: int | None = None) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A gateway process, and where it writes the number of its tasks."""
    tasks = file.with_name(f"tasks-{port}")
    variables = {
        "MCPBRIDGE_SERVER__PORT": str(port),
        "MCPBRIDGE_SERVER__MAX_CONNECTIONS_PER_IP": "2500",
        "MCPBRIDGE_METRICS__ENABLED": "false",
        "CHAOS_TASKS": str(tasks),
    }
    command = [sys.executable, str(HERE / "watched.py"), "gateway", "--config", str(file)]
    if files is not None:
        command = ["sh", "-c", f'ulimit -n {files}; exec "$@"', "sh", *command]
    with peers.running(command, **variables) as process:
        yield process, tasks
