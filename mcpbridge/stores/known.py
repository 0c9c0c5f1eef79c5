"""What servers said of themselves last, kept on disk so that the next `initialize` is answered at once.

    {"<identity of a server>": {"legacy": "<InitializeResult JSON>", "modern": "<DiscoverResult JSON>"}}

Nothing secret is in it and nothing depends on it: a file that cannot be read or written only costs the wait it saves.

Source: issue "Router" (initialize is answered from the last known capabilities).
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

import msgspec

from mcpbridge.observe.log import log

_log = log("known")
MAX_FILE = 4 * 1024 * 1024
MAX_SERVERS = 500
MAX_HELLO = 65_536


def identity(*parts: str) -> str:
    """A server's identity by how it is reached: the same command or URL is the same server."""
    return hashlib.sha256("\x00".join(parts).encode()).hexdigest()[:32]


class Known:
    """The file at ``path``; 0600 and replaced atomically."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._said: dict[str, dict[str, str]] = {}
        try:
            if path.stat().st_size <= MAX_FILE:
                self._said = msgspec.json.decode(path.read_bytes(), type=dict[str, dict[str, str]])
        except FileNotFoundError:
            pass
        except (OSError, msgspec.MsgspecError) as error:
            _log.debug("last known capabilities are not readable; starting without", path=str(path), error=str(error))

    def of(self, identity: str) -> dict[str, bytes]:
        """Era -> what the server said then; {} when it is new, or damaged."""
        return {era: said.encode() for era, said in self._said.get(identity, {}).items() if _is_object(said)}

    def keep(self, identity: str, hello: dict[str, bytes]) -> None:
        """Remember and write. Never raises."""
        said = {era: raw.decode() for era, raw in hello.items() if len(raw) <= MAX_HELLO}
        if self._said.get(identity) == said:
            return
        self._said.pop(identity, None)
        self._said[identity] = said
        while len(self._said) > MAX_SERVERS:
            del self._said[next(iter(self._said))]
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor, temporary = tempfile.mkstemp(dir=self._path.parent, prefix=".known-")
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(msgspec.json.encode(self._said))
                os.replace(temporary, self._path)
            except OSError:
                os.unlink(temporary)
                raise
        except OSError as error:
            _log.debug("last known capabilities are not written", path=str(self._path), error=str(error))


def _is_object(said: str) -> bool:
    try:
        return isinstance(msgspec.json.decode(said), dict)
    except msgspec.MsgspecError:
        return False
