"""The window over HTTP: views, the status stream, metrics and actions, behind the access rules. Knows no socket.

    request -> answer(...) -> Answer -> handle(...) -> Responder

Reading needs no token by default, but only a local caller or one with ``mcp:read`` sees addresses and causes. An action needs
``mcp:admin``, or a caller on this very machine whom no browser and no proxy sent. Host and Origin of every request are checked
by the face that calls us (``policies.hosts``).

Source: contract sections 2.0-2.3; reliability section 2, rows 10 and 30.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping
from contextlib import aclosing
from typing import Any, Literal, NamedTuple
from urllib.parse import parse_qs

import msgspec

from mcpbridge.admin.views import API_PREFIX, READINESS, body, redacted, views
from mcpbridge.core.exchange import Principal
from mcpbridge.errors import BridgeError
from mcpbridge.observe.metrics import Registry
from mcpbridge.observe.snapshot import Snapshot
from mcpbridge.policies.auth import Verify
from mcpbridge.policies.authorize import allows, require
from mcpbridge.policies.hosts import HostRules, is_loopback_host, refusal
from mcpbridge.transports.http1.server import HttpRequest, Responder
from mcpbridge.wire.sse import encode_event
from mcpbridge.wire.strict import check_bytes, check_duplicates


class Asked(NamedTuple):
    """What an action is asked: the members of the request's JSON body, and by whom (a user's name, for people)."""

    members: dict[str, Any]
    by: str = "local"
    place: str = ""  # what stands for ``*`` in the action's path


Action = Callable[[Asked], Awaitable[Any]]
"""Does something to the bridge; what it returns is the answer's JSON."""


class _Act(NamedTuple):
    """One row of the actions."""

    method: str
    run: Action
    is_strict: bool


JSON = ("content-type", "application/json; charset=utf-8")
NO_STORE = ("cache-control", "no-store")
MAX_STREAMS = 64
SHORTEST, LONGEST = 0.25, 60.0  # seconds between two snapshots of a stream
_LOOK = 1.0  # a stream with a longer interval looks this often whether the bridge drains

_BODY_TYPES = frozenset({"", "application/json", "application/x-www-form-urlencoded"})  # the second is curl's default
_HINTS = {
    "unauthorized": "send Authorization: Bearer TOKEN with the scope this needs",
    "forbidden": "send Authorization: Bearer TOKEN with the scope this needs",
    "parse_error": "send one JSON object; JSON has no NaN, no Infinity and no key twice",
}
_PROXY_HEADERS = ("forwarded", "x-real-ip", "via")


class Answer(NamedTuple):
    """Status, headers and the body: whole, or in pieces as they come."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes | AsyncGenerator[bytes, None]


class App:
    """See the module. ``snapshot`` gives the present Snapshot; ``metrics_path`` None switches metrics off.

    ``actions``: "PUT /path" or, for a POST, "/path", in which one ``*`` stands for a name; ``strict``: those
    that a local caller needs a token for, too, where anybody can sign in.
    ``verify`` None: nobody can sign in, so only local callers see everything and act. ``rules``: our names besides loopback.
    ``also``: further paths of views -> names below /health. ``asked`` is called when somebody asks whether we are ready.
    """

    def __init__(
        self,
        snapshot: Callable[[], Snapshot],
        registry: Registry,
        *,
        verify: Verify | None = None,
        read_access: Literal["open", "token"] = "open",
        metrics_path: str | None = "/metrics",
        api_prefix: str = API_PREFIX,
        actions: Mapping[str, Action] | None = None,
        strict: Collection[str] = (),
        rules: HostRules | None = None,
        also: Mapping[str, str] | None = None,
        asked: Callable[[], None] = lambda: None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._snapshot = snapshot
        self._registry = registry
        self._verify = verify
        self._needs_token = read_access == "token"
        self._metrics_path = metrics_path
        self._views = views(api_prefix, also)
        self._stream_path = f"{api_prefix}/status/stream"
        self._actions: dict[str, _Act] = {}
        for key, action in (actions or {}).items():
            verb, _, place = key.rpartition(" ")
            self._actions[f"{api_prefix}{place}"] = _Act(verb or "POST", action, key in strict)
        self._rules = rules
        self._sleep = sleep
        self._streams = 0
        self._asked = asked

    async def handle(self, request: HttpRequest, responder: Responder, *, metrics: bool = False) -> None:
        """Answer one request of a listener; ``metrics``: whether this listener serves them."""
        answer = await self.answer(
            request.method,
            request.path,
            request.query,
            request.headers,
            request.peer,
            request.body,
            metrics=metrics,
            id=request.id,
        )
        await _send(answer, responder)

    async def refuse(self, request: HttpRequest, responder: Responder, status: int, text: str) -> None:
        """Answer a request that a face does not let in."""
        await _send(_error(status, text, "", request.id), responder)

    async def misused(self, request: HttpRequest, responder: Responder, allow: str) -> None:
        """Answer a request whose path takes other methods: those of ``allow``."""
        await _send(_not_allowed(allow, request.id), responder)

    async def answer(
        self,
        method: str,
        path: str,
        query: str,
        headers: Mapping[str, str],
        peer: str,
        content: bytes = b"",
        *,
        metrics: bool = False,
        id: str = "",
    ) -> Answer:
        """The answer to one request. ``headers`` have lower-case names, ``peer`` is an IP address, "" on a unix socket.
        ``id`` is the request's, which the engine sends back as a header and errors repeat.

        The body of a HEAD is that of its GET: who writes the answer leaves it out.
        """
        try:
            act, place = self._action_at(path)
            if act is not None and (method == act.method or path not in self._views):
                return await self._act(act, place, method, headers, peer, content, id)
            is_metrics = metrics and path == self._metrics_path
            if not is_metrics and path != self._stream_path and path not in self._views:
                return _error(404, "nothing is served at this path", "GET /health and /api/v1/status are", id)
            if method not in ("GET", "HEAD"):
                return _not_allowed(f"GET, HEAD, {act.method}" if act is not None else "GET, HEAD", id)
            if is_metrics:
                self._may_see_all(headers, peer, self._needs_token)
                from mcpbridge.admin.prometheus import (  # not before somebody asks: many routers never are
                    CONTENT_TYPE,
                    expose,
                )

                self._snapshot()  # gauges are set when the picture is made
                return _ok(200, CONTENT_TYPE, expose(self._registry.collect(), self._registry.role))
            if path == self._stream_path:
                return self._open_stream(method, query, headers, peer, id)
            if path in READINESS:
                self._asked()
            view = self._views[path]
            status, value = view.render(self._picture(headers, peer, is_open=view.is_open))
            return _ok(status, JSON[1], body(value))
        except BridgeError as error:
            return _refused(error, id)

    # Reading

    def _picture(self, headers: Mapping[str, str], peer: str, *, is_open: bool = False) -> Snapshot:
        """The Snapshot as this caller may see it. Raises BridgeError where a token is demanded or a given one is wrong."""
        try:
            sees_all = self._may_see_all(headers, peer, self._needs_token and not is_open)
        except BridgeError:
            if not is_open:
                raise
            sees_all = False  # a probe with an old token still gets its answer
        snapshot = self._snapshot()
        return snapshot if sees_all else redacted(snapshot)

    def _may_see_all(self, headers: Mapping[str, str], peer: str, needs_token: bool) -> bool:
        if needs_token or self._has_token(headers):
            principal = self._principal(headers)
            if needs_token:
                require(principal, "mcp:read")
            if allows(principal.scopes, "mcp:read"):
                return True
        return self._is_local(headers, peer)

    def _has_token(self, headers: Mapping[str, str]) -> bool:
        return self._verify is not None and headers.get("authorization") is not None

    def _principal(self, headers: Mapping[str, str]) -> Principal:
        if self._verify is None:
            raise BridgeError("unauthorized", "no sign-in is configured", sent=False, challenge='Bearer realm="mcpbridge"')
        return self._verify(headers.get("authorization"))

    def _is_local(self, headers: Mapping[str, str], peer: str) -> bool:
        """Whether the caller is on this machine and nobody stands between: no proxy, no page of another name."""
        if not _is_loopback(peer) or _came_through_proxy(headers):
            return False
        host = headers.get("host")
        return is_loopback_host(host) or (self._rules is not None and refusal(self._rules, host, None) is None)

    # The stream

    def _open_stream(self, method: str, query: str, headers: Mapping[str, str], peer: str, id: str) -> Answer:
        interval = _interval(query)
        if interval is None:
            return _error(400, "interval is not a number of seconds from 0.25 to 60", "?interval=1", id)
        self._picture(headers, peer)  # refused before anything is sent
        if self._streams >= MAX_STREAMS:
            busy = _error(503, f"{MAX_STREAMS} status streams are open already", "close one or poll /api/v1/status", id)
            return Answer(busy.status, [*busy.headers, ("retry-after", "1")], busy.body)
        fields = [("content-type", "text/event-stream"), NO_STORE, ("x-accel-buffering", "no")]
        return Answer(200, fields, b"" if method == "HEAD" else self._events(interval, headers, peer))

    async def _events(self, interval: float, headers: Mapping[str, str], peer: str) -> AsyncGenerator[bytes, None]:
        """A snapshot at once and then every ``interval`` seconds, until the bridge drains or the caller's token ends."""
        self._streams += 1
        try:
            while True:
                try:
                    snapshot = self._picture(headers, peer)
                except BridgeError:
                    return
                yield encode_event(msgspec.json.encode(snapshot), id=str(snapshot.sequence))
                left = interval
                while left > 0:
                    if self._snapshot().status == "draining":
                        return
                    await self._sleep(min(left, _LOOK))
                    left -= _LOOK
        finally:
            self._streams -= 1

    # Acting

    def _action_at(self, path: str) -> tuple[_Act | None, str]:
        """The action of a path and what stands for its ``*``, of which a path has one at most."""
        act = self._actions.get(path)
        if act is not None:
            return act, ""
        for pattern, starred in self._actions.items():
            head, star, tail = pattern.partition("*")
            if star and path.startswith(head) and path.endswith(tail) and len(path) > len(head) + len(tail):
                return starred, path[len(head) : len(path) - len(tail)]
        return None, ""

    async def _act(
        self, act: _Act, place: str, method: str, headers: Mapping[str, str], peer: str, content: bytes, id: str
    ) -> Answer:
        if method != act.method:
            return _not_allowed(act.method, id)
        by = "local"
        is_strict = self._verify is not None and act.is_strict
        if is_strict or self._has_token(headers) or "origin" in headers or not self._is_local(headers, peer):
            principal = self._principal(headers)
            require(principal, "mcp:admin")
            by = principal.subject
        kind = (headers.get("content-type") or "").partition(";")[0].strip().lower()
        if kind not in _BODY_TYPES:
            return _error(415, "the body is not JSON", "send Content-Type: application/json", id)
        members = _members(content)
        return _ok(200, JSON[1], body(await act.run(Asked(members, by, place))))


def _members(content: bytes) -> dict[str, Any]:
    """What an action's body says. Raises BridgeError("parse_error") with the place, "invalid_request" for no object."""
    if not content.strip():
        return {}
    check_bytes(content)
    check_duplicates(content)
    try:
        found = msgspec.json.decode(content)
    except msgspec.DecodeError as error:  # a number that is out of range
        raise BridgeError("parse_error", str(error)) from None
    if not isinstance(found, dict):
        raise BridgeError("invalid_request", "the body is no JSON object; an empty one will do where nothing has to be said")
    return found


async def _send(answer: Answer, responder: Responder) -> None:
    if isinstance(answer.body, bytes):
        await responder.respond(answer.status, answer.headers, answer.body)
        return
    async with aclosing(answer.body) as pieces:
        await responder.start(answer.status, answer.headers)
        async for piece in pieces:
            responder.send(piece)
            await responder.drain()
    await responder.end()


def _ok(status: int, content_type: str, content: bytes) -> Answer:
    return Answer(status, [("content-type", content_type), NO_STORE], content)


def _error(status: int, message: str, hint: str, id: str, code: str | None = None) -> Answer:
    return _ok(status, JSON[1], error_body(status, message, hint, id, code))


def error_body(status: int, message: str, hint: str, id: str, code: str | None = None) -> bytes:
    """``{"error":{code, message, hint, request_id}}``. Source: contract http.common.error."""
    return body({"error": {"code": code or f"MCPB-HTTP-{status}", "message": message, "hint": hint, "request_id": id}})


def _not_allowed(allow: str, id: str) -> Answer:
    answer = _error(405, "this path does not take this method", f"use {allow}", id)
    return Answer(answer.status, [*answer.headers, ("allow", allow)], answer.body)


def _refused(error: BridgeError, id: str) -> Answer:
    status = error.fault.status
    code = {401: "MCPB-AUTH-401", 403: "MCPB-AUTH-SCOPE"}.get(status)
    hint = _HINTS.get(error.reason, "")
    answer = _error(status, str(error), hint, id, code)
    challenge = error.data.get("challenge")
    more = [("www-authenticate", challenge)] if challenge else [("retry-after", "60")] if status == 429 else []
    return Answer(status, [*answer.headers, *more], answer.body)


def _interval(query: str) -> float | None:
    values = parse_qs(query[:1000], keep_blank_values=True).get("interval", ["1"])
    try:
        interval = float(values[-1])
    except ValueError:
        return None
    return interval if SHORTEST <= interval <= LONGEST else None


def _is_loopback(peer: str) -> bool:
    if not peer:  # a unix socket
        return True
    try:
        address = ipaddress.ip_address(peer)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def _came_through_proxy(headers: Mapping[str, str]) -> bool:
    return any(name in headers for name in _PROXY_HEADERS) or any(name.startswith("x-forwarded-") for name in headers)
