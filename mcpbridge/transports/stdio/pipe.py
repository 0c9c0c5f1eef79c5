"""stdio over a pair of named pipes: for whoever has a file system in common and no sockets.

    pipe:///run/server     client ── /run/server.in ──> server
                           client <── /run/server.out ── server          one conversation at a time

A client opens ``.in`` for writing, locks it, and opens ``.out`` for reading. The server answers what was asked before ``.in``
ended, closes ``.out`` and waits for the next one. The mode of the files says who may talk; sign-in is the line of ``socket``.
On Windows ``pipe:///name`` is ``\\\\.\\pipe\\name``, one duplex pipe with any number of clients; not run on Windows yet.

Source: architecture section 8 (stdio: named pipe); fifo(7), flock(2).
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
import stat
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Final, TypeVar

from mcpbridge.core.duplex import Arrival, Serve
from mcpbridge.core.exchange import Era
from mcpbridge.core.peer import Peer
from mcpbridge.core.ports import Dial, Inbox, Upstream
from mcpbridge.core.tasks import Spawn
from mcpbridge.descriptors import pipe_end
from mcpbridge.errors import BridgeError
from mcpbridge.observe.log import log
from mcpbridge.transports.stdio.lines import ClientLines, Lines
from mcpbridge.transports.unix import ForeignFile
from mcpbridge.wire import message as m

RETRY: Final = 0.02  # seconds between looks whether the other side has opened its end
READER_TIME: Final = 5.0  # seconds a client that has begun to talk has to open the end it listens at
READ_SIZE: Final = 65536  # bytes of one read of what goes nowhere
LET_GO_TIME: Final = 3.0  # seconds a server has to close its end after a conversation before the next one begins all the same
_log = log("pipe")
T = TypeVar("T", bound=asyncio.BaseTransport)


def dial(
    name: str,
    spawn: Spawn,
    path: str,
    *,
    authorization: Callable[[], str | None] = lambda: None,
    max_message: int = 10_485_760,
    timeout: float = 5.0,
) -> Dial:
    """How to reach server ``name`` at the pipes ``path.in`` and ``path.out``. ``timeout``: seconds until both are open."""
    before: _Parting | None = None

    async def run(_era: Era, inbox: Inbox) -> Upstream:
        nonlocal before
        lines = Lines(max_message, client=False, name=name)
        try:
            async with asyncio.timeout(timeout):
                if sys.platform == "win32":
                    await _connect_windows(lines, path)
                else:
                    if before is not None:
                        await before.is_over()
                    before = _Parting(lines, await _connect(lines, path))
        except FileNotFoundError as error:
            raise BridgeError("stdio_no_such_file", str(error.filename), sent=False, path=path) from error
        except BlockingIOError as error:
            raise BridgeError("server_busy", f"{path}: somebody else talks to it", sent=False, path=path) from error
        except TimeoutError as error:
            raise BridgeError("connection_refused", f"{path}: no server reads {path}.in", sent=False, path=path) from error
        except OSError as error:
            raise BridgeError("connection_refused", f"{path}: {error.strerror or error}", sent=False, path=path) from error
        said = authorization()
        if said is not None:
            lines.send(m.dumps({"authorization": said}))
        peer = Peer(lines, inbox, spawn, client=False, name=name)
        peer.start()
        return peer

    return run


class PipeFrontend:
    """Serves one client after the other on a pair of pipes."""

    def __init__(self, serve: Serve, spawn: Spawn, *, max_message: int = 10_485_760) -> None:
        self._serve = serve
        self._spawn = spawn
        self._max_message = max_message
        self._path = ""
        self._made: list[str] = []
        self._task: asyncio.Task[None] | None = None
        self._is_stopping = False
        self.connections = 0

    async def start(self, path: str, mode: int) -> None:
        """Make the pipes and wait for clients. Raises ForeignFile for a file that is no pipe of ours, OSError."""
        if sys.platform == "win32":
            loop: Any = asyncio.get_running_loop()
            await loop.start_serving_pipe(
                lambda: _WindowsClient(self._max_message, lambda lines: self._spawn(self._arrived(lines))), _windows(path)
            )
            return
        self._path = path
        for end in (f"{path}.in", f"{path}.out"):
            _make(end, mode)
            self._made.append(end)
        self._task = self._spawn(self._listen())

    def stop_accepting(self) -> None:
        """Take the names away; the client that is here goes on."""
        self._is_stopping = True
        for end in self._made:
            with suppress(OSError):
                os.unlink(end)
        self._made = []
        if self._task is not None and not self.connections:
            self._task.cancel("the bridge ends")

    async def drain(self, timeout: float) -> None:
        if self._task is not None:
            await asyncio.wait([self._task], timeout=timeout)

    async def close(self) -> None:
        self.stop_accepting()
        if self._task is not None:
            self._task.cancel("the bridge ends")
            await self.drain(5.0)

    async def _listen(self) -> None:
        held: list[int] = []  # a pipe that no one has open forgets what the next client wrote already
        try:
            await self._serve_each(held)
        finally:
            _let_go(held)

    async def _serve_each(self, held: list[int]) -> None:
        while not self._is_stopping:
            lines = ClientLines(self._max_message)
            begun: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
            reads = await _reading(f"{self._path}.in", lines, begun, held)
            try:
                if not await begun:
                    reads.close()
                    continue
                _let_go(held)
                async with asyncio.timeout(READER_TIME):
                    writes = await _writing(f"{self._path}.out", lines)
            except TimeoutError:
                _log.warn("client let go: it does not read", protocol="stdio", path=f"{self._path}.out")
                reads.close()
                continue
            except BaseException:
                reads.close()
                raise
            lines.attach(reads, writes)
            await self._arrived(lines)

    async def _arrived(self, lines: ClientLines) -> None:
        self.connections += 1
        try:
            await self._serve(lines, Arrival("stdio", "pipe", lines.headers))
        finally:
            self.connections -= 1


def _make(path: str, mode: int) -> None:
    """A pipe of ours at ``path``; one that was left behind is taken again. Raises ForeignFile, OSError."""
    try:
        os.mkfifo(path, 0o600)
    except FileExistsError:
        found = os.lstat(path)
        if not stat.S_ISFIFO(found.st_mode) or found.st_uid != os.geteuid():
            raise ForeignFile(errno.EEXIST, "there is a file that is no pipe of ours", path) from None
    os.chmod(path, mode)


class _Parting:
    """The end we listen at, held beyond a conversation until the server has closed its own.

    A server that is still busy with the end of a conversation has ``.in`` open, and would get how the next one begins. What
    it says meanwhile goes nowhere, and after LET_GO_TIME nobody listens any more.
    """

    def __init__(self, lines: Lines, reads: asyncio.ReadTransport) -> None:
        self._loop = asyncio.get_running_loop()
        self._end = os.dup(reads.get_extra_info("pipe").fileno())
        self._gone = lines.gone
        self._let_go: asyncio.Future[None] = self._loop.create_future()
        self._gone.add_done_callback(self._begin)

    async def is_over(self) -> None:
        """Return at once while the conversation goes on, and else when the server is through with it."""
        if self._gone.done():
            await asyncio.wait([self._let_go])

    def _begin(self, _gone: object) -> None:
        self._loop.add_reader(self._end, self._discard)
        self._timer = self._loop.call_later(LET_GO_TIME, self._finish)

    def _discard(self) -> None:
        with suppress(BlockingIOError):
            if not os.read(self._end, READ_SIZE):
                self._finish()

    def _finish(self) -> None:
        self._timer.cancel()
        self._loop.remove_reader(self._end)
        os.close(self._end)
        self._let_go.set_result(None)


async def _connect(lines: Lines, path: str) -> asyncio.ReadTransport:
    """Open both ends as a client; returns the one it listens at.

    Raises FileNotFoundError, BlockingIOError (somebody else holds the lock), OSError.
    """
    import fcntl

    writes = await _writing(f"{path}.in", lines)
    try:
        fcntl.flock(writes.get_extra_info("pipe").fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        reads = await _reading(f"{path}.out", lines, asyncio.get_running_loop().create_future())
    except BaseException:
        writes.close()
        raise
    lines.attach(reads, writes)
    return reads


async def _reading(
    path: str, lines: Lines, begun: asyncio.Future[bool], held: list[int] | None = None
) -> asyncio.ReadTransport:
    """The reading end. ``begun`` tells when the other side has said something (True) or has come and gone.

    ``held`` is what kept the pipe open since the end before this one; from here on it is this one.
    """
    loop = asyncio.get_running_loop()
    end = pipe_end(_open(path, os.O_RDONLY), "rb", loop)
    if held is not None:
        look = select.poll()
        look.register(end, select.POLLIN)
        if held and look.poll(0):
            # Who wrote this may be gone already, and poll(2) tells only of writers that leave after we opened: ours does.
            with suppress(OSError):
                os.close(_open(path, os.O_WRONLY))
        _let_go(held)
        held.append(os.dup(end.fileno()))
    return await _whole(loop.connect_read_pipe(lambda: _Reads(lines, begun), end))


async def _writing(path: str, lines: Lines) -> asyncio.WriteTransport:
    """The writing end, once somebody reads."""
    descriptor = -1
    while descriptor < 0:
        try:
            descriptor = _open(path, os.O_WRONLY)
        except OSError as error:
            if error.errno != errno.ENXIO:  # nobody has it open for reading
                raise
            await asyncio.sleep(RETRY)
    loop = asyncio.get_running_loop()
    return await _whole(loop.connect_write_pipe(lambda: _Writes(lines), pipe_end(descriptor, "wb", loop)))


def _let_go(held: list[int]) -> None:
    while held:
        os.close(held.pop())


async def _whole(connecting: Coroutine[Any, Any, tuple[T, Any]]) -> T:
    """The transport of a pipe. One that is given up meanwhile is closed once it is whole: uvloop owns the file only then."""
    task = asyncio.ensure_future(connecting)
    try:
        return (await asyncio.shield(task))[0]
    except asyncio.CancelledError:
        await asyncio.wait([task])  # one turn of the loop
        if task.exception() is None:
            task.result()[0].close()
        raise
    finally:
        task.cancel()


def _open(path: str, mode: int) -> int:
    descriptor = os.open(path, mode | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no named pipe", path)
    return descriptor


class _Reads(asyncio.Protocol):
    """The reading end of Lines; reads one chunk until there is somebody to take it."""

    def __init__(self, lines: Lines, begun: asyncio.Future[bool]) -> None:
        self._lines = lines
        self._begun = begun

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def data_received(self, data: bytes) -> None:
        if not self._begun.done():
            self._begun.set_result(True)
        self._lines.data_received(data)
        if not self._lines.has_started:
            self._transport.pause_reading()

    def eof_received(self) -> None:
        if self._begun.done():
            self._lines.eof_received()
        else:
            self._begun.set_result(False)

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None:
            self._lines.connection_lost(exc)


class _Writes(asyncio.BaseProtocol):
    """The writing end of Lines: when it is lost nobody hears us."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines

    def pause_writing(self) -> None:
        self._lines.pause_writing()

    def resume_writing(self) -> None:
        self._lines.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lines.connection_lost(exc)


async def _connect_windows(lines: Lines, path: str) -> None:
    loop: Any = asyncio.get_running_loop()
    await loop.create_pipe_connection(lambda: lines, _windows(path))


class _WindowsClient(ClientLines):
    def __init__(self, max_message: int, arrived: Callable[[ClientLines], object]) -> None:
        super().__init__(max_message)
        self._arrived = arrived

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._arrived(self)


def _windows(path: str) -> str:
    return "\\\\.\\pipe\\" + path.strip("/").replace("/", "\\")
