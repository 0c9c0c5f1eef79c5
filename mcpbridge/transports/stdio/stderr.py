"""What a child says on stderr: complete lines at a bounded rate, the newest bytes in a bounded ring. Pure: time is an argument.

A flood costs a count of its newlines and nothing more; a line says later how many were left out.

Source: reliability section 3 row 14.
"""

from __future__ import annotations

from mcpbridge.observe.redact import clean, redact

RING = 65536  # bytes kept per child
MAX_LINE = 2048  # bytes of one line; the rest of it is dropped
BURST = 100  # lines at once
RATE = 20.0  # lines per second after that


class StderrLines:
    """Collects one child's stderr."""

    def __init__(self, *, burst: int = BURST, rate: float = RATE) -> None:
        self._ring = bytearray()
        self._partial = bytearray()
        self._burst = float(burst)
        self._rate = rate
        self._tokens = float(burst)
        self._refilled: float | None = None
        self._left_out = 0

    def feed(self, data: bytes, now: float) -> list[str]:
        """The complete lines of ``data`` that may be shown. ``now`` in seconds, never going back."""
        self._ring += data[-RING:]
        del self._ring[:-RING]
        if self._refilled is not None:
            self._tokens = min(self._burst, self._tokens + (now - self._refilled) * self._rate)
        self._refilled = now
        if self._tokens < 1.0:
            return self._skip(data)
        shown: list[str] = []
        start = 0
        while (end := data.find(b"\n", start)) >= 0:
            if self._tokens < 1.0:
                self._skip(data[start:])
                return shown
            self._partial += data[start : min(end, start + MAX_LINE)]
            self._show(shown)
            start = end + 1
        self._keep(data[start:])
        return shown

    def end(self) -> list[str]:
        """Whatever stands after the last newline, and the count of what was left out."""
        shown: list[str] = []
        self._tokens = max(self._tokens, 1.0)
        if self._partial or self._left_out:
            self._show(shown)
        return shown

    def tail(self) -> str:
        """The newest ``RING`` bytes as text."""
        return self._ring.decode("utf-8", "replace")

    def last(self) -> str:
        """The last line that says something, for an error message: 300 characters at most, no secrets, no control characters.

        Node ends a crash report with its own version; the line before is the better one.
        """
        lines = [line for line in bytes(self._ring[-8192:]).decode("utf-8", "replace").splitlines() if line.strip()]
        if len(lines) > 1 and lines[-1].startswith("Node.js v"):
            lines.pop()
        return clean(redact(lines[-1].strip()))[:300] if lines else ""

    def _show(self, shown: list[str]) -> None:
        if self._left_out:
            shown.append(f"(lines left out: {self._left_out})")
            self._left_out = 0
        line = self._partial[:MAX_LINE].decode("utf-8", "replace").rstrip("\r")
        self._partial.clear()
        if line.strip():
            self._tokens -= 1.0
            shown.append(redact(line))

    def _skip(self, data: bytes) -> list[str]:
        lines = data.count(b"\n")
        if lines:
            self._left_out += lines
            self._partial.clear()
            data = data[data.rfind(b"\n") + 1 :]
        self._keep(data)
        return []

    def _keep(self, rest: bytes) -> None:
        self._partial += rest[: MAX_LINE - len(self._partial)]
