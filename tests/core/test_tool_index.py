"""Finding tools by words: literals, and what holds for any list."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from mcpbridge.core.tool_index import Index, words_of


def tool(name: str, description: str = "", **arguments: str) -> Raw:
    properties = {key: {"type": "string", "description": about} for key, about in arguments.items()}
    return Raw(json.dumps({"name": name, "description": description, "inputSchema": {"properties": properties}}).encode())


TOOLS = [
    tool("files__read_file", "Reads a text file from the disk and gives its content", path="Where the file is"),
    tool("files__write_file", "Writes a text file to the disk", path="Where the file is", content="The new text"),
    tool("mail__sendMessage", "Sends an e-mail to one or more people", to="Addresses", subject="What it is about"),
    tool("calendar__list_events", "Lists what is in the calendar between two days", start="First day", end="Last day"),
    tool("git__log", "Shows the history of a repository: commits, authors, dates"),
    tool("weather__forecast", "The weather of the next days at a place", city="Name of the city"),
]


def found(query: str, limit: int = 5) -> list[str]:
    return [one.name for one in Index(TOOLS).find(query, limit)]


def test_words_are_cut_at_case_and_signs_and_lose_a_plural() -> None:
    assert list(words_of("sendMessage list_events HTTP2 Änderungen class")) == [
        "send", "message", "list", "event", "http2", "änderungen", "class",
    ]  # fmt: skip


def test_what_fits_best_comes_first_by_name_description_or_argument() -> None:
    assert found("read a file")[0] == "files__read_file"
    assert found("send email message")[0] == "mail__sendMessage"
    assert found("what is in my calendar events")[0] == "calendar__list_events"
    assert found("commit history")[0] == "git__log"
    assert found("which city")[0] == "weather__forecast"
    assert found("files", 1) and len(found("file", 1)) == 1


def test_words_that_nothing_has_find_nothing() -> None:
    assert found("quantum") == found("") == found("!!!") == []


def test_what_is_no_tool_is_left_out_and_the_rest_found() -> None:
    index = Index([Raw(b"5"), Raw(b"{}"), Raw(b'{"name":7}'), Raw(b'{"name":"ok","inputSchema":[1],"description":3}')])
    assert [one.name for one in index.find("ok", 5)] == ["ok"]


@given(st.lists(st.tuples(st.text(max_size=8), st.text(max_size=20)), max_size=8), st.text(max_size=20), st.integers(1, 5))
def test_any_query_over_any_list_ends_within_its_limit(tools: list[Any], query: str, limit: int) -> None:
    index = Index([tool(name, description) for name, description in tools])
    hits = index.find(query, limit)
    assert len(hits) <= limit and all(hit in index.tools for hit in hits)
