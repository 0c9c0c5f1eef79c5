"""Connect and kill: no process of a stdio server outlives the router, however either of them ends."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support import peers, raw, setup
from tests.support.counts import count
from tests.support.results import Results

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(3000)]
GOOD = [sys.executable, str(peers.HERE / "awkward_server.py"), "good"]
AT_ONCE = 6  # routers side by side: most of a cycle is waiting
GONE = 8.0  # seconds after the end of the router until nothing of its children is left
MARK = "SURVIVOR_TEST_MARK"  # no MCPBRIDGE_ name: those are not passed on to children


def marked(mark: str) -> dict[int, str]:
    """Living processes (no zombies of ours) whose environment carries the mark: pid -> command."""
    found: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if f"{MARK}={mark}".encode() in (entry / "environ").read_bytes():
                found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # it ended meanwhile, or is not ours
    return found


#: wrapper -> command of a server with grandchildren that ignore SIGTERM
STUBBORN = "trap '' TERM HUP INT; sleep 300 & sleep 300 & wait"
WRAPPERS: dict[str, Callable[[], list[str]]] = {
    "sh": lambda: ["sh", "-c", f"(sh -c {shlex.quote(STUBBORN)}) & {shlex.join(GOOD)}"],
    "sh that ignores SIGTERM": lambda: [
        "sh",
        "-c",
        f"trap '' TERM HUP; (sh -c {shlex.quote(STUBBORN)}) & {shlex.join(GOOD)}; :",
    ],
    "setsid": lambda: ["sh", "-c", f"setsid sh -c {shlex.quote(STUBBORN)} & {shlex.join(GOOD)}"],
    "npx": lambda: [
        "npx",
        "--offline",
        "--prefix",
        str(setup.PEERS / "node"),
        "mcp-server-everything",
    ],
}
ENDS = ("end of input", "SIGTERM", "SIGKILL")


def start(command: list[str], mark: str) -> subprocess.Popen[bytes]:
    """A router that has answered a list from its child, so the child and its grandchildren are up."""
    process = subprocess.Popen(
        peers.router("--", *command),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=peers.environment(**{MARK: mark}),
        start_new_session=True,
    )
    assert process.stdin and process.stdout
    for message in (raw.initialize(1), raw.INITIALIZED, raw.request(2, "tools/list")):
        process.stdin.write(json.dumps(message).encode() + b"\n")
    process.stdin.flush()
    seen = b""
    while b'"id":2' not in seen.replace(b" ", b""):
        line = process.stdout.readline()
        assert line, "the router ended before it answered"
        seen += line
    return process


def end(process: subprocess.Popen[bytes], how: str) -> None:
    assert process.stdin and process.stdout
    if how == "end of input":
        process.stdin.close()
    else:
        os.kill(process.pid, signal.SIGTERM if how == "SIGTERM" else signal.SIGKILL)
    try:
        process.wait(timeout=15)
    finally:
        process.kill()
        process.wait(timeout=5)
        process.stdin.close()
        process.stdout.close()


def survivors(mark: str) -> dict[int, str]:
    """What is left after at most GONE seconds; it is killed then, so that a failure leaves nothing behind."""
    until = time.monotonic() + GONE
    while (left := marked(mark)) and time.monotonic() < until:
        time.sleep(0.05)
    for pid in left:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    return left


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc to count processes")
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_nothing_survives_the_router(wrapper: str, results: Results) -> None:
    """Every cycle ends in the next of three ways; the count is the tier's."""

    def once(cycle: int) -> tuple[int, str, dict[int, str]]:
        mark, how = uuid.uuid4().hex, ENDS[cycle % len(ENDS)]
        process = start(WRAPPERS[wrapper](), mark)
        assert len(marked(mark)) > 1, "the mark finds no child, so this test would prove nothing"
        end(process, how)
        return cycle, how, survivors(mark)

    cycles = max(len(ENDS), -(-count("router_cycles") // len(WRAPPERS)))
    with ThreadPoolExecutor(AT_ONCE) as pool:
        outcomes = list(pool.map(once, range(cycles)))
    assert not (left := [outcome for outcome in outcomes if outcome[2]]), left
    results[f"survivors_{wrapper.partition(' ')[0]}{'_deaf' * (' ' in wrapper)}"] = {"cycles": cycles, "survivors": 0}


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc to count processes")
@pytest.mark.parametrize("how", ["SIGTERM", "SIGKILL"])
async def test_nothing_survives_the_gateway(how: str) -> None:
    mark = uuid.uuid4().hex
    with peers.gateway({"one": WRAPPERS["sh that ignores SIGTERM"]()}, **{MARK: mark}) as bridge:
        client = raw.HttpClient(bridge.url("one"))
        await client.open_legacy()  # its session stays open, and with it the child
        assert (await client.call_legacy(2, "echo", {"payload": 1}))["result"]
        assert len(marked(mark)) > 1
        os.kill(bridge.process.pid, signal.SIGTERM if how == "SIGTERM" else signal.SIGKILL)
        await asyncio.to_thread(bridge.process.wait, 40)
        await client.close()
        assert not await asyncio.to_thread(survivors, mark)
