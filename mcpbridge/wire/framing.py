"""Newline-delimited messages: bytes in any chunks -> whole lines, in bounded memory.

    {"jsonrpc":"2.0",...}\\n{"jsonrpc":"2.0",...}\\r\\n

Source: MCP "stdio" transport (all revisions); contract limit.stdio-line.
"""

from __future__ import annotations

ENDLESS = 16 << 20  # bytes behind the limit, after which a line is not expected to end
HEAD = 1024  # bytes kept of a line that is too long, enough to find its id
_CUT = "…".encode()  # outside a string no JSON has it, and inside one the text is cut off: a head is never valid JSON


class Overlong(bytes):
    """The beginning of a line that was longer than the limit, in its place among the lines. ``envelope.parse`` refuses it."""


def cut(message: bytes, max_message: int) -> Overlong:
    """What is kept of a message longer than ``max_message`` bytes; ``message`` may be its beginning only."""
    return Overlong(message[: min(HEAD, max_message)] + _CUT)


class LineFramer:
    """Cuts a byte stream into lines of at most ``max_message`` bytes, without their ends (LF or CRLF) and without blank ones.

    A longer line comes out once, as ``Overlong``, as soon as that is certain; the rest of it is skipped and what follows is
    framed as usual. At most one line and one chunk are held. Every byte is searched once.
    """

    def __init__(self, max_message: int) -> None:
        self._max = max_message
        self._held = bytearray()  # the line that has no end yet
        self._is_skipping = False
        self.skipped = 0  # bytes of a line that is too long, since it was; 0 behind its end

    @property
    def is_endless(self) -> bool:
        """Whether a line that is too long has gone on for so long that nothing sensible is to come."""
        return self.skipped > ENDLESS

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that are complete with this chunk, in order."""
        if self._is_skipping:
            end = data.find(b"\n")
            if end < 0:
                self.skipped += len(data)
                return []
            self._is_skipping = False
            self.skipped = 0
            data = data[end + 1 :]
        last = data.rfind(b"\n")
        if last < 0:
            self._held += data
            return self._checked([])
        complete, rest = data[:last], data[last + 1 :]
        if self._held:
            first, newline, complete = complete.partition(b"\n")
            self._held += first
            raw_lines = [bytes(self._held)]
            self._held.clear()
            if newline:
                raw_lines += complete.split(b"\n")
        else:
            raw_lines = complete.split(b"\n")
        self._held += rest
        return self._checked([line for line in map(self._line, raw_lines) if line and not line.isspace()])

    def end(self) -> list[bytes]:
        """The last line, if the stream ended without a newline. The framer is empty afterwards."""
        line = self._line(bytes(self._held))
        self._held.clear()
        self._is_skipping = False
        self.skipped = 0
        return [line] if line and not line.isspace() else []

    def _line(self, raw: bytes) -> bytes:
        line = raw.removesuffix(b"\r")
        return line if len(line) <= self._max else cut(line, self._max)

    def _checked(self, lines: list[bytes]) -> list[bytes]:
        """Stops holding a line once no end can make it short enough; one byte more may be the CR of its end."""
        if len(self._held) > self._max + 1:
            lines.append(cut(bytes(self._held[:HEAD]), self._max))
            self._held.clear()
            self._is_skipping = True
        return lines
