"""Names of an endpoint that shows several servers: `server__tool`, never longer than a client takes, always the same.

    expose("weather", "forecast", 48)           -> weather__forecast
    expose("weather", "a-very-long-...", 48)    -> weather__a-very-long-beginning-of-it-1f3a9c02
    expose_task("weather", "786512e2")          -> weather:786512e2

A pure function of the configuration and the tool's own name: no order, no counter, no state.

Source: mcp-eras section 4; issue "Aggregation"; contract routing.prefix, routing.max_name_length; shared decision 16.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

SEPARATOR = "__"
TASK_SEPARATOR = ":"  # in no server's name


def expose(server: str, name: str, limit: int) -> str:
    """The exposed name; one that is longer than ``limit`` keeps its beginning and ends in 8 hex digits of its SHA-256."""
    full = f"{server}{SEPARATOR}{name}"
    if len(full) <= limit:
        return full
    return f"{full[: limit - 9]}-{hashlib.sha256(full.encode()).hexdigest()[:8]}"


def owner(exposed: str, servers: Iterable[str]) -> tuple[str, str] | None:
    """``(server, name)`` behind an exposed name that was not shortened; the longest fitting server name wins."""
    fitting = [server for server in servers if exposed.startswith(server + SEPARATOR)]
    if not fitting:
        return None
    server = max(fitting, key=len)
    return server, exposed[len(server) + len(SEPARATOR) :]


def expose_task(server: str, task: str) -> str:
    """The id of a server's task as the endpoint's clients know it."""
    return f"{server}{TASK_SEPARATOR}{task}"


def task_owner(exposed: str) -> tuple[str, str] | None:
    """``(server, its own task id)`` behind an exposed task id; None for one that is none."""
    server, separator, own = exposed.partition(TASK_SEPARATOR)
    return (server, own) if separator else None
