"""Sockets: every unix socket below some directories is a server, named after its file.

    /tmp/mcp-servers/weather.sock   ->  weather, unix:///tmp/mcp-servers/weather.sock

A directory in a place that everybody may write to is no promise: what leads out of it, and what belongs to somebody else than
us or root, is left out.

Source: contract ``backends.stdio.socket_discovery``, ``backends.stdio.socket_paths``.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Collection, Iterator, Sequence
from typing import Final

from mcpbridge.config.sections import EndpointSpec, ServerSpec
from mcpbridge.config.servers import legal_name
from mcpbridge.observe.log import log

MAX_DEPTH: Final = 3  # directories below a path
MAX_ENTRIES: Final = 10_000  # files that are looked at
_log = log("discovery")


def find_sockets(paths: Sequence[str], taken: Collection[str]) -> list[ServerSpec]:
    """The servers below ``paths``, by name; names in ``taken`` are those of other servers. What is left out is logged."""
    found: dict[str, ServerSpec] = {}
    for root in paths:
        for path in _sockets(os.path.realpath(root), root):
            name = legal_name(re.sub(r"\.(sock|socket)$", "", os.path.basename(path)))
            if name in taken or name in found:
                _log.warn("socket left out: another server has its name", protocol="stdio", server=name, path=path)
            elif re.search(r"[\x00-\x20\x7f?#]", path):
                _log.warn("socket left out: its path cannot be an address", protocol="stdio", path=path)
            else:
                found[name] = ServerSpec(name=name, endpoints=(EndpointSpec(url=f"unix://{path}"),))
    return [found[name] for name in sorted(found)]


def _sockets(real: str, root: str) -> Iterator[str]:
    """Real paths of the sockets below a directory, itself by its real path."""
    looked = 0
    for folder, folders, files in os.walk(real):
        if folder[len(real) :].count(os.sep) >= MAX_DEPTH:
            folders.clear()
        for name in sorted(files):
            looked += 1
            if looked > MAX_ENTRIES:
                _log.warn("too many files; the rest is not looked at", protocol="stdio", path=root)
                return
            path = os.path.realpath(os.path.join(folder, name))
            try:
                status = os.lstat(path)
            except OSError:
                continue  # a link to nowhere, or gone by now
            if not stat.S_ISSOCK(status.st_mode):
                continue
            if not path.startswith(real.rstrip(os.sep) + os.sep):
                _log.warn("socket left out: it leads out of its directory", protocol="stdio", path=os.path.join(folder, name))
            elif status.st_uid not in (os.geteuid(), 0):
                _log.warn("socket left out: it belongs to another user", protocol="stdio", path=path, uid=status.st_uid)
            else:
                yield path
