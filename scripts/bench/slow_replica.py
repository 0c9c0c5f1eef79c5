"""One slow replica of three: what it does to the tail of a gateway's calls, by how the gateway chooses among them.

    slow_replica.py [--rounds 5] [--seconds 5] [--rate 150] [--slow MS] [--output FILE]

Four gateways in one run, under the same load in turns: two healthy replicas alone; the same two and one that takes ``--slow``
milliseconds for every call, chosen as by default (``cross_protocol_least_conn``: two by chance, the better one by peak latency
and calls in flight), by ``least_conn`` and by ``round_robin``. Calls are modern, begin at random times of a fixed mean rate
(whether the ones before are answered or not) and are measured from that time on.

Passes when the default's p99 is at most 1.3 times that of the two healthy replicas alone, and lower than both others'; each
is the median of the rounds. Exit code 1 when not, 2 when it could not be measured.

Source: issue 5 (acceptance: one slow replica of three).
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
from pathlib import Path
from time import perf_counter

import peers
import uvloop
from load import TEXT, HttpClient, Tally
from measure import machine, median
from processes import Running, free_port, python

HEALTHY = (5.0, 15.0)  # milliseconds of a call
FACTOR = 1.3
WAYS = {
    "two healthy": "cross_protocol_least_conn",
    "default": "cross_protocol_least_conn",
    "least_conn": "least_conn",
    "round_robin": "round_robin",
}


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rate", type=float, default=150.0)
    parser.add_argument("--slow", type=float, default=200.0)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    try:
        found = measure(options.rounds, options.seconds, options.rate, options.slow)
    except (RuntimeError, OSError, TimeoutError) as error:
        print(f"not measured: {error}")
        return 2
    p99 = {way: median([at(calls, 0.99) for calls in rounds]) or 0.0 for way, rounds in found.items()}
    for way, rounds in found.items():
        calls = sum(len(one) for one in rounds)
        p50 = median([at(one, 0.5) for one in rounds]) or 0.0
        print(f"{way:12}  p50 {p50:7.1f} ms   p99 {p99[way]:7.1f} ms   {calls} calls in {len(rounds)} rounds")
    ratio = p99["default"] / p99["two healthy"]
    good = ratio <= FACTOR and p99["default"] < min(p99["least_conn"], p99["round_robin"])
    print(f"default against two healthy replicas alone: {ratio:.2f}, limit {FACTOR}: {'ok' if good else 'NOT REACHED'}")
    if options.output:
        shown = {
            way: [{"p50_ms": at(one, 0.5), "p99_ms": at(one, 0.99), "calls": len(one)} for one in rounds]
            for way, rounds in found.items()
        }
        settings = {"rate": options.rate, "seconds": options.seconds, "slow_ms": options.slow, "healthy_ms": HEALTHY}
        document = {"machine": machine(), "settings": settings, "ratio": round(ratio, 3), "limit": FACTOR, "rounds": shown}
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(document, indent=1) + "\n")
    return 0 if good else 1


def at(latencies: Sequence[float], share: float) -> float:
    """The latency below which this share lies, milliseconds."""
    return round(sorted(latencies)[min(len(latencies) - 1, int(share * len(latencies)))] * 1000, 2)


def measure(rounds: int, seconds: float, rate: float, slow: float) -> dict[str, list[list[float]]]:
    """Latencies in seconds by way and round. Raises RuntimeError when something does not start or a call fails."""
    with contextlib.ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mcpbridge-slow-")))

        def start(name: str, command: list[str], port: int) -> None:
            one = stack.enter_context(Running(name, command, port=port, core=None, log=work / f"{name}.log"))
            one.wait_until_it_listens()

        replicas = [free_port() for _ in range(3)]
        for port, (shortest, longest) in zip(replicas, (HEALTHY, HEALTHY, (slow, slow)), strict=True):
            start(f"replica-{port}", python("echo_http.py", str(port), str(shortest), str(longest)), port)
        fronts = {}
        for way, strategy in WAYS.items():
            port = fronts[way] = free_port()
            config = work / f"{way.replace(' ', '-')}.yaml"
            config.write_text(gateway(port, replicas[:2] if way == "two healthy" else replicas, strategy))
            start(f"gateway-{port}", [*peers.BRIDGE, "gateway", "--config", str(config)], port)
        found: dict[str, list[list[float]]] = {way: [] for way in WAYS}
        for number in range(rounds):
            for way, port in fronts.items():
                found[way].append(uvloop.run(load(port, seconds, rate, seed=number)))
        return found


def gateway(port: int, replicas: Sequence[int], strategy: str) -> str:
    """The configuration of one gateway in front of these replicas."""
    endpoints = [{"url": f"http://127.0.0.1:{replica}/mcp", "protocol": "http"} for replica in replicas]
    frontends = {"stdio": {"enabled": False}, "tcp_binary": {"enabled": False}}
    server = {"host": "127.0.0.1", "port": port, "tls": {"enabled": False}, "tcp_health_port": 0, "protocols": frontends}
    return json.dumps(
        {
            "server": server,
            "auth": {"type": "none"},
            "metrics": {"endpoint": f"127.0.0.1:{free_port()}"},
            "routing": {"strategy": strategy},
            "servers": [{"name": "echo", "endpoints": endpoints}],
        }
    )


async def load(port: int, seconds: float, rate: float, *, seed: int) -> list[float]:
    """Latencies of the calls of one round, after a second of warm-up. Raises RuntimeError for a failed one."""
    chance = random.Random(seed)
    loop = asyncio.get_running_loop()
    idle: list[HttpClient] = []
    clients: list[HttpClient] = []
    latencies: list[float] = []

    async def call(number: int, due: float, counts: bool) -> None:
        if idle:
            client = idle.pop()
        else:
            _, client = await loop.create_connection(
                lambda: HttpClient(Tally(), f"127.0.0.1:{port}", "/mcp", "modern", "echo"), "127.0.0.1", port
            )
            await client.open()
            clients.append(client)
        client.waiting = loop.create_future()
        client.transport.write(client.template_head + client.template.with_id(number))
        async with asyncio.timeout(30):
            status, body = await client.waiting
        if status != 200 or TEXT.encode() not in body or b'"error"' in body:
            raise RuntimeError(f"a call failed: HTTP {status} {body[:300]!r}")
        idle.append(client)
        if counts:
            latencies.append(perf_counter() - due)

    began = perf_counter()
    due, number = began, 1_000_000
    async with asyncio.TaskGroup() as calls:
        while due < began + 1.0 + seconds:
            due += chance.expovariate(rate)
            number += 1
            await asyncio.sleep(max(0.0, due - perf_counter()))
            calls.create_task(call(number, due, due >= began + 1.0))
    for client in clients:
        await client.close()
    return latencies


if __name__ == "__main__":
    sys.exit(main())
