"""What every test gets: a clean terminal environment, the product's event loop, bounded waits, free ports."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

# Before anything imports textual or rich: both read these once, at import (they decide every snapshot).
for _name in (
    "NO_COLOR",
    "FORCE_COLOR",
    "CLICOLOR",
    "CLICOLOR_FORCE",
    "COLORTERM",
    "TERM_PROGRAM",
    "TEXTUAL_THEME",
    "COLUMNS",
    "LINES",
):
    os.environ.pop(_name, None)
os.environ.update(TERM="xterm-256color", COLORTERM="truecolor", TZ="UTC", LC_ALL="C.UTF-8", TEXTUAL_ANIMATIONS="none")
# Nothing of the person's own set-up may reach a test.
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
for _name in list(os.environ):
    if _name.startswith(("MCP_", "MCPBRIDGE_")) or _name == "XDG_RUNTIME_DIR" or _name.lower() in _PROXIES:
        del os.environ[_name]

import pytest
from hypothesis import HealthCheck, settings

from tests.support.counts import count

T = TypeVar("T")

settings.register_profile(
    "tier",
    max_examples=count("examples"),
    deadline=None,  # two shared cores: a wall clock per example fails good code
    suppress_health_check=[HealthCheck.too_slow],
    database=None,
)
settings.load_profile("tier")


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Tests run on the loop the product runs on; BRIDGE_TEST_LOOP=asyncio tries the other one."""
    if sys.platform == "win32" or os.environ.get("BRIDGE_TEST_LOOP") == "asyncio":
        return {"asyncio": asyncio.new_event_loop}
    import uvloop

    return {"uvloop": uvloop.new_event_loop}


#: what lies below these places bears this mark
MARKED = {"tui": "tui", "transports/stdio/test_guard.py": "chaos"}


@pytest.hookimpl(tryfirst=True)  # before the selection by marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the tests of a place the mark of their stage. Raises UsageError for a name that is another one in each process."""
    for item in items:
        if " at 0x" in item.nodeid:  # ids=str of something without a str of its own: no two workers would agree
            raise pytest.UsageError(f"{item.nodeid}: an address is no name; give the parameters ids")
        path = item.path.relative_to(Path(__file__).parent)
        for place, mark in MARKED.items():
            if path.is_relative_to(place):
                item.add_marker(mark)


@pytest.fixture
def bounded() -> Callable[[Awaitable[T]], Awaitable[T]]:
    """``await bounded(thing)``: the result of ``thing``, or a TimeoutError after 5 seconds."""

    async def wait(awaitable: Awaitable[T]) -> T:
        async with asyncio.timeout(5):
            return await awaitable

    return wait


@pytest.fixture
def free_port() -> int:
    """A TCP port on loopback that was free a moment ago (for children that cannot say which port 0 became)."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
