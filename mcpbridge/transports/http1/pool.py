"""Kept connections to one origin, reused only when that is safe.

    request ──► newest idle connection, else dial, else wait ──► send ──► HttpResponse ──► back to the idle ones

A server that takes no further connection of ours (429, or none at all) while others of ours are served is not lost: the call
waits for one of those. While none of ours is served, the call comes back until its patience ends.

Behind a proxy an https server is reached by a tunnel, an http server by absolute-form requests to the proxy.

A connection the server may close any moment is the danger: a call that must not run twice only gets one that was used a few
seconds ago, and a call that may run twice is sent once more when a reused connection dies before the first byte of an answer.

Source: architecture section 5; contract connection.pool.*.
"""

from __future__ import annotations

import asyncio
import re
import ssl as ssl_module
import time
from collections import deque
from collections.abc import Mapping, Sequence
from errno import ECONNABORTED
from time import monotonic
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from mcpbridge.core.tasks import Spawn
from mcpbridge.descriptors import HandingOver
from mcpbridge.errors import BridgeError
from mcpbridge.observe.sketch import Window
from mcpbridge.proxies import Proxy
from mcpbridge.transports.http1.client import ClientConnection, HttpResponse
from mcpbridge.transports.http1.dial import raise_dial_error
from mcpbridge.transports.proxy import Route, refused
from mcpbridge.wire.http1 import encode_request

__all__ = ["HttpPool", "HttpResponse", "PoolStats"]

UNSAFE_IDLE: Final = 4.0  # seconds: below the shortest keep-alive in common use, Node's 5 s
MAX_WAITING: Final = 1000  # requests that wait for a connection of a full pool; a further one is told at once
ASK_TIME: Final = 5.0  # seconds for the answer of an idle connection that is asked whether it lives
MEASURED: Final = 8  # of so many takings of an idle connection the time of one is kept
QUEUE_TIME: Final = 5.0  # seconds a request waits for a connection of a full pool
MIN_COME_BACK: Final = 0.5  # seconds, whatever the server says: `retry-after: 0` would be a busy loop
_SECONDS: Final = re.compile(r"[0-9]{1,6}").fullmatch
CUT_TIME: Final = 10.0  # seconds of coming back to a server that cuts without a word: it may have other troubles
_CUT: Final = (ConnectionResetError, ConnectionAbortedError, ssl_module.SSLEOFError)  # cut between connect and handshake


class _TurnedAway(ConnectionAbortedError):
    """The server said 429 before it was asked anything."""


class PoolStats(NamedTuple):
    """What a pool did and holds. ``took``: a sketch of the seconds that taking an idle connection took, newest five minutes."""

    hits: int
    misses: int
    in_use: int
    idle: int
    waiting: int
    took: Mapping[int, int]


class Tidied(NamedTuple):
    """Connections before and after a pool was tidied, and what was closed and opened meanwhile."""

    before: int
    closed: int
    opened: int
    after: int


class HttpPool:
    """Connections to one origin (``http://host:port`` or ``https://``; a path in the URL is ignored)."""

    def __init__(
        self,
        url: str,
        *,
        ssl: ssl_module.SSLContext | None = None,
        proxy: Proxy | None = None,
        max_size: int = 100,
        min_size: int = 0,
        idle_timeout: float = 30,
        max_lifetime: float = 300,
        dial_timeout: float = 10,
        queue_time: float | None = None,
        look: float | None = None,
        reuse: bool = True,
    ) -> None:
        """Times in seconds. Without ``ssl`` an https origin is verified against the system's authorities.

        ``min_size``: connections that are kept, and opened ahead, once ``keep`` was called (those past ``max_lifetime`` are
        replaced; a call that must not run twice still opens a fresh one rather than take one that was idle for long).
        ``look``: silence after which an idle connection is asked whether it lives, once ``keep`` was called; None: never.
        ``queue_time``: how long a request waits for a connection of a full pool, QUEUE_TIME unless given. ``reuse`` False:
        every request has a connection of its own, which is closed after it.
        Raises ValueError for a URL that is not http(s) or has no host.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("the URL of an HTTP server is http://host[:port] or https://host[:port]")
        self._is_tls = parts.scheme == "https"
        self._ssl = ssl
        default = 443 if self._is_tls else 80
        port = parts.port or default
        name = parts.hostname if parts.hostname.isascii() else parts.hostname.encode("idna").decode("ascii")
        host = f"[{name}]" if ":" in name else name
        authority = host if port == default else f"{host}:{port}"
        self.origin = f"{parts.scheme}://{authority}"
        self._host_name = name
        self._host_line = f"host: {authority}\r\n".encode("ascii")
        self._route = Route(name, port, proxy, tunnel=self._is_tls)
        self._prefix = ""  # of every target
        if proxy is not None and not self._is_tls:
            self._prefix = self.origin
            if proxy.authorization:
                self._host_line += f"proxy-authorization: {proxy.authorization}\r\n".encode("ascii")
        self.max_size = max_size
        self.min_size = min(min_size, max_size) if reuse else 0
        self._reuse = reuse
        self._idle_timeout = idle_timeout
        self._max_lifetime = max_lifetime
        self._dial_timeout = dial_timeout
        self._patience = QUEUE_TIME if queue_time is None else queue_time
        self._look = look
        self._asking: set[asyncio.Task[None]] = set()
        self._idle: list[ClientConnection] = []  # the newest last
        self._busy: set[ClientConnection] = set()
        self._apart: set[ClientConnection] = set()  # those of ``_busy`` that take nobody's place
        self._dialing = 0
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._is_closed = False
        self._hits = self._misses = 0
        self._took = Window()
        self._filling: asyncio.Task[None] | None = None
        self._spawn: Spawn | None = None

    async def request(
        self,
        method: str,
        target: str,
        headers: Sequence[tuple[str, str]],
        body: bytes,
        *,
        retry_safe: bool,
        max_response: int,
        queued: bool = True,
    ) -> HttpResponse:
        """Send a request; returns when the head of the answer has come. The caller reads or closes the response.

        ``max_response`` bounds ``HttpResponse.read``, in bytes. No timeout of its own beyond connecting: cancel the task.
        ``queued`` False: never waits for a connection and takes no other's place, for streams that last and for what the
        requests that hold the connections wait for.
        Raises BridgeError: connection_refused, timeout, backend_error, proxy_failed, server_busy, invalid_params (all
        ``sent=False``);
        stream_closed, bad_answer.
        """
        try:
            data = encode_request(method, self._prefix + target, self._host_line, headers, len(body)) + body
        except ValueError as error:
            raise BridgeError("invalid_params", str(error), sent=False) from None
        connection = None if self._waiters else self._take_idle(retry_safe)
        if connection is None:
            connection = await self._acquire(retry_safe, queued=queued)
        if not queued:
            self._apart.add(connection)
        try:
            response = await self._send(connection, method, data, max_response)
            if response.status == 407 and self._prefix and self._route.proxy is not None:
                await response.aclose()
                raise refused(self._route.proxy, 407)
        except BridgeError as error:
            if not connection.is_reused or connection.answered or not retry_safe or error.reason != "stream_closed":
                raise
            # A kept connection had died in silence; a fresh one tells the truth.
            connection = await self._acquire(retry_safe, fresh=True)
            response = await self._send(connection, method, data, max_response)
        ends = monotonic() + self._patience
        while response.status == 429 and (wait := self._turned_away(connection, response)) is not None:
            if monotonic() + wait >= ends:
                break
            await response.aclose()
            await asyncio.sleep(wait)
            connection = await self._acquire(retry_safe, room=1)
            response = await self._send(connection, method, data, max_response)
        return response

    @property
    def through(self) -> str:
        """`` through the proxy HOST:PORT`` to end a message with, or nothing."""
        return self._route.through

    def stats(self) -> PoolStats:
        """Counters since the start and what is held now."""
        in_use = len(self._busy) + self._dialing
        return PoolStats(self._hits, self._misses, in_use, len(self._idle), len(self._waiters), self._took.buckets(monotonic()))

    def keep(self, spawn: Spawn) -> None:
        """Open what is missing to ``min_size``, now and whenever the pool is looked after. Needs a running loop."""
        self._spawn = spawn
        self._keep_least()

    def _keep_least(self) -> None:
        if self._spawn is not None and self.min_size and not self._is_closed:
            if self._filling is None or self._filling.done():
                self._filling = self._spawn(self._refill())
            self._look_later()

    async def _refill(self) -> None:
        await self._fill()

    async def tidy(self) -> Tidied:
        """Close idle connections that are dead, too old, or more than ``min_size``; open up to it. Requests go on."""
        before, now = self._counted(), monotonic()
        for connection in list(self._idle):
            if not connection.is_usable() or now - connection.born > self._max_lifetime or self._counted() > self.min_size:
                connection.close()
        closed = before - self._counted()
        opened = await self._fill()
        return Tidied(before, closed, opened, self._counted())

    async def _fill(self) -> int:
        """Open up to ``min_size``; how many were. A server that is not there is tried again when the pool is looked after."""
        opened = 0
        while self._counted() < self.min_size and not self._is_closed:
            self._dialing += 1
            try:
                connection = await self._dial()
            except BridgeError:
                break
            finally:
                self._dialing -= 1
            opened += 1
            self._freed(connection, connection.is_usable())
        return opened

    async def close(self) -> None:
        """Close everything; requests under way fail with stream_closed. Idempotent."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for task in (*self._asking, *((self._filling,) if self._filling is not None else ())):
            task.cancel()
        for connection in list(self._idle):
            connection.close()
        for connection in list(self._busy):
            connection.abort()

    # -- one exchange

    def _has_others(self, connection: ClientConnection | None = None, dialing: int = 0) -> bool:
        """Whether connections besides this one, or this many being dialed, are or may soon be free again."""
        return len(self._busy - self._apart - {connection}) + self._dialing > dialing

    def _turned_away(self, connection: ClientConnection, response: HttpResponse) -> float | None:
        """Seconds to wait when this 429 is about the connection, not the request; None otherwise.

        One too many beside those of ours that are served waits for one of them. Without any the server must say when.
        """
        if connection.is_reused or "close" not in (response.headers.get("connection") or "").lower():
            return None
        if self._has_others(connection):
            return 0.0
        said = response.headers.get("retry-after") or ""
        return max(MIN_COME_BACK, float(said)) if _SECONDS(said) else None

    async def _send(self, connection: ClientConnection, method: str, data: bytes, limit: int) -> HttpResponse:
        waiting = connection.send(data, for_head=method == "HEAD", limit=limit)
        try:
            return await waiting
        except asyncio.CancelledError:
            if waiting.done() and not waiting.cancelled() and waiting.exception() is None:
                # The answer came in the same moment: its connection may already serve somebody else.
                await waiting.result().aclose()
            else:
                connection.abort()
            raise

    # -- taking

    def _take_idle(self, retry_safe: bool) -> ClientConnection | None:
        if not self._idle:
            return None
        measures = self._hits % MEASURED == 0
        started = time.perf_counter() if measures else 0.0
        now = monotonic()
        while self._idle:
            connection = self._idle[-1]
            age = now - connection.idle_since
            limit = self._idle_timeout if retry_safe else min(UNSAFE_IDLE, self._idle_timeout)
            if connection.keep_alive_timeout is not None:
                limit = min(limit, connection.keep_alive_timeout - 1)
            if not connection.is_usable() or now - connection.born > self._max_lifetime:
                connection.close()
                continue
            if age > limit:
                return None  # the others are older still
            self._idle.pop()
            connection.is_reused = True
            self._busy.add(connection)
            self._hits += 1
            if measures:
                self._took.add(time.perf_counter() - started, now)
            return connection
        return None

    async def _acquire(
        self, retry_safe: bool, *, fresh: bool = False, queued: bool = True, room: int | None = None
    ) -> ClientConnection:
        """An idle connection, else a new one, else whichever comes first.

        ``fresh``: only a new one. ``room``: connections to be had in all, ``max_size`` unless fewer are let in.
        """
        began = monotonic()
        while True:
            if queued:
                connection = await self._turn(retry_safe, fresh, room or self.max_size)
                if connection is not None:
                    return connection
            self._dialing += 1
            self._misses += 1
            try:
                connection = await self._dial()
                self._busy.add(connection)
                return connection
            except BaseException as error:
                cause = error.__cause__
                has_others = self._has_others(dialing=1)
                patience = self._patience if isinstance(cause, _TurnedAway) else min(self._patience, CUT_TIME)
                is_over = monotonic() - began + MIN_COME_BACK > patience
                if not queued or not isinstance(cause, _CUT) or (is_over and not has_others):
                    self._wake_waiter()
                    raise
            finally:
                self._dialing -= 1
            room = 1  # the server takes no more of us just now
            if not has_others:
                await asyncio.sleep(MIN_COME_BACK)

    async def _turn(self, retry_safe: bool, fresh: bool, room: int) -> ClientConnection | None:
        """An idle connection, or None when there is room for a new one; waits until one of both is so."""
        try:
            async with asyncio.timeout(None) as patience:
                while not self._is_closed:
                    connection = None if fresh else self._take_idle(retry_safe)
                    if connection is not None:
                        return connection
                    if self._counted() < room:
                        break
                    if self._idle:
                        self._idle[0].close()  # none of them will do, and a new one needs the room
                        continue
                    if len(self._waiters) >= MAX_WAITING:
                        detail = f"all connections to the server are in use, and {MAX_WAITING} calls wait for one"
                        raise BridgeError("server_busy", detail, sent=False)
                    if patience.when() is None:
                        patience.reschedule(monotonic() + self._patience)
                    await self._wait_turn()
        except TimeoutError:
            raise BridgeError("server_busy", "all connections to the server are in use", sent=False) from None
        return None

    def _counted(self) -> int:
        """Connections that count towards the size of the pool."""
        return len(self._busy) - len(self._apart) + self._dialing + len(self._idle)

    async def _wait_turn(self) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self._wake_waiter()  # the turn was ours: hand it on
            raise
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    async def _dial(self) -> ClientConnection:
        loop = asyncio.get_running_loop()
        self._check_open()
        try:
            async with asyncio.timeout(self._dial_timeout):
                if self._is_tls and self._ssl is None:
                    self._ssl = ssl_module.create_default_context()  # 20 ms: made once, and only when needed
                sock = await self._route.open()
                with HandingOver(sock):
                    _, connection = await loop.create_connection(
                        lambda: ClientConnection(self._freed),
                        sock=sock,
                        ssl=self._ssl if self._is_tls else None,
                        server_hostname=self._host_name if self._is_tls else None,
                    )
                if not connection.is_usable():
                    connection.close()
                    if connection.was_turned_away:
                        raise _TurnedAway(ECONNABORTED, "the server takes no more connections from here")
                    raise ConnectionAbortedError(ECONNABORTED, "the server closed the connection at once")
        except (OSError, TimeoutError) as error:
            raise_dial_error(error, self._route.through)
        connection.born = loop.time()
        try:
            self._check_open()
        except BridgeError:
            connection.close()
            raise
        return connection

    def _check_open(self) -> None:
        if self._is_closed:
            raise BridgeError("draining", "the connection pool is closed", sent=False)

    # -- giving back

    def _freed(self, connection: ClientConnection, reusable: bool) -> None:
        self._busy.discard(connection)
        self._apart.discard(connection)
        if reusable and self._reuse and not self._is_closed and self._counted() < self.max_size:
            connection.idle_since = connection.used_at = monotonic()
            self._idle.append(connection)
            self._look_later()
        elif reusable:
            connection.close()
        elif connection in self._idle:
            self._idle.remove(connection)
        if self._waiters:
            self._wake_waiter()

    def _wake_waiter(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def _look_later(self) -> None:
        if self._timer is None and not self._is_closed:
            pause = min(self._idle_timeout, self._look or self._idle_timeout) / 2
            self._timer = asyncio.get_running_loop().call_later(pause, self._close_old)

    def _close_old(self) -> None:
        self._timer = None
        now = monotonic()
        for connection in list(self._idle):
            is_spare = now - connection.used_at >= self._idle_timeout and self._counted() > self.min_size
            if is_spare or now - connection.born > self._max_lifetime:
                connection.close()
            elif self._look is not None and self._spawn is not None and now - connection.idle_since >= self._look:
                self._ask_soon(connection, self._spawn)
        if self._idle:
            self._look_later()
        self._keep_least()

    def _ask_soon(self, connection: ClientConnection, spawn: Spawn) -> None:
        """Ask an idle connection whether it lives; meanwhile no call gets it. Any answer will do."""
        if connection.is_usable():
            self._idle.remove(connection)
            self._busy.add(connection)
            task = spawn(self._ask(connection))
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)

    async def _ask(self, connection: ClientConnection) -> None:
        used_at = connection.used_at
        data = encode_request("HEAD", f"{self._prefix}/health", self._host_line, (), 0)
        connection.is_reused = True
        try:
            async with asyncio.timeout(ASK_TIME):
                await (await self._send(connection, "HEAD", data, 0)).aclose()
        except (BridgeError, TimeoutError):
            self._keep_least()  # the connection is gone from the pool; another takes its place
        else:
            connection.used_at = used_at
