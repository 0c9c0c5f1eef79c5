"""What a legacy HTTP client's session holds: streams, their log, questions; all of it bounded and ended with the session."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from mcpbridge.core.exchange import NoReply
from mcpbridge.core.session import Session
from mcpbridge.errors import BridgeError
from mcpbridge.stores.events import MemoryEvents, MemoryLog
from mcpbridge.transports.http import session as module
from mcpbridge.transports.http.legacy import LegacyReply
from mcpbridge.transports.http.session import MAX_DONE, HttpSession
from mcpbridge.wire import message as m
from mcpbridge.wire.sse import SseParser
from tests.support.scripted import client, exchange, until

ASK = m.request("q", "roots/list", {"_meta": {"progressToken": "t"}})


def opened(version: str = "2025-11-25", **limits: int) -> HttpSession:
    record = Session("id", "principal", version)
    return HttpSession(record, MemoryEvents(**limits).open(record))  # type: ignore[arg-type]


class Reader:
    """A client that reads a stream (a Responder)."""

    gone = False
    started = True

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
    session, reader = opened(), Reader()
    other = session.open_stream()
    for number in range(5):
        session.notify(note(number))
        other.send(note(100).encode())
    await session.general.take(reader, 2)  # type: ignore[arg-type]
    session.notify(note(5))
    assert numbers(reader) == [2, 3, 4, 5]
    assert reader.ids == [f"{session.general.key}.{number}" for number in (3, 4, 5, 6)]


async def test_the_newest_reader_of_a_stream_is_the_only_one() -> None:
    class Ending(Reader):
        is_ended = False

        async def end(self) -> None:
            self.is_ended = True

    session, first, second = opened(), Ending(), Ending()
    await session.general.take(first, 0)  # type: ignore[arg-type]
    session.notify(note(1))
    await session.general.take(second, session.general.delivered)  # type: ignore[arg-type]
    session.notify(note(2))
    assert (numbers(first), numbers(second), first.is_ended) == ([1], [2], True)
    session.general.release(first)  # type: ignore[arg-type]
    session.notify(note(3))
    assert numbers(second) == [2, 3]


async def test_events_that_come_while_a_slow_log_is_read_are_neither_lost_nor_doubled_nor_out_of_order() -> None:
    class Slow(MemoryLog):
        reads = 0

        async def after(self, stream: str, number: int) -> list[tuple[int, bytes]]:
            found = await super().after(stream, number)
            if self.reads < 3:
                session.notify(note(10 + self.reads))
            self.reads += 1
            return found

    session, reader = opened(), Reader()
    session.log = Slow(MemoryEvents())
    session.notify(note(1))
    await session.general.take(reader, 0)  # type: ignore[arg-type]
    session.notify(note(2))
    assert numbers(reader) == [1, 10, 11, 12, 2]


async def test_the_log_is_bounded_and_forgets_the_oldest() -> None:
    session, reader = opened(max_bytes=5000), Reader()
    for number in range(1000):
        session.notify(note(number))
    await session.general.take(reader, 0)  # type: ignore[arg-type]
    assert numbers(reader)[-1] == 999
    assert 0 < len(reader.messages) < 20


async def test_finished_streams_are_forgotten_after_a_while_and_those_nobody_knows_at_once() -> None:
    session = opened()
    keys = []
    for number in range(MAX_DONE + 500):
        stream = session.open_stream()
        stream.prime(0)
        stream.send(b"{}")
        stream.finish()
        keys.append(stream.key)
        session.open_stream().finish()
        assert number or session.find(f"{stream.key}.0") == (stream, 0)
    assert len(set(keys)) == len(keys)
    assert session.find(f"{keys[499]}.0") is None
    assert session.find(f"{keys[500]}.0") is not None
    assert (len(session._done), len(session._open)) == (MAX_DONE, 1)


@pytest.mark.parametrize("version", ["2025-03-26", "2025-06-18"])
async def test_clients_that_do_not_know_events_without_data_get_none(version: str) -> None:
    assert opened(version).general.prime(0) == b""
    assert b"retry: " in opened().general.prime(0)


async def test_another_sessions_event_id_means_nothing() -> None:
    one, other = opened(), opened()
    assert one.find(f"{one.general.key}.7") == (one.general, 7)
    assert one.find(f"{other.general.key}.0") is None
    assert not await one.general.can_resume(7)


async def test_an_answer_finds_its_question_and_carries_the_servers_id() -> None:
    session = opened()
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

    session = opened()
    asking = asyncio.ensure_future(session.ask(ASK, Upward()))
    await until(lambda: session._questions)
    assert session.progressed(m.notification("notifications/progress", {"progressToken": 1, "progress": 1}))
    for wrong in (2, "1", {}, []):
        assert not session.progressed(m.notification("notifications/progress", {"progressToken": wrong, "progress": 1}))
    assert m.loads(heard[0].param("progressToken") or b"") == "t"
    session.answered(m.result(1, {}))
    await asking


async def test_a_cancelled_question_is_taken_back_and_a_closed_session_fails_the_open_ones() -> None:
    session, reader = opened(), Reader()
    await session.general.take(reader, 0)  # type: ignore[arg-type]
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
    session = opened()
    first = asyncio.ensure_future(session.ask(ASK, NoReply()))
    await until(lambda: session._questions)
    with pytest.raises(BridgeError, match="queue full"):
        await session.ask(ASK, NoReply())
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)


@pytest.mark.parametrize(
    "text", ["", "0-0", "1", ".1", "a.1", "AAAAAAAAAAAA.x", "AAAAAAAAAAAA." + "9" * 5000, "AAAAAAAAAAAA.1"]
)
def test_a_text_that_is_no_event_id_of_ours_names_no_place(text: str) -> None:
    assert opened().find(text) is None


async def test_a_post_that_is_over_is_no_stream_that_anybody_hears() -> None:
    class Post(Reader):
        started = False

        def start_now(self, status: int, headers: object) -> None:
            self.started = True

        async def end(self) -> None:
            self.send = None  # type: ignore[method-assign, assignment]

    session = opened()
    x = exchange(m.request(1, "tools/call"), None, client(back=session))  # type: ignore[arg-type]
    reply = LegacyReply(x, Post(), accepts_stream=True)  # type: ignore[arg-type]
    reply.notify(note(1))
    assert session.is_listening
    await reply.end()
    assert not session.is_listening
    reply.notify(note(2))  # a late word of the server is logged and sent to nobody
