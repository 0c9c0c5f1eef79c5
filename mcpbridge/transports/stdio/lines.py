"""Lines: newline-delimited messages over something the event loop reads and writes (a unix socket, a pair of pipes).

    them ── {...}\\n ──>  on_message          send ── {...}\\n ──> them
    them close their side: on_close(None), and what they asked is still answered; they hang up: on_close(cause)

Source: MCP stdio transport (framing); shared decision 3; contract limit.stdio-line.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable
from typing import Any, Final

import msgspec

from mcpbridge.errors import BridgeError
from mcpbridge.wire.framing import LineFramer, Overlong

HIGH_WATER: Final = 1 << 20  # bytes towards the other side above which drain() waits
MAX_BUFFER: Final = 64 << 20  # bytes; who lets more pile up has stopped reading
CLOSE_TIME: Final = 2.0  # seconds close() waits for what was sent to go out
MAX_SIGN_IN: Final = 32768  # bytes of a sign-in line; more is no token of anybody
HANG_UP_CHECK: Final = 0.1  # seconds between looks whether one who closed its side is still there to read

OnMessage = Callable[[bytes], None]
OnClose = Callable[[BaseException | None], None]


class Lines(asyncio.Protocol):
    """A Connection (core.ports) over one transport, or over two that are attached.

    ``client``: the other side is a client of ours: its end of input is a half-close, and a line longer than ``max_message``
    bytes, once it is answered, ends the connection.
    """

    def __init__(self, max_message: int, *, client: bool, name: str = "client") -> None:
        self._loop = asyncio.get_running_loop()
        self._framer = LineFramer(max_message)
        self._client = client
        self._name = name
        self._reads: asyncio.ReadTransport | None = None
        self._writes: asyncio.WriteTransport | None = None
        self._on_message: OnMessage | None = None
        self._on_close: OnClose | None = None
        self._early: list[bytes] = []  # read before start(): uvloop reads once whatever it is told; b"" is the end
        self._is_input_over = False
        self._is_over = False
        self._cause: BaseException | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._lost: asyncio.Future[None] = self._loop.create_future()
        self._hang_up: asyncio.TimerHandle | None = None

    @property
    def gone(self) -> asyncio.Future[None]:
        """Done when nothing of the connection is left."""
        return self._lost

    @property
    def has_started(self) -> bool:
        """Whether what is read is taken at once."""
        return self._on_message is not None

    # The Connection

    def start(self, on_message: OnMessage, on_close: OnClose) -> None:
        self._on_message, self._on_close = on_message, on_close
        if self._is_over:
            self._loop.call_soon(on_close, self._cause)
            return
        early, self._early = self._early, []
        for data in early:
            if data:
                self.data_received(data)
            else:
                self.eof_received()
        self.resume()

    def send(self, data: bytes) -> None:
        if self._writes is None or self._is_over or self._writes.is_closing():
            raise ConnectionError(f"{self._name} is gone")
        if self._writes.get_write_buffer_size() > MAX_BUFFER:
            self._end(ConnectionAbortedError(f"{self._name} does not read"))
            raise ConnectionAbortedError(f"{self._name} does not read")
        if b"\n" in data or b"\r" in data:  # JSON knows them as white space only; a line must not hold them
            data = data.replace(b"\r", b" ").replace(b"\n", b" ")
        self._writes.write(data + b"\n")

    async def drain(self) -> None:
        await self._writable.wait()

    def pause(self) -> None:
        if self._reads is not None and not self._is_input_over and not self._reads.is_closing():
            self._reads.pause_reading()

    def resume(self) -> None:
        if self._reads is not None and not self._is_input_over and not self._reads.is_closing():
            self._reads.resume_reading()

    async def close(self) -> None:
        """Let out what was sent, CLOSE_TIME seconds at most, and hang up."""
        self._end(ConnectionAbortedError("closed by the bridge"))
        if self._writes is not None:
            await asyncio.wait([self._lost], timeout=CLOSE_TIME)
            if not self._lost.done():
                self._writes.abort()

    # The transport's side

    def attach(self, reads: asyncio.ReadTransport, writes: asyncio.WriteTransport) -> None:
        """Take the two halves; nothing is read before ``start``."""
        self._reads, self._writes = reads, writes
        if not reads.is_closing():  # all was said before anybody listened
            reads.pause_reading()
        writes.set_write_buffer_limits(high=HIGH_WATER)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        both: Any = transport
        self.attach(both, both)

    def data_received(self, data: bytes) -> None:
        if self._on_message is None:
            self._early.append(data)
            return
        self._take(self._framer.feed(data))
        if self._framer.is_endless:
            self._end(BridgeError("answer_too_large", f"server {self._name!r} writes a line without an end", server=self._name))

    def eof_received(self) -> bool:
        """Whether our side stays open."""
        if self._on_message is None:
            self._early.append(b"")
            return True
        if self._is_input_over or self._is_over:
            return not self._is_over
        self._is_input_over = True
        self._take(self._framer.end())
        if not self._client:
            self._end(None)
        elif self._on_close is not None and not self._is_over:
            self._on_close(None)
            self._watch()
        return not self._is_over

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(ConnectionResetError(f"{self._name} is gone: {exc}" if exc else f"{self._name} is gone"))
        if not self._lost.done():
            self._lost.set_result(None)

    # Inside

    def _take(self, lines: list[bytes]) -> None:
        for line in lines:
            if self._is_over or self._on_message is None:
                return
            if not self._noticed(line):
                self._on_message(line)
            if self._client and isinstance(line, Overlong):
                self._end(ValueError(f"{self._name} sent a line that is too long"))

    def _noticed(self, line: bytes) -> bool:
        """Whether a line is no message but something for the transport."""
        return False

    def _watch(self) -> None:
        """One who closed its side and then hangs up says nothing any more; the system knows it is gone."""
        if self._is_over or self._writes is None:
            return
        descriptor = _descriptor(self._writes)
        poll = select.poll() if descriptor >= 0 and hasattr(select, "poll") else None
        if poll is not None:
            poll.register(descriptor, 0)  # hang-up and error are always told
            if poll.poll(0):
                self._end(ConnectionResetError(f"{self._name} is gone"))
                return
            self._hang_up = self._loop.call_later(HANG_UP_CHECK, self._watch)

    def _end(self, cause: BaseException | None) -> None:
        """Say so once (a second time when it had been a half-close), close both halves; what was sent still goes out."""
        if self._is_over:
            return
        self._is_over, self._cause = True, cause
        if self._hang_up is not None:
            self._hang_up.cancel()
        self._writable.set()
        for half in (self._reads, self._writes):
            if half is not None and not half.is_closing():
                half.close()
        if self._on_close is not None:
            self._on_close(cause)


class ClientLines(Lines):
    """A client, which signs in by a line of its own: ``{"authorization": "Bearer ..."}``; a later one renews the token."""

    def __init__(self, max_message: int) -> None:
        super().__init__(max_message, client=True)
        self.headers: dict[str, str] = {}

    def _noticed(self, line: bytes) -> bool:
        if b'"authorization"' not in line[:64] or len(line) > MAX_SIGN_IN:
            return False
        try:
            self.headers["authorization"] = _sign_in(line).authorization
        except msgspec.DecodeError:
            return False
        return True


class _SignIn(msgspec.Struct, forbid_unknown_fields=True):
    authorization: str


_sign_in = msgspec.json.Decoder(_SignIn).decode


def _descriptor(transport: asyncio.BaseTransport) -> int:
    held = transport.get_extra_info("socket") or transport.get_extra_info("pipe")
    return -1 if held is None else int(held.fileno())
