"""EventLog: what was sent to one legacy HTTP session, so that a broken stream can be taken up again.

    stream   the key of one SSE stream: random, so no other session's id ever names one of this session's streams
    number   1, 2, 3, ... within the stream

An event is logged before it is sent. The session and its principal are checked before anybody looks into its log.

Source: MCP 2025-11-25 "Resumability and redelivery"; architecture section 7; shared decision 3; contract sessions.event_log_*.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from mcpbridge.core.session import Session


class EventLog(Protocol):
    """The events of one session. Bounded: for new events the oldest are forgotten, of whichever stream."""

    def append(self, stream: str, number: int, event: bytes) -> None:
        """Keep an event, framed as it is sent. Never blocks and never raises; a store elsewhere writes in this order."""

    async def after(self, stream: str, number: int) -> list[tuple[int, bytes]]:
        """The kept events of a stream with a higher number, in order; those that were forgotten are missing."""

    def close(self) -> None:
        """The session is over: nothing is kept. Idempotent."""


OpenLog = Callable[[Session], EventLog]
"""The log of a session that begins."""
