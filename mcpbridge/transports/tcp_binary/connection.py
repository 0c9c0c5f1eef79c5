"""One TCP connection of MCPB frames as a Connection (core.ports): what both of its ends share.

    bytes -> FrameReader -> frames -> taken(frame) by the end that is ours -> on_message
    send -> frame -> transport

``on_close`` comes when the conversation is over, and before that with None when a client shut down its sending side only.
Reading stands still while anybody holds it: the consumer, a sign-in, a client that does not read its answers; and after many
frames at once, until the other connections had their turn.

Source: architecture section 8; wire.mcpb; reliability section 3 rows 16, 17 and 36.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import ClassVar, Final, cast

from mcpbridge.errors import BridgeError
from mcpbridge.wire import mcpb

HIGH_WATER: Final = 1 << 18  # bytes not yet written above which drain() waits
MAX_BUFFER: Final = 32 << 20  # bytes not yet written above which send() gives up: nobody reads
CLOSE_TIME: Final = 1.0  # seconds the other side has to close after us

CONSUMER: Final = 1  # what may hold reading
BACKLOG: Final = 2
SIGN_IN: Final = 4
TURN: Final = 8

AT_ONCE: Final = 128  # frames of one connection before others have their turn: small ones come by the ten thousand

OnMessage = Callable[[bytes], None]
OnClose = Callable[[BaseException | None], None]


class FrameConnection(asyncio.Protocol):
    """See the module. An end says what it writes messages as (``writes``) and takes every frame (``taken``)."""

    __slots__ = (
        "_cause",
        "_drainers",
        "_gone",
        "_has_ended",
        "_holds",
        "_is_over",
        "_last",
        "_on_close",
        "_on_message",
        "_reader",
        "_transport",
    )
    writes: ClassVar[int]

    def __init__(self, max_message: int, kinds: frozenset[int]) -> None:
        self._reader = mcpb.FrameReader(min(max_message, mcpb.MAX_PAYLOAD), kinds)
        self._transport: asyncio.Transport | None = None
        self._on_message: OnMessage | None = None
        self._on_close: OnClose | None = None
        self._holds = 0
        self._has_ended = False  # the other side says no more
        self._is_over = False  # nothing is delivered or sent any more
        self._cause: BaseException | None = None
        self._drainers: list[asyncio.Future[None]] | None = None
        self._gone: asyncio.Future[None] | None = None
        self._last: asyncio.TimerHandle | None = None

    # The Connection

    def start(self, on_message: OnMessage, on_close: OnClose) -> None:
        self._on_message, self._on_close = on_message, on_close
        if self._is_over:
            on_close(self._cause)
        else:
            self.release(CONSUMER)

    def send(self, data: bytes) -> None:
        self.write(mcpb.encode(self.writes, data))

    async def drain(self) -> None:
        transport = self._transport
        if self._is_over or transport is None or transport.is_closing() or transport.get_write_buffer_size() <= HIGH_WATER:
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._drainers = [*(self._drainers or ()), waiter]
        await waiter

    def pause(self) -> None:
        self.hold(CONSUMER)

    def resume(self) -> None:
        self.release(CONSUMER)

    async def close(self) -> None:
        """Let out what was sent, wait a second at most until the other side has closed too, and cut what is left."""
        self.finish(ConnectionAbortedError("closed by the bridge"))
        self._leave()
        if self._transport is not None:
            if self._gone is None:
                self._gone = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._gone)

    # What the ends use

    def taken(self, frame: mcpb.Frame) -> None:
        """One frame of a type that may come now. May raise BridgeError: the connection is refused."""
        raise AssertionError("an end takes frames")

    def deliver(self, message: bytes) -> None:
        """A message for the consumer."""
        if self._on_message is not None:
            self._on_message(message)

    def write(self, frame: bytes) -> None:
        """Write the bytes of a frame. Raises ConnectionError when the connection is over or nobody reads."""
        transport = self._transport
        if self._is_over or transport is None or transport.is_closing():
            raise ConnectionError("the connection is over")
        if transport.get_write_buffer_size() > MAX_BUFFER:
            self.fail(ConnectionAbortedError("the other side does not read"))
            raise ConnectionError("the other side does not read")
        transport.write(frame)

    def refuse(self, error: BridgeError) -> None:
        """Say what is wrong in an error frame, then end. Lingers until the other side closes, so that it can read why."""
        if not self._is_over:
            with contextlib.suppress(ConnectionError):
                self.write(mcpb.refuse(error))
            self.finish(error)
            self._leave()

    def fail(self, cause: BaseException) -> None:
        """Cut the connection."""
        self.finish(cause)
        if self._transport is not None:
            self._transport.abort()

    def finish(self, cause: BaseException | None) -> None:
        """The conversation is over; tells the consumer once."""
        if not self._is_over:
            self._is_over, self._cause = True, cause
            self._wake()
            if self._on_close is not None:
                self._on_close(cause)

    def hold(self, what: int) -> None:
        """Stop reading for a reason."""
        if not self._holds and self._transport is not None and not self._is_over:
            with contextlib.suppress(RuntimeError):  # it is closing
                self._transport.pause_reading()
        self._holds |= what

    def release(self, what: int) -> None:
        """A reason is gone; with the last one reading goes on, with what is here already in the next turn of the loop."""
        was_held, self._holds = self._holds, self._holds & ~what
        if was_held and not self._holds and not self._is_over:
            self._read_on()
            asyncio.get_running_loop().call_soon(self._pump)

    # What the transport tells us

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=HIGH_WATER)

    def data_received(self, data: bytes) -> None:
        if not self._is_over:
            self._reader.feed(data)
            self._pump()

    def eof_received(self) -> bool:
        self._has_ended = True
        self._pump()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._last is not None:
            self._last.cancel()
        self.lost(exc)
        self._wake()
        if self._gone is not None and not self._gone.done():
            self._gone.set_result(None)

    def lost(self, exc: Exception | None) -> None:
        """The transport is gone."""
        self.finish(exc or ConnectionResetError("the other side is gone"))

    def resume_writing(self) -> None:
        self._wake()

    def ended(self) -> None:
        """The other side says no more, and everything it said was delivered."""

    def _pump(self, limit: float = AT_ONCE) -> None:
        """Take the frames that are here until somebody holds reading; after ``limit`` of them others come first."""
        while not self._holds and not self._is_over:
            if limit <= 0:
                self.hold(TURN)
                asyncio.get_running_loop().call_soon(self._take_turn)
                return
            limit -= 1
            try:
                frame = self._reader.next()
                if frame is None:
                    break
                self.taken(frame)
            except BridgeError as error:
                self.refuse(error)
            except ConnectionError:
                return  # it ended while we answered; on_close has said so
        if self._has_ended and not self._holds and not self._is_over:
            self.ended()

    def _take_turn(self) -> None:
        """Go on with what is here, and read on once it was taken."""
        self._holds &= ~TURN
        self._pump()
        if not self._holds and not self._is_over:
            self._read_on()

    def _leave(self) -> None:
        """End our side, throw away what still comes, and wait a little for the other side to end its own."""
        transport = self._transport
        if transport is None or self._last is not None:
            return
        loop = asyncio.get_running_loop()
        self._last = loop.call_later(CLOSE_TIME, transport.abort)
        self._holds = 0
        if transport.is_closing():
            return
        if transport.can_write_eof() and not self._has_ended:
            transport.write_eof()
            self._read_on()
        else:
            transport.close()

    def _read_on(self) -> None:
        if self._transport is not None:
            with contextlib.suppress(RuntimeError):  # it is closing
                self._transport.resume_reading()

    def _wake(self) -> None:
        waiters, self._drainers = self._drainers, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)
