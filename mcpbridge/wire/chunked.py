"""Chunked bodies: taken apart within bounds, and written.

    5 CRLF hello CRLF 0 CRLF CRLF                 size in hex, payload; size 0 and trailers (dropped) end the body

Source: architecture section 5; RFC 9112 section 7.1.
"""

from __future__ import annotations

import re
from typing import Final

from mcpbridge.wire.http1 import HttpError

MAX_OVERHEAD: Final = 16384  # bytes of chunk framing per message
LAST_CHUNK: Final = b"0\r\n\r\n"

_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})(?:;[\t\x20-\x7e]*)?")
_TRAILER = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*")


class ChunkedBody:
    """Decodes one ``chunked`` body, fed in any pieces. When ``done``, ``rest`` holds the bytes behind it.

    ``limit`` bounds the payload in bytes (None: the reader bounds it). Framing is bounded to ``MAX_OVERHEAD``: for requests
    all of it, for responses only what exceeds the least possible, since an event stream has as many chunks as events.
    """

    __slots__ = ("_left", "_lenient", "_limit", "_overhead", "_stage", "_tail", "_total", "done", "rest")

    def __init__(self, limit: int | None = None, *, response: bool = False) -> None:
        self.done = False
        self.rest = b""
        self._limit = limit
        self._lenient = response
        self._stage = 0  # 0 size line, 1 payload, 2 CRLF behind the payload, 3 trailers
        self._left = 0
        self._tail = b""  # an incomplete line
        self._total = 0
        self._overhead = 0

    def feed(self, data: bytes) -> list[bytes]:
        """The payload in ``data``. Raises HttpError: 413 over the limit, else 400."""
        pieces: list[bytes] = []
        if self._tail:
            data = self._tail + data
            self._tail = b""
        at, end = 0, len(data)
        while True:
            if self._stage == 1:
                piece = data[at : at + self._left]
                if piece:
                    pieces.append(piece)
                    at += len(piece)
                    self._left -= len(piece)
                if self._left:
                    return pieces
                self._stage = 2
            if self._stage == 2:
                mark = data[at : at + 2]
                if mark != b"\r\n":
                    if not b"\r\n".startswith(mark):
                        raise HttpError(400, "chunk is longer than its size")
                    self._tail = mark
                    return pieces
                at += 2
                self._stage = 0
            eol = data.find(b"\r\n", at)
            if eol < 0:
                self._keep_line(data[at:end])
                return pieces
            if self._stage == 0:
                self._start_chunk(data, at, eol)
            elif eol == at:
                self.done = True
                self.rest = data[at + 2 :]
                return pieces
            else:
                self._skip_trailer(data, at, eol)
            at = eol + 2

    def _keep_line(self, line: bytes) -> None:
        if self._overhead + len(line) > MAX_OVERHEAD:
            raise HttpError(400, "chunk framing too large")
        if b"\n" in line or b"\r" in line[:-1]:
            raise HttpError(400, "bare line end in chunk framing")
        self._tail = line

    def _start_chunk(self, data: bytes, at: int, eol: int) -> None:
        line = _CHUNK_SIZE.fullmatch(data, at, eol)
        if line is None:
            raise HttpError(400, "malformed chunk size")
        size = int(line[1], 16)
        self._count(eol - at - len(b"%x" % size) if self._lenient else eol - at + 4)
        self._total += size
        if self._limit is not None and self._total > self._limit:
            raise HttpError(413, "body too large")
        self._left = size
        self._stage = 1 if size else 3

    def _skip_trailer(self, data: bytes, at: int, eol: int) -> None:
        if _TRAILER.fullmatch(data, at, eol) is None:
            raise HttpError(400, "malformed trailer")
        self._count(eol - at + 2)

    def _count(self, bytes_: int) -> None:
        self._overhead += bytes_
        if self._overhead > MAX_OVERHEAD:
            raise HttpError(400, "chunk framing too large")


def encode_chunk(data: bytes) -> bytes:
    """One chunk; ``data`` must not be empty, for that would end the body."""
    return b"%x\r\n%b\r\n" % (len(data), data)
