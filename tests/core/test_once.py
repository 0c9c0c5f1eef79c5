"""A request that is said again is worked on once."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from mcpbridge.core.once import Once


class Wire:
    """A connection of lists."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.came: Callable[[bytes], None]

    def start(self, on_message: Callable[[bytes], None], _on_close: Any) -> None:
        self.came = on_message

    def send(self, data: bytes) -> None:
        self.sent.append(json.loads(data))


class Talk:
    """A client's line into a process and what that works on."""

    def __init__(self, size: int = 2, ttl: float = 60.0) -> None:
        self.now = 0.0
        self.wire = Wire()
        self.worked_on: list[Any] = []
        self.once = Once(self.wire, size=size, ttl=ttl, clock=lambda: self.now)  # type: ignore[arg-type]
        self.once.start(lambda raw: self.worked_on.append(json.loads(raw)), lambda _cause: None)

    def ask(self, id: int, method: str = "tools/list", **params: Any) -> None:
        self.wire.came(json.dumps({"jsonrpc": "2.0", "id": id, "method": method, "params": params}).encode())

    def answer(self, id: int, **result: Any) -> None:
        self.once.send(json.dumps({"jsonrpc": "2.0", "id": id, "result": result}).encode())


@pytest.mark.requirement("config.router.advanced.deduplication.enabled")
def test_a_repeat_in_flight_is_not_worked_on_and_gets_no_answer_of_its_own() -> None:
    talk = Talk()
    talk.ask(1, "tools/call", name="pay")
    talk.ask(1, "tools/call", name="pay")
    talk.answer(1)
    assert len(talk.worked_on) == 1 and len(talk.wire.sent) == 1


def test_what_is_not_safe_to_repeat_runs_again_once_it_was_answered() -> None:
    talk = Talk()
    for _ in range(2):
        talk.ask(1, "tools/call", name="pay")
        talk.answer(1)
    assert len(talk.worked_on) == 2


@pytest.mark.requirement("config.router.advanced.deduplication.ttl_seconds")
def test_the_answer_to_a_list_is_said_again_until_it_is_too_old() -> None:
    talk = Talk(ttl=10.0)
    talk.ask(1)
    talk.answer(1, tools=["a"])
    talk.now = 9.0
    talk.ask(1)
    assert len(talk.worked_on) == 1 and talk.wire.sent[0] == talk.wire.sent[1]
    talk.now = 10.0
    talk.ask(1)
    assert len(talk.worked_on) == 2


def test_other_bytes_under_the_same_id_are_another_request() -> None:
    talk = Talk()
    talk.ask(1)
    talk.answer(1)
    talk.ask(1, cursor="x")
    assert len(talk.worked_on) == 2


def test_an_error_is_not_kept() -> None:
    talk = Talk()
    talk.ask(1)
    talk.once.send(b'{"jsonrpc":"2.0","id":1,"error":{"code":1008,"message":"timeout"}}')
    talk.ask(1)
    assert len(talk.worked_on) == 2


@pytest.mark.requirement("config.router.advanced.deduplication.cache_size")
def test_the_newest_answers_are_kept() -> None:
    talk = Talk(size=2)
    for id in (1, 2, 3):
        talk.ask(id)
        talk.answer(id)
    for id in (1, 2, 3):
        talk.ask(id)
    assert [message["id"] for message in talk.worked_on] == [1, 2, 3, 1]


def test_a_request_that_was_cancelled_may_be_said_again() -> None:
    talk = Talk()
    talk.ask(1, "tools/call", name="t")
    talk.wire.came(b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}')
    talk.ask(1, "tools/call", name="t")
    assert [message["method"] for message in talk.worked_on] == ["tools/call", "notifications/cancelled", "tools/call"]


def test_what_is_no_message_goes_through_to_be_refused() -> None:
    talk = Talk()
    seen: list[bytes] = []
    talk.once.start(seen.append, lambda _cause: None)
    talk.wire.came(b"nonsense")
    assert seen == [b"nonsense"]
