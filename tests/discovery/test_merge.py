"""Several sources as one list: last good, the empty-set guard, the debounce, whose name it is."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from mcpbridge.config.sections import EndpointSpec, ServerSpec
from mcpbridge.discovery import EMPTY_HOLD, Discovery, Source, calmly


def server(name: str, port: int = 1) -> ServerSpec:
    return ServerSpec(name=name, endpoints=(EndpointSpec(url=f"http://127.0.0.1:{port}/mcp"),))


class Scripted:
    """A provider that hands out its source."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def watch(self, source: Source) -> None:
        await asyncio.Event().wait()


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_failing_source_keeps_what_it_found_and_is_degraded() -> None:
    source = Source("consul", lambda: None)
    assert source.told().state == "starting"
    source.found([server("a")])
    source.failed("the agent answered 500")
    assert [one.name for one in source.servers] == ["a"]
    told = source.told()
    assert (told.state, told.healthy, told.endpoints, told.last_error) == ("degraded", True, 1, "the agent answered 500")


def test_a_source_that_fails_before_it_found_anything_is_down() -> None:
    source = Source("consul", lambda: None)
    source.failed("refused")
    assert (source.told().state, source.told().healthy) == ("down", False)


def test_nothing_found_is_believed_only_when_it_stays_so() -> None:
    clock = Clock()
    changes: list[int] = []
    source = Source("consul", lambda: changes.append(1), clock)
    source.found([server("a")])
    source.found([])
    clock.now = EMPTY_HOLD - 1
    source.found([])
    assert source.servers and len(changes) == 1
    source.failed("gone")  # an outage says nothing of emptiness
    clock.now += 2
    source.found([])
    assert source.servers
    clock.now += EMPTY_HOLD
    source.found([])
    assert source.servers == () and len(changes) == 2


def test_what_was_left_out_is_named() -> None:
    source = Source("kubernetes", lambda: None)
    source.found([server("a")], ["x/b: protocol 'stdio' is none of ours"])
    assert source.told().last_error == "left out: x/b: protocol 'stdio' is none of ours"
    assert (source.told().state, source.told().endpoints) == ("degraded", 1)


def discovery_of(
    static: list[ServerSpec], *names: str, debounce: float = 0.05, **more: Any
) -> tuple[Discovery[None], asyncio.Queue[list[str]], list[asyncio.Task[None]]]:
    applied: asyncio.Queue[list[str]] = asyncio.Queue()
    tasks: list[asyncio.Task[None]] = []

    def spawn(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        tasks.append(asyncio.ensure_future(work))
        return tasks[-1]

    def apply(servers: list[ServerSpec]) -> None:
        applied.put_nowait([one.name for one in servers])

    made = Discovery(static, [Scripted(name) for name in names], apply, spawn, refresh_rate=30.0, debounce=debounce, **more)
    return made, applied, tasks


async def test_a_name_belongs_to_whoever_had_it_first() -> None:
    discovery, _, _ = discovery_of([server("a", 1)], "x", "y")
    await discovery.start(0)
    x, y = discovery.sources
    y.found([server("b", 5), server("a", 6)])
    x.found([server("a", 2), server("b", 3)])
    assert [(one.name, one.source, one.endpoints[0].url) for one in discovery.servers()] == [
        ("a", "static", "http://127.0.0.1:1/mcp"),
        ("b", "x", "http://127.0.0.1:3/mcp"),
    ]
    told = {one.name: one.last_error for one in discovery.told().providers}
    hidden = "another server has this name"
    assert told == {"static": None, "x": f"left out: a: {hidden}", "y": f"left out: b: {hidden}; a: {hidden}"}
    y.found([server("c")])
    assert discovery.servers()[-1].name == "c" and discovery.told().providers[2].state == "ok"


async def test_many_changes_are_applied_once() -> None:
    discovery, applied, tasks = discovery_of([], "x")
    await discovery.start(0)
    assert await asyncio.wait_for(applied.get(), 5) == []
    for port in range(1, 50):
        discovery.sources[0].found([server("a", port), server("b", port)])
    assert await asyncio.wait_for(applied.get(), 5) == ["a", "b"]
    assert applied.empty()
    for task in tasks:
        task.cancel()


async def test_servers_that_went_on_the_way_to_nothing_are_kept_too() -> None:
    discovery, applied, tasks = discovery_of([], "x", debounce=0.2)
    await discovery.start(0)
    (x,) = discovery.sources
    x.found([server("a"), server("b")])
    assert await applied.get() == [] and await asyncio.wait_for(applied.get(), 5) == ["a", "b"]
    x.found([server("b")])  # one event of many
    x.found([])
    assert await asyncio.wait_for(applied.get(), 5) == ["a", "b"]
    x.found([server("c")])
    assert await asyncio.wait_for(applied.get(), 5) == ["c"]
    for task in tasks:
        task.cancel()


async def test_a_flapping_endpoint_changes_the_servers_once_per_debounce() -> None:
    discovery, applied, tasks = discovery_of([], "x", debounce=0.2)
    await discovery.start(0)
    loop = asyncio.get_running_loop()
    until, port = loop.time() + 1.0, 0
    while loop.time() < until:
        port += 1
        discovery.sources[0].found([server("a", port)])
        await asyncio.sleep(0.01)
    assert applied.qsize() <= 1 + 5
    for task in tasks:
        task.cancel()


async def test_the_first_look_is_waited_for_and_a_late_one_is_not() -> None:
    discovery, applied, tasks = discovery_of([server("s")], "x", "y")
    starting = asyncio.ensure_future(discovery.start(0.3))
    await asyncio.sleep(0)
    discovery.sources[0].found([server("a")])
    await starting
    assert await applied.get() == ["s", "a"], "y may come later"
    assert discovery.told().providers[2].state == "starting"
    discovery.sources[1].found([server("b")])
    assert await asyncio.wait_for(applied.get(), 5) == ["s", "a", "b"]
    for task in tasks:
        task.cancel()


async def test_a_new_configuration_keeps_what_was_found_until_its_providers_have_looked() -> None:
    discovery, applied, tasks = discovery_of([server("s")], "x", "y")
    await discovery.start(0)
    x, y = discovery.sources
    x.found([server("a")])
    y.found([server("b")])
    while not applied.empty():
        applied.get_nowait()
    discovery.restart([server("t")], [Scripted("x")], refresh_rate=5.0, disabled=["y"])
    assert await applied.get() == ["t", "a"]
    assert [(one.name, one.state) for one in discovery.told().providers] == [
        ("static", "ok"), ("x", "starting"), ("y", "disabled"),
    ]  # fmt: skip
    x.found([server("old")])  # nobody asks the one before
    assert [one.name for one in discovery.servers()] == ["t", "a"]
    for task in tasks:
        task.cancel()


async def test_what_is_switched_off_is_not_used_and_no_fault() -> None:
    discovery, _, _ = discovery_of([], "x", admits=lambda endpoint: endpoint.spoken != "websocket")
    await discovery.start(0)
    (x,) = discovery.sources
    both = ServerSpec(name="a", endpoints=(EndpointSpec(url="ws://h:1/ws"), EndpointSpec(url="http://h:1/mcp")))
    x.found([both, ServerSpec(name="b", endpoints=(EndpointSpec(url="ws://h:2/ws"),))])
    assert [(one.name, [e.url for e in one.endpoints]) for one in discovery.servers()] == [("a", ["http://h:1/mcp"])]
    assert x.told().state == "ok"


@pytest.mark.parametrize(
    ("static", "states", "whole"),
    [
        (True, [], "ok"), (True, ["ok"], "ok"), (True, ["down"], "degraded"), (False, ["down"], "down"),
        (False, ["down", "ok"], "degraded"), (False, ["starting", "down"], "starting"), (False, [], "ok"),
    ],
)  # fmt: skip
async def test_the_whole_is_down_only_when_every_provider_is(static: bool, states: list[str], whole: str) -> None:
    names = [f"p{number}" for number in range(len(states))]
    discovery, _, _ = discovery_of([], *names, disabled=[] if static else ["static"])
    await discovery.start(0)
    for source, state in zip(discovery.sources, states, strict=True):
        if state == "ok":
            source.found([server("a")])
        elif state == "down":
            source.failed("refused")
    told = discovery.told()
    assert (told.status, told.healthy) == (whole, whole in ("ok", "degraded"))


async def test_what_is_asked_at_once_is_looked_at_once() -> None:
    asked, looks = asyncio.Event(), asyncio.Queue[int]()

    async def look() -> None:
        looks.put_nowait(1)

    task = asyncio.ensure_future(calmly(asked, look))
    for _ in range(50):
        asked.set()
    await asyncio.wait_for(looks.get(), 5)
    asked.set()
    await asyncio.wait_for(looks.get(), 5)
    assert looks.empty()
    task.cancel()
