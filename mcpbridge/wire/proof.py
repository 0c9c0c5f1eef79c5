"""What proves that a server speaks MCP, judged from bytes. Positive proofs only; whatever is no proof says nothing.

    server/discover ->  DiscoverResult, or an error that only a modern server knows       modern (dual, when it says so)
    either          ->  an error of a bridge whose servers are away                       as if it had answered
    initialize      ->  InitializeResult                                                  legacy
    GET             ->  first SSE event is `endpoint`, on the same origin                 HTTP+SSE
    401, 403        ->  a Bearer challenge                                                HTTP, sign-in needed

Our id must come back in a *response*: an echo of our own request has a method and proves nothing. Evidence is a phrase of
ours, never a server's words.

Source: reliability section 6; MCP 2026-07-28 versioning and Streamable HTTP; mcp-eras sections 1 and 2; RFC 6750 section 3.
"""

from __future__ import annotations

import re
import zlib
from typing import Literal, NamedTuple
from urllib.parse import urljoin, urlsplit

from msgspec import Raw

from mcpbridge.errors import FAULTS, BridgeError
from mcpbridge.wire import message as m
from mcpbridge.wire.chunked import ChunkedBody
from mcpbridge.wire.envelope import parse
from mcpbridge.wire.http1 import HttpError, ResponseHead, encode_fields, encode_request, parse_response
from mcpbridge.wire.level import items, members, text
from mcpbridge.wire.message import Response
from mcpbridge.wire.spec import CLIENT_CAPABILITIES, CLIENT_INFO, LEGACY, MODERN, NEWEST_LEGACY, PROTOCOL_VERSION
from mcpbridge.wire.sse import SseParser

Era = Literal["modern", "legacy", "dual", "unknown_auth_required"]
Asked = Literal["server/discover", "initialize"]

MAX_BODY = 65_536  # bytes of an unpacked answer
CLOSED = "closed without an answer"  # what a TLS port does to plain text when it sends no alert
DISCOVER_ID, INITIALIZE_ID = 7_150_101, 7_150_102  # numbers that no server says by itself

_AWAY = (502, 503, 504)  # statuses of a bridge whose servers are away; nobody else's error there proves anything

_VERSION = re.compile(r"20\d\d-\d\d-\d\d").fullmatch
_CHALLENGE = re.compile(r"(?:^|,)\s*bearer(?:\s|,|$)", re.IGNORECASE).search
_TLS_ALERT = re.compile(rb"\x15\x03[\x00-\x04]\x00\x02[\x01\x02]", re.DOTALL).match
_WANTS_TLS = re.compile(
    rb"plain HTTP request|HTTP request to an? (?:HTTPS|TLS)|requires? TLS|speaks (?:TLS|HTTPS)", re.I
).search


class Finding(NamedTuple):
    """One judged answer. ``era`` None: it proves nothing. ``said``: what was seen, in our words.

    ``session``: an Mcp-Session-Id that the probe caused and must end. ``path``: where else to ask, on the same origin.
    """

    era: Era | None
    said: str
    session: str | None = None
    path: str | None = None
    tls: bool = False
    is_no_post: bool = False  # POST is not taken there
    is_away: bool = False  # said by a bridge like this one, in place of servers that are away


def question(asked: Asked) -> bytes:
    """The one message a probe sends, without framing; it changes nothing at the server but the session of `initialize`."""
    info = {"name": "mcpbridge-detect", "version": "1"}
    if asked == "server/discover":
        meta = {PROTOCOL_VERSION: MODERN[0], CLIENT_INFO: info, CLIENT_CAPABILITIES: {}}
        return m.request(DISCOVER_ID, asked, {"_meta": meta}).encode()
    params = {"protocolVersion": NEWEST_LEGACY, "capabilities": {}, "clientInfo": info}
    return m.request(INITIALIZE_ID, asked, params).encode()


def post(asked: Asked, path: str, host: str, agent: str) -> bytes:
    """The HTTP request that asks it."""
    body = question(asked)
    fields = [
        ("accept", "application/json, text/event-stream"),
        ("accept-encoding", "identity"),
        ("content-type", "application/json"),
        ("user-agent", agent),
    ]
    if asked == "server/discover":
        fields += [("mcp-protocol-version", MODERN[0]), ("mcp-method", asked)]
    return encode_request("POST", path, _host(host), fields, len(body)) + body


def get_events(path: str, host: str, agent: str) -> bytes:
    """The HTTP request that opens an event stream."""
    fields = [("accept", "text/event-stream"), ("accept-encoding", "identity"), ("user-agent", agent)]
    return encode_request("GET", path, _host(host), fields, 0)


def delete(session: str, path: str, host: str, agent: str) -> bytes:
    """The HTTP request that ends a session of ours."""
    fields = [("mcp-session-id", session), ("mcp-protocol-version", NEWEST_LEGACY), ("user-agent", agent)]
    return encode_request("DELETE", path, _host(host), fields, 0)


def _host(host: str) -> bytes:
    return encode_fields([("host", host)])


def is_tls_alert(first: bytes) -> bool:
    """Whether the first bytes of an answer are a TLS alert: the port wanted a handshake."""
    return _TLS_ALERT(first) is not None


def judge(raw: bytes, asked: Asked, status: int = 0) -> Finding | None:
    """One message of a server to whom ``asked`` was said; None: no answer to that, look at the next one.

    ``status``: of the HTTP answer it came in, 0 elsewhere.
    """
    try:
        answer = parse(raw.strip().removeprefix(b"\xef\xbb\xbf"), client=False)
    except BridgeError:
        return None
    for message in answer if isinstance(answer, list) else [answer]:
        if isinstance(message, Response):
            return _answered(message, asked, status)
    return None


def _answered(answer: Response, asked: Asked, status: int) -> Finding | None:
    wanted = DISCOVER_ID if asked == "server/discover" else INITIALIZE_ID
    if answer.error is not None and answer.id in (wanted, None):
        era = _modern_error(answer.error, status)
        reason = _our_reason(answer.error) if era is None and answer.id == wanted else None
        if reason in ("unauthorized", "forbidden"):
            return Finding("unknown_auth_required", f"{asked}: a bridge that wants a sign-in")
        if reason is not None:
            era = "modern" if asked == "server/discover" else "legacy"
            return Finding(era, f"{asked}: a bridge whose servers are away", is_away=True)
        if era is None:
            return Finding(None, f"{asked}: a JSON-RPC error")
        return Finding(era, f"{asked}: an error that only a modern server knows")
    if answer.id != wanted:
        return None
    try:
        said = members(answer.result, "bad_answer")
        era = _discovered(said) if asked == "server/discover" else _initialized(said)
    except BridgeError:
        era = None
    return Finding(era, f"{asked}: {'answered' if era else 'a result that is not MCP'}")


def _discovered(said: m.Members) -> Era | None:
    """A DiscoverResult: dated versions and an object of capabilities; dual when legacy versions are among them."""
    versions = [text(item) or "" for item in items(said.get("supportedVersions"), "bad_answer")]
    if not versions or not all(map(_VERSION, versions)) or not _is_object(said.get("capabilities")):
        return None
    if all(version in LEGACY for version in versions):
        return None  # it knows the method, but says itself that it is not modern
    return "dual" if any(version in LEGACY for version in versions) else "modern"


def _initialized(said: m.Members) -> Era | None:
    """An InitializeResult: a dated version, objects of capabilities and of the server's name."""
    version = text(said.get("protocolVersion"))
    if version is None or not _VERSION(version) or not _is_object(said.get("capabilities")):
        return None
    info = said.get("serverInfo")
    return "legacy" if _is_object(info) and text(members(info, "bad_answer").get("name")) is not None else None


def _modern_error(error: Raw, status: int) -> Era | None:
    """An error of the modern era in the shape its schema gives it; its bare number could be anybody's."""
    try:
        said = members(error, "bad_answer")
        code = bytes(said.get("code") or b"")
        if code == b"-32020":
            return "modern" if status == 400 else None  # it speaks about HTTP headers
        if code not in (b"-32021", b"-32022"):
            return None
        data = members(said.get("data"), "bad_answer")
        if code == b"-32021":
            return "modern" if _is_object(data.get("requiredCapabilities")) else None
        versions = [text(item) or "" for item in items(data.get("supported"), "bad_answer")]
        is_modern = bool(versions) and all(map(_VERSION, versions)) and any(version not in LEGACY for version in versions)
        return "modern" if is_modern else None
    except BridgeError:
        return None


def _our_reason(error: Raw) -> str | None:
    """The reason, when this is an error of a bridge like this one: `data` has it by the name that goes with the code."""
    try:
        said = members(error, "bad_answer")
        data = members(said.get("data"), "bad_answer")
    except BridgeError:
        return None
    reason = text(data.get("reason")) or ""
    fault = FAULTS.get(reason)
    is_ours = fault is not None and fault.code > 0 and bytes(said.get("code") or b"") == b"%d" % fault.code
    return reason if is_ours else None


def _is_object(raw: Raw | None) -> bool:
    return raw is not None and bytes(raw).startswith(b"{")


class HttpReply:
    """One HTTP answer, taken apart as it comes. ``broken`` says why it is none. Bounded by what is fed to it."""

    def __init__(self) -> None:
        self.head: ResponseHead | None = None
        self.complete = False
        self.broken = ""
        self.rest = b""  # behind the answer, or behind a 101
        self._raw = bytearray()
        self._body = bytearray()
        self._chunks: ChunkedBody | None = None

    @property
    def body(self) -> bytes:
        """What has come of it, unpacked."""
        kind = self.head.headers.get("content-encoding", "") if self.head is not None else ""
        if kind in ("gzip", "deflate"):
            try:
                return zlib.decompressobj(47 if kind == "gzip" else 15).decompress(bytes(self._body), MAX_BODY)
            except zlib.error:
                return b""
        return bytes(self._body)

    @property
    def is_stream(self) -> bool:
        return _kind(self.head) == "text/event-stream"

    def feed(self, data: bytes) -> None:
        """More bytes; b"" is the end of the connection."""
        if self.complete or self.broken:
            return
        if not data:
            self._end()
            return
        if self.head is not None:
            self._take(data)
            return
        self._raw += data
        while self.head is None and not self.broken:
            end = self._raw.find(b"\r\n\r\n")
            if end < 0:
                if not b"HTTP/1.".startswith(self._raw[:7]):
                    self.broken = "TLS" if is_tls_alert(bytes(self._raw[:8])) else "not HTTP"
                return
            try:
                head = parse_response(bytes(self._raw[: end + 4]))
            except HttpError:
                self.broken = "not HTTP"
                return
            del self._raw[: end + 4]
            if 100 <= head.status < 200 and head.status != 101:
                continue  # an interim answer
            self.head = head
            self._chunks = ChunkedBody(response=True) if head.chunked else None
            self._take(bytes(self._raw))

    def _take(self, data: bytes) -> None:
        head = self.head
        assert head is not None
        if head.status == 101 or head.status in (204, 304) or head.length == 0:
            self.complete, self.rest = True, data
        elif self._chunks is not None:
            try:
                self._body += b"".join(self._chunks.feed(data))
            except HttpError:
                self.broken = "a broken body"
                return
            if self._chunks.done:
                self.complete, self.rest = True, self._chunks.rest
        else:
            self._body += data
            if head.length is not None and len(self._body) >= head.length:
                self.rest = bytes(self._body[head.length :])
                del self._body[head.length :]
                self.complete = True

    def _end(self) -> None:
        if self.head is None:
            self.broken = CLOSED
        elif self._chunks is None and self.head.length is None:
            self.complete = True
        else:
            self.broken = "cut off"


def judge_post(reply: HttpReply, asked: Asked) -> Finding | None:
    """What the answer to a POST of ``asked`` says; None while more bytes may still prove something."""
    if reply.broken:
        if reply.broken == "TLS":
            return Finding(None, "http: the port speaks TLS", tls=True)
        if reply.head is None or reply.broken == "a broken body":
            return Finding(None, f"http: {reply.broken}")
    head = reply.head
    if head is None:
        return None
    session = head.headers.get("mcp-session-id") if asked == "initialize" else None
    if head.status == 200 and reply.is_stream:
        found = _in_events(reply.body, asked)
        if found is None and (reply.complete or reply.broken):
            found = Finding(None, f"http: a stream without an answer to {asked}")
        return found._replace(session=session) if found is not None else None
    if not reply.complete and not reply.broken:
        return None
    body = reply.body
    if head.status in (200, 400, 404, *_AWAY) and _kind(head) == "application/json":
        found = judge(body, asked, head.status)
        if found is not None and (head.status == 200 or (found.era == "modern" and (head.status < 500 or found.is_away))):
            return found._replace(session=session)
    return _refused(head, body, asked)


def _refused(head: ResponseHead, body: bytes, asked: Asked) -> Finding:
    """What an answer without an MCP message says."""
    status = head.status
    said = f"http: {asked} -> {status}"
    if (challenged := _challenged(head)) is not None:
        return Finding("unknown_auth_required", f"http: {challenged}")
    if status == 400 and _WANTS_TLS(body[:2048]):
        return Finding(None, "http: the port speaks TLS", tls=True)
    if status in (301, 302, 303, 307, 308):
        return Finding(None, f"http: {status} redirects, which is not followed", path=_slash_only(head))
    return Finding(None, said, is_no_post=status == 405)


def _challenged(head: ResponseHead) -> str | None:
    """A Bearer challenge, in words."""
    challenge = head.headers.get("www-authenticate") if head.status in (401, 403) else None
    if challenge is None or _CHALLENGE(challenge) is None:
        return None
    return (
        f"{head.status} with a Bearer challenge{' and resource_metadata' if 'resource_metadata' in challenge.lower() else ''}"
    )


def _slash_only(head: ResponseHead) -> str | None:
    """The path of a redirect's target; the caller follows it only when nothing but the last slash differs."""
    location = head.headers.get("location", "")
    return location if location and len(location) <= 2048 and location.isascii() else None


def differs_by_slash(path: str, location: str, origin: str) -> str | None:
    """The path to ask instead when ``location`` is ``path`` on the same origin but for a slash at its end."""
    target = urlsplit(urljoin(origin + path, location))
    if f"{target.scheme}://{target.netloc}" != origin or target.path == path or target.path.rstrip("/") != path.rstrip("/"):
        return None
    return target.path + (f"?{target.query}" if target.query else "")


def _in_events(body: bytes, asked: Asked) -> Finding | None:
    try:
        events = SseParser(MAX_BODY).feed(body)
    except BridgeError:
        return Finding(None, "http: an event beyond all limits")
    for event in events:
        if event.event == "message" and event.data and (found := judge(event.data, asked)) is not None:
            return found
    return None


def judge_events(reply: HttpReply, url: str) -> Finding | None:
    """What the answer to ``get_events`` of ``url`` says: HTTP+SSE is proven by its first event.

    A challenge proves it only where POST is not taken: Streamable HTTP has both.
    """
    head = reply.head
    if head is None:
        return Finding(None, f"sse: {reply.broken}") if reply.broken else None
    if (challenged := _challenged(head)) is not None:
        return Finding("unknown_auth_required", f"sse: GET -> {challenged}")
    if head.status != 200 or not reply.is_stream:
        return Finding(None, f"sse: GET -> {head.status}{'' if head.status != 200 else ', no event stream'}")
    try:
        events = SseParser(MAX_BODY).feed(reply.body)
    except BridgeError:
        events = []
    first = next((event for event in events if event.data), None)
    if first is None:
        return Finding(None, "sse: ended without an event") if reply.complete or reply.broken else None
    if first.event != "endpoint":
        return Finding(None, "sse: its first event is no endpoint")
    try:
        said, own = urlsplit(urljoin(url, first.data.decode("ascii").strip())), urlsplit(url)
        is_ours = (said.scheme, said.hostname, _port(said)) == (own.scheme, own.hostname, _port(own))
    except ValueError:  # UnicodeDecodeError is one
        return Finding(None, "sse: an endpoint event without an address")
    if not is_ours:
        return Finding(None, "sse: an endpoint of another origin")
    return Finding("legacy", "sse: an endpoint event of the same origin")


def _port(parts: object) -> int:
    port = getattr(parts, "port", None)
    return port if port is not None else 443 if getattr(parts, "scheme", "") == "https" else 80


def _kind(head: ResponseHead | None) -> str:
    value = head.headers.get("content-type") if head is not None else None
    return (value or "").partition(";")[0].strip().lower()
