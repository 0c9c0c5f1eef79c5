"""HTTP/1.1 heads: read through httptools, checked here, doubt refused; and written.

    POST /mcp/x HTTP/1.1 CRLF                     head: found by its CRLFCRLF by the caller, given whole to ``parse_request``
    host: a CRLF content-length: 2 CRLF CRLF
    {}                                            body: Content-Length, ``wire.chunked``, or (responses only) until close

httptools sees one complete head in a fresh parser and never a body: on its own it takes HTTP/0.9, two Hosts,
``gzip, chunked`` and drops the body behind ``Upgrade: h2c``. What it lets through and two servers could read differently
is refused here; the connection of a refused message must be closed, because where its body ends is anybody's guess.

Source: architecture section 5; RFC 9110, RFC 9112; reliability table row 16.
"""

from __future__ import annotations

import re
from collections.abc import Callable, ItemsView, Iterator, Mapping, Sequence
from typing import Final, Generic, TypeVar

import httptools

MAX_REQUEST_LINE: Final = 8192  # bytes
MAX_FIELDS: Final = 100  # header lines
METHODS: Final = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))

_REMEMBERED: Final = 2048  # bytes of a head that is kept to compare the next with

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

REASONS: Final[dict[int, str]] = {
    100: "Continue", 101: "Switching Protocols",
    200: "OK", 201: "Created", 202: "Accepted", 204: "No Content", 206: "Partial Content",
    301: "Moved Permanently", 302: "Found", 303: "See Other", 304: "Not Modified",
    307: "Temporary Redirect", 308: "Permanent Redirect",
    400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed",
    406: "Not Acceptable", 408: "Request Timeout", 409: "Conflict", 410: "Gone", 411: "Length Required",
    413: "Content Too Large", 414: "URI Too Long", 415: "Unsupported Media Type", 417: "Expectation Failed",
    421: "Misdirected Request", 422: "Unprocessable Content", 426: "Upgrade Required", 429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error", 501: "Not Implemented", 502: "Bad Gateway", 503: "Service Unavailable",
    504: "Gateway Timeout", 505: "HTTP Version Not Supported",
}  # fmt: skip

_NAME = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_REQUEST_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([\x21-\x7e]+) HTTP/(\d\.\d)")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9]\d\d)(?: ([\t\x20-\x7e\x80-\xff]*))?")
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z._~-]+)(?::\d{1,5})?")
_BLOCK = re.compile(rf"(?:{_NAME}: [\t\x20-\x7e\x80-\xff]*\r\n)*")
_LENGTH_LINE = re.compile(rb"\r\n[Cc]ontent-[Ll]ength: (\d{1,15})(?=\r\n)")
_KEEP_ALIVE_TIMEOUT = re.compile(r"(?:^|[,;\s])timeout\s*=\s*(\d{1,6})(?:$|[,;\s])", re.IGNORECASE)

_SINGLETONS = frozenset((
    "host", "content-length", "content-type", "content-encoding", "transfer-encoding", "authorization", "origin", "expect",
    "last-event-id", "user-agent", "referer", "date", "etag", "location", "retry-after", "range", "max-forwards", "from",
    "proxy-authorization", "sec-websocket-key", "sec-websocket-version", "x-request-id", "traceparent",
))  # fmt: skip


class HttpError(Exception):
    """A message that is refused. ``status`` is what a server answers before it closes; a client only needs the words."""

    def __init__(self, status: int, detail: str) -> None:
        self.status = status
        self.detail = detail
        super().__init__(detail)


class Headers(Mapping[str, str]):
    """Header fields by name, in any case; lower case when iterated. Repeated list fields are joined by ", " (RFC 9110 5.3).

    ``get`` alone wants the name in lower case: ten are asked for on every request, so it is the dictionary's own.
    """

    __slots__ = ("_fields", "get")
    get: Callable[..., str | None]  # type: ignore[assignment]

    def __init__(self, fields: dict[str, str]) -> None:
        """``fields`` has lower-case names and belongs to this object from now on."""
        self._fields = fields
        self.get = fields.get

    def __getitem__(self, name: str) -> str:
        return self._fields[name.lower()]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._fields

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def replacing(self, name: str, value: str) -> Headers:
        """The same fields with another value for a lower-case name."""
        return Headers({**self._fields, name: value})

    def items(self) -> ItemsView[str, str]:
        return self._fields.items()

    def __repr__(self) -> str:
        return f"Headers({sorted(self._fields)})"  # names only: values may be secrets


class RequestHead:
    """The head of a request that passed every check. ``length`` is 0 for a chunked body, whose end is in the body itself."""

    __slots__ = ("chunked", "expects_continue", "headers", "keep_alive", "length", "method", "minor", "path", "query", "target")

    def __init__(
        self, method: str, target: str, minor: int, headers: Headers, length: int, chunked: bool, keep_alive: bool
    ) -> None:
        self.method = method
        self.target = target
        self.path, _, self.query = target.partition("?")
        self.minor = minor  # HTTP/1.minor
        self.headers = headers
        self.length = length
        self.chunked = chunked
        self.keep_alive = keep_alive
        self.expects_continue = minor == 1 and "expect" in headers

    def with_length(self, length: int, digits: str) -> RequestHead:
        """The same head with another Content-Length."""
        headers = self.headers.replacing("content-length", digits)
        return RequestHead(self.method, self.target, self.minor, headers, length, self.chunked, self.keep_alive)


class ResponseHead:
    """The head of a response. ``length`` is None when the body ends with the connection (or is chunked)."""

    __slots__ = ("chunked", "headers", "keep_alive", "keep_alive_timeout", "length", "reason", "status")

    def __init__(self, status: int, reason: str, headers: Headers, length: int | None, chunked: bool, keep_alive: bool) -> None:
        self.status = status
        self.reason = reason
        self.headers = headers
        self.length = length
        self.chunked = chunked
        self.keep_alive = keep_alive
        found = _KEEP_ALIVE_TIMEOUT.search(headers["keep-alive"]) if "keep-alive" in headers else None
        self.keep_alive_timeout = float(found[1]) if found else None  # seconds the server says it waits

    def with_length(self, length: int, digits: str) -> ResponseHead:
        """The same head with another Content-Length."""
        headers = self.headers.replacing("content-length", digits)
        return ResponseHead(self.status, self.reason, headers, length, self.chunked, self.keep_alive)


_Head = TypeVar("_Head", RequestHead, ResponseHead)


class HeadReader(Generic[_Head]):
    """Reads the heads of one connection. Most are the one before with another Content-Length: those are not parsed again.

    Exact: a head that differs from an accepted one in the digits of its only Content-Length line says the same but for them.
    """

    __slots__ = ("_head", "_parse", "_raw", "_rest")

    def __init__(self, parse: Callable[[bytes], _Head]) -> None:
        self._parse: Callable[[bytes], _Head] = parse
        self._head: _Head | None = None
        self._raw = b""
        self._rest = b""  # the remembered head without its Content-Length line; empty when it has none

    def read(self, raw: bytes) -> _Head:
        """The same as ``parse(raw)``, and raises the same."""
        head = self._head
        if head is not None and raw == self._raw:
            return head
        found = _LENGTH_LINE.search(raw)
        rest = raw[: found.start()] + raw[found.end() :] if found is not None else b""
        if head is not None and found is not None and rest == self._rest:
            head = head.with_length(int(found[1]), found[1].decode("ascii"))
        else:
            head = self._parse(raw)
        if len(raw) <= _REMEMBERED:
            self._head, self._raw, self._rest = head, raw, rest
        return head


class _Fields(dict[bytes, bytes]):
    """Receives httptools' ``on_header`` at the cost of a dict store; a repeated name shows as a missing entry."""

    __slots__ = ()
    on_header = dict.__setitem__


class _FieldList:
    """Receives every header line in order: the slow way, for heads that repeat a name."""

    def __init__(self) -> None:
        self.lines: list[tuple[bytes, bytes]] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.lines.append((name, value))


def parse_request(head: bytes) -> RequestHead:
    """Check and read one complete request head, CRLFCRLF included.

    Raises HttpError with the status to answer (400, 414, 417, 431, 501, 505). Source: RFC 9112 sections 3, 5, 6.
    """
    end = head.find(b"\r\n")
    if end > MAX_REQUEST_LINE:
        raise HttpError(414, "request line too long")
    line = _REQUEST_LINE.fullmatch(head, 0, end)
    if line is None:
        raise HttpError(400, "malformed request line")
    method, target, version = line[1].decode("ascii"), line[2].decode("ascii"), line[3]
    if version not in (b"1.1", b"1.0"):
        raise HttpError(505, "only HTTP/1.1 and HTTP/1.0 are spoken here")
    if method not in METHODS:
        raise HttpError(501, "method not supported")
    if (target[0] != "/" and (target != "*" or method != "OPTIONS")) or "#" in target:
        raise HttpError(400, "request target must be a path")
    fields = _parse_fields(head, httptools.HttpRequestParser, refuse_underscore=True)
    host = fields.get("host")
    if host is None or _HOST.fullmatch(host) is None:
        raise HttpError(400, "missing or malformed Host")
    minor = 1 if version == b"1.1" else 0
    length = _content_length(fields)
    chunked = _chunked(fields, minor)
    if "expect" in fields and fields["expect"].lower() != "100-continue":
        raise HttpError(417, "unknown expectation")
    return RequestHead(method, target, minor, Headers(fields), length or 0, chunked, _keeps_alive(fields, minor))


def parse_response(head: bytes) -> ResponseHead:
    """Check and read one complete response head, CRLFCRLF included, 1xx as well.

    Raises HttpError (status 502). Source: RFC 9112 sections 4, 6.
    """
    line = _STATUS_LINE.fullmatch(head, 0, head.find(b"\r\n"))
    if line is None:
        raise HttpError(502, "malformed status line")
    try:
        fields = _parse_fields(head, httptools.HttpResponseParser, refuse_underscore=False)
        minor = line[1][0] - 48
        length = _content_length(fields)
        chunked = _chunked(fields, minor)
    except HttpError as error:
        raise HttpError(502, error.detail) from None
    status = int(line[2])
    keep_alive = _keeps_alive(fields, minor) and (chunked or length is not None or status in (204, 304) or status < 200)
    return ResponseHead(status, (line[3] or b"").decode("latin-1"), Headers(fields), length, chunked, keep_alive)


def _parse_fields(head: bytes, parser: type, *, refuse_underscore: bool) -> dict[str, str]:
    count = head.count(b"\r\n") - 2
    if count > MAX_FIELDS:
        raise HttpError(431, "too many header fields")
    sink = _Fields()
    _feed(parser(sink), head)
    fields = {name.decode("latin-1").lower(): value.decode("latin-1").rstrip(" \t") for name, value in sink.items()}
    if len(fields) != count:
        fields = _join_repeated(head, parser, count)
    if refuse_underscore and "_" in "".join(fields):
        # CGI and many frameworks fold "-" and "_" into one name: the two ends would read different requests.
        raise HttpError(400, "underscore in a header name")
    return fields


def _feed(parser: httptools.HttpRequestParser | httptools.HttpResponseParser, head: bytes) -> None:
    try:
        parser.feed_data(head)
    except httptools.HttpParserUpgrade:
        pass  # the head was complete; an upgrade nobody serves is ignored and the body read (RFC 9110 7.8)
    except httptools.HttpParserError as error:
        raise HttpError(400, f"malformed header: {error}") from None


def _join_repeated(head: bytes, parser: type, count: int) -> dict[str, str]:
    sink = _FieldList()
    _feed(parser(sink), head)
    if len(sink.lines) != count:
        raise HttpError(400, "header lines do not add up")
    fields: dict[str, str] = {}
    for raw_name, raw_value in sink.lines:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1").rstrip(" \t")
        if name not in fields:
            fields[name] = value
        elif name in _SINGLETONS or name.startswith("mcp-"):
            raise HttpError(400, f"repeated header {name}")
        else:
            fields[name] += ("; " if name == "cookie" else ", ") + value
    return fields


def _content_length(fields: Mapping[str, str]) -> int | None:
    value = fields.get("content-length")
    if value is None:
        return None
    if "transfer-encoding" in fields:
        raise HttpError(400, "both Content-Length and Transfer-Encoding")
    if not (value.isascii() and value.isdigit()) or len(value) > 15:
        raise HttpError(400, "malformed Content-Length")
    return int(value)


def _chunked(fields: Mapping[str, str], minor: int) -> bool:
    value = fields.get("transfer-encoding")
    if value is None:
        return False
    if minor == 0 or value.lower() != "chunked":
        raise HttpError(400, "Transfer-Encoding is not exactly chunked over HTTP/1.1")
    return True


def _keeps_alive(fields: Mapping[str, str], minor: int) -> bool:
    if minor == 0:
        return False  # HTTP/1.0 keep-alive was never specified well enough to trust
    value = fields.get("connection")
    return value is None or "close" not in [token.strip() for token in value.lower().split(",")]


def status_line(status: int) -> bytes:
    """``HTTP/1.1 200 OK`` with its line end."""
    line = _STATUS_LINES.get(status)
    return line if line is not None else b"HTTP/1.1 %d \r\n" % status


_STATUS_LINES = {status: f"HTTP/1.1 {status} {reason}\r\n".encode() for status, reason in REASONS.items()}


def encode_fields(fields: Sequence[tuple[str, str]]) -> bytes:
    """Header lines. Raises ValueError for a name or value that would break the line (response splitting)."""
    block = "".join([f"{name}: {value}\r\n" for name, value in fields])
    if _BLOCK.fullmatch(block) is None or block.count("\n") != len(fields):
        raise ValueError("header name or value with characters that HTTP does not allow")
    return block.encode("latin-1")


def encode_request(method: str, target: str, host: bytes, fields: Sequence[tuple[str, str]], length: int) -> bytes:
    """A request head with Host (``host`` is its encoded line) and, when there is a body or the method expects one, its length.

    Raises ValueError for anything that does not fit into its place.
    """
    line = f"{method} {target} HTTP/1.1\r\n".encode("latin-1")
    if _REQUEST_LINE.fullmatch(line, 0, len(line) - 2) is None:
        raise ValueError("method or target with characters that HTTP does not allow")
    if length or method in ("POST", "PUT", "PATCH"):
        return b"%b%b%bcontent-length: %d\r\n\r\n" % (line, host, encode_fields(fields), length)
    return b"%b%b%b\r\n" % (line, host, encode_fields(fields))
