"""A small private file of named entries: JSON, 0600, one writer at a time.

    {"version": 1, "head": {...}, "entries": {name: {"at": Unix seconds, "value": text}}}

What the values are is the business of whoever uses it.

Source: ux section 5.4.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from mcpbridge.private_files import try_lock, write_private
from mcpbridge.secrets.faults import UNREADABLE, SecretError

_LOCK_WAIT = 5.0  # seconds
_LARGEST = 4 * 1024 * 1024  # bytes


class Entry(msgspec.Struct, frozen=True):
    """One entry and when it was written, Unix seconds."""

    at: float
    value: str


class _Document(msgspec.Struct):
    version: int = 1
    head: dict[str, str] = {}
    entries: dict[str, Entry] = {}


class Entries:
    """The entries of the file at ``path``, which need not be there."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def head(self) -> dict[str, str]:
        """What is said of all entries. Raises SecretError for a file that cannot be used."""
        return self._load().head

    def get(self, name: str) -> str | None:
        """The value of one entry. Raises SecretError."""
        entry = self._load().entries.get(name)
        return None if entry is None else entry.value

    def times(self) -> dict[str, float]:
        """Names, and when each was written. Raises SecretError."""
        return {name: entry.at for name, entry in self._load().entries.items()}

    def put(self, name: str, value: str, head: dict[str, str] | None = None) -> None:
        """Write one entry; ``head`` too when the file has none. Raises SecretError; nothing has changed then."""
        with self._changing() as document:
            document.head = document.head or head or {}
            document.entries[name] = Entry(round(time.time(), 3), value)

    def remove(self, name: str) -> bool:
        """Whether there was such an entry. Raises SecretError."""
        if name not in self._load().entries:
            return False
        with self._changing() as document:
            return document.entries.pop(name, None) is not None

    def _load(self) -> _Document:
        try:
            with self.path.open("rb") as file:
                if os.name == "posix" and os.fstat(file.fileno()).st_mode & 0o077:
                    raise SecretError(str(self.path), "can be read by others", f"chmod 600 {self.path}", UNREADABLE)
                data = file.read(_LARGEST + 1)
        except FileNotFoundError:
            return _Document()
        except OSError as error:
            raise SecretError(str(self.path), error.strerror or "cannot be read", "check it", UNREADABLE) from None
        try:
            if len(data) > _LARGEST:
                raise ValueError
            document = msgspec.json.decode(data, type=_Document)
        except (ValueError, msgspec.MsgspecError):
            raise SecretError(str(self.path), "is damaged", "move it away and store the secrets again", UNREADABLE) from None
        if document.version != 1:
            raise SecretError(str(self.path), "was written by a newer mcpbridge", "update this one", UNREADABLE)
        return document

    @contextmanager
    def _changing(self) -> Iterator[_Document]:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                ends = time.monotonic() + _LOCK_WAIT
                while not try_lock(lock):
                    if time.monotonic() >= ends:
                        raise SecretError(str(self.path), "another mcpbridge writes it now", "try again", UNREADABLE)
                    time.sleep(0.02)
                document = self._load()
                yield document
                write_private(str(self.path), msgspec.json.format(msgspec.json.encode(document)))
            finally:
                os.close(lock)
        except OSError as error:
            why = error.strerror or "cannot be written"
            raise SecretError(str(self.path), why, "check the directory, or use another store", UNREADABLE) from None
