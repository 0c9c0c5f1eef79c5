"""Once: a connection on which a request that its client says again is worked on once.

    in flight   same id and same bytes: nothing happens, the one answer is on its way
    answered    the same, and the method is retry-safe: what was answered within ``ttl``
    otherwise   it goes through (an id in flight with other bytes is refused by the Peer)

For editors and wrappers that repeat a line they are not sure of. It reads every message once more, so it is off by default.

Source: contract ``advanced.deduplication.*``; issue 5 item 8.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2b
from time import monotonic

from mcpbridge.core.ports import Connection
from mcpbridge.errors import BridgeError
from mcpbridge.wire.envelope import parse
from mcpbridge.wire.message import Notification, Request, RequestId, Response, loads
from mcpbridge.wire.spec import retry_safe

MAX_KEPT = 8 << 20  # bytes of answers


class Once:
    """``inner`` without repeats. ``size``: answers kept at most; ``ttl``: seconds they are."""

    def __init__(self, inner: Connection, *, size: int, ttl: float, clock: Callable[[], float] = monotonic) -> None:
        self._inner = inner
        self._size = size
        self._ttl = ttl
        self._clock = clock
        self._open: dict[RequestId, tuple[bytes, bool]] = {}  # digest, and whether its answer may be said again
        self._kept: OrderedDict[tuple[RequestId, bytes], tuple[float, bytes]] = OrderedDict()
        self._bytes = 0
        self._on_message: Callable[[bytes], None]

    def start(self, on_message: Callable[[bytes], None], on_close: Callable[[BaseException | None], None]) -> None:
        self._on_message = on_message
        self._inner.start(self._came, on_close)

    def send(self, data: bytes) -> None:
        said = _read(data, client=False)
        if isinstance(said, Response) and said.id is not None and said.id in self._open:
            digest, is_safe = self._open.pop(said.id)
            if is_safe and said.error is None:
                self._keep((said.id, digest), data)
        self._inner.send(data)

    async def drain(self) -> None:
        await self._inner.drain()

    def pause(self) -> None:
        self._inner.pause()

    def resume(self) -> None:
        self._inner.resume()

    async def close(self) -> None:
        await self._inner.close()

    def _came(self, raw: bytes) -> None:
        message = _read(raw, client=True)
        if isinstance(message, Request):
            digest = blake2b(raw, digest_size=16).digest()
            if self._open.get(message.id, (b"",))[0] == digest:
                return
            kept = self._kept.get((message.id, digest))
            if kept is not None and self._clock() - kept[0] < self._ttl:
                self._inner.send(kept[1])
                return
            self._open[message.id] = (digest, retry_safe(message.method))
        elif isinstance(message, Notification) and message.method == "notifications/cancelled":
            self._open.pop(loads(message.param("requestId") or b"null"), None)  # nobody answers it
        self._on_message(raw)

    def _keep(self, key: tuple[RequestId, bytes], answer: bytes) -> None:
        old = self._kept.pop(key, None)
        self._bytes += len(answer) - (len(old[1]) if old is not None else 0)
        self._kept[key] = (self._clock(), answer)
        while len(self._kept) > self._size or self._bytes > MAX_KEPT:
            self._bytes -= len(self._kept.popitem(last=False)[1][1])


def _read(raw: bytes, *, client: bool) -> object:
    """The message; None for what is none, or several: the Peer says so."""
    try:
        return parse(raw, client=client)
    except BridgeError:
        return None
