"""A WebSocket from the end of its opening handshake on, either side of it, as a Connection (core.ports).

    FIN RSV×3 opcode(4) │ MASK length(7) │ length(16 | 64) │ masking key(32) │ payload
    opcodes: 0 continuation  1 text  2 binary (refused)  8 close  9 ping  10 pong

Frames belong to the ``websockets`` library, which knows no socket; messages, limits and time are here. Everything the
other side can make grow has a limit, and what comes in one piece with many frames is read in several turns of the loop.

Source: RFC 6455 sections 5 and 7; contract limit.ws-message, http.gateway.ws; reliability table 2 row 17, table 3 row 36.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
from collections.abc import Callable
from typing import Final, cast

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidState, PayloadTooBig
from websockets.frames import CloseCode, Frame, Opcode
from websockets.protocol import CLIENT
from websockets.server import ServerProtocol

from mcpbridge.errors import BridgeError
from mcpbridge.transports.http1.pace import Backlog
from mcpbridge.transports.http1.server import Upgraded

CONTROL: Final = 125  # bytes a control frame may hold; it may come within a message of the largest size
SLICE: Final = 8192  # bytes that are cut into frames at once
MANY_FRAMES: Final = 250  # frames of a slice after which the others have their turn
MAX_FRAGMENTS: Final = 131_072  # frames of one message
CONTROL_FRAMES: Final = 200  # pings and pongs within CONTROL_WINDOW
CONTROL_WINDOW: Final = 10.0  # seconds
PING_AFTER: Final = 25.0  # seconds of silence
PONG_WITHIN: Final = 20.0  # seconds
MESSAGE_RATE: Final = 1024  # bytes a second that an unfinished message must grow by
GOODBYE_TIME: Final = 3.0  # seconds for the closing handshake and for what is still to be written
MAX_BEHIND: Final = 4  # messages of the largest size that may wait to be read by the other side,
MIN_BEHIND: Final = 8 << 20  # or bytes, where those would be fewer

OnMessage = Callable[[bytes], None]
OnClose = Callable[[BaseException | None], None]
_Decoder = codecs.getincrementaldecoder("utf-8")


class WebSocketConnection(Upgraded):
    """See the module. ``on_close`` always says why: a WebSocket has no half-close."""

    __slots__ = (
        "_backlog", "_control", "_control_since", "_decoder", "_fragments", "_goodbye", "_heard", "_is_held", "_is_lost",
        "_is_over", "_is_paused", "_loop", "_mark", "_max_message", "_messages", "_on_close", "_on_message", "_over",
        "_partial", "_pinged", "_protocol", "_silence", "_timer", "_transport", "_unread", "_waiting", "_written",
    )  # fmt: skip

    def __init__(
        self,
        protocol: ServerProtocol | ClientProtocol,
        max_message: int,
        goodbye: Callable[[], CloseCode] | None = None,
        silence: float | None = None,
    ) -> None:
        """``protocol`` is open and takes messages of ``max_message`` + CONTROL bytes, inflated. ``goodbye``: what ``close``
        says, 1000 unless given. ``silence``: seconds without a byte until the other side is asked, and again until it counts
        as dead."""
        self._protocol = protocol
        self._max_message = max_message
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._on_message: OnMessage | None = None
        self._on_close: OnClose | None = None
        self._is_over = False  # nothing is delivered or taken any more
        self._over: Exception | None = None  # why, until somebody was told
        self._is_lost = False  # the transport is closed
        self._is_paused = True  # until ``start``
        self._is_held = False  # the transport does not read
        self._unread = b""
        self._partial: bytearray | None = None  # a message whose last frame has not come
        self._decoder: codecs.IncrementalDecoder | None = None
        self._fragments = 0
        self._messages = 0
        self._mark = (0, 0, 0.0)  # messages, bytes of the unfinished one, and when
        self._control = 0
        self._control_since = 0.0
        self._heard = self._loop.time()
        self._pinged = 0.0  # when we asked last
        self._written = 0
        self._backlog: Backlog | None = None  # while the write buffer is full
        self._goodbye = goodbye
        self._silence = silence
        self._waiting: list[asyncio.Future[None]] = []
        self._timer: asyncio.TimerHandle | None = None

    # -- Connection

    def start(self, on_message: OnMessage, on_close: OnClose) -> None:
        self._on_message = on_message
        if self._over is not None:
            self._loop.call_soon(on_close, self._over)
        else:
            self._on_close = on_close
            self.resume()

    def send(self, data: bytes) -> None:
        if self._is_over:
            raise ConnectionError("the WebSocket is closed")
        if self._transport.get_write_buffer_size() > max(MAX_BEHIND * self._max_message, MIN_BEHIND):
            self._cut("the other side reads too slowly")
            raise ConnectionAbortedError("the other side reads too slowly")
        try:
            self._protocol.send_text(data)
        except InvalidState as error:  # what we are answering came in one piece with a goodbye
            raise ConnectionError("the WebSocket is closing") from error
        self._flush()

    async def drain(self) -> None:
        while self._backlog is not None and not self._is_over:
            await self._wait()

    def pause(self) -> None:
        self._is_paused = True
        self._hold()

    def resume(self) -> None:
        self._is_paused = False
        self._loop.call_soon(self._go_on)

    async def close(self) -> None:
        """Say goodbye and wait for the other side's; what was sent before is written out, GOODBYE_TIME seconds at most."""
        if not self._is_over:
            self._protocol.send_close(CloseCode.NORMAL_CLOSURE if self._goodbye is None else self._goodbye())
            self._flush()
            self._break(ConnectionAbortedError("closed by the bridge"))
        while not self._is_lost:
            await self._wait()

    # -- what the transport tells us

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._timer = self._loop.call_later(self._silence or PING_AFTER, self._beat)

    def data_received(self, data: bytes) -> None:
        self._heard = self._loop.time()
        if self._is_paused or self._unread:
            self._unread += data
            self._hold()
        else:
            self._read(data)

    def eof_received(self) -> bool:
        self._unread = b""
        self._protocol.receive_eof()
        self._break(ConnectionResetError("the connection ended without a closing handshake"))
        self._flush()
        return False  # the transport flushes and closes

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_lost = True
        self._break(ConnectionResetError(str(exc or "the connection was cut")))
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._wake()

    def pause_writing(self) -> None:
        self._backlog = Backlog(self._loop.time(), self._written - self._transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        self._backlog = None
        self._wake()

    # -- reading

    def _read(self, data: bytes) -> None:
        at = 0
        while at < len(data) and not self._is_paused:
            frames = self._parse(data[at : at + SLICE])
            at += SLICE
            if frames > MANY_FRAMES:
                break
        self._unread = data[at:]
        if not self._unread:
            self._release()
        else:
            self._hold()
            if not self._is_paused:
                self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        if not self._is_paused and not self._is_lost:
            self._read(self._unread)

    def _hold(self) -> None:
        if not self._is_held:
            self._is_held = True
            with contextlib.suppress(RuntimeError):  # the transport is closing
                self._transport.pause_reading()

    def _release(self) -> None:
        if self._is_held and not self._is_paused:
            self._is_held = False
            with contextlib.suppress(RuntimeError):
                self._transport.resume_reading()

    def _parse(self, data: bytes) -> int:
        """Take what is whole; returns the number of frames."""
        protocol = self._protocol
        protocol.receive_data(data)
        frames = cast(list[Frame], protocol.events_received())
        for frame in frames:
            if self._is_over:
                break
            self._take(frame)
        if protocol.parser_exc is not None:
            self._break(self._fault(protocol.parser_exc))
        if protocol.writes:
            self._flush()
        return len(frames)

    def _take(self, frame: Frame) -> None:
        opcode = frame.opcode
        if opcode is Opcode.TEXT and frame.fin:
            self._deliver(bytes(frame.data), is_checked=False)
        elif opcode is Opcode.TEXT or opcode is Opcode.CONT:
            self._join(frame)
        elif opcode is Opcode.BINARY:
            self._fail(CloseCode.UNSUPPORTED_DATA, "binary messages are not taken")
        elif opcode is Opcode.CLOSE:
            self._break(ConnectionResetError(f"the other side closed: {self._protocol.close_rcvd}"))
        else:
            self._count_control()

    def _join(self, frame: Frame) -> None:
        """One more fragment. What comes in fragments is checked as it comes, so that bad text ends it early."""
        if self._partial is None or self._decoder is None:
            self._partial, self._decoder, self._fragments = bytearray(), _Decoder(), 0
        self._fragments += 1
        if self._fragments > MAX_FRAGMENTS:
            self._fail(CloseCode.POLICY_VIOLATION, "a message of too many fragments")
            return
        self._partial += frame.data
        try:
            self._decoder.decode(bytes(frame.data), frame.fin)
        except UnicodeDecodeError:
            self._fail(CloseCode.INVALID_DATA, "not UTF-8")
            return
        if frame.fin:
            whole, self._partial, self._decoder = bytes(self._partial), None, None
            self._deliver(whole, is_checked=True)

    def _deliver(self, message: bytes, *, is_checked: bool) -> None:
        self._messages += 1
        if len(message) > self._max_message:
            self._fail(CloseCode.MESSAGE_TOO_BIG, f"over {self._max_message} bytes")
        elif not is_checked and not message.isascii() and not _is_utf8(message):
            self._fail(CloseCode.INVALID_DATA, "not UTF-8")
        elif self._on_message is not None:
            self._on_message(message)

    def _count_control(self) -> None:
        self._control += 1
        if self._heard - self._control_since >= CONTROL_WINDOW:
            self._control, self._control_since = 1, self._heard
        elif self._control > CONTROL_FRAMES:
            self._fail(CloseCode.POLICY_VIOLATION, "too many control frames")

    # -- writing

    def _flush(self) -> None:
        for data in self._protocol.data_to_send():
            if data:
                self._written += len(data)
                self._transport.write(data)
            elif self._protocol.close_rcvd is None and self._transport.can_write_eof():
                self._transport.write_eof()  # the other side may still be sending: closing would take our words away by a reset
            else:
                self._transport.close()

    # -- the end

    def _fail(self, code: CloseCode, reason: str) -> None:
        """The other side broke a rule: say which and close."""
        self._protocol.fail(code, reason)
        self._break(self._fault(PayloadTooBig(None, self._max_message) if code is CloseCode.MESSAGE_TOO_BIG else None, reason))

    def _fault(self, error: Exception | None, reason: str = "") -> Exception:
        """The cause of an end by rule, as those who wait for answers of a server should see it."""
        if isinstance(error, EOFError):
            return ConnectionResetError("the connection ended in the middle of a frame")
        if self._protocol.side is not CLIENT:
            return ConnectionAbortedError(f"the client broke the protocol: {reason or error}")
        if isinstance(error, PayloadTooBig):
            return BridgeError("answer_too_large", f"a WebSocket message of more than {self._max_message} bytes")
        return BridgeError("bad_answer", f"WebSocket: {reason or error}")

    def _cut(self, why: str) -> None:
        self._break(ConnectionAbortedError(why))
        self._transport.abort()

    def _break(self, cause: Exception) -> None:
        """No message comes or goes any more; the rest is goodbye."""
        if self._is_over:
            return
        self._is_over = True
        self._partial = self._decoder = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = self._loop.call_later(GOODBYE_TIME, self._transport.abort)
        if self._on_close is not None:
            on_close, self._on_close = self._on_close, None
            on_close(cause)
        else:
            self._over = cause
        self._wake()
        if self._is_paused:
            self.resume()  # nobody else will, and the end must be seen

    async def _wait(self) -> None:
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._waiting.append(waiter)
        await waiter

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)

    # -- time

    def _beat(self) -> None:
        """Is anybody there, and does what has begun go on?"""
        now = self._loop.time()
        silence = now - self._heard
        quiet = self._silence or PING_AFTER
        wait = self._silence or PONG_WITHIN
        if self._is_stuck(now):
            self._cut("the other side reads too slowly")
        elif self._is_trickling(now):
            self._fail(CloseCode.POLICY_VIOLATION, "a message came too slowly")
            self._flush()
        elif silence < quiet:
            wait = quiet - silence
        elif self._backlog is not None or self._is_held:
            pass  # a ping would wait behind what is not taken, its answer behind what is not read
        elif self._pinged > self._heard:
            self._cut("no answer to a ping")
        else:
            self._pinged = now
            self._protocol.send_ping(b"")
            self._flush()
        if not self._is_over:
            self._timer = self._loop.call_later(wait, self._beat)

    def _is_stuck(self, now: float) -> bool:
        if self._backlog is None:
            return False
        waiting = self._transport.get_write_buffer_size()
        return self._backlog.is_stuck(now, self._written - waiting, waiting)

    def _is_trickling(self, now: float) -> bool:
        """Whether the message that was unfinished at the last beat still is, and has hardly grown."""
        messages, held, since = self._mark
        pending = len(self._partial or b"") + len(self._protocol.reader.buffer)
        self._mark = (self._messages, pending, now)
        if self._is_paused or not (held and pending) or messages != self._messages:
            return False
        return pending - held < MESSAGE_RATE * (now - since)


def _is_utf8(message: bytes) -> bool:
    try:
        message.decode()
    except UnicodeDecodeError:
        return False
    return True
