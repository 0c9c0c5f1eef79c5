"""The conversation, stage by stage: opened, signed in, shaken hands, tools listed. The first failure ends it.

    upgrade | negotiate | start   what the transport does first (WebSocket, MCPB, a command)
    sign-in                       refused credentials show here
    initialize                    server/discover or initialize, whichever the server speaks
    tools/list                    the first page

Source: contract ``cli.test.websocket``, ``cli.test.other``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import NamedTuple

from msgspec import Raw

from mcpbridge.checks.place import FOREIGN, REFUSED, UNREACHABLE, Stage, clock, failed, passed
from mcpbridge.core.exchange import Era, NoReply
from mcpbridge.core.ports import Dial, Upstream
from mcpbridge.errors import BridgeError
from mcpbridge.wire import message as m
from mcpbridge.wire.envelope import items, members, text
from mcpbridge.wire.message import Notification, Request, Response
from mcpbridge.wire.spec import CLIENT_CAPABILITIES, CLIENT_INFO, MODERN, NEWEST_LEGACY, PROTOCOL_VERSION, SERVER_INFO

Probe = Callable[[Upstream, float], Awaitable[tuple[Era, Response]]]
"""Finds the era of a fresh conversation and the server's greeting."""

OPENING = {"websocket": "upgrade", "tcp_binary": "negotiate", "stdio": "start"}
_NOBODY = NoReply()
_INFO = {"name": "mcpbridge-test", "version": "1"}
_FOREIGN = frozenset(
    {"protocol_mismatch", "bad_answer", "http_not_found", "detection_failed", "parse_error", "invalid_request"}
)


class Talk(NamedTuple):
    """How to talk to one server: its protocol, its dial, how its era is found, whether a credential goes along."""

    protocol: str
    dial: Dial
    probe: Probe
    has_credential: bool = False


class Greeting(NamedTuple):
    """What a server said of itself."""

    era: Era
    name: str
    version: str
    protocol_version: str


class Walk:
    """One walk through a server. ``greeting`` and ``tools`` are there once their stages went well."""

    def __init__(self, talk: Talk, timeout: float) -> None:
        self._talk = talk
        self._timeout = timeout
        self.greeting: Greeting | None = None
        self.tools: int | None = None

    async def stages(self) -> AsyncIterator[Stage]:
        """Each stage when it is over. Everything opened is closed when the iteration ends."""
        talk, upstream = self._talk, None
        at, since = OPENING.get(talk.protocol, ""), clock()
        try:
            async with asyncio.timeout(self._timeout):
                upstream = await talk.dial("modern", _Ears())
            if at:
                yield passed(at, since, "")
            at, since = "initialize", clock()
            era, hello = await talk.probe(upstream, self._timeout)
            signed_in = "with a credential" if talk.has_credential else "none asked for"
            yield Stage("sign-in", True, 0.0, signed_in)
            self.greeting = _greeting(era, hello)
            yield passed("initialize", since, "{1} {2}, MCP {3} ({0})".format(*self.greeting))
            at, since = "tools/list", clock()
            async with asyncio.timeout(self._timeout):
                if era == "legacy":
                    upstream = await self._legacy(upstream)
                self.tools = await _list(upstream, era)
            yield passed("tools/list", since, f"{self.tools} tools")
        except TimeoutError:
            yield failed(at or "connect", since, f"no answer in {self._timeout:g} s", "timeout")
        except BridgeError as error:
            yield _failure(at or "connect", since, error)
        finally:
            if upstream is not None:
                await upstream.close()

    async def _legacy(self, upstream: Upstream) -> Upstream:
        """A legacy conversation after its handshake. One on a pipe has it behind itself; over HTTP it begins anew."""
        if upstream.names_request:
            await upstream.close()
            upstream = await self._talk.dial("legacy", _Ears())
            params = {"protocolVersion": NEWEST_LEGACY, "capabilities": {}, "clientInfo": _INFO}
            await upstream.call(m.request(1, "initialize", params), _NOBODY)
        await upstream.notify(m.notification("notifications/initialized"))
        return upstream


async def _list(upstream: Upstream, era: Era) -> int:
    """How many tools are on the first page. Raises BridgeError."""
    meta = {PROTOCOL_VERSION: MODERN[0], CLIENT_INFO: _INFO, CLIENT_CAPABILITIES: {}}
    answer = await upstream.call(m.request(2, "tools/list", {"_meta": meta} if era == "modern" else {}), _NOBODY)
    if answer.error is not None:
        said = members(answer.error, "bad_answer")
        if bytes(said.get("code") or b"") == b"-32601":
            return 0  # a server without tools need not know the method
        raise BridgeError("backend_error", (text(said.get("message")) or "tools/list failed")[:200])
    return len(items(members(answer.result, "bad_answer").get("tools"), "bad_answer"))


def _greeting(era: Era, hello: Response) -> Greeting:
    said = members(hello.result, "bad_answer")
    meta = members(said["_meta"], "bad_answer") if "_meta" in said else {}
    info = members(said.get("serverInfo") or meta.get(SERVER_INFO), "bad_answer")
    versions = items(said.get("supportedVersions"), "bad_answer")
    spoken = text(said.get("protocolVersion")) or next((v for item in versions if (v := text(item)) in MODERN), MODERN[0])
    return Greeting(era, _short(info.get("name")), _short(info.get("version")), _short(m.dumps(spoken)))


def _short(raw: bytes | Raw | None) -> str:
    said = text(raw) or "?"
    return "".join(c if c.isprintable() else "?" for c in said[:80])


def _failure(at: str, since: float, error: BridgeError) -> Stage:
    """The stage that an error belongs to, and the exit status it means."""
    status = error.data.get("status")
    if status in (401, 403) or error.reason in ("unauthorized", "forbidden", "backend_refused"):
        return failed("sign-in", since, str(error), error.reason, REFUSED)
    code = FOREIGN if error.reason in _FOREIGN or (isinstance(status, int) and 400 <= status < 500) else UNREACHABLE
    return failed(at, since, str(error), error.reason, code)


class _Ears:
    """Hears what a server says beside its answers, and refuses what it asks."""

    def notified(self, notification: Notification) -> None:
        return None

    async def asked(self, request: Request) -> Response:
        if request.method == "ping":
            return m.result(request.id, {})
        raise BridgeError("method_not_found", request.method)

    def closed(self, cause: BaseException | None) -> None:
        return None
