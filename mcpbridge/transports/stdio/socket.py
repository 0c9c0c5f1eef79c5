"""stdio over a unix socket: the same lines, a file to find each other, and the system says who is at the other end.

    client ── connect ──> /tmp/mcp-gateway.sock (mode 0660)    the gateway looks at the client's user and group
           ── {"authorization": "Bearer ..."} ──>              a line of its own, where sign-in is on; again to renew it
           <── {...} ──>                                       messages

Source: contract http.gateway.stdio, http.server.socat, ``server.stdio_socket``; unix(7); decision 3 (half-close).
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
from collections.abc import Callable
from typing import Final, NamedTuple

from mcpbridge.core.duplex import Arrival, Serve
from mcpbridge.core.exchange import Era
from mcpbridge.core.peer import Peer
from mcpbridge.core.ports import Dial, Inbox, Upstream
from mcpbridge.core.tasks import Spawn
from mcpbridge.errors import BridgeError, to_wire
from mcpbridge.observe.log import log
from mcpbridge.transports.doors import BACKLOG, ConnectionLimits
from mcpbridge.transports.stdio.lines import ClientLines, Lines
from mcpbridge.transports.unix import SocketName, listening, make_room
from mcpbridge.wire import message as m

_SO_PEERGROUPS: Final = 59  # Linux; the socket module has no name for it
_MAX_GROUPS: Final = 65536
_log = log("socket")


class Credentials(NamedTuple):
    """Who is at the other end, as the system says it."""

    uid: int
    groups: frozenset[int]


def may_connect(peer: Credentials, mode: int, uid: int, gid: int) -> bool:
    """Whether the mode of a socket of ``uid`` and ``gid`` lets this peer in; root may always, and so may we."""
    if peer.uid in (uid, 0):
        return True
    return bool(mode & 0o002) or bool(mode & 0o020 and gid in peer.groups)


def credentials(sock: socket.socket) -> Credentials | None:
    """The peer of a connected unix socket; None where the system does not tell. Raises OSError."""
    if hasattr(socket, "SO_PEERCRED"):  # Linux
        _pid, uid, gid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        try:
            raw = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 4 * _MAX_GROUPS)
        except OSError:  # before Linux 4.13
            raw = b""
        return Credentials(uid, frozenset({gid, *struct.unpack(f"{len(raw) // 4}I", raw)}))
    if hasattr(socket, "LOCAL_PEERCRED"):  # macOS, BSD: struct xucred at level SOL_LOCAL. Not tested on one
        _version, uid, count, *groups = struct.unpack("IIh2x16I", sock.getsockopt(0, socket.LOCAL_PEERCRED, 76))
        return Credentials(uid, frozenset(groups[: max(0, min(count, 16))]))
    return None


class SocketFrontend:
    """Serves clients on a unix socket. ``limits`` count its connections per user, together with those of other frontends."""

    def __init__(self, serve: Serve, spawn: Spawn, limits: ConnectionLimits, *, max_message: int = 10_485_760) -> None:
        self._serve = serve
        self._spawn = spawn
        self._limits = limits
        self._max_message = max_message
        self._server: asyncio.AbstractServer | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._name = SocketName("", 0, 0)
        self._mode = 0

    @property
    def connections(self) -> int:
        return len(self._tasks)

    async def start(self, path: str, mode: int) -> None:
        """Listen at ``path``. Raises ForeignFile, or OSError (EADDRINUSE: somebody of ours listens there)."""
        if os.name == "nt":
            raise OSError(errno.EAFNOSUPPORT, "asyncio has no unix sockets on Windows; use a pipe")
        make_room(path)
        sock, self._name = listening(path, mode)
        self._mode = mode
        self._server = await asyncio.get_running_loop().create_unix_server(self._accept, sock=sock, backlog=BACKLOG)

    def stop_accepting(self) -> None:
        """Close the socket and take its name away, if it is still our socket that has it."""
        if self._server is not None:
            self._server.close()
            self._server = None
            self._name.take_away()

    async def drain(self, timeout: float) -> None:
        """Wait for the clients, whom ``serve`` lets go; ``timeout`` seconds at most."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout)

    async def close(self) -> None:
        self.stop_accepting()
        for task in self._tasks:
            task.cancel("the bridge ends")
        await self.drain(5.0)

    def _accept(self) -> _Client:
        return _Client(self._admit, self._max_message)

    def _admit(self, client: _Client, sock: socket.socket) -> BridgeError | None:
        """Begin to serve a client, or why not."""
        peer = credentials(sock)
        if peer is not None and not may_connect(peer, self._mode, os.geteuid(), os.getegid()):
            _log.warn("client refused: its user may not use the socket", protocol="stdio", uid=peer.uid)
            return BridgeError("forbidden", "this user may not use the socket", sent=False)
        key = f"uid:{peer.uid}" if peer is not None else "unix"
        status = self._limits.claim(key)
        if status:
            reason = "rate_limited" if status == 429 else "server_busy"
            return BridgeError(reason, self._limits.words(status), sent=False)
        arrival = Arrival("stdio", key, client.headers)
        task = self._spawn(self._serve_one(client, arrival))
        self._tasks.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            self._limits.release(key)

        task.add_done_callback(ended)
        return None

    async def _serve_one(self, client: _Client, arrival: Arrival) -> None:
        await self._serve(client, arrival)


class _Client(ClientLines):
    """A connection that was accepted."""

    def __init__(self, admit: Callable[[_Client, socket.socket], BridgeError | None], max_message: int) -> None:
        super().__init__(max_message)
        self._admit = admit

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        sock: socket.socket = transport.get_extra_info("socket")
        try:
            refused = self._admit(self, sock)
        except OSError as error:  # it is gone already
            refused = BridgeError("forbidden", error.strerror or "it is gone", sent=False)
        if refused is not None:
            self.send(m.error(None, to_wire(refused)).encode())
            self._end(None)


def dial(
    name: str,
    spawn: Spawn,
    path: str,
    *,
    authorization: Callable[[], str | None] = lambda: None,
    max_message: int = 10_485_760,
    timeout: float = 5.0,
) -> Dial:
    """How to reach server ``name`` at a unix socket. ``authorization``, where there is one, is said first."""

    async def run(_era: Era, inbox: Inbox) -> Upstream:
        lines = Lines(max_message, client=False, name=name)
        try:
            async with asyncio.timeout(timeout):
                await asyncio.get_running_loop().create_unix_connection(lambda: lines, path)
        except FileNotFoundError as error:
            raise BridgeError("stdio_no_such_file", path, sent=False, path=path) from error
        except TimeoutError as error:
            raise BridgeError("timeout", f"{path} does not accept", sent=False, path=path) from error
        except OSError as error:
            raise BridgeError("connection_refused", f"{path}: {error.strerror or error}", sent=False, path=path) from error
        said = authorization()
        if said is not None:
            lines.send(m.dumps({"authorization": said}))
        peer = Peer(lines, inbox, spawn, client=False, name=name)
        peer.start()
        return peer

    return run
