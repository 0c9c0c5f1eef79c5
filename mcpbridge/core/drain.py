"""Drain: a backend that goes takes no new calls, finishes those it has, and its sessions go on elsewhere.

    drain   -> is_draining; every session that is linked there moves to another backend of the server, if there is one
    undrain -> it takes calls again
    finish  -> waits until nothing is in flight there, then ends its conversations

Source: issue 5 items 6 and 7; contract http.gateway.backends.drain.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from mcpbridge.core.client_session import AnyLink, ClientSession
from mcpbridge.core.tasks import Spawn
from mcpbridge.observe.log import log

if TYPE_CHECKING:
    from mcpbridge.core.server import Backend

LIMIT: Final = 30.0  # seconds a backend that was taken away has to finish
MOVES: Final = 32  # sessions that move at the same time
_LOOK = 0.05  # seconds between looks whether one is done
_log = log("backend")


def drain(backend: Backend, sessions: Iterable[ClientSession], spawn: Spawn) -> None:
    """Give it no new work; its sessions go on at another backend. A second time is the same as once."""
    if backend.is_draining:
        return
    backend.is_draining = True
    _log.info(
        "backend draining",
        protocol=backend.protocol,
        server=backend.server.name,
        backend=backend.name,
        in_flight=backend.active,
    )
    gate = asyncio.Semaphore(MOVES)
    for session in sessions:
        for link in session.links.values():
            if link.backend is backend:
                spawn(_leave(gate, link))


def undrain(backend: Backend) -> None:
    """Give it work again, little at first."""
    if backend.is_draining:
        backend.is_draining = False
        backend.fresh_at = time.monotonic()
        _log.info("backend takes calls again", protocol=backend.protocol, server=backend.server.name, backend=backend.name)


async def _leave(gate: asyncio.Semaphore, link: AnyLink) -> None:
    async with gate:
        await link.leave()


async def finish(backend: Backend, limit: float = LIMIT) -> None:
    """Let what is in flight end, ``limit`` seconds at most, then end its conversations."""
    ends = time.monotonic() + limit
    while backend.active or backend.pool.is_busy:
        if time.monotonic() >= ends:
            _log.warn("backend cut off", server=backend.server.name, backend=backend.name, in_flight=backend.active)
            break
        await asyncio.sleep(_LOOK)
    await backend.pool.close()
