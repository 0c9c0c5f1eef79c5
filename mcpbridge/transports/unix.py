"""Unix sockets by name: taken, kept and given back without touching what is not ours.

A socket appears under its name only once it has its mode and listens. One that nobody listens on any more and that is ours is
replaced; whatever else has the name is left alone.

Source: unix(7); reliability section 2, row 31.
"""

from __future__ import annotations

import errno
import os
import secrets
import socket
import stat
from contextlib import suppress
from typing import NamedTuple

from mcpbridge.transports.doors import BACKLOG


class ForeignFile(OSError):
    """The name of the socket is taken by something that is not ours to remove."""


class SocketName(NamedTuple):
    """The name of a listening socket, and which file had it when it was given."""

    path: str
    device: int
    inode: int

    def take_away(self) -> None:
        """Remove the name, if it is still this socket that has it."""
        with suppress(OSError):
            found = os.lstat(self.path)
            if (found.st_dev, found.st_ino) == (self.device, self.inode):
                os.unlink(self.path)


def make_room(path: str) -> None:
    """Remove a socket of ours at ``path`` that nobody listens on.

    Raises ForeignFile for everything else that is there, OSError(EADDRINUSE) for a socket of ours that is in use.
    """
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise ForeignFile(errno.EEXIST, "there is a file that is no socket", path)
    if found.st_uid != os.geteuid():
        raise ForeignFile(errno.EEXIST, "there is a socket of another user", path)
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)  # a full backlog is somebody who listens
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except FileNotFoundError:
            return
        except BlockingIOError:
            pass
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE), path)


def listening(path: str, mode: int) -> tuple[socket.socket, SocketName]:
    """A listening socket that has its mode before it has its name. Raises OSError."""
    hidden = os.path.join(os.path.dirname(path) or ".", f".mcpb-{secrets.token_hex(4)}")
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.setblocking(False)
        try:
            sock.bind(hidden)
        except OSError as error:  # "AF_UNIX path too long" has no number
            raise OSError(error.errno or errno.ENAMETOOLONG, error.strerror or str(error), path) from error
        try:
            os.chmod(hidden, mode)
            sock.listen(BACKLOG)
            os.rename(hidden, path)
        except BaseException:
            os.unlink(hidden)
            raise
        made = os.lstat(path)
        return sock, SocketName(path, made.st_dev, made.st_ino)
    except BaseException:
        sock.close()
        raise
