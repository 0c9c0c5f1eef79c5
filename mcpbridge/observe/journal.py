"""The log that a local router keeps for itself: editors swallow stderr, and nobody finds it afterwards.

    <state>/mcpbridge/logs/router-<pid>.log     JSON lines as in observe.log, readable by its owner only
                           router-<pid>.log.1   what was before, once that was full; both together 5 MB at most

Source: contract cli.logs; ux section 6 (directories).
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import Final

SIZE: Final = 5_000_000  # bytes of one router, on disk
KEPT: Final = 10  # logs of routers that have ended


class Journal:
    """An append-only file that starts anew when it is full. Never raises once it is open: a full disk stops no call."""

    def __init__(self, path: Path) -> None:
        """Raises OSError when the file cannot be made."""
        self.path = path
        self._descriptor = _open(path)
        self._size = os.fstat(self._descriptor).st_size

    def write(self, line: str) -> None:
        """Append a line, without its end."""
        data = line.encode("utf-8", "backslashreplace") + b"\n"
        with contextlib.suppress(OSError):
            if self._size + len(data) > SIZE // 2:
                self._turn()
            self._size += os.write(self._descriptor, data)

    def _turn(self) -> None:
        os.replace(self.path, previous(self.path))
        fresh = _open(self.path)
        os.close(self._descriptor)
        self._descriptor, self._size = fresh, 0


def _open(path: Path) -> int:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
    return os.open(path, flags, 0o600)


def previous(path: Path) -> Path:
    """Where a log is once another has begun."""
    return path.with_name(path.name + ".1")


def journal() -> Journal | None:
    """The journal of this process; None where the state directory cannot be written."""
    folder = log_directory()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _forget_old(folder)
        return Journal(folder / f"router-{os.getpid()}.log")
    except OSError:
        return None


def logs() -> list[Path]:
    """The logs there are, oldest first; each with what was before it."""
    folder = log_directory()
    found = [(path.stat().st_mtime, path) for path in folder.glob("router-*.log*") if path.is_file()] if folder.is_dir() else []
    return [path for _, path in sorted(found)]


def _forget_old(folder: Path) -> None:
    ended = [path for path in logs() if not path.name.endswith(".1") and not is_running(path)]
    for path in ended[:-KEPT]:
        for one in (path, previous(path)):
            with contextlib.suppress(OSError):
                one.unlink()


def is_running(path: Path) -> bool:
    """Whether the process that writes this log is there (or another one that has its number now)."""
    number = path.name.removesuffix(".1").removesuffix(".log").rpartition("-")[2]
    if not number.isdigit() or sys.platform == "win32":  # there a signal ends the process
        return False
    try:
        os.kill(int(number), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def log_directory() -> Path:
    """Where the logs of this user's routers are."""
    return state_directory() / "logs"


def state_directory() -> Path:
    """What this user's programs remember between two runs (XDG base directories; on Windows local application data)."""
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData/Local") / "mcpbridge"
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "mcpbridge"
