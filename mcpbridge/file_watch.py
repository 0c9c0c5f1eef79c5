"""Files that are watched: told once when their content is another and stands still.

    look ... look     stamp: real path, time, size, inode     two looks alike -> believed     other bytes than before -> changed

Looking again and again works on every file system, and for the symbolic links that Kubernetes swaps (``..data``) as well as for
files that are written in place or replaced.

Source: contract ``config.reload``; reliability section 3, row 20.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Final

INTERVAL: Final = 1.0  # seconds between two looks
MAX_BYTES: Final = 8 * 1024 * 1024  # of one file; the rest does not count
_Stamp = tuple[str, int, int, int]


class FileWatch:
    """``paths``: the files that matter now. What they hold at first is known."""

    def __init__(self, paths: Callable[[], Sequence[str]]) -> None:
        self._paths = paths
        self._seen = self._settled = self._stamps()
        self._digest = self._content()

    def look(self) -> bool:
        """Whether the content is another than when this was true last, and nobody is writing any more."""
        stamps = self._stamps()
        if stamps == self._settled:
            self._seen = stamps
            return False
        if stamps != self._seen:  # look again: it may be half written
            self._seen = stamps
            return False
        content = self._content()
        if content is None:  # gone, not yet there again, or no file at all: what was read last stays
            return False
        self._settled = stamps
        changed = content != self._digest
        self._digest = content
        return changed

    async def follow(self, changed: Callable[[], None], interval: float = INTERVAL) -> None:
        """Look for ever. ``interval``: seconds."""
        while True:
            await asyncio.sleep(interval)
            if await asyncio.to_thread(self.look):
                changed()

    def _stamps(self) -> tuple[_Stamp | None, ...]:
        return tuple(_stamp(path) for path in self._paths())

    def _content(self) -> bytes | None:
        digest = sha256()
        for path in self._paths():
            try:
                with open(path, "rb", opener=_without_waiting) as file:
                    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                        return None
                    content = file.read(MAX_BYTES)
            except OSError:
                return None
            digest.update(len(content).to_bytes(8) + path.encode(errors="surrogateescape") + b"\0" + content)
        return digest.digest()


def _without_waiting(path: str, flags: int) -> int:
    """A pipe, such as the shell's ``<(...)``, is opened whether or not somebody writes into it; it is never read here."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _stamp(path: str) -> _Stamp | None:
    try:
        real = os.path.realpath(path)
        found = os.stat(real)
    except OSError:
        return None
    return (real, found.st_mtime_ns, found.st_size, found.st_ino)
