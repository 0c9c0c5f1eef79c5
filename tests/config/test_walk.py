"""Expansion and suggestions, alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpbridge.config.walk import expand, suggestion

ENV = {"A": "1", "B": "${A}", "EMPTY": ""}


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("x${A}y${A}", "x1y1"),
        ("${B}", "${A}"),  # what a variable holds is not expanded again
        ("${NOPE:-d}", "d"),
        ("${EMPTY:-d}", "d"),
        ("${NOPE:-}", ""),
        ("${A:-d}", "1"),
        ("${env:A}", "1"),
        ("$${A}", "${A}"),
        ("$A $ {A}", "$A $ {A}"),
    ],
)
def test_references_are_replaced_once(text: str, expanded: str) -> None:
    assert expand(text, ENV) == expanded


@given(st.text().filter(lambda text: "${" not in text))
def test_text_without_references_is_left_alone(text: str) -> None:
    assert expand(text, {}) == text


@given(st.text(max_size=20))
def test_any_value_of_a_variable_arrives_as_it_is(value: str) -> None:
    assert expand("<${A:-}>", {"A": value}) == f"<{value}>"


@pytest.mark.parametrize("text", ["${NOPE}", "${EMPTY}", "${}", "${1A}", "${A-b}", "${file:x}", "${A", "a ${"])
def test_what_cannot_be_replaced_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"\$\{"):
        expand(text, ENV)


def test_a_secret_passes_only_where_it_is_resolved_later() -> None:
    assert expand("a ${secret:k.1} ${A}", ENV, late_secrets=True) == "a ${secret:k.1} 1"
    with pytest.raises(ValueError, match="env, headers, url and args"):
        expand("${secret:k}", ENV)
    for bad in ("${secret:}", "${secret:../k}", "${secret:.k}", "${secret:a b}"):
        with pytest.raises(ValueError, match="does not name a secret"):
            expand(bad, ENV, late_secrets=True)


def test_a_suggestion_keeps_the_spelling_of_the_known_word() -> None:
    assert suggestion("mcpservers", ["mcpServers", "server"]) == "did you mean mcpServers?"
    assert suggestion("zzz", ["mcpServers"]) == ""
