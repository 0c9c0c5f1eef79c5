"""What a legacy HTTP client's session holds: streams, their log, questions; all of it bounded and ended with the session."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from mcpbridge.core.exchange import NoReply
from mcpbridge.errors import BridgeError
from mcpbridge.transports.http import session as module
from mcpbridge.transports.http.listen import LegacyReply
from mcpbridge.transports.http.session import GENERAL, HttpSession, position
from mcpbridge.wire import message as m
from mcpbridge.wire.sse import SseParser
from tests.support.scripted import client, exchange, until

ASK = m.request("q", "roots/list", {"_meta": {"progressToken": "t"}})


class Reader:
    """A client that reads a stream (a Responder)."""

    def __init__(self) -> None:
        self.parser = SseParser()
        self.ids: list[str | None] = []
        self.messages: list[Any] = []

    def send(self, chunk: bytes) -> None:
        for event in self.parser.feed(chunk):
            if not event.data:
                continue  # the prime
            self.ids.append(event.id)
            self.messages.append(json.loads(event.data))


def note(number: int) -> m.Notification:
    return m.notification("notifications/message", {"data": number})


def numbers(reader: Reader) -> list[int]:
    return [message["params"]["data"] for message in reader.messages]


async def test_a_stream_taken_up_again_has_every_event_after_the_named_one_and_no_other_streams() -> None:
    session, reader = HttpSession(), Reader()
    other = session.open_stream()
    for number in range(5):
        session.notify(note(number))
        other.send(note(100).encode())
    session.streams[GENERAL].take(reader, 2)  # type: ignore[arg-type]
    session.notify(note(5))
    assert numbers(reader) == [2, 3, 4, 5]
    assert reader.ids == ["0-3", "0-4", "0-5", "0-6"]


async def test_the_log_is_bounded_in_bytes_and_forgets_the_oldest() -> None:
    session, reader = HttpSession(max_log_bytes=1000), Reader()
    for number in range(1000):
        session.notify(note(number))
    session.streams[GENERAL].take(reader, 0)  # type: ignore[arg-type]
    assert numbers(reader)[-1] == 999
    assert 0 < len(reader.messages) < 20


async def test_finished_streams_are_forgotten_after_a_while() -> None:
    session = HttpSession()
    for _ in range(1000):
        stream = session.open_stream()
        stream.send(b"{}")
        stream.is_done = True
    assert len(session.streams) < 100


async def test_an_answer_finds_its_question_and_carries_the_servers_id() -> None:
    session = HttpSession()
    asking = asyncio.ensure_future(session.ask(ASK, NoReply()))
    await until(lambda: session._questions)
    for wrong in (99, "1", None):
        session.answered(m.result(wrong, {}))
    session.answered(m.result(1, {"roots": []}))
    session.answered(m.result(1, {"late": True}))
    response = await asking
    assert (response.id, m.loads(response.result or b"")) == ("q", {"roots": []})
    assert not session._questions


async def test_progress_on_a_question_goes_back_with_the_servers_token() -> None:
    heard: list[m.Notification] = []

    class Upward(NoReply):
        def notify(self, notification: m.Notification) -> None:
            heard.append(notification)

    session = HttpSession()
    asking = asyncio.ensure_future(session.ask(ASK, Upward()))
    await until(lambda: session._questions)
    assert session.progressed(m.notification("notifications/progress", {"progressToken": 1, "progress": 1}))
    for wrong in (2, "1", {}, []):
        assert not session.progressed(m.notification("notifications/progress", {"progressToken": wrong, "progress": 1}))
    assert m.loads(heard[0].param("progressToken") or b"") == "t"
    session.answered(m.result(1, {}))
    await asking


async def test_a_cancelled_question_is_taken_back_and_a_closed_session_fails_the_open_ones() -> None:
    session, reader = HttpSession(), Reader()
    session.streams[GENERAL].take(reader, -1)  # type: ignore[arg-type]
    first = asyncio.ensure_future(session.ask(ASK, NoReply()))
    second = asyncio.ensure_future(session.ask(ASK, NoReply()))
    await until(lambda: len(session._questions) == 2)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert reader.messages[-1]["params"] == {"requestId": 1}
    session.close()
    with pytest.raises(BridgeError, match="session has ended"):
        await second
    assert not session._questions


async def test_open_questions_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_QUESTIONS", 1)
    session = HttpSession()
    first = asyncio.ensure_future(session.ask(ASK, NoReply()))
    await until(lambda: session._questions)
    with pytest.raises(BridgeError, match="queue full"):
        await session.ask(ASK, NoReply())
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)


@pytest.mark.parametrize(("text", "place"), [("0-0", (0, 0)), ("12-345", (12, 345)), ("1", None), ("-1", None), ("a-1", None)])
def test_only_our_own_event_ids_name_a_place(text: str, place: tuple[int, int] | None) -> None:
    assert position(text) == place


def test_an_absurd_event_id_names_no_place() -> None:
    assert position("1-" + "9" * 5000) is None


async def test_a_post_that_is_over_is_no_stream_that_anybody_hears() -> None:
    class Post(Reader):
        started = False

        def start_now(self, status: int, headers: object) -> None:
            self.started = True

        async def end(self) -> None:
            self.send = None  # type: ignore[method-assign, assignment]

    session = HttpSession()
    x = exchange(m.request(1, "tools/call"), None, client(back=session))  # type: ignore[arg-type]
    reply = LegacyReply(x, Post(), accepts_stream=True)  # type: ignore[arg-type]
    reply.notify(note(1))
    assert session.is_listening
    await reply.end()
    assert not session.is_listening
    reply.notify(note(2))  # a late word of the server is logged and sent to nobody
