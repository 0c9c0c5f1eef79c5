"""Fuzz targets for HTTP/1.1 heads, chunked bodies and server-sent events."""

from __future__ import annotations

import contextlib
import zlib

import h11

from mcpbridge.errors import BridgeError
from mcpbridge.wire.chunked import LAST_CHUNK, ChunkedBody, encode_chunk
from mcpbridge.wire.http1 import HeadReader, HttpError, RequestHead, ResponseHead, parse_request, parse_response
from mcpbridge.wire.sse import SseEvent, SseParser, encode_event


def request_head(data: bytes) -> None:
    """A head is refused, or h11 reads the same method, target, fields and framing out of it."""
    raw = _head(data)
    try:
        head = parse_request(raw)
    except HttpError:
        return
    assert _same(HeadReader(parse_request), raw, head)
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(raw)
    event = connection.next_event()
    assert isinstance(event, h11.Request), event
    assert (event.method.decode(), event.target.decode()) == (head.method, head.target)
    _check_fields(event, head)


def response_head(data: bytes) -> None:
    """The same for answers; h11 knows fewer of the status lines that real servers send."""
    raw = _head(data)
    try:
        head = parse_response(raw)
    except HttpError:
        return
    assert _same(HeadReader(parse_response), raw, head)
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
    connection.send(h11.Request(method="GET", target="/", headers=[("host", "a")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(raw)
    event = connection.next_event()
    assert isinstance(event, h11.Response | h11.InformationalResponse), event
    assert event.status_code == head.status
    _check_fields(event, head)


def chunked(data: bytes) -> None:
    """Two chunkings of the wire give one verdict, and what is accepted is what h11 reads."""
    step = 1 + zlib.crc32(data) % 9
    whole, pieces = _decode(data, len(data) or 1), _decode(data, step)
    assert (whole is None) == (pieces is None)
    if whole is None or pieces is None:
        return
    assert whole == pieces
    body, done, rest = whole
    if b"transfer-" in data.lower() or b"content-" in data.lower():
        return  # as trailers: dropped here, read by h11
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n" + data)
    connection.next_event()
    theirs = b""
    while isinstance(event := connection.next_event(), h11.Data):
        theirs += event.data
    assert theirs == body
    assert isinstance(event, h11.EndOfMessage) == done
    assert not done or connection.trailing_data[0] == rest


def events(data: bytes) -> None:
    """Any chunking gives the same events, and events written again read back equal."""
    step = 1 + zlib.crc32(data) % 7
    whole, pieces = _events(data, len(data) or 1), _events(data, step)
    assert whole == pieces
    if whole is None:
        return
    whole = [event for event in whole if "\0" not in event.event]  # legal to read, not to write
    written = b"".join(encode_event(event.data, event=event.event, id=event.id, retry=event.retry) for event in whole)
    assert _events(written, len(written) or 1, 1 << 20) == whole


def _head(data: bytes) -> bytes:
    end = data.find(b"\r\n\r\n")
    return data[: end + 4] if end >= 0 else data + b"\r\n\r\n"


def _same(reader: HeadReader[RequestHead] | HeadReader[ResponseHead], raw: bytes, head: RequestHead | ResponseHead) -> bool:
    """Whether a reader that knows the head, also with another length, reads it as the parser did."""
    for one in (raw, raw.replace(b"ontent-length: 5", b"ontent-length: 77"), raw):
        with contextlib.suppress(HttpError):
            reader.read(one)
    found = reader.read(raw)
    return dict(found.headers.items()) == dict(head.headers.items()) and found.length == head.length


def _check_fields(event: h11.Request | h11.Response | h11.InformationalResponse, head: RequestHead | ResponseHead) -> None:
    theirs: dict[str, list[str]] = {}
    for name, value in event.headers:
        theirs.setdefault(name.decode(), []).append(value.decode("latin-1"))
    ours = dict(head.headers.items())
    if "transfer-encoding" in ours:
        ours["transfer-encoding"] = ours["transfer-encoding"].lower()  # as h11 does
    assert {name: ("; " if name == "cookie" else ", ").join(values) for name, values in theirs.items()} == ours
    if "content-length" in theirs:
        assert head.length == int(theirs["content-length"][0])
    assert head.chunked == ("transfer-encoding" in theirs)


def _decode(data: bytes, step: int) -> tuple[bytes, bool, bytes] | None:
    body, out = ChunkedBody(1 << 16), b""
    try:
        for at in range(0, len(data), step):
            out += b"".join(body.feed(data[at : at + step]))
            if body.done:
                return out, True, body.rest + data[at + step :]
    except HttpError:
        return None
    return out, False, b""


def _events(data: bytes, step: int, limit: int = 200) -> list[SseEvent] | None:
    parser, found = SseParser(limit), []
    try:
        for at in range(0, len(data), step):
            found += parser.feed(data[at : at + step])
    except BridgeError:
        return None
    return found


_REQUEST = (
    b"POST /mcp?a=b HTTP/1.1\r\nHost: a:1\r\nAccept: a\r\nX-B:  c d \r\ncontent-length: 5\r\nConnection: close\r\n\r\nhello"
)

TARGETS = {"http1-request": request_head, "http1-response": response_head, "http1-chunked": chunked, "sse": events}
SEEDS = {
    "http1-request": [
        _REQUEST,
        b"GET / HTTP/1.0\r\nHost: [::1]\r\nCookie: a\r\ncookie: b\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nhost: a\r\nUpgrade: h2c\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n",
    ],
    "http1-response": [
        b"HTTP/1.1 200 OK\r\nContent-Type: a/b\r\ncontent-length: 5\r\nKeep-Alive: timeout=5\r\n\r\n",
        b"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\nX: a\r\nx: b\r\n\r\n",
        b"HTTP/1.0 204 No Content\r\nConnection: close\r\n\r\n",
    ],
    "http1-chunked": [
        b"5\r\nhello\r\n0\r\n\r\nGET /",
        encode_chunk(b"x" * 30) + encode_chunk(b"\r\n0\r\n\r\n") + LAST_CHUNK,
        b'00a;n=v;q="w"\r\n0123456789\r\n0\r\nA: b\r\nC:\r\n\r\n',
    ],
    "sse": [
        b"event: message\nid: 7\ndata: {}\n\n: c\n\nretry: 5\ndata: a\ndata: b\n\n",
        b"\xef\xbb\xbfdata: a\r\n\r\nid\rdata\r\rdata:  x\n\n",
    ],
}
