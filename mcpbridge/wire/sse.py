"""Server-sent events: bytes in any pieces -> events, and back.

    event: message LF            CR, LF and CRLF end a line; an empty line ends an event
    id: 7 LF
    data: {"jsonrpc":"2.0",...} LF LF

Data stays bytes: it is a JSON-RPC message that is parsed (or only forwarded) elsewhere. Unlike a browser, an event without
data is returned too: MCP primes a stream with an event that has nothing but an id.

Source: WHATWG HTML section 9.2; MCP 2025-11-25 basic/transports; architecture section 5.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, NamedTuple
from urllib.parse import SplitResult, urljoin, urlsplit

from mcpbridge.errors import BridgeError

MAX_EVENT = 10 * 1024 * 1024
"""Bytes of one event, field names included: the largest message of any transport."""

_BOM = b"\xef\xbb\xbf"
_TARGET: Final = re.compile(r"[\x21-\x7e]{1,8192}").fullmatch
_PORTS: Final = {"http": 80, "https": 443}


class SseEvent(NamedTuple):
    """One event. ``event`` is "message" unless named; ``id`` and ``retry`` (milliseconds) are None unless it has them."""

    event: str
    data: bytes
    id: str | None
    retry: int | None


class SseParser:
    """Takes a stream apart. An event that never ends is refused at ``max_event`` bytes; a partial one at the end is dropped."""

    __slots__ = ("_after_cr", "_buffer", "_max", "_seen", "_started")

    def __init__(self, max_event: int = MAX_EVENT) -> None:
        self._buffer = bytearray()
        self._max = max_event
        self._seen = 0  # bytes of the buffer that hold no event end: the search resumes there
        self._after_cr = False
        self._started = False

    def feed(self, data: bytes) -> list[SseEvent]:
        """The events that ``data`` completes. Raises BridgeError("answer_too_large") when one exceeds the limit."""
        if self._after_cr and data:
            self._after_cr = False
            if data[0] == 10:
                data = data[1:]  # the LF of a CRLF cut in two
        if b"\r" in data:
            self._after_cr = data[-1] == 13
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        buffer = self._buffer
        buffer += data
        if not self._started and not self._start():
            return []
        events: list[SseEvent] = []
        at = 0
        search = self._seen
        while (end := buffer.find(b"\n\n", search)) >= 0:
            if buffer.startswith(b"\n", at):
                at += 1  # the end of the empty line before
            if end - at > self._max:
                self._refuse()
            event = _read_event(buffer, at, end)
            if event is not None:
                events.append(event)
            # The second line end stays: with a third it is another, empty event, which is harmless.
            at = end + 1
            search = at
        if at:
            del buffer[:at]
        if len(buffer) - buffer.startswith(b"\n") - buffer.endswith(b"\n") > self._max:
            self._refuse()  # however it goes on; line ends around the event do not count, so any pieces give one verdict
        self._seen = max(0, len(buffer) - 1)
        return events

    def _start(self) -> bool:
        if len(self._buffer) < 3 and _BOM.startswith(self._buffer):
            return False
        if self._buffer.startswith(_BOM):
            del self._buffer[:3]
        self._started = True
        return True

    def _refuse(self) -> None:
        self._buffer.clear()
        self._seen = 0
        raise BridgeError("answer_too_large", f"an event of more than {self._max} bytes")


def _read_event(buffer: bytearray, at: int, end: int) -> SseEvent | None:
    event = "message"
    data: list[bytes] = []
    id_: str | None = None
    retry: int | None = None
    while at < end:
        eol = buffer.find(b"\n", at, end)
        if eol < 0:
            eol = end
        if buffer.startswith(b"data:", at):  # in place: the value may be 10 MiB and is copied once
            start = at + (6 if buffer.startswith(b" ", at + 5) else 5)
            with memoryview(buffer) as view:
                data.append(bytes(view[start:eol]))
        else:
            name, _, value = bytes(buffer[at:eol]).partition(b":")
            value = value.removeprefix(b" ")
            if name == b"data":
                data.append(value)
            elif name == b"event":
                event = value.decode("utf-8", "replace") or "message"
            elif name == b"id" and b"\0" not in value:
                id_ = value.decode("utf-8", "replace")
            elif name == b"retry" and value.isdigit() and len(value) <= 10:
                retry = int(value)
        at = eol + 1
    if not data:
        return None if id_ is None and retry is None else SseEvent(event, b"", id_, retry)
    return SseEvent(event, data[0] if len(data) == 1 else b"\n".join(data), id_, retry)


def encode_event(data: bytes, *, event: str | None = None, id: str | None = None, retry: int | None = None) -> bytes:
    """One event. Line ends inside ``data`` become several data lines (and read back as LF).

    Raises ValueError for a line end or NUL in ``event`` or ``id``, which would forge fields.
    """
    head = b""
    if event is not None:
        head += b"event: %b\n" % _field(event)
    if id is not None:
        head += b"id: %b\n" % _field(id)
    if retry is not None:
        head += b"retry: %d\n" % retry
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if b"\n" in data:
        data = data.replace(b"\n", b"\ndata: ")
    return b"%bdata: %b\n\n" % (head, data)


def comment(text: str = "") -> bytes:
    """A line that readers skip: keeps proxies from closing a silent stream."""
    return b": %b\n\n" % _field(text)


def _field(value: str) -> bytes:
    if "\n" in value or "\r" in value or "\0" in value:
        raise ValueError("line end or NUL in a field of an event")
    return value.encode()


def read_endpoint(events: Iterable[SseEvent], url: str) -> str | None:
    """Path and query that messages are posted to, from the first events of an HTTP+SSE stream; None while it is not there.

    ``url``: where the stream is. Only this proves the transport of 2024-11-05: its server says `endpoint` before any message,
    with a URI relative to the stream's or absolute, and of the same origin (anything else would send tokens elsewhere).
    Raises BridgeError("protocol_mismatch") when a message comes first, "bad_answer" for a URI that cannot be used.
    Source: MCP 2024-11-05 basic/transports, HTTP with SSE.
    """
    for event in events:
        if event.event == "endpoint":
            return _target(event.data, url)
        if event.event == "message" and event.data:
            raise BridgeError("protocol_mismatch", "a message before the endpoint event", sent=False, expected="sse")
    return None


def _target(data: bytes, url: str) -> str:
    try:
        said = data.decode("ascii").strip(" \t\n")
        if not _TARGET(said) or "\\" in said:
            raise ValueError
        target = urlsplit(urljoin(url, said))
        is_ours = _origin(target) == _origin(urlsplit(url)) and target.username is None
    except ValueError:
        raise BridgeError("bad_answer", "the endpoint event is no URI", sent=False) from None
    if not is_ours:
        raise BridgeError("bad_answer", "the endpoint event names another origin than the stream's", sent=False)
    return (target.path or "/") + (f"?{target.query}" if target.query else "")


def _origin(parts: SplitResult) -> tuple[str, str | None, int | None]:
    return parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme)
