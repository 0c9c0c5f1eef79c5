"""Who closes a descriptor that a transport was made of: exactly one, exactly once.

uvloop closes the descriptor of a transport that ends before ``create_connection`` returns, by an error, a cancellation or a
reset that comes at once, and leaves the Python object believing that the number is still its own. Whenever that is collected
it closes the number again, which by then is somebody else's connection (uvloop issues 645 and 738; 0.23 mends it for failures
only, not for a connection that is over at once).
"""

from __future__ import annotations

import asyncio
import os
import socket
from types import TracebackType
from typing import IO, Literal


class HandingOver:
    """Around the ``await`` that makes a transport of ``sock``; afterwards the socket is the transport's, or closed.

    with HandingOver(sock):
        transport, protocol = await loop.create_connection(..., sock=sock)
    """

    __slots__ = ("_number", "_sock", "_what")

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def __enter__(self) -> None:
        self._number = self._sock.fileno()
        self._what = _identity(self._number)

    def __exit__(self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        if self._what is not None and _identity(self._number) != self._what:
            self._sock.detach()  # closed already; the number may be another's
        elif kind is not None:
            self._sock.close()


def pipe_end(descriptor: int, mode: Literal["rb", "wb"], loop: asyncio.AbstractEventLoop) -> IO[bytes]:
    """The file that ``connect_read_pipe`` and ``connect_write_pipe`` of this loop want. uvloop closes the descriptor itself."""
    return os.fdopen(descriptor, mode, 0, closefd=not type(loop).__module__.startswith("uvloop"))


def _identity(number: int) -> tuple[int, int] | None:
    """What a descriptor stands for; None where it stands for nothing, or the system does not tell (Windows)."""
    try:
        status = os.fstat(number)
    except OSError:
        return None
    return status.st_dev, status.st_ino
