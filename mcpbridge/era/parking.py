"""Parked calls: a legacy server asks during a modern client's call, which waits here while the client answers.

    client                       bridge                                server
      tools/call  ------------->  begin: a leased session  ----------->  tools/call
                                                           <-----------  elicitation/create
      <- input_required, state -  park: the call waits
      tools/call, state, answers  resume: the answer  ---------------->  its result
      <- result ----------------                           <-----------  result

A call is parked under a random name that its sealed requestState carries; resuming takes the name away, so each state serves
once. The upstream call runs in a task of its own: it outlives the exchanges of its client, never its time to live. Whoever
cancels or lets the time pass ends it: open questions are refused, the server is told to cancel.

Source: mcp-eras section 3 (questions of servers, elicitation url mode); architecture section 7; shared decisions 4 and 14;
contract routing.parked_ttl.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from msgspec import Raw

from mcpbridge.core.conversation import BackendSession, Refused
from mcpbridge.core.exchange import ANONYMOUS, Exchange, Reply
from mcpbridge.core.state import PARKED, RequestStates, unknown
from mcpbridge.era.questions import (
    ASKED,
    URL_NEEDED,
    answer_for,
    check_answer,
    fits,
    input_request,
    lacking,
    refused,
    url_elicitations,
)
from mcpbridge.era.standing import (
    initialize_of,
    key_of,
    missing,
    patience,
    pool_of,
    refused_to_start,
    related,
    server_info,
    set_level,
    version_of,
)
from mcpbridge.era.translate import to_legacy_request, to_modern_response
from mcpbridge.errors import BridgeError
from mcpbridge.observe.log import log
from mcpbridge.wire import message as m
from mcpbridge.wire.envelope import members
from mcpbridge.wire.message import Members, Notification, Request, Response
from mcpbridge.wire.spec import SERVER_INFO

_log = log("parking")
QUIET = 0.02  # seconds after a question in which a further one joins it: a server asks several at once one after the other
QUIET_STREAMS = 0.06  # likewise where they come on streams of their own, one of which may wait 40 ms for a delayed ACK
MAX_GATHER = 0.3  # seconds after the first one
MAX_QUESTIONS = 100  # open at once of one call
MAX_PARKED = 10_000
MAX_PER_PRINCIPAL = 100
CLOSE_TIME = 2.0  # seconds the servers have to hear that their calls are over when the bridge ends


class Parking:
    """The parked calls of this process."""

    def __init__(self, *, max_total: int = MAX_PARKED, max_per_principal: int = MAX_PER_PRINCIPAL) -> None:
        self._max_total = max_total
        self._max_per_principal = max_per_principal
        self._parked: dict[bytes, ParkedCall] = {}
        self._of: Counter[str] = Counter()
        self.running: set[ParkedCall] = set()

    def __len__(self) -> int:
        return len(self._parked)

    async def begin(self, x: Exchange) -> Response:
        """The first round of a call that may be asked. Raises BridgeError or Refused."""
        return await ParkedCall(self, x).begin(x)

    async def resume(self, x: Exchange) -> Response:
        """A further round: the answers reach the server, and the call goes on.

        Raises BridgeError: of ``RequestStates.open``; "unknown_request_state" when nothing is parked under this state any more;
        "invalid_params" for answers that are none (the call stays parked then).
        """
        states = states_of(x)
        state = states.open(x)
        call = self._parked.get(state.content) if (state.kind, state.instance) == (PARKED, states.instance) else None
        if call is None:
            raise unknown()
        answers = call.read(x.request)
        self._take(state.content)
        if call.is_recall and not call.questions.keys() - answers.keys():
            return await ParkedCall(self, x, with_answers=False).begin(x)
        return await call.resume(x, answers)

    def park(self, call: ParkedCall, x: Exchange) -> Response:
        """Keep ``call`` until its client answers; what to tell the client. Raises BridgeError("too_many_parked")."""
        if len(self._parked) >= self._max_total:
            raise BridgeError("too_many_parked", f"at most {self._max_total} in all")
        if self._of[call.principal] >= self._max_per_principal:
            raise BridgeError("too_many_parked", f"at most {self._max_per_principal} for one caller")
        loop = asyncio.get_running_loop()
        remaining = max(0.0, min(question.until for question in call.questions.values()) - loop.time())
        name = os.urandom(16)
        self._parked[name] = call
        self._of[call.principal] += 1
        call.timer = loop.call_later(remaining, self._expired, name)
        result: dict[str, Any] = {
            "resultType": "input_required",
            "inputRequests": {key: question.shown for key, question in call.questions.items()},
            "requestState": states_of(x).seal(x, PARKED, name, remaining),
        }
        info = call.server_info
        if info is not None:
            result["_meta"] = {SERVER_INFO: info}
        return m.result(x.request.id, result)

    async def close(self) -> None:
        """End every call that waits or runs; their servers hear of it first."""
        for name in list(self._parked):
            self._take(name)
        calls = list(self.running)
        for call in calls:
            call.end("the bridge is shutting down", "draining")
        tasks = [call.task for call in calls if call.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=CLOSE_TIME)

    def _take(self, name: bytes) -> ParkedCall:
        call = self._parked.pop(name)
        self._of[call.principal] -= 1
        if not self._of[call.principal]:
            del self._of[call.principal]
        if call.timer is not None:
            call.timer.cancel()
        return call

    def _expired(self, name: bytes) -> None:
        call = self._take(name)
        _log.info("a question was not answered in time; the call is ended", server=call.server, method=call.method)
        call.end("the client did not answer in time")


@dataclass(slots=True)
class Question:
    """One open question: as its client sees it, until when it waits (loop time), and who waits for its answer."""

    method: str
    shown: Raw
    until: float
    answer: asyncio.Future[Response] | None


class ParkedCall:
    """One call upstream, and the client that waits for it now, if any. To the session it is the Inbox that is asked, to its
    own stream the Reply."""

    can_ask = True

    def __init__(self, parking: Parking, x: Exchange, *, with_answers: bool = True) -> None:
        assert x.backend is not None
        self._parking = parking
        self._backend = x.backend
        self.principal = (x.caller.principal or ANONYMOUS).key
        self.server = x.backend.server.name
        self.method = x.request.method
        self._declared = {name: Raw(bytes(raw)) for name, raw in x.view.capabilities.items()}
        self._brought: Members = _responses(x.request) if with_answers else {}
        self._ttl = states_of(x).ttl
        self._x: Exchange | None = x  # whose client is there now
        self._talk: BackendSession | None = None
        self._outcome: Response | BridgeError | None = None
        self._ready = asyncio.Event()  # there is something to tell the client
        self._gathering: asyncio.TimerHandle | None = None
        self._gather_until = 0.0
        self._asked = 0
        self._is_cut = False
        self.questions: dict[str, Question] = {}
        self.is_recall = False  # nothing runs upstream: the server wants to be called again
        self.task: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.server_info: Raw | None = None
        self._version = ""

    # The client's side

    async def begin(self, x: Exchange) -> Response:
        """Send the call and wait until there is something to tell. Raises BridgeError or Refused."""
        await self._lease(x, patience(x))
        try:
            await self._set_level(x)
        except BaseException:
            self._release(is_clean=False)
            raise
        self._parking.running.add(self)
        self.task = self._backend.spawn(self._run(x, to_legacy_request(x.request, self._version)))
        self.task.add_done_callback(self._ended)
        return await self._turn(x)

    async def resume(self, x: Exchange, answers: Mapping[str, Raw]) -> Response:
        """The client is back with answers, perhaps not to everything. Raises BridgeError."""
        self._x = x
        try:
            if self._outcome is None:
                await self._set_level(x)
        except BaseException:
            self.end("the call failed")
            raise
        for key, answer in answers.items():
            question = self.questions.pop(key)
            if question.answer is None or question.answer.done():
                continue
            if question.method == "roots/list" and self._talk is not None:
                self._talk.roots = Raw(bytes(answer))
            question.answer.set_result(Response(None, answer_for(question.method, self._version, answer)))
        return await self._turn(x)

    def read(self, request: Request) -> Members:
        """The answers to open questions; others are ignored. Raises BridgeError("invalid_params")."""
        answers = {key: raw for key, raw in _responses(request).items() if key in self.questions}
        for key, raw in answers.items():
            check_answer(key, self.questions[key].method, raw)
        return answers

    def end(self, reason: str, fault: str = "timeout") -> None:
        """It is over before the server said so: open questions are refused, then the server is told to cancel."""
        self._fail(BridgeError(fault, reason), reason)

    @property
    def waits_until(self) -> float | None:
        is_waiting = self._x is None and self._outcome is None and self.questions
        return min(question.until for question in self.questions.values()) if is_waiting else None

    def give_way(self) -> None:
        _log.info("a parked call is ended: others need its conversation", server=self.server, method=self.method)
        self.end(f"server {self.server!r} was needed by others while the client did not answer", "server_busy")

    async def _turn(self, x: Exchange) -> Response:
        """Wait for the outcome or for questions; tell the client which it is."""
        self._x = x
        self._ready.clear()
        if self._outcome is not None or self.is_recall:
            self._ready.set()
        elif self.questions:
            self._gather()
        try:
            await self._ready.wait()
        except asyncio.CancelledError as cancelled:
            self.end(str(cancelled.args[0]) if cancelled.args else "cancelled")
            raise
        finally:
            self._x = None
        if not self.questions and isinstance(self._outcome, Response):
            self._elicit(self._outcome)
        if not self.questions:
            return self._told(x)
        try:
            return self._parking.park(self, x)
        except BridgeError as error:
            self._fail(error, "too many calls are parked")
            raise

    def _told(self, x: Exchange) -> Response:
        assert self._outcome is not None
        if isinstance(self._outcome, BridgeError):
            raise self._outcome
        return to_modern_response(self.method, self._outcome.with_id(x.request.id), self.server_info)

    def _elicit(self, response: Response) -> None:
        """A server that first wants a page visited (-32042) is called again once the client has seen to it."""
        pages = url_elicitations(response)
        if pages is None:
            return
        if "url" not in members(self._declared.get("elicitation")):
            raise BridgeError("missing_capability", "the server asks for a page to be visited", requiredCapabilities=URL_NEEDED)
        self.is_recall = True
        until = asyncio.get_running_loop().time() + self._ttl
        self.questions = {self._key("elicitation"): Question("elicitation/create", page, until, None) for page in pages}

    # The server's side: Reply of the call, Inbox of its session

    def notify(self, notification: Notification) -> None:
        if self._x is not None and self._talk is not None:
            shown = related(self._x, self._talk, notification)
            if shown is not None:
                self._x.reply.notify(shown)

    def notified(self, notification: Notification) -> None:
        """What names no call on this session; log messages are this call's, as it has the session to itself."""
        if notification.method == "notifications/message":
            self.notify(notification)

    def closed(self, cause: BaseException | None) -> None:
        return None  # the call itself fails

    async def ask(self, request: Request, asker: Reply | None = None) -> Response:
        return await self._answer(request, is_named=True)

    async def asked(self, request: Request) -> Response:
        return await self._answer(request, is_named=False)

    async def _answer(self, request: Request, *, is_named: bool) -> Response:
        """Wait for the client's answer to a question. ``is_named``: the transport says that it belongs to this call."""
        method = request.method
        if method == "ping":
            return m.result(request.id, {})
        if method not in ASKED or self._is_cut:
            return refused(request, method, None)
        needed = lacking(request, self._declared)
        if needed is not None:
            if is_named or method != "roots/list":  # servers ask for roots on their own, whatever the call
                self._fail(missing(request, needed), "the client cannot be asked this")
            return refused(request, method, None)
        early = [key for key, answer in self._brought.items() if fits(request, answer)]
        if len(early) == 1:
            return Response(request.id, Raw(bytes(self._brought.pop(early[0]))))
        if len(self.questions) >= MAX_QUESTIONS:
            return refused(request, method, BridgeError("queue_full", f"{MAX_QUESTIONS} questions are open already"))
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Response] = loop.create_future()
        key = self._key(ASKED[method])
        self.questions[key] = Question(method, input_request(request), loop.time() + self._ttl, answer)
        self._gather()
        try:
            return await answer
        finally:  # answered, or taken back by the server
            self.questions.pop(key, None)
            self._release_when_done()

    def _key(self, kind: str) -> str:
        self._asked += 1
        return f"{kind}_{self._asked}"

    def _gather(self) -> None:
        """Wait a little for further questions before the client hears of those that are open."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        quiet = QUIET_STREAMS if self._talk is not None and self._talk.upstream.names_request else QUIET
        if self._gathering is None:
            self._gather_until = now + MAX_GATHER
        else:
            self._gathering.cancel()
        self._gathering = loop.call_at(min(now + quiet, self._gather_until), self._gathered)

    def _gathered(self) -> None:
        self._gathering = None
        if self.questions:
            self._ready.set()

    def _fail(self, error: BridgeError, reason: str) -> None:
        self._is_cut = True
        if not isinstance(self._outcome, BridgeError):
            self._outcome = error
        questions, self.questions = self.questions, {}
        for question in questions.values():
            if question.answer is not None and not question.answer.done():
                question.answer.set_result(refused(None, question.method, error))
        if self.task is not None:
            asyncio.get_running_loop().call_soon(self.task.cancel, reason)  # the server gets its answers first
        self._ready.set()

    # The call upstream

    async def _run(self, x: Exchange, request: Request) -> None:
        assert self._talk is not None
        try:
            try:
                response = await self._talk.call(request, self)
            except BridgeError as error:
                if error.reason != "backend_session_lost":
                    raise
                self._release(is_clean=False)
                await self._lease(x, pool_of(x).start_timeout)  # the server forgot the session and did not run the call
                await self._set_level(x)
                response = await self._talk.call(request, self)
        except Refused as refusal:
            self._fail(refused_to_start(self.server, refusal), "the server is lost")
        except BridgeError as error:
            self._fail(error, "the server is lost")
        else:
            if self._outcome is None:
                self._outcome = response

    def _ended(self, _task: asyncio.Task[None]) -> None:
        self._parking.running.discard(self)
        if self._outcome is None:
            self._fail(BridgeError("draining", "the bridge is shutting down"), "the bridge ends")
        self._ready.set()
        self._release_when_done()

    async def _lease(self, x: Exchange, remaining: float) -> None:
        pool = pool_of(x)
        logs = x.view.log_level is not None
        self._talk = await pool.leases.take(key_of(x), initialize_of(x), self, remaining, logs=logs)
        self._talk.listeners.append(self)
        self.server_info = server_info(self._talk)
        self._version = version_of(self._talk)

    async def _set_level(self, x: Exchange) -> None:
        talk, level = self._talk, x.view.log_level
        if level is not None and talk is not None and (talk.upstream.names_request or talk.log_owner in (None, self)):
            await set_level(talk, level)

    def _release_when_done(self) -> None:
        if self.task is not None and self.task.done() and not self.questions:
            self._release(is_clean=isinstance(self._outcome, Response) and not self._is_cut)

    def _release(self, *, is_clean: bool) -> None:
        talk, self._talk = self._talk, None
        if talk is not None:
            if self in talk.listeners:
                talk.listeners.remove(self)
            self._backend.pool.leases.give_back(talk, is_clean=is_clean)


def states_of(x: Exchange) -> RequestStates:
    """What seals the state of this call."""
    assert x.backend is not None
    return x.backend.states


def _responses(request: Request) -> Members:
    """The answers a request brings. Raises BridgeError("invalid_params") when they are no object."""
    return members(request.param("inputResponses"))
