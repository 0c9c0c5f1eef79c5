"""Files of our own that nobody else may read: written whole or not at all, by one process at a time.

Source: reliability section 2 (modes); ux section 6 (directories).
"""

from __future__ import annotations

import os
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

MODE: Final = 0o600


def data_directory() -> Path:
    """What this user's programs keep for good (XDG base directories; on Windows local application data)."""
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData/Local") / "mcpbridge"
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "mcpbridge"


def write_private(path: str, data: bytes, *, exclusive: bool = False) -> None:
    """A file of our own, 0600, whole or not at all. Raises OSError, FileExistsError when ``exclusive`` and it is there."""
    if exclusive:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, MODE)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        return
    descriptor, temporary = tempfile.mkstemp(prefix=".mcpbridge-", dir=os.path.dirname(path))
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    sync_directory(os.path.dirname(path))


def sync_directory(path: str) -> None:
    """Make a rename last; where directories cannot be synced the file system does it."""
    if os.name != "posix":
        return
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def try_lock(descriptor: int) -> bool:
    """Whether the file is ours alone now, until its descriptor is closed."""
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
