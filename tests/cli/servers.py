"""Servers for the tests of commands: in a thread of their own, because a command runs a loop of its own."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator

from tests.detection.wires import Counts, Serve, Shape, running


@contextlib.contextmanager
def serving(serve: Serve, *, path: str = "", shape: Shape | None = None) -> Iterator[tuple[int, Counts]]:
    """A server for the time of the block: its port and what was done to it."""
    counts, started = Counts(), threading.Event()
    port = 0
    loop = asyncio.new_event_loop()
    stop: asyncio.Event

    async def main() -> None:
        nonlocal port, stop
        stop = asyncio.Event()
        async with running(serve, shape or Shape(), counts, path=path) as bound:
            port = bound
            started.set()
            await stop.wait()
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()

    thread = threading.Thread(target=loop.run_until_complete, args=(main(),))
    thread.start()
    try:
        assert started.wait(5)
        yield port, counts
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(5)
        loop.close()
