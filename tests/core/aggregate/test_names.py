"""Exposed names and composite cursors."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpbridge.core.aggregate.names import expose, from_cursor, owner, to_cursor
from mcpbridge.errors import BridgeError

NAMES = st.text("abcXYZ019_.-/", min_size=1, max_size=128)


def test_a_name_that_fits_is_server_and_tool() -> None:
    assert expose("git", "git_status", 48) == "git__git_status"


def test_a_long_name_keeps_its_beginning_and_ends_in_a_hash() -> None:
    exposed = expose("weather", "get_the_forecast_for_the_next_seven_days_in_detail", 48)
    assert exposed == "weather__get_the_forecast_for_the_next_-988e3a37"
    assert len(exposed) == 48


@given(st.text("abc_-", min_size=1, max_size=64), NAMES, st.integers(16, 128))
def test_names_never_pass_the_limit_and_never_depend_on_anything_else(server: str, tool: str, limit: int) -> None:
    assert len(expose(server, tool, limit)) <= limit
    assert expose(server, tool, limit) == expose(server, tool, limit)


@given(NAMES, NAMES)
def test_two_long_names_do_not_meet(one: str, other: str) -> None:
    if one != other:
        assert expose("s" * 20, "x" * 30 + one, 48) != expose("s" * 20, "x" * 30 + other, 48)


def test_the_longest_fitting_server_owns_a_name() -> None:
    assert owner("a__b__c", ["a", "a__b"]) == ("a__b", "c")
    assert owner("a__b", ["b"]) is None


def test_a_cursor_comes_back_as_it_went() -> None:
    assert from_cursor(to_cursor({"a": "", "b": "x/ü"}), ["a", "b", "c"]) == {"a": "", "b": "x/ü"}


@pytest.mark.parametrize("cursor", ["", "!", "e30", "eyJ6IjoiMSJ9", "x" * 20_000, "W10", "ü"])
def test_a_foreign_or_stale_cursor_is_refused(cursor: str) -> None:
    with pytest.raises(BridgeError) as caught:
        from_cursor(cursor, ["a"])
    assert caught.value.fault.code == -32602


@given(st.text(max_size=200))
def test_any_text_as_cursor_is_taken_or_refused(cursor: str) -> None:
    try:
        taken = set(from_cursor(cursor, ["a"]))
    except BridgeError as error:
        taken = {error.reason}
    assert taken in ({"a"}, {"invalid_params"})
