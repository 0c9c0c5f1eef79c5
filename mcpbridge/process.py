"""The process around router, gateway and commands: its loop, its signals, its limit of open files.

Source: contract section 1.1 (exit status, cli.ulimit).
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from mcpbridge.observe.log import log
from mcpbridge.transports.stdio import guard

_log = log("bridge")


def run(main: Callable[[], Coroutine[Any, Any, int]]) -> int:
    """Run an async main on uvloop where it exists; its exit status. Ctrl-C before the main listens is 130."""

    async def guarded() -> int:
        try:
            return await main()
        finally:
            await guard.close()

    try:
        if sys.platform == "win32":
            return asyncio.run(guarded())
        import uvloop

        return uvloop.run(guarded())
    except KeyboardInterrupt:
        return 130


async def first_of(*futures: asyncio.Future[Any]) -> None:
    """Wait until one of the futures is done; none is cancelled."""
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)


def on_signals(stop: Callable[[int], None]) -> None:
    """Call ``stop(exit status)`` on SIGTERM (143) and SIGINT (130)."""
    loop = asyncio.get_running_loop()
    for number, status in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        try:
            loop.add_signal_handler(number, stop, status)
        except NotImplementedError:  # Windows loops have no signal handlers
            signal.signal(number, lambda *_args, status=status: loop.call_soon_threadsafe(stop, status))


def on_hangup(reload: Callable[[], None]) -> None:
    """Call ``reload`` on SIGHUP, where there is such a signal."""
    if sys.platform != "win32":
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload)


def raise_fd_limit(needed: int) -> None:
    """Raise the soft limit of open files to the hard one; warn when even that is below ``needed`` (contract cli.ulimit)."""
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
    if soft < needed:
        _log.warn(
            f"at most {soft} files may be open; {needed} are needed for the configured connections", limit=soft, needed=needed
        )
