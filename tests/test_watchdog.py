"""A loop that does not come round is seen, named and counted, once; one that is only busy is not."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mcpbridge.observe.log import configure
from mcpbridge.observe.metrics import Registry
from mcpbridge.observe.snapshot import Event
from mcpbridge.watchdog import LIMIT, TICK, Watchdog
from tests.support.peers import free_port, running, wait_listening
from tests.support.scripted import until


class World:
    def __init__(self, log: Path) -> None:
        self.log = log
        self.registry = Registry()
        self.events: list[Event] = []
        self.watchdog = Watchdog(self.registry, self.events.append)

    def lines(self, event: str) -> list[dict]:
        return [line for raw in self.log.read_text().splitlines() if (line := json.loads(raw)).get("event") == event]

    def value(self, name: str) -> float | None:
        return next((reading.value for reading in self.registry.collect().get(name, [])), None)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with (tmp_path / "log").open("w") as stream:
        configure(stream=stream)
        world = World(tmp_path / "log")
        yield world
        world.watchdog.close()
        configure()


def a_function_that_holds_the_loop_up(seconds: float) -> None:
    time.sleep(seconds)


def a_function_that_computes(seconds: float) -> None:
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        sum(range(1000))


@pytest.mark.parametrize("hold_up", [a_function_that_holds_the_loop_up, a_function_that_computes])
async def test_a_block_is_told_once_while_it_lasts_with_its_stack_and_once_when_it_is_over(
    world: World, hold_up: Callable[[float], None]
) -> None:
    world.watchdog.start()
    await asyncio.sleep(TICK)
    hold_up(4 * LIMIT)
    during = world.lines("loop_stack")
    assert len(during) == 1, "while it lasts, and once however long it lasts"
    assert hold_up.__name__ in during[0]["message"] and hold_up.__name__ in during[0]["traceback"]
    await until(lambda: world.events)
    assert [(event.event, event.level) for event in world.events] == [("loop_blocked", "warn")]
    assert hold_up.__name__ in world.events[0].message
    assert world.lines("loop_blocked")[0]["duration_ms"] >= 4 * LIMIT * 1000
    assert world.value("mcp_gateway_event_loop_blocks_total") == 1
    assert world.watchdog.lag == world.value("mcp_gateway_event_loop_lag_seconds")
    assert world.watchdog.lag >= 4 * LIMIT - 2 * TICK


async def test_every_block_of_several_is_told(world: World) -> None:
    world.watchdog.start()
    for number in range(1, 4):
        await asyncio.sleep(TICK)
        a_function_that_holds_the_loop_up(2 * LIMIT)
        await until(lambda number=number: len(world.events) == number)
    assert len(world.lines("loop_stack")) == 3


async def test_a_loop_that_comes_round_is_not_blocked_however_busy_it_is(world: World) -> None:
    world.watchdog.start()
    ends = time.monotonic() + 2 * LIMIT
    while time.monotonic() < ends:
        a_function_that_computes(0.01)
        await asyncio.sleep(0)
    assert world.lines("loop_stack") == []
    assert not any("held up in" in event.message for event in world.events)  # the machine may be busy with others


def test_a_gateway_that_was_stopped_and_goes_on_says_so_and_shows_no_innocent_stack(tmp_path: Path) -> None:
    port, management = free_port(), free_port()
    config = {
        "server": {"port": port, "tls": {"enabled": False}},
        "auth": {"type": "none"},
        "metrics": {"endpoint": f"127.0.0.1:{management}"},
    }
    path, errors = tmp_path / "gateway.yaml", tmp_path / "errors"
    path.write_text(json.dumps(config))
    with running(["sh", "-c", f"exec {sys.executable} -m mcpbridge gateway --config {path} 2>{errors}"]) as process:
        wait_listening(process, f"http://127.0.0.1:{port}/readyz")
        os.kill(process.pid, signal.SIGSTOP)
        time.sleep(3 * LIMIT)
        os.kill(process.pid, signal.SIGCONT)
        ends = time.monotonic() + 10
        told: list[str] = []
        while not told:
            assert time.monotonic() < ends
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/status", timeout=5) as answer:
                told = [e["message"] for e in json.load(answer)["events"] if e["event"] == "loop_blocked"]
        assert told[0].endswith("held up by what let no thread run, or the process did not run")
    assert "loop_stack" not in errors.read_text()
    assert process.returncode in (0, -15)
