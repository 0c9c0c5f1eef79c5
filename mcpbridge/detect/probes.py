"""The probes: each asks one site one way and says what it proved. None sends anything but `server/discover` and `initialize`.

    HttpProbes.discover    POST server/discover                                Streamable HTTP, modern
    HttpProbes.initialize  POST initialize; its session is ended by DELETE     Streamable HTTP, legacy
    HttpProbes.events      GET, first event                                    HTTP+SSE
    websocket              upgrade, then both messages on it                   WebSocket
    mcpb                   version negotiation, then both                      TCP binary
    lines                  both, one per line                                  stdio (unix sockets and the like)

A probe ends with its Proof, never by an exception but Unreachable; cancelled, it leaves nothing open.

Source: reliability section 6 (proofs).
"""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple, Protocol

from mcpbridge import __version__
from mcpbridge.core.tasks import Spawn, share
from mcpbridge.detect.line import MAX_READ, Flooded, Line, NoTls, Site, Unreachable
from mcpbridge.errors import BridgeError
from mcpbridge.wire import mcpb as frames
from mcpbridge.wire import websocket as ws
from mcpbridge.wire.framing import LineFramer
from mcpbridge.wire.proof import (
    CLOSED,
    Asked,
    Era,
    Finding,
    HttpReply,
    delete,
    differs_by_slash,
    get_events,
    is_tls_alert,
    judge,
    judge_events,
    judge_post,
    post,
    question,
)

AGENT = f"mcpbridge/{__version__}"
PATIENCE = 0.3  # seconds of silence after `server/discover` until `initialize` is said as well
GOODBYE = 0.5  # seconds a server may take to end a session of ours
LATE = 2.0  # seconds an unanswered `initialize` is waited for after the verdict, to end the session it may have made

HTTP_PATHS = ("/mcp", "/")
EVENT_PATHS = ("/sse", "/events", "/")
SOCKET_PATHS = ("/", "/ws", "/mcp")

Judged = Callable[[HttpReply], Finding | None]


class Proof(NamedTuple):
    """What one probe found. ``path``: where; ``tls``: the port wants TLS; ``era`` may stay unknown of a proven transport."""

    protocol: str
    is_proven: bool
    era: Era | None
    said: str
    path: str = ""
    tls: bool = False


class HttpProbes:
    """The HTTP probes of one site. They hand an idle connection on to each other; close them at the end.

    ``spawn`` runs what may outlast the verdict: the end of a session that a probe made.
    """

    def __init__(self, site: Site, spawn: Spawn) -> None:
        self._site = site
        self._spawn = spawn
        self._idle: list[Line] = []
        self._is_closed = False
        self._no_posts: set[str] = set()  # paths where POST is not taken

    def close(self) -> None:
        """Close what is idle; what still ends a session closes by itself."""
        self._is_closed = True
        while self._idle:
            self._idle.pop().close()

    async def discover(self) -> Proof:
        return await self._ask("server/discover")

    async def initialize(self) -> Proof:
        return await self._ask("initialize")

    async def events(self) -> Proof:
        found = Finding(None, "")
        for path in _paths(self._site, EVENT_PATHS):
            found = await self._exchange(get_events(path, self._site.target.authority, AGENT), _events_at(self._site, path))
            if found.era == "unknown_auth_required" and path not in self._no_posts:
                found = Finding(None, found.said)
            if found.era is not None:
                return Proof("sse", True, found.era, found.said, path)
        return Proof("sse", False, None, found.said)

    async def _ask(self, asked: Asked) -> Proof:
        found = Finding(None, "")
        paths = list(_paths(self._site, HTTP_PATHS))
        may_follow = True
        while paths and not found.tls:
            path = paths.pop(0)
            found = await self._post(asked, path)
            if found.is_no_post:
                self._no_posts.add(path)
            if found.era is not None:
                return Proof("http", True, found.era, found.said, path)
            other = differs_by_slash(path, found.path, self._site.origin) if found.path is not None and may_follow else None
            if other is not None:
                may_follow = False
                paths.insert(0, other)
        return Proof("http", False, None, found.said, tls=found.tls)

    async def _post(self, asked: Asked, path: str) -> Finding:
        request = post(asked, path, self._site.target.authority, AGENT)
        if asked == "server/discover":
            return await self._exchange(request, lambda reply: judge_post(reply, asked))
        asking = share(self._spawn, self._initialize(request, path))
        await asyncio.wait([asking])  # cancelled, we leave; the session it may make is ended when it is known
        return asking.result()

    async def _initialize(self, request: bytes, path: str) -> Finding:
        try:
            async with asyncio.timeout(LATE):
                found = await self._exchange(request, lambda reply: judge_post(reply, "initialize"))
        except TimeoutError:
            return Finding(None, "http: silent after initialize")
        if found.session is not None:
            self._spawn(self._end(found.session, path))
        return found

    async def _end(self, session: str, path: str) -> None:
        """DELETE the session. Source: CVE-2026-59951 (sessions that nobody ends)."""
        with suppress(TimeoutError, Unreachable, ValueError):  # ValueError: an id that no header can carry names no session
            async with asyncio.timeout(GOODBYE):
                await self._exchange(delete(session, path, self._site.target.authority, AGENT), _any_answer)

    async def _exchange(self, request: bytes, judged: Judged) -> Finding:
        """Say it on an idle connection or a new one, read until it is judged."""
        try:
            opened = self._idle.pop() if self._idle else await Line.open(self._site)
            try:
                found, may_go_on = await _read(opened, request, judged)
                if may_go_on and opened.is_usable and not self._is_closed:
                    self._idle.append(opened)
                    return found
            except BaseException:
                opened.close()
                raise
            opened.close()
            return found
        except Flooded:
            return Finding(None, f"http: more than {MAX_READ} bytes without a proof")
        except NoTls as error:
            return Finding(None, str(error))


async def _read(opened: Line, request: bytes, judged: Judged) -> tuple[Finding, bool]:
    """The finding, and whether the connection can be asked again."""
    opened.write(request)
    reply = HttpReply()
    while True:
        data = await opened.read()
        reply.feed(data)
        found = judged(reply)
        if found is not None:
            may_go_on = reply.complete and not reply.rest and reply.head is not None and reply.head.keep_alive
            return found, may_go_on
        if not data:
            return Finding(None, "http: closed without a proof"), False


def _events_at(site: Site, path: str) -> Judged:
    return lambda reply: judge_events(reply, site.origin + path)


def _any_answer(reply: HttpReply) -> Finding | None:
    return Finding(None, "") if reply.head is not None or reply.broken else None


async def websocket(site: Site) -> Proof:
    """WebSocket: the right accept key, and MCP on it."""
    said = ""
    for path in _paths(site, SOCKET_PATHS):
        proof = await _socket_at(site, path, ("server/discover", "initialize"))
        if proof is None:  # it ended over `server/discover`
            proof = await _socket_at(site, path, ("initialize",)) or _silent("websocket", path)
        if proof.is_proven or proof.tls:
            return proof
        said = proof.said
    return Proof("websocket", False, None, said)


async def _socket_at(site: Site, path: str, plan: tuple[Asked, ...]) -> Proof | None:
    key = base64.b64encode(os.urandom(16)).decode()
    async with _guarded("websocket") as failed, await Line.open(site) as opened:
        opened.write(ws.upgrade(path, site.target.authority, key, AGENT))
        reply = HttpReply()
        while reply.head is None and not reply.broken:
            reply.feed(await opened.read())
        head = reply.head
        if head is None:
            return Proof("websocket", False, None, f"websocket: {reply.broken}", tls=reply.broken == "TLS")
        if head.status in (401, 403) and site.target.scheme in ("ws", "wss"):
            found = judge_post(reply, "server/discover")  # only the challenge counts, which is in the head
            if found is not None and found.era is not None:
                return Proof("websocket", True, found.era, found.said, path)
        if head.status != 101 or not ws.is_accepted(head.headers, key):
            return Proof("websocket", False, None, f"websocket: upgrade -> {head.status}")
        found = await converse(_Frames(opened, reply.rest), plan)
        opened.write(ws.close_frame(os.urandom(4)))
        if found is None:
            return None
        said = f"websocket: the right accept key; {found.said}"
        return Proof("websocket", found.era is not None, found.era, said, path)
    return Proof("websocket", False, None, failed.said or "websocket: no answer")


async def mcpb(site: Site) -> Proof:
    """TCP binary: the answer to the version negotiation has the header of the protocol."""
    async with _guarded("tcp_binary") as failed, await Line.open(site) as opened:
        talk = _Mcpb(opened)
        opened.write(frames.OFFER)
        first = await talk.frame()
        if first is None:
            return Proof("tcp_binary", False, None, f"tcp_binary: {talk.said}", tls=talk.tls)
        if first.kind == frames.ERROR:
            return Proof("tcp_binary", True, None, "tcp_binary: an error frame")
        if first.kind != frames.ACK:
            return Proof("tcp_binary", False, None, f"tcp_binary: a frame of type {first.kind}")
        found = await converse(talk, ("server/discover", "initialize"), patience=PATIENCE)
        if talk.refused is not None and talk.refused.reason in ("unauthorized", "forbidden"):
            return Proof("tcp_binary", True, "unknown_auth_required", "tcp_binary: version ack; messages need sign-in")
        said = f"tcp_binary: version ack; {found.said}" if found is not None and found.era else "tcp_binary: version ack"
        return Proof("tcp_binary", True, found.era if found is not None else None, said)
    return Proof("tcp_binary", False, None, failed.said or "tcp_binary: no answer")


async def lines(site: Site) -> Proof:
    """One JSON-RPC message per line."""
    return await _lines(site, ("server/discover", "initialize")) or await _lines(site, ("initialize",)) or _silent("stdio")


async def _lines(site: Site, plan: tuple[Asked, ...]) -> Proof | None:
    async with _guarded("stdio") as failed, await Line.open(site) as opened:
        talk = _Lines(opened)
        found = await converse(talk, plan)
        if talk.tls:
            return Proof("stdio", False, None, "lines: the port speaks TLS", tls=True)
        return Proof("stdio", found.era is not None, found.era, f"lines: {found.said}") if found is not None else None
    return Proof("stdio", False, None, failed.said)


def _silent(protocol: str, path: str = "") -> Proof:
    return Proof(protocol, False, None, f"{protocol}: {CLOSED}", path)


class Talk(Protocol):
    """Messages on an open line."""

    def say(self, message: bytes) -> None: ...

    async def hear(self) -> bytes | None:
        """The next message; None when no more can come."""


async def converse(talk: Talk, plan: tuple[Asked, ...], *, patience: float = 0.0) -> Finding | None:
    """Ask what ``plan`` says, one after the other, until one answer proves an era. None: it ended before anything was judged.

    The next is asked after an answer that proves nothing, or PATIENCE seconds of silence; a late answer still counts. The last
    is waited for until the caller ends it, or ``patience`` seconds when given.
    """
    asked: list[Asked] = []
    judged: Finding | None = None
    for number, step in enumerate(plan):
        asked.append(step)
        talk.say(question(step))
        is_last = number == len(plan) - 1
        try:
            async with asyncio.timeout(PATIENCE if not is_last else patience or None):
                while True:
                    raw = await talk.hear()
                    if raw is None:
                        return judged if is_last else None
                    found = next((f for said in asked if (f := judge(raw, said)) is not None), None)
                    if found is None:
                        continue
                    judged = found
                    if found.era is not None:
                        return found
                    break
        except TimeoutError:
            continue
    return judged


class _Lines:
    def __init__(self, opened: Line) -> None:
        self._line = opened
        self._framer = LineFramer(MAX_READ)
        self._waiting: list[bytes] = []
        self._is_first = True
        self.tls = False

    def say(self, message: bytes) -> None:
        self._line.write(message + b"\n")

    async def hear(self) -> bytes | None:
        while not self._waiting:
            data = await self._line.read()
            self.tls = self.tls or (self._is_first and is_tls_alert(data))
            self._is_first = False
            self._waiting = self._framer.feed(data) if data else self._framer.end()
            if not data and not self._waiting:
                return None
        return self._waiting.pop(0)


class _Frames:
    def __init__(self, opened: Line, first: bytes) -> None:
        self._line = opened
        self._reader = ws.TextReader(MAX_READ)
        self._waiting = self._reader.feed(first)

    def say(self, message: bytes) -> None:
        self._line.write(ws.text_frame(message, os.urandom(4)))

    async def hear(self) -> bytes | None:
        while not self._waiting:
            if self._reader.ended or not (data := await self._line.read()):
                return None
            self._waiting = self._reader.feed(data)
        return self._waiting.pop(0)


class _Mcpb:
    """``refused``: an error frame came instead of an answer. ``said``: why there is no frame."""

    def __init__(self, opened: Line) -> None:
        self._line = opened
        self._reader = frames.FrameReader(MAX_READ)
        self._is_first = True
        self.tls = False
        self.refused: BridgeError | None = None
        self.said = CLOSED

    async def frame(self) -> frames.Frame | None:
        while True:
            try:
                if (found := self._reader.next()) is not None:
                    return found
            except BridgeError:
                self.said = "bytes of another protocol"
                return None
            data = await self._line.read()
            if self._is_first and is_tls_alert(data):
                self.tls, self.said = True, "the port speaks TLS"
                return None
            self._is_first = False
            if not data:
                return None
            self._reader.feed(data)

    def say(self, message: bytes) -> None:
        self._line.write(frames.encode(frames.REQUEST, message))

    async def hear(self) -> bytes | None:
        while (found := await self.frame()) is not None:
            if found.kind == frames.RESPONSE:
                return found.payload
            if found.kind == frames.ERROR:
                self.refused = frames.refused(found.payload)
                return None
        return None


class _guarded:  # noqa: N801 - reads as a statement
    """Turns what a hostile or unwilling server does to a line into words: ``said``."""

    def __init__(self, protocol: str) -> None:
        self._protocol = protocol
        self.said = ""

    async def __aenter__(self) -> _guarded:
        return self

    async def __aexit__(self, _kind: object, error: BaseException | None, _trace: object) -> bool:
        if isinstance(error, Flooded):
            self.said = f"{self._protocol}: more than {MAX_READ} bytes without a proof"
        elif isinstance(error, NoTls):
            self.said = str(error)
        return bool(self.said)


def _paths(site: Site, usual: tuple[str, ...]) -> tuple[str, ...]:
    """The path of the target, or the usual ones when it names none."""
    return (site.target.path,) if site.target.path not in ("", "/") and site.target.scheme != "unix" else usual
