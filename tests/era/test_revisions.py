"""What each legacy version can hold, by literals; everything else keeps its bytes."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from mcpbridge.era.questions import legacy_question
from mcpbridge.era.revisions import fit_form, fit_messages, fit_result
from mcpbridge.era.translate import to_legacy_response, to_modern_response
from mcpbridge.errors import BridgeError
from mcpbridge.wire import message as m
from mcpbridge.wire.envelope import members
from mcpbridge.wire.spec import LEGACY

LINK = {"type": "resource_link", "uri": "a:b", "name": "b", "mimeType": "text/plain", "annotations": {"priority": 1}}
AUDIO = {"type": "audio", "data": "AAAA", "mimeType": "audio/wav"}
TEXT = {"type": "text", "text": "hi"}
LINK_TEXT = {"type": "text", "text": "b: a:b (text/plain)", "annotations": {"priority": 1}}
AUDIO_TEXT = {"type": "text", "text": "[audio/wav: this client's protocol version has no audio]"}


def fit(method: str, result: Any, version: str = "2025-11-25") -> Any:
    return m.loads(m.join(fit_result(method, members(m.dumps(result)), version)))


@pytest.mark.parametrize(
    ("version", "link", "audio"),
    [("2024-11-05", LINK_TEXT, AUDIO_TEXT), ("2025-03-26", LINK_TEXT, AUDIO), ("2025-06-18", LINK, AUDIO)],
)
def test_contents_that_a_version_does_not_have_become_text(version: str, link: Any, audio: Any) -> None:
    assert fit("tools/call", {"content": [TEXT, LINK, AUDIO]}, version)["content"] == [TEXT, link, audio]
    prompt = {"messages": [{"role": "user", "content": LINK}, {"role": "user", "content": AUDIO, "x": 1}]}
    assert fit("prompts/get", prompt, version)["messages"] == [
        {"role": "user", "content": link},
        {"role": "user", "content": audio, "x": 1},
    ]


def test_kinds_of_content_that_no_version_has_pass() -> None:
    later = {"type": "com.example/later", "n": 1}
    assert fit("tools/call", {"content": [later]}, "2024-11-05") == {"content": [later]}


def test_a_link_without_a_name_is_told_by_its_uri() -> None:
    found = fit("tools/call", {"content": [{"type": "resource_link", "uri": "a:b"}, {"type": "audio"}]}, "2024-11-05")
    assert [block["text"] for block in found["content"]] == ["a:b", "[audio: this client's protocol version has no audio]"]


@pytest.mark.parametrize(
    ("schema", "kept"),
    [
        ({"type": "object", "properties": {}}, True),
        ({"type": "array"}, False),
        ({"oneOf": []}, False),
        ({"type": ["object", "null"]}, False),
        (True, False),
    ],
)
def test_an_output_schema_is_one_of_an_object_or_left_out(schema: object, kept: bool) -> None:
    tool = {"name": "t", "inputSchema": {"type": "object"}, "outputSchema": schema}
    assert ("outputSchema" in fit("tools/list", {"tools": [tool]})["tools"][0]) is kept


def test_an_input_schema_says_that_arguments_are_an_object() -> None:
    schemas: list[Any] = [{"anyOf": [1]}, True, {"type": ["object"]}]
    found = fit("tools/list", {"tools": [{"name": "t", "inputSchema": schema} for schema in schemas]})["tools"]
    assert [tool["inputSchema"] for tool in found] == [
        {"anyOf": [1], "type": "object"},
        {"type": "object"},
        {"type": "object"},
    ]


def test_tools_that_fit_keep_their_bytes() -> None:
    tools = b'[{"name":"t","inputSchema":{ "type":"object","$defs":{"a":{"$anchor":"x"}},"x":1.50}}, {"name":"u"}]'
    assert bytes(fit_result("tools/list", {"tools": Raw(tools)}, "2024-11-05")["tools"]) == tools


def test_structured_content_is_an_object_or_left_out_and_is_text_when_nothing_else_is_there() -> None:
    assert fit("tools/call", {"content": [TEXT], "structuredContent": {"a": 1}})["structuredContent"] == {"a": 1}
    assert fit("tools/call", {"content": [TEXT], "structuredContent": [1]}) == {"content": [TEXT]}
    for content in ({"content": []}, {}):
        found = fit("tools/call", {**content, "structuredContent": ["é"]})
        assert found == {"content": [{"type": "text", "text": '["é"]'}]}


@pytest.mark.parametrize(
    "said", [{"tools": 1}, {"tools": [1]}, {"tools": [{"outputSchema": {"type": 1}, "inputSchema": 1}, 2]}]
)
def test_a_list_that_is_none_is_an_error_of_the_server(said: object) -> None:
    with pytest.raises(BridgeError) as caught:
        fit("tools/list", said)
    assert caught.value.reason == "bad_answer"


def test_a_message_of_several_blocks_is_several_messages_for_older_clients() -> None:
    messages = Raw(m.dumps([{"role": "user", "content": [TEXT, AUDIO]}, {"role": "assistant", "content": TEXT}]))
    assert fit_messages(messages, "2025-11-25") is messages
    assert m.loads(fit_messages(messages, "2025-06-18")) == [
        {"role": "user", "content": TEXT},
        {"role": "user", "content": AUDIO},
        {"role": "assistant", "content": TEXT},
    ]
    assert m.loads(fit_messages(messages, "2024-11-05"))[1] == {"role": "user", "content": AUDIO_TEXT}


def test_choices_with_titles_are_told_as_the_older_version_does() -> None:
    field = {"type": "string", "title": "Colour", "oneOf": [{"const": "r", "title": "Red"}, {"const": "g"}]}
    form = Raw(m.dumps({"type": "object", "properties": {"c": field, "n": {"type": "number"}}}))
    assert fit_form(form, "2025-11-25") is form
    assert m.loads(fit_form(form, "2025-06-18"))["properties"] == {
        "c": {"type": "string", "title": "Colour", "enum": ["r", "g"], "enumNames": ["Red", "g"]},
        "n": {"type": "number"},
    }


def test_a_form_is_asked_in_the_words_of_the_clients_version() -> None:
    asked = Raw(
        m.dumps(
            {
                "method": "elicitation/create",
                "params": {"mode": "form", "message": "?", "requestedSchema": {}, "_meta": {"progressToken": 1, "own": 2}},
            }
        )
    )
    new, old = legacy_question(asked, "2025-11-25", "id"), legacy_question(asked, "2025-06-18", "id")
    assert m.loads(m.join(new.params or {})) == {"mode": "form", "message": "?", "requestedSchema": {}, "_meta": {"own": 2}}
    assert "mode" not in (old.params or {})
    assert "elicitationId" not in (new.params or {})


def test_a_resource_that_does_not_exist_has_the_code_of_the_other_era() -> None:
    missing = m.error(1, {"code": -32602, "message": "Resource not found", "data": {"uri": "a:b"}})
    told = to_legacy_response("resources/read", missing)
    assert m.loads(told.error or b"") == {"code": -32002, "message": "Resource not found", "data": {"uri": "a:b"}}
    assert m.loads(to_modern_response("resources/read", told, None).error or b"") == m.loads(missing.error or b"")
    for method, data in (("tools/call", {"uri": "a:b"}), ("resources/read", {"field": "uri"}), ("resources/read", "x")):
        bad = m.error(1, {"code": -32602, "message": "bad", "data": data})
        assert to_legacy_response(method, bad) is bad


NAMES = st.sampled_from(
    ["type", "content", "messages", "tools", "inputSchema", "outputSchema", "structuredContent", "properties", "oneOf", "const"]
) | st.text(max_size=3)
VALUES = st.none() | st.integers() | st.sampled_from(["audio", "resource_link", "object", "text", "\U0001f600"])
JSON: st.SearchStrategy[Any] = st.recursive(
    VALUES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3), max_leaves=12
)
METHODS = st.sampled_from(["tools/call", "tools/list", "prompts/get", "resources/read"])


@given(METHODS, st.dictionaries(NAMES, JSON, max_size=4), st.sampled_from(LEGACY))
def test_whatever_a_server_says_the_only_error_is_ours_and_what_fits_fits_again(method: str, said: Any, version: str) -> None:
    with suppress(BridgeError):
        fitted = fit_result(method, members(m.dumps(said)), version)
        assert fit_result(method, fitted, version) == fitted
    for ask in ("sampling/createMessage", "elicitation/create"):
        with suppress(BridgeError):
            legacy_question(Raw(m.dumps({"method": ask, "params": {**said, "requestedSchema": said}})), version, "id")
