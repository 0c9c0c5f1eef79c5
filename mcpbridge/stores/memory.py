"""The memory store: session records of one process, bounded in number and in time.

Records are kept oldest use first, so a sweep looks only at what expires. Copies go in and out: nobody outside holds a stored
record. A record expires after ``idle_timeout`` without use, or ``max_lifetime`` after it was created.

Source: contract ``sessions.*``; reliability section 2, rows 6 and 20.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from msgspec.structs import replace

from mcpbridge.core.session import Session, StaleSession
from mcpbridge.errors import BridgeError


class MemoryStore:
    """See the module. Times in seconds; ``max_lifetime`` 0 is off. ``clock`` gives Unix seconds."""

    kind = "memory"

    def __init__(
        self,
        *,
        idle_timeout: float = 1800.0,
        max_lifetime: float = 0.0,
        max_total: int = 50_000,
        max_per_principal: int = 100,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._idle_timeout = idle_timeout
        self._max_lifetime = max_lifetime
        self._max_total = max_total
        self._max_per_principal = max_per_principal
        self._clock = clock
        self._records: dict[str, Session] = {}  # least recently used first
        self._tombstones: dict[str, float] = {}  # id -> when it may be forgotten, oldest first
        self._ids_of: dict[str, set[str]] = {}
        self._ended: list[str] = []  # expired outside a sweep; the next sweep reports them

    async def get(self, id: str) -> Session | None:
        record = self._live(id)
        return None if record is None else _copy(record)

    async def put(self, session: Session) -> None:
        record = self._live(session.id)
        if session.revision != (0 if record is None else record.revision) or session.id in self._tombstones:
            raise StaleSession(session.id)
        if record is None:
            self._make_room(session.principal)
            self._ids_of.setdefault(session.principal, set()).add(session.id)
        elif record.principal != session.principal:
            raise StaleSession(session.id)
        else:
            del self._records[session.id]
        session.revision += 1
        session.last_used = self._clock()
        self._records[session.id] = _copy(session)

    async def touch(self, id: str) -> bool:
        record = self._live(id)
        if record is None:
            return False
        record.last_used = self._clock()
        self._records[id] = self._records.pop(id)
        return True

    async def delete(self, id: str) -> bool:
        if self._live(id) is None:
            return False
        self._drop(id)
        while len(self._tombstones) >= self._max_total:
            del self._tombstones[next(iter(self._tombstones))]
        self._tombstones[id] = self._clock() + self._idle_timeout
        return True

    async def count(self, principal: str | None = None) -> int:
        self._expire()
        return len(self._records) if principal is None else len(self._ids_of.get(principal, ()))

    async def sweep(self) -> list[str]:
        self._expire()
        now = self._clock()
        while self._tombstones and next(iter(self._tombstones.values())) <= now:
            del self._tombstones[next(iter(self._tombstones))]
        ended, self._ended = self._ended, []
        return ended

    async def healthy(self) -> bool:
        return True

    def _live(self, id: str) -> Session | None:
        record = self._records.get(id)
        if record is not None and self._is_over(record):
            self._drop(id)
            self._ended.append(id)
            return None
        return record

    def _is_over(self, record: Session) -> bool:
        now = self._clock()
        return now - record.last_used >= self._idle_timeout or 0 < self._max_lifetime <= now - record.created

    def _expire(self) -> None:
        over: list[str] = []
        for id, record in self._records.items():
            if self._is_over(record):
                over.append(id)
            elif not self._max_lifetime:
                break  # the rest was used later
        for id in over:
            self._drop(id)
        self._ended.extend(over)

    def _make_room(self, principal: str) -> None:
        own = self._ids_of.get(principal, ())
        if len(own) >= self._max_per_principal:
            for id in list(own):
                self._live(id)  # what has expired does not count
            if len(self._ids_of.get(principal, ())) >= self._max_per_principal:
                raise BridgeError("too_many_sessions", f"at most {self._max_per_principal} for one caller", sent=False)
        if len(self._records) >= self._max_total:
            self._expire()
            if len(self._records) >= self._max_total:
                raise BridgeError("too_many_sessions", f"at most {self._max_total} in all", sent=False)

    def _drop(self, id: str) -> None:
        record = self._records.pop(id)
        ids = self._ids_of[record.principal]
        ids.discard(id)
        if not ids:
            del self._ids_of[record.principal]


def _copy(record: Session) -> Session:
    return replace(record, subscriptions=list(record.subscriptions), backend_sessions=dict(record.backend_sessions))
