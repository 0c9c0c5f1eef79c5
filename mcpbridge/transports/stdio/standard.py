"""Our own stdin and stdout as a Connection: the client is whoever started us.

    fd 0 -> taken, /dev/null in its place          nothing else in the process can read the client's messages
    fd 1 -> taken, stderr in its place             nothing else can write to the client: a stray print lands on stderr

The end of stdin is a half-close: ``on_close(None)`` comes after the last message (with or without its newline) and ``send``
still works. If stdout breaks, ``on_close`` comes with a ConnectionError, after a half-close as a second and last call.

Source: MCP stdio transport; architecture section 8; contract cli.stdin-eof, cli.router.run.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable

from mcpbridge.transports.stdio.descriptor import Reader, Writer, open_reader, open_writer
from mcpbridge.wire.framing import LineFramer

HIGH_WATER = 1 << 20  # bytes towards the client above which drain() waits
MAX_BUFFER = 64 << 20  # bytes; a client that lets more pile up has stopped reading

OnMessage = Callable[[bytes], None]
OnClose = Callable[[BaseException | None], None]


def open_standard(max_message: int = 10_485_760, read_size: int = 65536) -> Standard:
    """Take this process's stdin and stdout; once per process, on a running loop. ``max_message`` and ``read_size`` in bytes.

    A descriptor that was closed before we started is an ended stdin, or a broken stdout.
    """
    stdin = None if sys.__stdin__ is None else _take(0)
    stdout = None if sys.__stdout__ is None else _take(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    if stdin is not None:
        os.dup2(nothing, 0)
    if stdout is not None:
        os.dup2(nothing if sys.__stderr__ is None else 2, 1)
    os.close(nothing)
    return Standard(
        None if stdin is None else open_reader(stdin, read_size),
        None if stdout is None else open_writer(stdout),
        max_message,
    )


def _take(descriptor: int) -> int:
    """A private copy, out of the range of the three standard ones."""
    if os.name == "posix":
        import fcntl

        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
    copy = os.dup(descriptor)
    if sys.platform == "win32":
        import msvcrt

        msvcrt.setmode(copy, os.O_BINARY)
    return copy


class Standard:
    """The client at the other end of two descriptors, as a Connection (core.ports). None: that descriptor was never open."""

    def __init__(self, reader: Reader | None, writer: Writer | None, max_message: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._reader = reader
        self._writer = writer
        self._framer = LineFramer(max_message)
        self._on_message: OnMessage | None = None
        self._on_close: OnClose | None = None
        self._is_broken = writer is None
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []
        if writer is not None:
            writer.start(self._on_progress, self._on_broken)

    def start(self, on_message: OnMessage, on_close: OnClose) -> None:
        self._on_message, self._on_close = on_message, on_close
        if self._is_broken:
            self._loop.call_soon(self._break, BrokenPipeError("stdout is closed"))
        elif self._reader is None:
            self._loop.call_soon(on_close, None)
        else:
            self._reader.start(self._on_data, self._on_end)

    def send(self, data: bytes) -> None:
        if self._is_broken or self._writer is None:
            raise ConnectionError("the client no longer reads")
        if self._writer.pending > MAX_BUFFER:
            self._break(ConnectionAbortedError(f"the client left {self._writer.pending} bytes unread"))
            raise ConnectionAbortedError("the client no longer reads")
        if b"\n" in data or b"\r" in data:  # JSON knows them as white space only; a line must not hold them
            data = data.replace(b"\r", b" ").replace(b"\n", b" ")
        self._writer.write(data + b"\n")

    async def drain(self) -> None:
        await self._until(HIGH_WATER)

    async def flush(self) -> None:
        """Wait until every byte is written, or nobody reads. Before the process ends; the caller bounds it."""
        await self._until(0)

    def pause(self) -> None:
        if self._reader is not None:
            self._reader.pause()

    def resume(self) -> None:
        if self._reader is not None:
            self._reader.resume()

    async def close(self) -> None:
        """Let go of both descriptors at once; what ``flush`` has not seen written is lost."""
        self._break(ConnectionAbortedError("closed by the bridge"))

    def _on_data(self, data: bytes) -> None:
        assert self._on_message is not None
        for line in self._framer.feed(data):
            self._on_message(line)

    def _on_end(self, error: OSError | None) -> None:
        """Nothing more will be read; a terminal or socket that failed counts as closed. What was asked is still answered."""
        assert self._on_message is not None and self._on_close is not None
        for line in self._framer.end():
            self._on_message(line)
        self._reader = None
        if not self._is_broken:
            self._on_close(None)

    def _on_broken(self, error: OSError) -> None:
        self._break(BrokenPipeError(f"the client no longer reads: {error.strerror or error}"))

    def _break(self, cause: ConnectionError) -> None:
        """Both directions are over."""
        self._is_broken = True
        if self._reader is not None:
            self._reader.close()
        if self._writer is not None:
            self._writer.close()
        self._on_progress()
        if self._on_close is not None:
            on_close, self._on_close = self._on_close, None
            on_close(cause)

    async def _until(self, limit: int) -> None:
        if self._writer is not None and not self._is_broken and self._writer.pending > limit:
            future: asyncio.Future[None] = self._loop.create_future()
            self._waiting.append((limit, future))
            await future

    def _on_progress(self) -> None:
        if not self._waiting:
            return
        pending = 0 if self._is_broken or self._writer is None else self._writer.pending
        for limit, future in self._waiting:
            if pending <= limit and not future.done():
                future.set_result(None)
        self._waiting = [(limit, future) for limit, future in self._waiting if not future.done()]
