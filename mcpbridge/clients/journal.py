"""What was changed in clients' files, so that it can be put back: one record per change, one backup per record.

The record is written before the file: after a crash between the two, undo finds a file that is as it was, and says so.

Source: ux section 7 (writing rules 1, 5, 8 and 10) and 6 (directories).
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

import msgspec

from mcpbridge.clients import disk
from mcpbridge.clients.document import MAX_BYTES
from mcpbridge.clients.faults import EX_TEMPFAIL, ClientFileError
from mcpbridge.clients.table import Layout
from mcpbridge.config.problems import Place
from mcpbridge.private_files import try_lock, write_private

KEPT: Final = 5
"""So many backups of one file are kept; an older change can no longer be undone."""
_LOCK_WAIT = 5.0  # seconds
_LOCK_STEP = 0.05
STATE = "MCPB-CFG-STATE"


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One change of one file. ``before`` and ``after`` are SHA-256; ``before`` None: there was no file."""

    batch: str
    time: float
    client: str
    scope: str
    path: str
    what: str
    before: str | None
    after: str
    backup: str | None
    mode: int
    directories: tuple[str, ...] = ()


class _File(msgspec.Struct, kw_only=True):
    schema: str = "mcpbridge.client-changes/v1"
    records: list[Record]


@dataclass(frozen=True)
class Journal:
    """The records in the state directory."""

    path: str

    def records(self) -> list[Record]:
        """All records, the oldest first. Raises ClientFileError when the file is damaged."""
        try:
            with open(self.path, "rb") as file:
                data = file.read(MAX_BYTES)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise disk.io_error(self.path, error) from None
        try:
            return msgspec.json.decode(data, type=_File).records
        except msgspec.DecodeError as error:
            raise ClientFileError(
                STATE, Place(self.path), f"is damaged: {error}", "move it away; the backups beside the files stay"
            ) from None

    def save(self, records: Sequence[Record]) -> None:
        """Replace all records. Raises ClientFileError."""
        try:
            write_private(self.path, msgspec.json.format(msgspec.json.encode(_File(records=list(records)))))
        except OSError as error:
            raise disk.io_error(self.path, error) from None

    def add(self, record: Record) -> None:
        """One more record; those of the same file beyond the limit go, with their backups."""
        records = [*self.records(), record]
        mine = [one for one in records if one.path == record.path]
        for old in mine[:-KEPT]:
            records.remove(old)
            drop_backup(old)
        self.save(records)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One process at a time. Raises ClientFileError (75) after five seconds."""
        try:
            os.makedirs(os.path.dirname(self.path), mode=0o700, exist_ok=True)
            descriptor = os.open(self.path + ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise disk.io_error(self.path, error) from None
        try:
            self._wait(descriptor)
            yield
        finally:
            os.close(descriptor)

    def _wait(self, descriptor: int) -> None:
        ends = time.monotonic() + _LOCK_WAIT
        while not try_lock(descriptor):
            if time.monotonic() >= ends:
                raise ClientFileError(
                    STATE, Place(self.path), "another mcpbridge changes client files now", "try again", EX_TEMPFAIL
                )
            time.sleep(_LOCK_STEP)


def journal_of(layout: Layout) -> Journal:
    """The journal of a person: below XDG_STATE_HOME, on Windows below %LOCALAPPDATA%."""
    if layout.system == "windows":
        base = layout.from_variable("LOCALAPPDATA", "AppData", "Local")
        return Journal(os.path.join(base, "mcpbridge", "state", "clients.json"))
    return Journal(os.path.join(layout.from_variable("XDG_STATE_HOME", ".local", "state"), "mcpbridge", "clients.json"))


def digest(data: bytes | None) -> str | None:
    """The SHA-256 of a file's bytes; None of none."""
    return None if data is None else hashlib.sha256(data).hexdigest()


def back_up(state: disk.FileState, stamp: float) -> str | None:
    """A copy beside the file, for its owner only; None when there is nothing to copy. Raises ClientFileError."""
    if state.data is None:
        return None
    name = f"{state.target}.bak-mcpbridge-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(stamp))}"
    for number in range(100):
        path = name if number == 0 else f"{name}-{number}"
        try:
            write_private(path, state.data, exclusive=True)
            if state.owner is not None and os.name == "posix" and state.owner != (os.geteuid(), os.getegid()):
                os.chown(path, *state.owner)
        except FileExistsError:
            continue
        except OSError as error:
            raise ClientFileError(
                disk.WRITE, Place(path), f"the backup cannot be written: {error.strerror or error}", "nothing was changed", 73
            ) from None
        return path
    raise ClientFileError(disk.WRITE, Place(name), "there are a hundred backups of this second", "try again", EX_TEMPFAIL)


def drop_backup(record: Record) -> None:
    """Remove the backup of a record that is no longer needed."""
    if record.backup is not None:
        with suppress(OSError):
            os.unlink(record.backup)


def last_batch(records: Sequence[Record], clients: Mapping[str, object] | Sequence[str]) -> list[Record]:
    """What undo takes back: the last command's changes, or the last change of each named client; the newest first."""
    if not clients:
        return [record for record in reversed(records) if record.batch == records[-1].batch]
    found: dict[tuple[str, str], Record] = {}
    for record in records:
        if record.client in clients:
            found[(record.client, record.path)] = record
    newest: dict[str, Record] = {}
    for record in found.values():
        if record.client not in newest or record.time >= newest[record.client].time:
            newest[record.client] = record
    return sorted(newest.values(), key=lambda record: -record.time)
