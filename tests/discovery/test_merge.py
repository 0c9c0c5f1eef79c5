"""Several sources as one list: last good, the empty-set guard, the debounce, whose name it is."""

from __future__ import annotations

import asyncio

from mcpbridge.config.sections import EndpointSpec, ServerSpec
from mcpbridge.discovery import EMPTY_HOLD, Discovery, Source


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


async def test_a_name_belongs_to_whoever_had_it_first() -> None:
    discovery = Discovery([server("a", 1)], [Scripted("x"), Scripted("y")], lambda _: None, refresh_rate=30.0)
    (_, x), (_, y) = discovery.sources
    y.found([server("b", 5), server("a", 6)])
    x.found([server("a", 2), server("b", 3)])
    assert [(one.name, one.endpoints[0].url[-5]) for one in discovery.servers()] == [("a", "1"), ("b", "3")]
    assert [provider.name for provider in discovery.told().providers] == ["static", "x", "y"]


async def test_many_changes_are_applied_once() -> None:
    applied: asyncio.Queue[list[str]] = asyncio.Queue()

    def apply(servers: list[ServerSpec]) -> None:
        applied.put_nowait([one.name for one in servers])

    discovery = Discovery([], [Scripted("x")], apply, refresh_rate=30.0, debounce=0.05)
    tasks: list[asyncio.Task[None]] = []
    discovery.start(lambda work: tasks.append(asyncio.ensure_future(work)))
    (_, source) = discovery.sources[0]
    for port in range(1, 50):
        source.found([server("a", port), server("b", port)])
    assert await asyncio.wait_for(applied.get(), 5) == ["a", "b"]
    assert applied.empty()
    for task in tasks:
        task.cancel()
