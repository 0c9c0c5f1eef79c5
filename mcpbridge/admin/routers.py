"""The routers that run on this machine for this user, each asked over its control socket.

Source: contract cli.status; ux section 6 (runtime directory).
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Final, NamedTuple

from mcpbridge.admin.client import Unreachable, fetch
from mcpbridge.admin.text import clean, columns, duration, state_word
from mcpbridge.observe.routers import pid_of, sockets
from mcpbridge.observe.snapshot import Client, Snapshot

SCHEMA: Final = "mcpbridge.routers/v1"
TIMEOUT: Final = 2.0  # seconds a router may take to answer; one that is stopped must not hold the others up


class Router(NamedTuple):
    """One router: its process id, what it says, or why it says nothing."""

    path: Path
    pid: int
    snapshot: Snapshot | None
    cause: str = ""

    @property
    def url(self) -> str:
        """Its address, as ``fetch`` and ``watch`` take it."""
        return f"unix://{self.path}"

    @property
    def client(self) -> str:
        """Whom it serves, for people."""
        said = self.snapshot.client if self.snapshot is not None else None
        return clean(f"{said.name} {said.version}") if isinstance(said, Client) else "–"

    @property
    def servers(self) -> str:
        """How many it has, the gateway among them, and how many of them are down: ``3``, ``3, 1 down``."""
        backends = self.snapshot.backends if self.snapshot is not None else ()
        names = {one.server for one in backends}
        down = names - {one.server for one in backends if one.state != "down"}
        return f"{len(names)}, {len(down)} down" if down else str(len(names))


async def local_routers() -> list[Router]:
    """All that run, by process id. Never raises."""
    return list(await asyncio.gather(*(_asked(path) for path in sockets())))


async def _asked(path: Path) -> Router:
    try:
        snapshot = await fetch(f"unix://{path}", timeout=TIMEOUT)
    except Unreachable as error:
        return Router(path, pid_of(path), None, str(error))
    return Router(path, pid_of(path), snapshot)


def document(routers: list[Router]) -> dict[str, Any]:
    """The ``mcpbridge.routers/v1`` document: each router with its whole status."""
    found = [{"pid": one.pid, "socket": str(one.path), "status": one.snapshot, "error": one.cause or None} for one in routers]
    return {"schema": SCHEMA, "routers": found}


def table(routers: list[Router], *, plain: bool = False) -> list[str]:
    """Lines for people: a head, and one line per router."""
    rows = [("ROUTER", "STATE", "CLIENT", "SERVERS", "UP", "CAUSE")]
    for one in routers:
        if one.snapshot is None:
            rows.append((str(one.pid), state_word("unknown", plain=plain), "–", "–", "–", clean(one.cause)))
            continue
        cause = clean(one.snapshot.reasons[0]) if one.snapshot.reasons else ""
        state, up = state_word(one.snapshot.status, plain=plain), duration(one.snapshot.uptime_sec)
        rows.append((str(one.pid), state, one.client, one.servers, up, cause))
    return [line.rstrip() for line in columns(rows, right=())]
