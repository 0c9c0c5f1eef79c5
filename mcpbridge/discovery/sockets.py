"""Sockets: every unix socket below some directories is a server, named after its file.

    /tmp/mcp-servers/weather.sock   ->  weather, unix:///tmp/mcp-servers/weather.sock

A directory in a place that everybody may write to is no promise: what leads out of it, what belongs to somebody else than us or
root, and what somebody else could put in another's place before it is reached, is left out.

Source: contract ``backends.stdio.socket_discovery``, ``backends.stdio.socket_paths``.
"""

from __future__ import annotations

import asyncio
import os
import re
import stat
from collections.abc import Iterator, Sequence
from typing import Final

from mcpbridge.config.sections import EndpointSpec, ServerSpec
from mcpbridge.config.servers import legal_name
from mcpbridge.discovery import Source

MAX_DEPTH: Final = 3  # directories below a path
MAX_ENTRIES: Final = 10_000  # files that are looked at
PAUSE: Final = 2.0  # seconds between two looks


class Sockets:
    """Looks at the directories again and again: every ``pause`` seconds, in a thread, since a disk may be slow."""

    name = "sockets"

    def __init__(self, paths: Sequence[str], pause: float = PAUSE) -> None:
        self._paths = paths
        self._pause = pause

    async def watch(self, source: Source) -> None:
        while True:
            try:
                source.found(*await asyncio.to_thread(find_sockets, self._paths))
            except OSError as error:
                source.failed(f"the directories cannot be looked at: {error.strerror or error}")
            await asyncio.sleep(self._pause)


def find_sockets(paths: Sequence[str]) -> tuple[list[ServerSpec], list[str]]:
    """The servers below ``paths``, by name, and what was left out with its cause.

    Raises OSError when there are too many files: a part of them is no picture, and servers would go for what others put there.
    """
    found: dict[str, ServerSpec] = {}
    skipped: list[str] = []
    for root in paths:
        for path in _sockets(os.path.realpath(root), root, skipped):
            name = legal_name(re.sub(r"\.(sock|socket)$", "", os.path.basename(path)))
            if name in found:
                skipped.append(f"{path}: another socket has its name")
            elif re.search(r"[\x00-\x20\x7f?#]", path):
                skipped.append(f"{path!r}: it cannot be an address")
            else:
                found[name] = ServerSpec(name=name, endpoints=(EndpointSpec(url=f"unix://{path}"),))
    return [found[name] for name in sorted(found)], skipped


def _sockets(real: str, root: str, skipped: list[str]) -> Iterator[str]:
    """Paths of the sockets below a directory, itself by its real path. A link is none: what it leads to is found itself."""
    looked = 0

    def unread(error: OSError) -> None:
        skipped.append(f"{error.filename}: it cannot be read: {(error.strerror or str(error)).lower()}")

    for folder, folders, files in os.walk(real, onerror=unread):
        folders.sort()  # the first of two with one name is always the same
        if why := _weakness(folder):
            skipped.append(f"{folder}: {why}")
            folders.clear()
            continue
        looked += len(folders) + len(files)
        if looked > MAX_ENTRIES:
            raise OSError(f"{root} has more than {MAX_ENTRIES} files; keep others elsewhere")
        if folder[len(real) :].count(os.sep) >= MAX_DEPTH:
            folders.clear()
        for path in sorted(os.path.join(folder, name) for name in files):
            target = os.path.realpath(path)
            try:
                status = os.lstat(target)
            except OSError:
                continue  # a link to nowhere, or gone by now
            if not stat.S_ISSOCK(status.st_mode):
                continue
            if not target.startswith(real.rstrip(os.sep) + os.sep):
                skipped.append(f"{path}: it leads out of its directory")
            elif status.st_uid not in (os.geteuid(), 0):
                skipped.append(f"{path}: it belongs to another user")
            elif target == path:
                yield path


def _weakness(folder: str) -> str:
    """Why others could change what a path in this directory means, or ""."""
    try:
        status = os.lstat(folder)
    except OSError as error:
        return f"it cannot be looked at: {error.strerror}"
    if status.st_uid not in (os.geteuid(), 0):
        return "the directory belongs to another user"
    if status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX:
        return "everybody may change the directory"
    return ""
