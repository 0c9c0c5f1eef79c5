"""Whose an exposed name is, said by itself or learnt from the lists."""

from __future__ import annotations

from mcpbridge.core.aggregate.exposed import MAX_NAMES, Exposed

LONG = "x" * 60


def test_a_prefix_says_whose_a_name_is() -> None:
    names = Exposed({"a": True, "b": True}, 48)
    assert names.listed("tools", "a", "t") == "a__t"
    assert names.of("tools", "b__u") == [("b", "u")]
    assert not names.needs_lists("tools", "b__u")
    assert names.of("tools", "nobody__u") == []


def test_a_shortened_name_is_learnt_from_its_list() -> None:
    names = Exposed({"a": True}, 48)
    exposed = Exposed({"a": True}, 48).listed("tools", "a", LONG)
    assert names.needs_lists("tools", exposed)
    assert names.listed("tools", "a", LONG) == exposed
    assert names.of("tools", exposed) == [("a", LONG)]
    assert not names.needs_lists("tools", exposed)


def test_names_of_the_one_gateway_pass_after_those_of_own_servers() -> None:
    names = Exposed({"a": True, "gateway": False}, 48)
    assert names.listed("tools", "gateway", "git__log") == "git__log"
    assert names.of("tools", "a__t") == [("a", "t"), ("gateway", "a__t")]
    assert names.of("tools", "git__log") == [("gateway", "git__log")]
    assert not names.needs_lists("tools", "git__log")


def test_without_prefixes_the_lists_say_whose_a_name_is_and_the_first_server_has_it() -> None:
    names = Exposed({"a": False, "b": False}, 48)
    assert names.needs_lists("tools", "t")
    assert names.of("tools", "t") == []
    assert names.listed("tools", "b", "t") == "t"
    assert names.of("tools", "t") == [("b", "t")]
    names.listed("tools", "a", "t")
    assert names.of("tools", "t") == [("a", "t"), ("b", "t")]
    assert names.of("prompts", "t") == []


def test_a_name_that_its_server_lists_no_longer_is_forgotten() -> None:
    names = Exposed({"a": False, "b": False}, 48)
    names.begins("tools", "a")
    names.listed("tools", "a", "t")
    names.begins("tools", "b")
    names.listed("tools", "b", "t")
    for _ in range(2):
        names.begins("tools", "a")
    assert names.of("tools", "t") == [("b", "t")]


def test_what_is_remembered_is_bounded() -> None:
    names = Exposed({"a": False, "b": False}, 48)
    for number in range(MAX_NAMES + 10):
        names.listed("tools", "a", f"t{number}")
    assert len(names._learnt) == MAX_NAMES
    assert names.of("tools", "t0") == []
