"""Where this user's running routers are found: a socket each, in a directory that is this user's alone.

    $XDG_RUNTIME_DIR/mcpbridge/router-<pid>-<4 hex>.sock     where that directory is ours, else <state>/mcpbridge/run/

A router that was killed leaves its socket; nobody listens there any more, and whoever looks next removes it. The process id
alone would not say so: containers share a directory, not their numbers.

Source: ux section 6 (directories); XDG base directory specification; reliability section 2, row 31.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import socket
import stat
import sys
from contextlib import suppress
from pathlib import Path

from mcpbridge.observe.journal import state_directory

_NAME = re.compile(r"router-(\d{1,10})-[0-9a-f]{4}\.sock").fullmatch


def runtime_directory() -> Path:
    """Where the sockets are, or would be."""
    given = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(given) and _is_ours(given):
        return Path(given) / "mcpbridge"
    return state_directory() / "run"


def new_socket() -> Path:
    """A name for the socket of this process, in a directory that is there and ours alone. Raises OSError."""
    folder = runtime_directory()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise OSError(errno.EPERM, "it is a link, or belongs to another user", str(folder))
    if stat.S_IMODE(found.st_mode) & 0o077:
        folder.chmod(0o700)
    return folder / f"router-{os.getpid()}-{secrets.token_hex(2)}.sock"


def sockets() -> list[Path]:
    """Those of the routers that run, by process id; what dead ones left is removed. Never raises."""
    if sys.platform == "win32":
        return []
    folder = runtime_directory()
    if not _is_ours(str(folder)):
        return []
    names: list[str] = []
    with suppress(OSError):
        names = os.listdir(folder)
    named = sorted((int(found[1]), name) for name in names if (found := _NAME(name)))
    return [folder / name for _, name in named if _is_listening(folder / name)]


def pid_of(path: Path) -> int:
    """The process id in the name of a router's socket, 0 for another file."""
    found = _NAME(path.name)
    return int(found[1]) if found else 0


def _is_listening(path: Path) -> bool:
    if sys.platform == "win32":
        return False
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            return False
        with socket.socket(socket.AF_UNIX) as probe:
            probe.setblocking(False)
            probe.connect(str(path))
    except BlockingIOError:  # its backlog is full: somebody listens
        return True
    except ConnectionRefusedError:
        with suppress(OSError):
            path.unlink()
        return False
    except OSError:
        return False
    return True


def _is_ours(folder: str) -> bool:
    """Whether it is a directory of this user, no link to one."""
    if sys.platform == "win32":
        return False
    try:
        found = os.lstat(folder)
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
