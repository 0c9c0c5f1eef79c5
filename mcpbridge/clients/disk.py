"""Reading and replacing a client's file: whole or not at all, and only while it is still what was read.

A symbolic link stays one; the file behind it is replaced by a rename in its own directory, with its mode and owner. A file
that the person made read-only is left alone.

Source: ux section 7 (writing rules 3, 6 and 7).
"""

from __future__ import annotations

import os
import stat
import tempfile
from contextlib import suppress
from dataclasses import dataclass

from mcpbridge.clients.document import MAX_BYTES, too_large
from mcpbridge.clients.faults import EX_CANTCREAT, EX_IOERR, EX_NOINPUT, EX_TEMPFAIL, ClientFileError
from mcpbridge.config.problems import Place
from mcpbridge.private_files import sync_directory

READ, WRITE, BUSY = "MCPB-CFG-READ", "MCPB-CFG-WRITE", "MCPB-CFG-BUSY"
NEW_FILE_MODE = 0o600  # people put tokens into these files
NEW_DIRECTORY_MODE = 0o700


@dataclass(frozen=True)
class FileState:
    """A file as it was read. ``target`` is what a link points to; ``data`` None: there is none."""

    target: str
    data: bytes | None
    mode: int = NEW_FILE_MODE
    owner: tuple[int, int] | None = None


def read(path: str) -> FileState:
    """The file, or that it is missing. Raises ClientFileError."""
    target = os.path.realpath(path)
    try:
        status = os.stat(target)
        if not stat.S_ISREG(status.st_mode):
            raise ClientFileError(READ, Place(path), "is no regular file", "nothing was changed", EX_NOINPUT)
        if status.st_size > MAX_BYTES:
            raise too_large(path)
        with open(target, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return FileState(target, None)
    except NotADirectoryError:
        raise ClientFileError(READ, Place(path), "lies in a path that is no directory", "", EX_NOINPUT) from None
    except OSError as error:
        raise ClientFileError(READ, Place(path), f"cannot be read: {error.strerror or error}", "", EX_NOINPUT) from None
    if len(data) > MAX_BYTES:
        raise too_large(path)
    return FileState(target, data, stat.S_IMODE(status.st_mode), (status.st_uid, status.st_gid))


def write(path: str, before: FileState, data: bytes) -> None:
    """Replace what was read by new bytes. Raises ClientFileError; then the file is what it was."""
    if before.data is not None and not before.mode & stat.S_IWUSR:
        raise ClientFileError(
            WRITE, Place(path), "is read-only", f"nothing was changed; chmod u+w {path} if we may", EX_CANTCREAT
        )
    directory = os.path.dirname(before.target)
    temporary = ""
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=".mcpbridge-", dir=directory)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            if os.name == "posix":
                os.fchmod(file.fileno(), before.mode)
                if before.owner is not None and before.owner != (os.geteuid(), os.getegid()):
                    os.fchown(file.fileno(), *before.owner)
            os.fsync(file.fileno())
        if read(path) != before:
            raise changed_meanwhile(path)
        os.replace(temporary, before.target)
        temporary = ""
        sync_directory(directory)
    except OSError as error:
        raise ClientFileError(
            WRITE, Place(path), f"cannot be written: {error.strerror or error}", "nothing was changed", EX_CANTCREAT
        ) from None
    finally:
        if temporary:
            with suppress(OSError):
                os.unlink(temporary)
    if read(path).data != data:
        raise ClientFileError(
            BUSY, Place(path), "another program wrote the file right after us", "look at it and try again", EX_TEMPFAIL
        )


def changed_meanwhile(path: str) -> ClientFileError:
    """The fault of a file that another program wrote between our reading and our writing."""
    return ClientFileError(BUSY, Place(path), "the file changed while we worked", "nothing was changed; try again", EX_TEMPFAIL)


def remove(path: str, before: FileState) -> None:
    """Remove a file that is still what was read. Raises ClientFileError."""
    if read(path) != before:
        raise changed_meanwhile(path)
    try:
        os.unlink(before.target)
        sync_directory(os.path.dirname(before.target))
    except OSError as error:
        raise ClientFileError(WRITE, Place(path), f"cannot be removed: {error.strerror or error}", "", EX_CANTCREAT) from None


def make_directories(path: str) -> list[str]:
    """Make the directories above a file; those that were not there, outermost first. Raises ClientFileError."""
    missing = []
    directory = os.path.dirname(os.path.realpath(path))
    while not os.path.isdir(directory):
        missing.append(directory)
        parent = os.path.dirname(directory)
        if parent == directory:
            break
        directory = parent
    made = []
    for directory in reversed(missing):
        try:
            os.mkdir(directory, NEW_DIRECTORY_MODE)
        except FileExistsError:
            continue
        except OSError as error:
            raise ClientFileError(
                WRITE, Place(path), f"{directory} cannot be made: {error.strerror or error}", "", EX_CANTCREAT
            ) from None
        made.append(directory)
    return made


def remove_directories(paths: list[str]) -> None:
    """Remove directories that were made and are still empty, innermost first."""
    for path in reversed(paths):
        with suppress(OSError):
            os.rmdir(path)


def io_error(path: str, error: OSError) -> ClientFileError:
    """The fault of a file of our own that cannot be read or written."""
    return ClientFileError("MCPB-CFG-STATE", Place(path), f"{error.strerror or error}", "check the state directory", EX_IOERR)
