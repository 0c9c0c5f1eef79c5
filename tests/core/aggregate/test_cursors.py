"""Composite cursors: they come back as they went, from the caller and for the list they were made for."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpbridge.core.aggregate.cursors import TTL, seal, unseal
from mcpbridge.core.exchange import ANONYMOUS, Caller, Deadline, Exchange, NoReply, Principal, view_of
from mcpbridge.errors import BridgeError
from mcpbridge.seal import Sealer
from mcpbridge.wire import message as m

SECRET = b"s" * 32
SEALER = Sealer([SECRET])
POSITIONS = {"a": "", "b": "x/ü"}


def exchange(method: str = "tools/list", principal: Principal = ANONYMOUS) -> Exchange:
    request = m.request(1, method)
    return Exchange(
        request, view_of(request, "legacy"), Caller("http", "legacy", principal=principal), NoReply(), Deadline(5, 0)
    )


def refused(cursor: str, *, x: Exchange | None = None, sealer: Sealer = SEALER, servers: Any = ("a", "b")) -> None:
    with pytest.raises(BridgeError) as caught:
        unseal(sealer, x or exchange(), cursor, servers)
    assert caught.value.fault.code == -32602


def test_a_cursor_comes_back_as_it_went() -> None:
    assert unseal(SEALER, exchange(), seal(SEALER, exchange(), POSITIONS), ["a", "b", "c"]) == POSITIONS


def test_a_cursor_serves_its_list_and_its_caller_alone() -> None:
    ann, bob = Principal("i", "ann"), Principal("i", "bob")
    cursor = seal(SEALER, exchange(principal=ann), POSITIONS)
    assert unseal(SEALER, exchange(principal=ann), cursor, ["a", "b"]) == POSITIONS
    refused(cursor, x=exchange(principal=bob))
    refused(cursor, x=exchange("prompts/list", ann))


def test_a_cursor_is_stale_when_its_server_is_gone_its_time_over_or_its_key_another() -> None:
    now = [1000.0]
    sealer = Sealer([SECRET], lambda: now[0])
    cursor = seal(sealer, exchange(), POSITIONS)
    refused(cursor, sealer=sealer, servers=("a",))
    refused(cursor, sealer=Sealer([b"t" * 32]))
    now[0] += TTL
    refused(cursor, sealer=sealer)


@pytest.mark.parametrize("cursor", ["", "!", "e30", "eyJ6IjoiMSJ9", "x" * 300_000, "W10", "ü", "\ud800"])
def test_a_foreign_cursor_is_refused(cursor: str) -> None:
    refused(cursor)


@given(st.text(max_size=200))
def test_any_text_as_cursor_is_refused(cursor: str) -> None:
    refused(cursor)


@given(st.integers(0, 1000), st.permutations("ABab"))
def test_no_part_of_a_cursor_can_be_changed(place: int, letters: list[str]) -> None:
    cursor = seal(SEALER, exchange(), POSITIONS)
    at = place % len(cursor)
    other = letters[0] if letters[0] != cursor[at] else letters[1]
    refused(cursor[:at] + other + cursor[at + 1 :])


def test_a_cursor_of_many_servers_is_taken_back() -> None:
    positions = {f"server-{n}": "c" * 500 for n in range(100)}
    assert unseal(SEALER, exchange(), seal(SEALER, exchange(), positions), positions) == positions
