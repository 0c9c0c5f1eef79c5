"""HttpUpstream: a conversation with one Streamable HTTP endpoint, in one era.

    modern   POST {headers: version, method, name, params} -> JSON | SSE; closing the stream cancels
    legacy   initialize -> Mcp-Session-Id; POSTs carry it; GET stream for the rest; cancelled is a notification; DELETE ends

Source: MCP "Streamable HTTP" of both eras (mcp-eras sections 1.2, 1.3, 8).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import aclosing, suppress

from mcpbridge.core.exchange import QUESTION_WAIT, Era, NoReply, Reply
from mcpbridge.core.peer import answered, incoming, outgoing
from mcpbridge.core.ports import Inbox, Upward
from mcpbridge.core.tasks import Spawn
from mcpbridge.errors import BridgeError, to_wire
from mcpbridge.observe.log import log
from mcpbridge.transports.http.params import ParamHeaders
from mcpbridge.transports.http1.client import HttpResponse
from mcpbridge.transports.http1.pool import HttpPool
from mcpbridge.wire import message as m
from mcpbridge.wire.envelope import members, parse, text
from mcpbridge.wire.headers import encode_header
from mcpbridge.wire.message import Message, Notification, Request, RequestId, Response
from mcpbridge.wire.spec import MODERN, PROTOCOL_VERSION, name_of, retry_safe
from mcpbridge.wire.sse import SseParser

_log = log("http")
_NO_REPLY = NoReply()
_LINES = "application/x-ndjson"
CONTENT_TYPES = ("application/json", _LINES)
"""What an answer may be besides an event stream."""
_ACCEPT = ("accept", "application/json, text/event-stream")
_JSON = ("content-type", "application/json")
RECONNECT = 1.0  # seconds before a lost GET stream is opened again, unless the server said `retry:`
MIN_RECONNECT = 0.1  # seconds, whatever the server said: `retry: 0` and an end at once would be a busy loop
MAX_RECONNECT = 30.0
TAKE_TIME = 5.0  # seconds a server may take for a message that has no answer; calls behind it wait as long
LISTEN_TIME = 1.0  # seconds the GET stream may take to open before the first call: servers drop what they ask without one
AT_ONCE = 64  # events of one stream that are read before others have their turn
MAX_QUESTIONS = 100  # open questions of one conversation; then its streams are not read on
_VERSION = re.compile(r"[A-Za-z0-9._-]{1,32}").fullmatch
_SESSION_ID = re.compile(r"[\x21-\x7e]{1,4096}").fullmatch
_EVENT_ID = re.compile(r"[\x20-\x7e]{0,1024}").fullmatch
_TOKEN = re.compile(rb"[0-9]{1,18}").fullmatch  # a progress token of ours


class HttpUpstream:
    """See the module. ``headers`` go with every request (configured ones and the backend's own credential)."""

    names_request = True
    noise = ""

    def __init__(
        self,
        pool: HttpPool,
        path: str,
        era: Era,
        inbox: Inbox,
        spawn: Spawn,
        *,
        headers: Mapping[str, str] | None = None,
        params: ParamHeaders,
        max_response: int = 10_485_760,
        content_types: Collection[str] = CONTENT_TYPES,
        name: str = "",
    ) -> None:
        self._pool = pool
        self._path = path
        self._era = era
        self._inbox = inbox
        self._spawn = spawn
        self._fixed = [_ACCEPT, _JSON, *((k.lower(), v) for k, v in (headers or {}).items())]
        self._params = params
        self._max_response = max_response
        self._content_types = frozenset(content_types)
        self._name = name
        self._last_id = 0
        self._calls: dict[int, tuple[Request, Reply]] = {}
        self._session_id: str | None = None
        self._is_lost = False  # the server has forgotten the session
        self._version: str | None = None
        self._listening: asyncio.Task[None] | None = None
        self._listened = asyncio.Event()  # the first GET was answered, whatever the answer
        self._questions = asyncio.Semaphore(MAX_QUESTIONS)
        self._closed = False

    async def call(self, request: Request, reply: Reply = _NO_REPLY) -> Response:
        self._last_id += 1
        upstream_id = self._last_id
        sent = outgoing(request, upstream_id)
        self._calls[upstream_id] = (request, reply)
        try:
            response = await self._exchange(sent, request, reply)
            if self._params.may_help(request, response) and await self._learn():
                response = await self._exchange(sent, request, reply)  # refused by its headers: it did not run
        except asyncio.CancelledError as cancelled:
            if self._era == "legacy" and request.method != "initialize":
                params: dict[str, object] = {"requestId": upstream_id}
                if cancelled.args and isinstance(cancelled.args[0], str):
                    params["reason"] = cancelled.args[0]
                self.notify_now(m.notification("notifications/cancelled", params))
            raise
        finally:
            del self._calls[upstream_id]
        if request.method == "tools/list" and self._era == "modern":
            response = self._params.learn(response, self._name)
        return answered(response, request)

    async def notify(self, notification: Notification) -> None:
        """Send it and see that it was taken. Raises BridgeError("timeout") when the server does not say so in time."""
        status = 0
        try:
            async with asyncio.timeout(TAKE_TIME):
                status = await self._told(notification.encode(), self._headers(notification))
        except TimeoutError:
            detail = f"server {self._name!r} did not take {notification.method} in {TAKE_TIME:g} s"
            raise BridgeError("timeout", detail, server=self._name) from None
        if status >= 400:
            _log.warn("notification refused", protocol="http", server=self._name, method=notification.method, status=status)
        if notification.method == "notifications/initialized" and self._listening is None and self._session_id is not None:
            self._listening = self._spawn(self._listen())
            with suppress(TimeoutError):
                async with asyncio.timeout(LISTEN_TIME):
                    await self._listened.wait()

    def notify_now(self, notification: Notification) -> None:
        self._spawn(self._notify_quietly(notification))

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._listening is not None:
            self._listening.cancel()
        if self._session_id is not None:
            try:
                async with asyncio.timeout(2.0):
                    response = await self._pool.request(
                        "DELETE", self._path, self._session_headers(), b"", retry_safe=True, max_response=self._max_response
                    )
                    await response.aclose()
            except (BridgeError, TimeoutError):
                pass  # the server is gone or slow: its own idle limit ends the session

    # One POST

    async def _exchange(self, sent: Request, request: Request, reply: Reply) -> Response:
        response = await self._pool.request(
            "POST",
            self._path,
            self._headers(sent),
            sent.encode(),
            retry_safe=retry_safe(request.method),
            max_response=self._max_response,
            queued=request.method != "subscriptions/listen",
        )
        async with aclosing(response):
            if request.method == "initialize":  # also when a probe asks: what it begins must be ended
                self._session_id = self._named(response.headers.get("mcp-session-id"))
            kind = (response.headers.get("content-type") or "").partition(";")[0].strip().lower()
            if response.status == 200 and kind == "text/event-stream":
                answer = await self._from_stream(response, sent.id, request, reply)
            else:
                body = await response.read()
                if response.status == 200 and kind not in self._content_types:
                    raise BridgeError("bad_answer", f"content type {kind or 'missing'!r}", server=self._name)
                if kind == _LINES and response.status == 200:
                    answer = await self._from_many(body.splitlines(), sent.id, request, reply)
                elif body.lstrip(b" \t\r\n")[:1] == b"[" and self._era == "legacy" and response.status == 200:
                    answer = await self._from_many([body], sent.id, request, reply)
                else:
                    answer = self._from_body(response, kind, body, sent.id)
        if request.method == "initialize" and answer.result is not None:
            version = text(members(answer.result, "bad_answer").get("protocolVersion"))
            self._version = version if version is not None and _VERSION(version) else None
        return answer

    def _named(self, session_id: str | None) -> str | None:
        """A session id that may be sent back. Raises BridgeError("bad_answer")."""
        if session_id is not None and not _SESSION_ID(session_id):
            raise BridgeError("bad_answer", "the session id is not 1 to 4096 visible ASCII characters", server=self._name)
        return session_id

    def _from_body(self, response: HttpResponse, kind: str, body: bytes, upstream_id: RequestId) -> Response:
        status = response.status
        if kind in self._content_types and body:
            try:
                parsed = parse(body, client=False)
            except BridgeError as error:
                if status == 200:
                    raise BridgeError("bad_answer", str(error), server=self._name) from error
                parsed = []
            if isinstance(parsed, Response) and (
                parsed.result is not None or status in (200, 400, 404) or self._era == "modern"
            ):
                if status == 404 and self._had_session and self._era == "legacy":
                    self._lost()
                if parsed.id == upstream_id or (parsed.error is not None and (status != 200 or parsed.id is None)):
                    return parsed  # a server that could not read our id may still say what was wrong
                raise BridgeError("bad_answer", "the answer has another request's id", server=self._name)
        if status == 404 and self._had_session:
            self._lost()
        if status == 404:
            raise BridgeError("http_not_found", f"server {self._name!r} at {self._path}", server=self._name, status=404)
        if status in (401, 403):
            detail = f"server {self._name!r} answered HTTP {status}"
            raise BridgeError("backend_refused", detail, server=self._name, status=status)
        if status == 200:
            raise BridgeError("bad_answer", f"content type {kind or 'missing'!r}", server=self._name)
        detail = f"server {self._name!r} answered HTTP {status}{self._pool.through}"
        raise BridgeError("backend_error", detail, server=self._name, status=status)

    async def _from_many(self, parts: Sequence[bytes], upstream_id: RequestId, request: Request, reply: Reply) -> Response:
        """The answer in an array (2025-03-26) or among lines of JSON, and everything before it in its order."""
        batch: list[Message] = []
        for part in parts:
            try:
                found = parse(part, client=False) if part.strip() else []
            except BridgeError as error:
                raise BridgeError("bad_answer", str(error), server=self._name) from error
            batch += found if isinstance(found, list) else [found]
        answer: Response | None = None
        for message in batch:
            if not isinstance(message, Response):
                await self._related(message, request, reply)
            elif message.id == upstream_id and answer is None:
                answer = message
        if answer is None:
            raise BridgeError("bad_answer", "no answer to the request among those of the batch", server=self._name)
        return answer

    async def _from_stream(self, response: HttpResponse, upstream_id: RequestId, request: Request, reply: Reply) -> Response:
        """Read related messages until the answer; a legacy stream that ends before is taken up again where it stopped."""
        last_event: str | None = None
        retry = RECONNECT
        while True:
            async with aclosing(response), aclosing(self._messages(response)) as stream:
                async for event_id, wait, message in stream:
                    last_event = event_id if event_id is not None else last_event
                    retry = wait if wait is not None else retry
                    if message is None:
                        continue
                    if isinstance(message, Response):
                        if message.id == upstream_id:
                            return message
                        _log.debug("answer to another request on this stream dropped", protocol="http", server=self._name)
                    else:
                        await self._related(message, request, reply)
            if self._era == "modern" or not last_event:
                raise BridgeError(
                    "stream_closed", f"server {self._name!r} ended the stream before its answer", server=self._name
                )
            await asyncio.sleep(max(retry, MIN_RECONNECT))
            headers = [*self._session_headers(), ("last-event-id", last_event)]
            response = await self._pool.request(
                "GET", self._path, headers, b"", retry_safe=True, max_response=self._max_response
            )
            if response.status != 200:
                await response.aclose()
                raise BridgeError("stream_closed", f"server {self._name!r} does not resume its stream", server=self._name)

    async def _related(self, message: Request | Notification, request: Request, reply: Reply) -> None:
        if isinstance(message, Notification):
            reply.notify(incoming(message, request))
        else:
            await self._ask(message, reply if reply.can_ask else None)

    async def _ask(self, question: Request, reply: Reply | None) -> None:
        """Have a question answered beside the stream it came on, which is read on unless too many are open."""
        await self._questions.acquire()
        self._spawn(self._put(question, reply)).add_done_callback(lambda _task: self._questions.release())
        await asyncio.sleep(0)  # it is put before anything that came after it

    async def _put(self, question: Request, reply: Reply | None) -> None:
        """Answer a server's question, through the waiting client or by the session's owner."""
        try:
            async with asyncio.timeout(QUESTION_WAIT):
                answer = await (reply.ask(question, Upward(self)) if reply is not None else self._inbox.asked(question))
        except TimeoutError:
            error = BridgeError("timeout", f"the client did not answer {question.method} in {QUESTION_WAIT:g} s")
            answer = m.error(question.id, to_wire(error))
        except BridgeError as error:
            answer = m.error(question.id, to_wire(error))
        except Exception as error:  # noqa: BLE001 - told to whoever waits
            _log.error(
                "question failed inside the bridge", protocol="http", server=self._name, error=repr(error), exc_info=True
            )
            answer = m.error(question.id, to_wire(BridgeError("internal_error")))
        try:
            async with asyncio.timeout(TAKE_TIME):
                await self._told(answer.with_id(question.id).encode(), self._session_headers())
        except (BridgeError, TimeoutError) as error:
            _log.warn("answer to a question of the server was not taken", protocol="http", server=self._name, reason=str(error))

    # The GET stream of a legacy session

    async def _listen(self) -> None:
        """Keep the GET stream open while the session lives; a server without one answers 405 and is left alone."""
        last_event: str | None = None
        wait = RECONNECT
        while not self._closed:
            try:
                headers = self._session_headers() + ([("last-event-id", last_event)] if last_event else [])
                response = await self._pool.request(
                    "GET", self._path, headers, b"", retry_safe=True, max_response=self._max_response, queued=False
                )
                self._listened.set()
                async with aclosing(response):
                    if response.status == 404:
                        self._lost_now()
                        return
                    if response.status != 200:
                        return
                    async with aclosing(self._messages(response)) as stream:
                        async for event_id, retry, message in stream:
                            last_event = event_id if event_id is not None else last_event
                            wait = retry if retry is not None else RECONNECT
                            if isinstance(message, Notification):
                                self._unrelated(message)
                            elif isinstance(message, Request):
                                await self._ask(message, None)
            except BridgeError as error:
                self._listened.set()
                _log.debug("GET stream lost", protocol="http", server=self._name, reason=str(error))
                wait = min(wait * 2, MAX_RECONNECT)
            await asyncio.sleep(max(wait, MIN_RECONNECT))

    def _unrelated(self, notification: Notification) -> None:
        """What came on the GET stream; many servers put the progress of a call there too."""
        if notification.method != "notifications/progress":
            self._inbox.notified(notification)
            return
        token = _TOKEN(notification.param("progressToken") or b"")
        call = self._calls.get(int(token[0])) if token is not None else None
        if call is not None:
            call[1].notify(incoming(notification, call[0]))

    async def _messages(self, response: HttpResponse) -> AsyncGenerator[tuple[str | None, float | None, Message | None], None]:
        """Events of an SSE answer as ``(event id, retry seconds, message)``; damaged ones are left out, the first is logged."""
        parser = SseParser(self._max_response)
        is_damaged = False
        async with aclosing(response.chunks()) as chunks:
            async for chunk in chunks:
                for number, event in enumerate(parser.feed(chunk), 1):
                    if number % AT_ONCE == 0:
                        await asyncio.sleep(0)  # a chunk of a server that floods holds thousands
                    retry = event.retry / 1000 if event.retry is not None else None
                    parsed: Message | list[Message] | None = None
                    if event.data and event.event in (None, "", "message"):
                        try:
                            parsed = parse(event.data, client=False)
                        except BridgeError as error:
                            if not is_damaged:
                                is_damaged = True
                                _log.warn("damaged message on a stream", protocol="http", server=self._name, reason=str(error))
                    id = event.id if event.id is not None and _EVENT_ID(event.id) else None  # others fit into no header
                    for item in parsed if isinstance(parsed, list) else [parsed]:
                        yield id, retry, item

    # Headers and plumbing

    def _headers(self, message: Request | Notification) -> list[tuple[str, str]]:
        if self._era == "legacy":
            return self._session_headers()
        version = text(message.meta.get(PROTOCOL_VERSION)) or MODERN[0]
        headers = [*self._fixed, ("mcp-protocol-version", version), ("mcp-method", message.method)]
        member = name_of(message.method)
        if member is not None and (name := text(message.param(member))) is not None:
            headers.append(("mcp-name", encode_header(name)))
        if message.method == "tools/call" and isinstance(message, Request):
            headers += self._params.headers(message)
        return headers

    def _session_headers(self) -> list[tuple[str, str]]:
        headers = list(self._fixed)
        if self._session_id is not None:
            headers.append(("mcp-session-id", self._session_id))
        if self._version is not None:
            headers.append(("mcp-protocol-version", self._version))
        return headers

    async def _told(self, body: bytes, headers: list[tuple[str, str]]) -> int:
        """POST what has no answer; the status. It waits for no free connection: the calls that hold them may wait for it."""
        response = await self._pool.request(
            "POST", self._path, headers, body, retry_safe=False, max_response=self._max_response, queued=False
        )
        async with aclosing(response):
            kind = (response.headers.get("content-type") or "").partition(";")[0].strip().lower()
            if response.status < 400 and kind != "text/event-stream":
                await response.read()  # keeps the connection; a stream has nothing for us and may never end
        return response.status

    async def _notify_quietly(self, notification: Notification) -> None:
        try:
            await self.notify(notification)
        except BridgeError as error:
            _log.debug("notification not delivered", protocol="http", server=self._name, reason=str(error))

    async def _learn(self) -> bool:
        """Ask for the tools once to learn which arguments travel as headers; True when that taught something new."""
        before = self._params.revision
        listing = m.request(0, "tools/list", {"_meta": self._params.meta})
        await self.call(listing)
        return self._params.revision != before

    @property
    def _had_session(self) -> bool:
        """Whether calls in flight name a session; of several that meet its end, all do."""
        return self._session_id is not None or self._is_lost

    def _lost(self) -> None:
        self._lost_now()
        detail = f"server {self._name!r} no longer knows the session"
        raise BridgeError("backend_session_lost", detail, sent=False, server=self._name)

    def _lost_now(self) -> None:
        self._session_id, self._is_lost = None, True
        self._inbox.closed(None)
