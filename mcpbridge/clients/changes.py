"""Changes of clients' files: planned for all of them first, shown, then made one by one, and taken back.

Nothing is written while planning, so one file that cannot be read stops the whole before anything happened.

Source: issue 6 (client files); ux section 7.
"""

from __future__ import annotations

import difflib
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mcpbridge.clients import disk, shapes
from mcpbridge.clients.document import Document
from mcpbridge.clients.entry import Entry, Inexpressible, Source
from mcpbridge.clients.faults import ClientFileError
from mcpbridge.clients.journal import Journal, Record, back_up, digest, drop_backup, last_batch
from mcpbridge.clients.table import CLIENTS, Client, Layout, Location, Scope, System
from mcpbridge.config.problems import Place

EXISTS, SHAPE, CHANGED = "MCPB-CFG-EXISTS", "MCPB-CFG-SHAPE", "MCPB-CFG-CHANGED"


def this_machine(env: Mapping[str, str]) -> Layout:
    """The layout of the person who runs us."""
    systems: dict[str, System] = {"darwin": "macos", "win32": "windows"}
    home = env.get("USERPROFILE" if sys.platform == "win32" else "HOME") or os.path.expanduser("~")
    return Layout(systems.get(sys.platform, "linux"), os.path.abspath(home), env, os.getcwd())


@dataclass(frozen=True)
class ClientFile:
    """A client's file of one scope as it is now. ``fault`` says why its servers are not known."""

    client: Client
    scope: Scope
    path: str
    exists: bool
    installed: bool
    entries: Mapping[str, Entry]
    odd: Mapping[str, str]
    """Entries that are there and cannot be used: name → cause."""
    fault: ClientFileError | None = None


def look(client: Client, location: Location) -> ClientFile:
    """Read one file; nothing is raised for what is wrong with it."""
    path = location.path()
    installed = any(os.path.isdir(os.path.dirname(found)) for found in location.paths) and os.path.dirname(path) != ""
    entries: dict[str, Entry] = {}
    odd: dict[str, str] = {}
    try:
        state = disk.read(path)
        source = Source(client.key, location.scope, path)
        for name, plain in Document(state.data or b"", client.format, location.servers, path).entries().items():
            try:
                entries[name] = shapes.read(client, name, plain, source)
            except Inexpressible as error:
                odd[name] = str(error)
    except ClientFileError as fault:
        return ClientFile(client, location.scope, path, True, installed, {}, {}, fault)
    return ClientFile(client, location.scope, path, state.data is not None, installed, entries, odd)


def look_at_all(layout: Layout, keys: Sequence[str] = (), scopes: Sequence[Scope] = ()) -> Iterator[ClientFile]:
    """The files of the clients, in the order of the table; of all of them when none is named."""
    for key, client in CLIENTS.items():
        if keys and key not in keys:
            continue
        for location in client.locations(layout):
            if not scopes or location.scope in scopes:
                yield look(client, location)


@dataclass(frozen=True)
class Change:
    """New bytes for one file. ``after`` equal to what is there: nothing to do."""

    client: Client
    scope: Scope
    path: str
    before: disk.FileState
    after: bytes
    what: str

    @property
    def is_needed(self) -> bool:
        """Whether anything would be written."""
        return (self.before.data or b"") != self.after or self.before.data is None

    def diff(self) -> str:
        """The change as a unified diff; "" when there is none."""
        return diff_of(self.path, self.before.data, self.after)


def diff_of(path: str, before: bytes | None, after: bytes | None) -> str:
    """A unified diff of two states of a file, for people."""
    old, new = (("" if data is None else data.decode("utf-8", "replace")).splitlines() for data in (before, after))
    names = ("/dev/null" if before is None else path, "/dev/null" if after is None else path)
    return "\n".join(difflib.unified_diff(old, new, *names, lineterm=""))


def plan_add(client: Client, location: Location, entries: Sequence[Entry], *, replace: bool) -> Change:
    """The change that puts servers into a file. Raises ClientFileError: for other content under a name unless ``replace``."""
    path = location.path()
    state = disk.read(path)
    data = state.data or b""
    for entry in entries:
        document = Document(data, client.format, location.servers, path)
        old = document.entries().get(entry.name)
        try:
            new = shapes.write(client, entry)
        except Inexpressible as error:
            raise ClientFileError(SHAPE, Place(path), f"{entry.name}: {error}", _instead(client, entry)) from None
        if old is not None:
            if not replace and not _means(client, entry, old, path):
                raise ClientFileError(
                    EXISTS, Place(path), f"{entry.name} is there with other content",
                    "nothing was changed; --replace takes its place, --name NAME gives it another name", 73,
                )  # fmt: skip
            new = shapes.merged(old, new) if replace else dict(old)
        data = document.with_entry(entry.name, new)
    return Change(client, location.scope, path, state, data, f"add {', '.join(entry.name for entry in entries)}")


def exported(client: Client, location: Location, entries: Sequence[Entry]) -> str:
    """A whole file of a client with these servers and nothing else, for people who write it themselves.

    Raises ClientFileError for a server that this client's file cannot say.
    """
    data = b""
    for entry in entries:
        document = Document(data, client.format, location.servers, location.path())
        try:
            data = document.with_entry(entry.name, shapes.write(client, entry))
        except Inexpressible as error:
            raise ClientFileError(SHAPE, Place(client.title), f"{entry.name}: {error}", _instead(client, entry)) from None
    return data.decode()


def _means(client: Client, entry: Entry, plain: Any, path: str) -> bool:
    """Whether what is there already is the same server."""
    try:
        return shapes.read(client, entry.name, plain, Source(client.key, "", path)).says_the_same(entry)
    except Inexpressible:
        return False


def _instead(client: Client, entry: Entry) -> str:
    if not client.remote and entry.transport != "stdio":
        return f"let mcpbridge reach it: mcpbridge clients add {client.key} --name {entry.name} -- mcpbridge router {entry.url}"
    return "nothing was changed; let mcpbridge run this server, and add mcpbridge here"


def plan_remove(client: Client, location: Location, names: Sequence[str]) -> Change:
    """The change that takes servers out of a file; a name that is not there changes nothing. Raises ClientFileError."""
    path = location.path()
    state = disk.read(path)
    data = state.data or b""
    gone = []
    for name in names:
        document = Document(data, client.format, location.servers, path)
        if name in document.entries():
            data = document.without_entry(name)
            gone.append(name)
    if not gone and state.data is None:
        state = disk.FileState(state.target, b"")  # nothing there, nothing to do
    return Change(client, location.scope, path, state, data, f"remove {', '.join(gone)}")


def without(change: Change, location: Location, names: Sequence[str]) -> Change:
    """The change, and these servers taken out besides. Raises ClientFileError."""
    data = change.after
    for name in names:
        document = Document(data, change.client.format, location.servers, change.path)
        if name in document.entries():
            data = document.without_entry(name)
    return replace(change, after=data)


# -- making and taking back


def make(changes: Sequence[Change], journal: Journal, now: Callable[[], float] = time.time) -> list[Record]:
    """Make planned changes, each with a record and a backup. Raises ClientFileError; earlier ones of the list are made then."""
    made: list[Record] = []
    batch = f"{now():.6f}-{os.getpid()}"
    with journal.locked():
        for change in changes:
            if not change.is_needed:
                continue
            if disk.read(change.path) != change.before:
                raise disk.changed_meanwhile(change.path)
            directories = disk.make_directories(change.path)
            record = Record(
                batch=batch, time=now(), client=change.client.key, scope=change.scope, path=change.path, what=change.what,
                before=digest(change.before.data), after=digest(change.after) or "",
                backup=back_up(change.before, now()), mode=change.before.mode, directories=tuple(directories),
            )  # fmt: skip
            try:
                journal.add(record)
                disk.write(change.path, change.before, change.after)
            except ClientFileError:
                _forget(journal, record)
                raise
            made.append(record)
    return made


def _forget(journal: Journal, record: Record) -> None:
    """Drop a record whose change was not made."""
    if digest(disk.read(record.path).data) == record.before:
        journal.save([one for one in journal.records() if one != record])
        drop_backup(record)
        disk.remove_directories(list(record.directories))


@dataclass(frozen=True)
class Restored:
    """One file that undo looked at. ``changed`` False: it was already as before the change."""

    record: Record
    diff: str
    changed: bool


def undo(journal: Journal, clients: Sequence[str], *, force: bool, dry_run: bool) -> list[Restored]:
    """Put files back as they were before the last change.

    Raises ClientFileError when one was changed since by somebody else, unless ``force``.
    """
    with journal.locked():
        records = journal.records()
        wanted = last_batch(records, clients) if records else []
        steps = [_step(record, force) for record in wanted]  # all are looked at before the first is written
        if dry_run:
            return [restored for restored, _, _ in steps]
        for restored, state, before in steps:
            record = restored.record
            if restored.changed:
                if before is None:
                    disk.remove(record.path, state)
                    disk.remove_directories(list(record.directories))
                else:
                    disk.write(record.path, disk.FileState(state.target, state.data, record.mode, state.owner), before)
            journal.save([one for one in journal.records() if one != record])
            drop_backup(record)
        return [restored for restored, _, _ in steps]


def _step(record: Record, force: bool) -> tuple[Restored, disk.FileState, bytes | None]:
    state = disk.read(record.path)
    before = _backup_of(record)
    if digest(state.data) == record.before:
        return Restored(record, "", False), state, before
    diff = diff_of(record.path, state.data, before)
    if digest(state.data) != record.after and not force:
        raise ClientFileError(
            CHANGED, Place(record.path), "was changed by somebody else since",
            "nothing was changed; undo --dry-run --force shows what would be lost, undo --force does it",
        )  # fmt: skip
    return Restored(record, diff, True), state, before


def _backup_of(record: Record) -> bytes | None:
    if record.before is None:
        return None
    state = disk.read(record.backup or "")
    if digest(state.data) != record.before:
        raise ClientFileError(
            CHANGED, Place(record.backup or record.path), "the backup is missing or was changed", "put it back by hand"
        )
    return state.data
