"""Bodies that come in pieces and answers that are taken in pieces: what is there so far, and whether it moves fast enough.

Time is an argument. Source: reliability section 1 (body rate), table 2 row 23, table 3 rows 16 and 17.
"""

from __future__ import annotations

from typing import Final

from mcpbridge.wire.chunked import ChunkedBody
from mcpbridge.wire.http1 import RequestHead

BODY_WINDOW: Final = 5.0  # seconds; a body must bring BODY_RATE bytes/s in each
BODY_RATE: Final = 1024
WRITE_WINDOW: Final = 30.0  # seconds; a client must take WRITE_RATE bytes/s in each while its connection is full
WRITE_RATE: Final = 1024
BACKLOG_BYTES: Final = 1024 * 1024  # a stream may lie behind this far for one WRITE_WINDOW


class IncomingBody:
    """A request body that did not come with its head."""

    __slots__ = ("_body", "_chunks", "_length", "_mark", "_mark_bytes", "_received", "rest")

    def __init__(self, head: RequestHead, limit: int, now: float) -> None:
        """``limit`` bounds a chunked body, whose length is not known before; in bytes."""
        self.rest = b""  # what followed the complete body
        self._length = head.length
        self._chunks = ChunkedBody(limit) if head.chunked else None
        self._body = bytearray()
        self._received = 0
        self._mark = now
        self._mark_bytes = 0

    def feed(self, data: bytes) -> bytes | None:
        """The whole body once it is complete. Raises HttpError for broken chunks (400) and too much payload (413)."""
        self._received += len(data)
        if self._chunks is None:
            self._body += data
            if self._received < self._length:
                return None
            self.rest = bytes(self._body[self._length :])
            del self._body[self._length :]
            return bytes(self._body)
        for piece in self._chunks.feed(data):
            self._body += piece
        if not self._chunks.done:
            return None
        self.rest = self._chunks.rest
        return bytes(self._body)

    def is_too_slow(self, now: float) -> bool:
        """Whether the window that just ended brought too little."""
        if now - self._mark < BODY_WINDOW:
            return False
        brought = self._received - self._mark_bytes
        self._mark, self._mark_bytes = now, self._received
        return brought < BODY_RATE * BODY_WINDOW


class Backlog:
    """Bytes a client has not taken yet, watched from the moment its connection is full."""

    __slots__ = ("_high_since", "_mark", "_mark_bytes")

    def __init__(self, now: float, taken: int) -> None:
        """``taken``: bytes the client has taken so far, of all that were ever written."""
        self._mark = self._high_since = now
        self._mark_bytes = taken

    def is_stuck(self, now: float, taken: int, waiting: int) -> bool:
        """Whether the client takes too little, or lies too far behind for too long."""
        if waiting <= BACKLOG_BYTES:
            self._high_since = now
        elif now - self._high_since >= WRITE_WINDOW:
            return True
        if now - self._mark < WRITE_WINDOW:
            return False
        got = taken - self._mark_bytes
        self._mark, self._mark_bytes = now, taken
        return got < WRITE_RATE * WRITE_WINDOW
