"""A server as a child process: a Connection over its stdin and stdout, its stderr drained, its whole family ended with it.

    spawn() -> Child.start() -> messages ... -> on_close(cause)      the child ended, or stopped talking or listening
                                             -> close()              we end it: stdin closed, 2 s, SIGTERM, 2 s, SIGKILL

The conversation ends with the child's own process: a helper it leaves behind may hold its stdout, but it does not speak for
it. A line that is no JSON passes as it is; the Peer decides.

Source: MCP stdio transport, shutdown; architecture section 8; reliability section 3 rows 12-15.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, cast

from mcpbridge.descriptors import pipe_end
from mcpbridge.errors import BridgeError
from mcpbridge.observe.log import log
from mcpbridge.transports.stdio import guard
from mcpbridge.transports.stdio.launch import prepare
from mcpbridge.transports.stdio.stderr import StderrLines
from mcpbridge.wire.framing import LineFramer

CLOSE_GRACE = 2.0  # seconds a child has after its stdin ended, and again after SIGTERM
KILL_WAIT = 1.5  # seconds close() waits for the effect of SIGKILL
LINGER = 0.25  # seconds to read what an ended child has left in its pipes, when somebody else still holds them
HIGH_WATER = 1 << 20  # bytes towards the child above which drain() waits
MAX_BUFFER = 64 << 20  # bytes towards the child above which send() refuses: it does not read
STDERR_SLICE = 0.05  # seconds ...
STDERR_BYTES = 1 << 20  # ... in which at most about this much stderr is read: a flood must not starve the others

OnMessage = Callable[[bytes], None]
OnClose = Callable[[BaseException | None], None]

_log = log("direct_clients")


async def spawn(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: str | None,
    name: str,
    max_message: int,
    on_stderr: Callable[[str], None],
) -> Child:
    """Start ``argv`` with our environment (less our secrets) plus ``env``; returns when the program runs.

    ``max_message`` in bytes; ``on_stderr`` gets complete lines, rate-limited, secrets masked. The caller then calls
    ``start`` and, in the end, ``close``.
    Raises BridgeError("stdio_no_such_file" | "stdio_cannot_start", sent=False, path=...).
    """
    launch = prepare(argv, env, cwd)
    theirs: list[int] = []
    ours: list[int] = []
    try:
        for mine in (1, 0, 0):  # we write stdin and read the other two
            pair = os.pipe()
            ours.append(pair[mine])
            theirs.append(pair[1 - mine])
        ward = await guard.current().spawn(launch.path, launch.argv, launch.env, launch.cwd, theirs)
    except OSError as error:
        _close_all(ours)
        raise _cannot_start(argv[0], error) from error
    except BaseException:
        _close_all(ours)
        raise
    finally:
        _close_all(theirs)
    child = Child(ward, name, max_message, on_stderr)
    try:
        await child.connect(*ours)
    except BaseException:
        child.abandon()
        raise
    _log.debug("child started", protocol="stdio", server=name, pid=ward.pid, command=launch.path)
    return child


def _cannot_start(command: str, error: OSError) -> BridgeError:
    if isinstance(error, FileNotFoundError):  # the program is there, so it is the interpreter its first line names
        return BridgeError("stdio_no_such_file", f"{command} or the interpreter it names", sent=False, path=command)
    return BridgeError("stdio_cannot_start", f"{command}: {error.strerror}", sent=False, path=command)


def _close_all(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        with suppress(OSError):
            os.close(descriptor)


class Child:
    """A running child process as a Connection (core.ports)."""

    def __init__(self, ward: guard.Ward, name: str, max_message: int, on_stderr: Callable[[str], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._ward = ward
        self.name = name
        self.stderr = StderrLines()
        self._on_stderr = on_stderr
        self._framer = LineFramer(max_message)
        self._stdin: asyncio.WriteTransport | None = None
        self._stdout: asyncio.ReadTransport | None = None
        self._errors: asyncio.ReadTransport | None = None
        self._on_message: OnMessage | None = None
        self._on_close: OnClose | None = None
        self._outgoing: list[bytes] = []  # said in this turn of the loop, not yet written
        self._outgoing_size = 0
        self._early: list[bytes] = []  # read before start(): one chunk, reading is paused until then
        self._writable = asyncio.Event()
        self._writable.set()
        self._is_paused = True
        self._is_reading_over = False
        self._is_stderr_over = False
        self._is_over = False  # on_close was called, or will be as soon as there is one
        self._cause: BaseException | None = None
        self._lingering: asyncio.TimerHandle | None = None
        self._stderr_read = 0
        self._closing: asyncio.TimerHandle | None = None
        self._released: asyncio.Future[None] = self._loop.create_future()  # nothing of it is left
        ward.exited.add_done_callback(lambda _: self._on_exit())
        ward.gone.add_done_callback(lambda _: self._on_gone())

    @property
    def pid(self) -> int:
        """The process id of the child; also its process group and session."""
        return self._ward.pid

    async def connect(self, stdin: int, stdout: int, stderr: int) -> None:
        """Take these descriptors as the child's pipes."""
        descriptors, loop = [stdin, stdout, stderr], self._loop
        try:
            self._stdin, _ = await loop.connect_write_pipe(lambda: _Stdin(self), pipe_end(descriptors[0], "wb", loop))
            descriptors[0] = -1
            self._stdin.set_write_buffer_limits(high=HIGH_WATER)
            self._stdout, _ = await loop.connect_read_pipe(lambda: _Stdout(self), pipe_end(descriptors[1], "rb", loop))
            descriptors[1] = -1
            self._errors, _ = await loop.connect_read_pipe(lambda: _Stderr(self), pipe_end(descriptors[2], "rb", loop))
            descriptors[2] = -1
        finally:
            _close_all([descriptor for descriptor in descriptors if descriptor >= 0])

    # The Connection

    def start(self, on_message: OnMessage, on_close: OnClose) -> None:
        self._on_message, self._on_close = on_message, on_close
        early, self._early = self._early, []
        for chunk in early:
            self.on_stdout(chunk)
        self.resume()
        if self._is_over:
            on_close(self._cause)

    def send(self, data: bytes) -> None:
        if self._stdin is None or self._is_over or self._is_reading_over or self._stdin.is_closing():
            raise ConnectionError(f"server {self.name!r} no longer talks")
        if self._stdin.get_write_buffer_size() + self._outgoing_size > MAX_BUFFER:
            raise ConnectionError(f"server {self.name!r} does not read its stdin")
        if b"\n" in data or b"\r" in data:  # JSON knows them as white space only; a line must not hold them
            data = data.replace(b"\r", b" ").replace(b"\n", b" ")
        if not self._outgoing:
            self._loop.call_soon(self._flush)  # what else is said in this turn of the loop goes in the same write
        self._outgoing.append(data)
        self._outgoing_size += len(data) + 1

    def _flush(self) -> None:
        if self._outgoing and self._stdin is not None:
            self._outgoing.append(b"")
            self._stdin.write(b"\n".join(self._outgoing))
        self._outgoing.clear()
        self._outgoing_size = 0

    async def drain(self) -> None:
        self._flush()
        await self._writable.wait()

    def pause(self) -> None:
        self._is_paused = True
        if self._stdout is not None and not self._stdout.is_closing():
            self._stdout.pause_reading()

    def resume(self) -> None:
        self._is_paused = False
        if self._stdout is not None and not self._stdout.is_closing():
            self._stdout.resume_reading()

    async def close(self) -> None:
        """End the child and everything it started; returns when all of it is gone, after 5.5 s at most."""
        self._finish(ConnectionAbortedError("closed by the bridge"))
        await asyncio.shield(self._released)

    def abandon(self) -> None:
        """End it at once without waiting; for a start that failed halfway."""
        self._finish(None)
        self._ward.end(0.0)

    # What happens

    def on_stdout(self, data: bytes) -> None:
        """Bytes of the child's stdout."""
        if self._is_over:
            return  # it is read until its end, so that a child with much to say can still end by itself
        if self._on_message is None:
            self._early.append(data)
            return
        for line in self._framer.feed(data):
            self._on_message(line)
        if self._framer.skipped and self._framer.is_endless and not self._is_over:
            detail = f"server {self.name!r} writes a line without an end"
            self._finish(BridgeError("answer_too_large", detail, server=self.name))
            self._terminate()

    def on_stdout_end(self) -> None:
        """The child closed its stdout."""
        if not self._is_reading_over:
            self._is_reading_over = True
            if not self._is_over:
                self.on_stdout(b"\n")  # a last line without its newline counts
            self._on_end()

    def on_stderr(self, data: bytes) -> None:
        """Bytes of the child's stderr."""
        if self._stderr_read == 0:
            self._loop.call_later(STDERR_SLICE, self._next_stderr_slice)
        self._stderr_read += len(data)
        if self._stderr_read >= STDERR_BYTES and self._errors is not None and not self._errors.is_closing():
            self._errors.pause_reading()
        for line in self.stderr.feed(data, self._loop.time()):
            self._on_stderr(line)

    def _next_stderr_slice(self) -> None:
        was_paused, self._stderr_read = self._stderr_read >= STDERR_BYTES, 0
        if was_paused and self._errors is not None and not self._errors.is_closing():
            self._errors.resume_reading()

    def on_stderr_end(self) -> None:
        """The child closed its stderr."""
        if not self._is_stderr_over:
            self._is_stderr_over = True
            for line in self.stderr.end():
                self._on_stderr(line)
            if self._lingering is not None:
                self._on_end()

    def on_stdin_end(self) -> None:
        """The child closed its stdin: nothing can be said to it any more."""
        self._stdin = None
        self._writable.set()
        self._on_end()

    def on_writable(self, is_writable: bool) -> None:
        """The buffer towards the child passed a mark."""
        if is_writable:
            self._writable.set()
        else:
            self._writable.clear()

    def _on_exit(self) -> None:
        if self._is_over and not self._ward.gone.done():
            self._terminate()  # what it left behind has no reason to stay longer
        self._on_end()

    def _on_end(self) -> None:
        """Exit, end of stdout or of stdin: the conversation is over once the rest is read, or after ``LINGER``."""
        if self._is_over:
            return
        if self._ward.exited.done() and self._is_reading_over and self._is_stderr_over:
            self._finish(self._exit_error())
        elif self._lingering is None:
            self._lingering = self._loop.call_later(LINGER, self._stop_lingering)

    def _stop_lingering(self) -> None:
        if self._is_over:
            return
        if self._is_paused and not self._is_reading_over:  # the consumer has not taken everything yet
            self._lingering = self._loop.call_later(LINGER, self._stop_lingering)
        else:
            self._finish(self._exit_error())

    def _exit_error(self) -> BridgeError:
        data: dict[str, Any] = {"server": self.name}
        if not self._ward.exited.done():
            how = "closed its stdout" if self._is_reading_over else "closed its stdin"
        elif (status := self._ward.exited.result()) is None:
            how = "its guard process was killed"
        elif (code := os.waitstatus_to_exitcode(status)) < 0:
            data["signal"] = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
            how = f"ended by {data['signal']}"
        else:
            data["exit_status"] = code
            how = f"exit status {code}"
        last = self.stderr.last()
        return BridgeError("server_exited", f"server {self.name!r}: {how}" + (f"; stderr: {last}" if last else ""), **data)

    def _finish(self, cause: BaseException | None) -> None:
        """The conversation is over: say so once, then see the whole family out, whoever of it is left."""
        if not self._is_over:
            self._is_over, self._cause = True, cause
            if self._lingering is not None:
                self._lingering.cancel()
            self._writable.set()
            self._flush()
            if self._stdin is not None:
                self._stdin.close()  # writes what is buffered, then ends the child's stdin
            self.resume()
            if self._ward.gone.done():
                self._on_gone()
            elif self._ward.exited.done():
                self._terminate()  # those it left behind
            else:
                self._closing = self._loop.call_later(CLOSE_GRACE, self._terminate)
            if self._on_close is not None:
                self._on_close(cause)

    def _terminate(self) -> None:
        if self._closing is not None:
            self._closing.cancel()
        self._ward.end(CLOSE_GRACE)
        self._closing = self._loop.call_later(CLOSE_GRACE + KILL_WAIT, self._give_up)

    def _give_up(self) -> None:
        _log.error("child cannot be killed", protocol="stdio", server=self.name, pid=self.pid)
        self._on_gone()

    def _on_gone(self) -> None:
        """Nothing of the family is left (or nothing more can be done): let go of the pipes."""
        if not self._is_over:
            self._on_end()
            return
        if self._closing is not None:
            self._closing.cancel()
        if self._stdin is not None:
            self._stdin.abort()
        for pipe in (self._stdout, self._errors):
            if pipe is not None:
                pipe.close()
        if not self._released.done():
            self._released.set_result(None)


class _Stdin(asyncio.BaseProtocol):
    """Back-pressure and the end of the pipe towards the child."""

    def __init__(self, child: Child) -> None:
        self._child = child

    def pause_writing(self) -> None:
        self._child.on_writable(False)

    def resume_writing(self) -> None:
        self._child.on_writable(True)

    def connection_lost(self, exc: Exception | None) -> None:
        self._child.on_stdin_end()


class _Stdout(asyncio.Protocol):
    """Bytes from the child. Paused until somebody takes its messages."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self.data_received = child.on_stdout  # type: ignore[method-assign]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.ReadTransport, transport).pause_reading()  # uvloop's is one in all but its bases

    def connection_lost(self, exc: Exception | None) -> None:
        self._child.on_stdout_end()


class _Stderr(asyncio.Protocol):
    """Words from the child, always read."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self.data_received = child.on_stderr  # type: ignore[method-assign]

    def connection_lost(self, exc: Exception | None) -> None:
        self._child.on_stderr_end()
