"""How well the gateway foresees failures: labelled faults, injected into real backends of a real gateway under load.

    health.py [--rounds 3] [--window 0.5] [--quick] [--training] [--output FILE]

A round is an hour of about a hundred servers at once, in fast motion: a window of the detector (``prediction_window``, 5 s by
default) lasts ``--window`` seconds, so that time runs 5 / ``--window`` times faster; checks and breakers are as fast.
Latencies are not scaled, and calls are few (4 to 8 per window and endpoint). Each endpoint is a real MCP server behind a fault
proxy in user space and plays one episode of ``health_script``: healthy, with its disturbances that are none of our business
(noise, pauses, a slower release, three times the load, a restart, a few errors); or it gets worse for one to six minutes until
it is unusable: latency of the way, a worker that falls behind, errors, resets, latency with errors; or it crashes without a
warning, which counts for false alarms only.

An alarm is a new entry of ``GET /api/v1/health/anomalies``, at the time it is first seen there. Lead is the time from there to
the failure, on the operator's clock; 0 when nothing was foreseen. Intervals are Wilson's at 95 %.

Passes when recall of gradual faults >= 0.95, precision >= 0.90, median lead >= 60 s and false alarms <= 0.05 per clean
endpoint-hour; and clean endpoint-hours >= 200, which ``--quick`` (a try of half a minute with the training seeds) does not ask.
Exit code 1 when not, 2 when it could not be measured: something failed, or the machine was too busy to play the episodes as
they are written. Seeds are not those that the detector was tuned with: ``--training`` takes those.

Source: issue 5 item 5 and acceptance; reliability sections 5 and 8.8.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple

import peers
import uvloop
from health_script import GRADUAL, HELD_OUT, TRAINING, WINDOW, WINDOWS, Alarm, Episode, Score, Share, cast, quantile, wilson
from load import HttpClient, Tally
from measure import machine
from processes import Running, free_port, python

MOST = 8  # calls of one endpoint at once
LEFT_OUT = 0.02  # of the calls, for that reason; beyond it latencies are the machine's and not those of the episodes
CHECKS = 12  # windows from one active check to the next
START = 1.0  # seconds until everybody begins at once
BOUNDS = {"recall": 0.95, "precision": 0.90, "median_lead_sec": 60.0, "false_alarms_per_hour": 0.05, "clean_hours": 200.0}


class Size(NamedTuple):
    """Of a round: endpoints by kind (``each``: of every gradual one), and windows."""

    healthy: int
    each: int
    crashes: int
    windows: int


FULL = Size(52, 8, 4, WINDOWS)
QUICK = Size(14, 2, 1, 110)


@dataclass
class Run:
    """What is gathered over the rounds. ``late``: the longest delay of our own work in each, seconds."""

    score: Score = field(default_factory=Score)
    calls: int = 0
    failed: int = 0
    left_out: int = 0  # because MOST of the endpoint's were not answered
    late: list[float] = field(default_factory=list)
    cores: list[float] = field(default_factory=list)  # that the gateway was busy on
    own: list[dict[str, Any]] = field(default_factory=list)  # what the gateway says of its predictions


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--window", type=float, default=0.5, help="seconds, 0.1 or more")
    parser.add_argument("--quick", action="store_true", help="one short round with the training seeds")
    parser.add_argument("--training", action="store_true", help="the training seeds")
    parser.add_argument("--first", type=int, default=0, help="the first seed, counted from where they begin")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    window = options.window
    first = (TRAINING if options.training or options.quick else HELD_OUT) + options.first
    size, rounds = (QUICK, 1) if options.quick else (FULL, options.rounds)
    run = Run()
    try:
        for number in range(rounds):
            measure(run, first + number * size.healthy, size, window)
    except (RuntimeError, OSError, TimeoutError, ExceptionGroup) as error:
        while isinstance(error, ExceptionGroup):
            error = error.exceptions[0]
        print(f"not measured: {error!r}")
        return 2
    if run.left_out > LEFT_OUT * run.calls or max(run.late) > window:
        why = f"{run.left_out} of {run.calls} calls left out, our own work late by {max(run.late):.2f} s"
        print(f"not measured: the machine was too busy ({why})")
        return 2
    found = numbers(run.score)
    missed = [name for name in BOUNDS if not holds(name, found[name].value) and not (options.quick and name == "clean_hours")]
    for line in report(run, found, window, missed):
        print(line)
    if options.output:
        settings = {"rounds": rounds, "window_sec": window, "scale": WINDOW / window, "first_seed": first, **size._asdict()}
        document = {
            "machine": machine(),
            "settings": settings,
            "bounds": BOUNDS,
            "found": {name: [round(part, 4) for part in share] for name, share in found.items()},
            "leads_sec": run.score.kinds,
            "false_alarms": run.score.false_alarms,
            "calls": run.calls,
            "failed_calls": run.failed,
            "calls_left_out": run.left_out,
            "longest_delay_ms": [round(late * 1000, 1) for late in run.late],
            "gateway_cores": [round(cores, 3) for cores in run.cores],
            "prediction_accuracy": run.own,
        }
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(document, indent=1) + "\n")
    return 1 if missed else 0


def numbers(score: Score) -> dict[str, Share]:
    """What is judged, with intervals. The rate of false alarms is that of a share of windows."""
    hits, false, leads, each_hour = score.hits, len(score.false_alarms), score.leads, 3600 / WINDOW
    return {
        "clean_hours": Share(score.hours, score.hours, score.hours),
        "recall": wilson(hits, len(leads)),
        "precision": wilson(hits, hits + false),
        "median_lead_sec": quantile(leads, 0.5),
        "false_alarms_per_hour": Share(*(part * each_hour for part in wilson(false, score.clean))),
    }


def holds(name: str, value: float) -> bool:
    """Whether a number is within its bound."""
    return value <= BOUNDS[name] if name == "false_alarms_per_hour" else value >= BOUNDS[name]


def report(run: Run, found: dict[str, Share], window: float, missed: Sequence[str]) -> list[str]:
    """The numbers, for people."""
    score = run.score
    shown = [
        f"scale {WINDOW / window:.0f}: windows of {window} s for {WINDOW:.0f} s; latencies and calls per window are not scaled",
        f"{run.calls} calls, {run.failed} failed, {run.left_out} left out; gateway busy on {max(run.cores):.2f} cores",
        f"our own work was late by up to {max(run.late) * 1000:.0f} ms",
    ]
    for name, share in found.items():
        kind = "at most" if name == "false_alarms_per_hour" else "at least"
        verdict = "NOT REACHED" if name in missed else "ok" if holds(name, share.value) else "not asked"
        between = f"({share.low:.3f} to {share.high:.3f})" if share.low != share.high else ""
        shown.append(f"{name:22} {share.value:8.3f} {between:22} {kind} {BOUNDS[name]:g}: {verdict}")
    for kind in GRADUAL:
        leads = sorted(score.kinds.get(kind, []))
        recall, tenth, half = wilson(sum(lead > 0 for lead in leads), len(leads)), quantile(leads, 0.1), quantile(leads, 0.5)
        shown.append(
            f"  {kind:20} {recall.value:8.3f} ({recall.low:.3f} to {recall.high:.3f}) of {len(leads)};"
            f" lead p10 {tenth.value:.0f} s, p50 {half.value:.0f} s"
        )
    shown.append(f"  {score.crashes} crashes count for false alarms only")
    shown += [f"  false alarm: {one}" for one in score.false_alarms]
    shown += [f"  the gateway of itself: {one}" for one in run.own]
    return shown


def measure(run: Run, first: int, size: Size, window: float) -> None:
    """One round. Raises RuntimeError when something does not start or ends early."""
    episodes = cast(first, size.healthy, size.each, size.crashes, window, size.windows)
    with contextlib.ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mcpbridge-health-")))
        arguments = [str(part) for part in (window, first, *size)]
        backends = Running(
            "backends", python("health_backends.py", *arguments), port=None, core=None, log=work / "backends.log"
        )
        stack.enter_context(backends)
        port = free_port()
        config = work / "gateway.yaml"
        config.write_text(gateway(port, await_ports(backends), window))
        command = [*peers.BRIDGE, "gateway", "--config", str(config)]
        front = stack.enter_context(Running("gateway", command, port=port, core=None, log=work / "gateway.log"))
        front.wait_until_it_listens()
        uvloop.run(play(run, episodes, port, window, backends, front))
        for one in (backends, front):
            if one.process.poll() is not None:
                raise RuntimeError(one.post_mortem())


def await_ports(backends: Running) -> dict[str, int]:
    """The ports of the proxies, by name. Raises RuntimeError when they do not come."""
    until = monotonic() + 30
    while monotonic() < until and backends.process.poll() is None:
        said = backends.log.read_text()
        if said.endswith("}\n"):
            found: dict[str, int] = json.loads(said)
            return found
    raise RuntimeError(backends.post_mortem())


def gateway(port: int, ports: dict[str, int], window: float) -> str:
    """The configuration of a gateway in front of these endpoints, each a server of its own."""
    frontends = {"stdio": {"enabled": False}, "tcp_binary": {"enabled": False}}
    server = {"host": "127.0.0.1", "port": port, "tls": {"enabled": False}, "tcp_health_port": 0, "protocols": frontends}
    return json.dumps(
        {
            "server": {**server, "max_connections_per_ip": 5000},
            "auth": {"type": "none"},
            "metrics": {"endpoint": f"127.0.0.1:{free_port()}"},
            "health_monitoring": {"prediction_window": f"{window}s", "health_check_interval": f"{CHECKS * window}s"},
            "circuit_breaker": {"timeout_seconds": 30 * window / WINDOW, "interval_seconds": 60 * window / WINDOW},
            "servers": [
                {"name": name, "endpoints": [{"url": f"http://127.0.0.1:{at}/mcp", "protocol": "http"}]}
                for name, at in ports.items()
            ],
        }
    )


async def play(run: Run, episodes: Sequence[Episode], port: int, window: float, backends: Running, front: Running) -> None:
    """Load and look until the last window is over."""
    callers = [Caller(run, one, port, window) for one in episodes]
    for caller in callers:
        await caller.call()  # what a first call costs is no window's
    begin = monotonic() + START
    stdin = backends.process.stdin
    assert stdin is not None
    stdin.write(f"{begin}\n".encode())
    stdin.flush()
    run.late.append(0.0)
    busy = front.cpu_ns()
    async with asyncio.TaskGroup() as tasks:
        for caller in callers:
            tasks.create_task(caller.load(begin))
        alarms = await look(run, port, begin, len(episodes[0].conditions), window)
    run.cores.append((front.cpu_ns() - busy) / 1e9 / (monotonic() - begin))
    run.score.add(episodes, alarms)


class Caller:
    """The clients of one endpoint: calls at random times, whether the ones before are answered or not."""

    def __init__(self, run: Run, episode: Episode, port: int, window: float) -> None:
        self.run, self.episode, self.port, self.window = run, episode, port, window
        self.idle: list[HttpClient] = []
        self.number = 1_000_000
        self.at_once = 0

    async def load(self, begin: float) -> None:
        """Call until the episode is over. An endpoint that has failed is not called any more."""
        chance = random.Random(f"load:{self.episode.name}")
        windows = len(self.episode.conditions) if self.episode.failure is None else self.episode.failure
        due = begin
        async with asyncio.TaskGroup() as calls:
            while True:
                number = min(windows - 1, max(0, int((due - begin) / self.window)))
                due += chance.expovariate(self.episode.calls * self.episode.conditions[number].load / self.window)
                if due >= begin + windows * self.window:
                    break
                if (wait := due - monotonic()) > 0:
                    await asyncio.sleep(wait)
                self.run.late[-1] = max(self.run.late[-1], monotonic() - due)
                if self.at_once < MOST:
                    calls.create_task(self.call())
                else:
                    self.run.left_out += 1
        for client in self.idle:
            client.transport.close()

    async def call(self) -> None:
        """One call, however it ends."""
        self.run.calls += 1
        self.number += 1
        self.at_once += 1
        client, is_answered = None, False
        while self.idle and (client is None or client.transport.is_closing()):
            client = self.idle.pop()
        try:
            if client is None or client.transport.is_closing():
                client = await self.connect()
            client.waiting = asyncio.get_running_loop().create_future()
            client.transport.write(client.template_head + client.template.with_id(self.number))
            async with asyncio.timeout(30):
                status, body = await client.waiting
            is_answered = True
            self.run.failed += status != 200 or b'"error"' in body
        except (OSError, TimeoutError):
            self.run.failed += 1
        finally:
            self.at_once -= 1
            if is_answered:
                self.idle.append(client)
            elif client is not None:
                client.waiting = None
                client.transport.abort()

    async def connect(self) -> HttpClient:
        """One more client."""
        path = f"/mcp/{self.episode.name}"
        loop = asyncio.get_running_loop()
        _, client = await loop.create_connection(
            lambda: HttpClient(Tally(), f"127.0.0.1:{self.port}", path, "modern", "echo"), "127.0.0.1", self.port
        )
        await client.open()
        return client


async def look(run: Run, port: int, begin: float, windows: int, window: float) -> list[Alarm]:
    """What the gateway foretells, as it is seen from outside once per window."""
    seen: dict[int, Alarm] = {}
    for number in range(windows):
        await asyncio.sleep(max(0.0, begin + (number + 1) * window - monotonic()))
        told = await get(port, "anomalies")
        at = (monotonic() - begin) / window
        for one in told["anomalies"]:
            seen.setdefault(one["id"], Alarm(one["server"], at))
    run.own.append((await get(port, "prediction-accuracy"))["predictions"])
    return list(seen.values())


async def get(port: int, name: str) -> Any:
    """One of the gateway's pages about health. Raises RuntimeError when it does not answer it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(f"GET /api/v1/health/{name} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n".encode())
        async with asyncio.timeout(30):
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        if b" 200 " not in head.partition(b"\r\n")[0]:
            raise RuntimeError(f"GET /api/v1/health/{name}: {head[:100]!r} {body[:200]!r}")
        return json.loads(body)
    finally:
        writer.close()


if __name__ == "__main__":
    sys.exit(main())
