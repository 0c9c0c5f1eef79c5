"""A tool denied in a file: one word more, every other byte the same."""

from __future__ import annotations

import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mcpbridge.config.deny import with_denied, without_denied
from mcpbridge.config.problems import ConfigError


def denied(text: str, tool: str = "write") -> str:
    return with_denied(text, "f.yaml", "s", tool)


BLOCK = """\
# mine
servers:
  - name: other
    command: x   # stays
  - name: s
    command: 'run'  # why

    env: {A: "1"}   # last

logging: {level: warn}
"""


def test_the_first_one_makes_a_line_and_the_next_ones_join_it() -> None:
    once = denied(BLOCK)
    assert once == BLOCK.replace('    env: {A: "1"}   # last\n', '    env: {A: "1"}   # last\n    tools: {deny: [write]}\n')
    twice = denied(once, "delete_*")
    assert twice == once.replace("[write]", '[write, "delete_*"]')
    assert denied(twice, "delete_*") == twice
    assert without_denied(without_denied(twice, "f", "s", "write"), "f", "s", "delete_*") == once.replace("[write]", "[]")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("- {name: s, url: x}", "- {name: s, url: x, tools: {deny: [write]}}"),
        ("- {name: s, tools: {}}", "- {name: s, tools: {deny: [write]}}"),
        ("- {name: s, tools: {deny: [ ] }, url: x}", "- {name: s, tools: {deny: [write ] }, url: x}"),
        ("- name: s\n  tools:\n    allow: [a]  # c", "- name: s\n  tools:\n    allow: [a]  # c\n    deny: [write]\n"),
        (
            "- name: s\n  tools:\n    deny:\n    - a\n    # c\n  url: x",
            "- name: s\n  tools:\n    deny:\n    - a\n    - write\n    # c\n  url: x",
        ),
        ("- name: s\n  cwd: |\n    a\n- name: t", "- name: s\n  cwd: |\n    a\n  tools: {deny: [write]}\n- name: t"),
    ],
    ids=["flow", "empty tools", "empty list", "block tools", "block list", "behind a block of text"],
)
def test_it_is_written_as_its_surroundings_are(before: str, after: str) -> None:
    assert denied(f"servers:\n{before}") == f"servers:\n{after}"


def test_json_stays_json_and_carriage_returns_stay() -> None:
    assert denied('{"servers": [{"name": "s"}]}') == '{"servers": [{"name": "s", "tools": {"deny": ["write"]}}]}'
    assert (
        denied("servers:\r\n- name: s\r\n  url: x\r\n") == "servers:\r\n- name: s\r\n  url: x\r\n  tools: {deny: [write]}\r\n"
    )


@pytest.mark.parametrize("head", ["direct_clients:\n  ", "direct:\n  ", "discovery: {providers: {static: {", ""])
def test_servers_are_found_under_each_of_their_keys(head: str) -> None:
    if head.startswith("discovery"):
        assert "deny" in denied(head + "servers: [{name: s}]}}}")
    else:
        assert "deny" in denied(f"{head}servers: [{{name: s}}]")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("servers: [{name: a}]", "no server is named 's'"),
        ("", "no server is named 's'"),
        ("servers: [{name: s}, {name: s, namespace: x}]", "2 servers are named 's'"),
        ("mcpServers: {s: {command: x}}", "stands in mcpServers"),
        ("servers:\n- name: s\n  tools:\n", "is not written as a mapping"),
        ("kind: ConfigMap\ndata:\n  config.yaml: |\n    servers: [{name: s}]", "ConfigMap"),
    ],
    ids=["other", "empty", "two", "mcpServers", "null", "ConfigMap"],
)
def test_what_cannot_be_written_is_refused_with_the_next_step(text: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as caught:
        denied(text)
    assert caught.value.problems[0].hint


def test_one_that_is_not_denied_cannot_be_shown_again() -> None:
    with pytest.raises(ConfigError, match="does not deny 'x'") as caught:
        without_denied("servers: [{name: s, tools: {deny: [a, b]}}]", "f", "s", "x")
    assert "a, b" in caught.value.problems[0].hint


def test_an_anchor_before_an_empty_list_stays() -> None:
    assert denied("servers: [{name: s, tools: {deny: &a [ ]}}]") == "servers: [{name: s, tools: {deny: &a [write ]}}]"


def test_lines_of_a_list_go_one_by_one() -> None:
    text = "servers:\n- name: s\n  tools:\n    deny:\n    - a # first\n    - b\n  url: x\n"
    assert without_denied(text, "f", "s", "a") == text.replace("    - a # first\n", "")
    assert without_denied(text, "f", "s", "b") == text.replace("    - b\n", "")


RULES = {"allow": st.lists(st.just("x"), max_size=2), "deny": st.lists(st.sampled_from(["p", "q-*"]), max_size=2)}
TREES = st.lists(
    st.fixed_dictionaries(
        {"name": st.sampled_from(["a", "b", "c"])},
        optional={
            "url": st.text("xyé: #'\"[]{}", max_size=6),
            "args": st.lists(st.text("xy -", max_size=4), max_size=3),
            "tools": st.fixed_dictionaries({}, optional=RULES),
        },
    ),
    max_size=3,
)


@given(TREES, TREES, st.sampled_from([True, False, None]), st.sampled_from(["p", "a b", "yes", "1", "é*", "'\""]))
def test_the_result_means_the_same_and_that_tool_denied(before, after, flow, tool) -> None:  # type: ignore[no-untyped-def]
    document = {"servers": [*before, {**(before[0] if before else {}), "name": "s"}, *after], "z": 1}
    document = json.loads(json.dumps(document))  # without anchors
    text = yaml.safe_dump(document, default_flow_style=flow, allow_unicode=True, sort_keys=False, width=30)
    server = document["servers"][len(before)]
    server = {**server, "tools": dict(server.get("tools", {}))}
    known = list(server["tools"].get("deny", []))
    server["tools"]["deny"] = known if tool in known else [*known, tool]
    document["servers"][len(before)] = server
    changed = with_denied(text, "f", "s", tool)
    assert yaml.safe_load(changed) == document
    if tool not in known:
        undone = yaml.safe_load(without_denied(changed, "f", "s", tool))
        assert (undone["servers"][len(before)]["tools"]["deny"] or []) == known
