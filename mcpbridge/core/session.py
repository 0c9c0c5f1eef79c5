"""Session: the small plain record of a legacy client that may outlive its process, and the store it lives in.

    id          locates the record; it authorizes nothing
    principal   whoever comes with the id must be this one
    revision    counts the stored versions: a writer that read an older one is refused

Source: architecture section 7 (sessions, seals, owners); shared decisions 5 and 6; contract ``sessions.*``.
"""

from __future__ import annotations

from typing import Protocol

import msgspec


class Session(msgspec.Struct):
    """What is remembered of a legacy client. Times are Unix seconds; ``client_info`` and ``capabilities`` are JSON texts."""

    id: str
    principal: str
    version: str
    client_info: str = "{}"
    capabilities: str = "{}"
    log_level: str | None = None
    subscriptions: list[str] = []
    backend_sessions: dict[str, str] = {}  # server name -> session id of its HTTP backend
    protocol: str = ""
    created: float = 0.0
    last_used: float = 0.0
    revision: int = 0  # 0: never stored
    tombstone: bool = False  # ended on purpose; kept for a while so that no late writer brings it back


class StaleSession(Exception):
    """The record was changed, ended or dropped since the writer read it: read it again."""


class SessionStore(Protocol):
    """Where session records live. Every store expires records by idle time and lifetime and holds the caps on their number.

    ``kind`` is the word of ``sessions.provider``.
    """

    kind: str

    async def get(self, id: str) -> Session | None:
        """A copy of the live record; None when it is unknown, ended or expired."""

    async def put(self, session: Session) -> None:
        """Store a new record (``revision`` 0) or a changed one: its ``revision`` rises by one, ``last_used`` becomes now.

        Raises StaleSession when the stored revision is another; BridgeError("too_many_sessions") for a new one over a cap.
        """

    async def touch(self, id: str) -> bool:
        """The session was used now. False when it is not alive."""

    async def delete(self, id: str) -> bool:
        """End a session: its content is freed, a tombstone stays. False when it was not alive."""

    async def count(self, principal: str | None = None) -> int:
        """Live sessions, of one principal or of all."""

    async def sweep(self) -> list[str]:
        """Drop what has expired; the ids of the sessions that ended by it."""

    async def healthy(self) -> bool:
        """Whether the store can be reached."""
