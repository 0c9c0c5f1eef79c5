"""Exposed names and task ids."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mcpbridge.core.aggregate.names import expose, expose_task, owner, task_owner

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


def test_a_task_id_names_its_server() -> None:
    assert expose_task("git", "a:b") == "git:a:b"
    assert task_owner("git:a:b") == ("git", "a:b")
    assert task_owner("a") is None
