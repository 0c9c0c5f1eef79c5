"""The rounds of a legacy client's call with a modern server: the client is asked, the call goes out again with the answers.

    client                       bridge                                    server
      tools/call  ------------->  ask the server  ----------------------->  tools/call
      <- elicitation/create ----  <- input_required: requests, state -----
      its answer  ------------->  the same call, answers, state  -------->  tools/call
      <- result ----------------  <-----------------------------  result

Nothing runs upstream while the client is asked: whoever lets a question lie, or cancels, leaves nothing behind there. The clock
of the call stands still meanwhile (``policies/attempt``); one question waits for ``routing.parked_ttl`` at most.

Source: mcp-eras section 3 (questions of servers, elicitation url mode, progress); architecture section 7.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

from msgspec import Raw

from mcpbridge.core.exchange import Exchange, Reply
from mcpbridge.era.questions import lacking, legacy_question, modern_answer
from mcpbridge.era.standing import missing
from mcpbridge.errors import BridgeError
from mcpbridge.wire import message as m
from mcpbridge.wire.envelope import members, text
from mcpbridge.wire.message import Members, Notification, Request, Response

MAX_ROUNDS = 50  # rounds with questions of one call; more is a server that never comes to an end
MAX_QUESTIONS = 100  # of one round
FIRST_PAUSE = 0.1  # seconds before the second try in a row of a call whose server only wants to be called again
MAX_PAUSE = 5.0
_ACCEPTED = Raw(b'"accept"')
_INPUT_REQUIRED = b"input_required"

Send = Callable[[Request, Reply], Awaitable[Response]]
"""Sends one round to the server: the call, perhaps with answers and state."""


class InputRequired(NamedTuple):
    """What a server wants before it goes on: answers by key, its state back, or both."""

    questions: dict[str, Raw]
    state: Raw | None


async def play(x: Exchange, call: Request, send: Send, capabilities: Mapping[str, Raw], version: str) -> Response:
    """Answer ``x`` by as many rounds as its server wants; the last response, which asks for nothing more.

    ``call``: the client's request, which every round repeats; ``capabilities``: what was declared to the server; ``version``:
    the client's own. Raises BridgeError: "missing_capability" when the client cannot be asked what the server asks,
    "unanswered" when it does not answer, "bad_answer" for a server that asks nonsense or never ends.
    """
    reply = _Rising(x)
    request, rounds, pause = call, 0, 0.0
    visited: list[str] = []  # pages that this round's answers are about
    while True:
        outcome = input_required(await send(request, reply))
        for elicitation in visited:
            reply.notify(m.notification("notifications/elicitation/complete", {"elicitationId": elicitation}))
        if isinstance(outcome, Response):
            return outcome
        visited, brought = [], {}
        if outcome.questions:
            rounds, pause = rounds + 1, 0.0
            if rounds > MAX_ROUNDS:
                raise BridgeError("bad_answer", f"the server asked its client in more than {MAX_ROUNDS} rounds of one call")
            questions = _questions(outcome.questions, capabilities, version)
            answers = await _ask_all(x, questions)
            if isinstance(answers, Response):
                return answers.with_id(call.id)
            visited = [page for key in answers if _is_accepted(answers[key]) and (page := _page(questions[key])) is not None]
            brought["inputResponses"] = Raw(m.join(answers))
        else:
            await asyncio.sleep(pause)  # the deadline of the call is its bound
            pause = min(max(FIRST_PAUSE, 2 * pause), MAX_PAUSE)
        if outcome.state is not None:
            brought["requestState"] = outcome.state
        request = call.with_params({**(call.params or {}), **brought})
        reply.begin_round()


def input_required(response: Response) -> Response | InputRequired:
    """The response itself unless it asks for another round. Raises BridgeError("bad_answer") for one that cannot be made."""
    if response.result is None or _INPUT_REQUIRED not in bytes(response.result):
        return response
    result = members(response.result, "bad_answer")
    if text(result.get("resultType")) != "input_required":
        return response
    questions = members(result.get("inputRequests"), "bad_answer")
    state = result.get("requestState")
    if not questions and state is None:
        raise BridgeError("bad_answer", "input_required with neither inputRequests nor requestState")
    if len(questions) > MAX_QUESTIONS:
        raise BridgeError("bad_answer", f"more than {MAX_QUESTIONS} questions in one round")
    # copies: what waits for a person must not pin the whole message
    copies = {key: Raw(bytes(raw)) for key, raw in questions.items()}
    return InputRequired(copies, Raw(bytes(state)) if state is not None else None)


def _questions(asked: Mapping[str, Raw], capabilities: Mapping[str, Raw], version: str) -> dict[str, Request]:
    """The questions as the client's version knows them; every one must be allowed before any is put."""
    questions = {key: legacy_question(raw, version, uuid.uuid4().hex) for key, raw in asked.items()}
    for question in questions.values():
        needed = lacking(question, capabilities)
        if needed is not None:
            raise missing(question, needed)
    return questions


class _Over(Exception):
    """The client answered one question with an error: the call ends with it."""

    def __init__(self, answer: Response) -> None:
        self.answer = answer


async def _ask_all(x: Exchange, questions: Mapping[str, Request]) -> Members | Response:
    """Put all questions at once. The answers by key; or the client's error that ends the call, and no question stays open."""
    answers: dict[str, Raw] = {}

    async def put(key: str, question: Request) -> None:
        try:
            said = await x.reply.ask(question)
        except BridgeError as error:
            if error.fault.blames != "backend":
                raise
            raise BridgeError("unanswered", str(error)) from error  # the client is gone: no fault of the server
        answer = modern_answer(question, said)
        if answer is None:
            raise _Over(said)
        answers[key] = answer

    try:
        async with asyncio.TaskGroup() as group:
            for key, question in questions.items():
                group.create_task(put(key, question))
    except BaseExceptionGroup as errors:
        error = errors.exceptions[0]
        if isinstance(error, _Over):
            return error.answer
        raise error from None
    return {key: answers[key] for key in questions}  # in the server's order


def _page(question: Request) -> str | None:
    """The id of the page that a question sends the user to."""
    return text(question.param("elicitationId")) if text(question.param("mode")) == "url" else None


def _is_accepted(answer: Raw) -> bool:
    return members(answer).get("action") == _ACCEPTED


class _Rising:
    """The client's way back over all rounds: its progress only rises, though a server counts each round anew (MCP progress)."""

    can_ask = False

    def __init__(self, x: Exchange) -> None:
        self._x = x
        self._highest = float("-inf")
        self._floor: float | None = None

    def begin_round(self) -> None:
        self._floor = self._highest

    def notify(self, notification: Notification) -> None:
        if notification.method == "notifications/progress":
            raw = notification.param("progress")
            value = m.loads(raw) if raw is not None else None
            if isinstance(value, (int, float)):
                if self._floor is not None and value <= self._floor:
                    self._x.deadline.extend(asyncio.get_running_loop().time())  # it is news, if not for the client
                    return
                self._highest = max(self._highest, value)
        self._x.reply.notify(notification)

    async def ask(self, request: Request, asker: Reply | None = None) -> Response:
        raise LookupError("a modern server asks by its answer")
