"""Which tools a server shows: rules as literals, answers as bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from mcpbridge.core.tools import ToolRules, _shown


def seen(rules: ToolRules, *names: str) -> list[str | None]:
    return [rules.shown(name) for name in names]


def test_deny_wins_over_allow_and_without_allow_all_are_shown() -> None:
    assert seen(ToolRules(), "a", "b") == ["a", "b"]
    assert seen(ToolRules(allow=["read_*", "list"]), "read_file", "list", "lists", "write") == ["read_file", "list", None, None]
    assert seen(ToolRules(deny=["*_file"]), "read_file", "list") == [None, "list"]
    assert seen(ToolRules(allow=["read_*"], deny=["read_secret?"]), "read_a", "read_secrets") == ["read_a", None]
    assert seen(ToolRules(allow=["Read"]), "read") == [None], "names are compared as they are written"


def test_a_renamed_tool_is_called_by_its_new_name_only() -> None:
    rules = ToolRules(rename={"a": "x"})
    assert seen(rules, "a", "b") == ["x", "b"]
    assert (rules.own("x"), rules.own("a"), rules.own("b")) == ("a", None, "b")


def test_two_tools_may_swap_their_names_and_one_whose_name_was_given_away_is_hidden() -> None:
    swapped = ToolRules(rename={"a": "b", "b": "a"})
    assert seen(swapped, "a", "b") == ["b", "a"]
    assert (swapped.own("a"), swapped.own("b")) == ("b", "a")
    taken = ToolRules(rename={"a": "b"})
    assert seen(taken, "a", "b") == ["b", None]
    assert taken.own("b") == "a"


def test_a_denied_tool_is_not_called_by_its_new_name_either() -> None:
    rules = ToolRules(deny=["a"], rename={"a": "x"})
    assert (rules.shown("a"), rules.own("x"), rules.own("a")) == (None, None, None)


NAMES = st.sampled_from(["a", "b", "c", "d", "read_a"])


@given(
    st.lists(st.sampled_from(["a", "?", "read*", "*"]), max_size=2),
    st.lists(st.sampled_from(["b", "read*"]), max_size=2),
    st.dictionaries(NAMES, NAMES, max_size=4).filter(lambda rename: len(set(rename.values())) == len(rename)),
)
def test_what_is_shown_can_be_called_and_nothing_else_can(allow: list[str], deny: list[str], rename: dict[str, str]) -> None:
    rules = ToolRules(allow, deny, rename)
    names = ["a", "b", "c", "d", "read_a"]
    shown = {rules.shown(own): own for own in names if rules.shown(own) is not None}
    assert len(shown) == sum(rules.shown(own) is not None for own in names), "no two have one name"
    assert {name: rules.own(name) for name in names if rules.own(name) is not None} == shown


def test_a_shown_tool_keeps_every_byte_but_its_name() -> None:
    kept = b'{ "inputSchema":{"$defs":{}}, "name" : "a", "x":1e400}'
    raw = Raw(b"[" + kept + b', {"name":"b"}, 5]')
    assert bytes(_shown(raw, ToolRules(deny=["b"]))) == b"[" + kept + b"]"
    assert bytes(_shown(raw, ToolRules(deny=["b"], rename={"a": "z"}))) == b"[" + kept.replace(b'"a"', b'"z"') + b"]"


@pytest.mark.parametrize("raw", [b'[{"name":"a"}, {"name":"c"}]', b"[]", b"{}", b"5"], ids=["all", "none", "object", "number"])
def test_a_list_that_is_shown_whole_is_not_touched(raw: bytes) -> None:
    given_raw = Raw(raw)
    assert _shown(given_raw, ToolRules(deny=["b"])) is given_raw
