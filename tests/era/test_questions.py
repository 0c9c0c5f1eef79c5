"""Questions and answers across the eras, by literals."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from mcpbridge.era.questions import (
    answer_for,
    capability_digest,
    check_answer,
    fits,
    input_request,
    lacking,
    legacy_capabilities,
    refused,
    url_elicitations,
)
from mcpbridge.errors import BridgeError
from mcpbridge.wire import message as m
from mcpbridge.wire.envelope import parse


def raw(value: object) -> Raw:
    return Raw(m.dumps(value))


def declared(value: dict[str, object]) -> dict[str, Raw]:
    return {name: raw(one) for name, one in value.items()}


def form(**params: object) -> m.Request:
    return m.request("q", "elicitation/create", params)


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ({}, {}),
        ({"elicitation": {}}, {"elicitation": {}}),
        ({"roots": {"listChanged": True}, "tasks": {}}, {"roots": {}}),
        ({"sampling": {"tools": {}, "x": [1]}, "extensions": {"a/b": {}}}, {"sampling": {"tools": {}, "x": [1]}}),
        ({"experimental": {"y": {}}}, {"experimental": {"y": {}}}),
    ],
)
def test_a_legacy_server_hears_what_was_declared_and_has_a_legacy_meaning(said: Any, kept: Any) -> None:
    assert m.loads(m.dumps(legacy_capabilities(declared(said)))) == kept


def test_the_digest_of_capabilities_does_not_depend_on_order_or_spaces() -> None:
    one = {"a": Raw(b'{"x":1,"y":2}'), "b": Raw(b"{}")}
    two = {"b": Raw(b"{ }"), "a": Raw(b'{"y": 2, "x": 1}')}
    assert capability_digest(one) == capability_digest(two) != capability_digest({"a": one["a"]})


@pytest.mark.parametrize(
    ("question", "capabilities", "needed"),
    [
        (form(), {"elicitation": {}}, None),
        (form(mode="form"), {"elicitation": {"form": {}}}, None),
        (form(mode="url"), {"elicitation": {"url": {}}}, None),
        (form(mode="url"), {}, {"elicitation": {"url": {}}}),
        (form(mode="url"), {"elicitation": {}}, {"elicitation": {"url": {}}}),
        (form(), {"elicitation": {"url": {}}}, {"elicitation": {"form": {}}}),
        (form(mode="voice"), {"elicitation": {}}, {"elicitation": {"voice": {}}}),
        (m.request(1, "roots/list"), {"roots": {}}, None),
        (m.request(1, "roots/list"), {"sampling": {}}, {"roots": {}}),
        (m.request(1, "sampling/createMessage", {"tools": []}), {"sampling": {"tools": {}}}, None),
        (m.request(1, "sampling/createMessage", {"toolChoice": {}}), {"sampling": {}}, {"sampling": {"tools": {}}}),
        (m.request(1, "sampling/createMessage", {}), {"sampling": {}}, None),
    ],
)
def test_what_a_question_needs_is_compared_with_what_was_declared(question: m.Request, capabilities: Any, needed: Any) -> None:
    assert lacking(question, declared(capabilities)) == needed


def test_a_question_keeps_its_bytes_but_for_what_belongs_to_the_session() -> None:
    question = parse(
        b'{"jsonrpc":"2.0","id":"s1","method":"elicitation/create","params":{"message":"\\u00e4","n":1.50,"task":{},'
        b'"elicitationId":"e","_meta":{"progressToken":1,"own":[1]}}}',
        client=False,
    )
    assert isinstance(question, m.Request)
    shown = bytes(input_request(question))
    assert shown == b'{"method":"elicitation/create","params":{"message":"\\u00e4","n":1.50,"_meta":{"own":[1]}}}'
    assert bytes(input_request(m.request(1, "roots/list"))) == b'{"method":"roots/list"}'


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("elicitation/create", {"action": "accept", "content": {}}),
        ("elicitation/create", {"action": "decline"}),
        ("elicitation/create", {"action": "cancel", "content": None}),
        ("roots/list", {"roots": []}),
        ("sampling/createMessage", {"role": "assistant", "model": "m", "content": []}),
    ],
)
def test_an_answer_of_the_right_kind_passes(method: str, answer: object) -> None:
    check_answer("k", method, raw(answer))


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("elicitation/create", []),
        ("elicitation/create", {}),
        ("elicitation/create", {"action": 1}),
        ("elicitation/create", {"action": "accept", "content": []}),
        ("roots/list", {"roots": {}}),
        ("roots/list", None),
        ("sampling/createMessage", {"role": "assistant", "content": []}),
        ("sampling/createMessage", {"role": 1, "model": "m", "content": []}),
        ("sampling/createMessage", {"role": "user", "model": "m"}),
    ],
)
def test_an_answer_of_another_kind_is_refused_by_its_name(method: str, answer: object) -> None:
    with pytest.raises(BridgeError, match=r"inputResponses\.k") as caught:
        check_answer("k", method, raw(answer))
    assert caught.value.reason == "invalid_params"


def test_one_sampled_block_is_unpacked_for_servers_that_know_no_lists() -> None:
    block = {"type": "text", "text": "x"}
    answer = raw({"role": "assistant", "model": "m", "content": [block]})
    assert m.loads(answer_for("sampling/createMessage", "2025-06-18", answer))["content"] == block
    assert answer_for("sampling/createMessage", "2025-11-25", answer) == answer
    several = raw({"role": "assistant", "model": "m", "content": [block, block]})
    assert answer_for("sampling/createMessage", "2025-06-18", several) == several


NAME = {"type": "object", "properties": {"name": {}, "age": {}}, "required": ["name"]}


@pytest.mark.parametrize(
    ("content", "is_fit"),
    [({"name": 1}, True), ({"name": 1, "age": 2}, True), ({"age": 2}, False), ({"name": 1, "x": 2}, False), ({}, False)],
)
def test_an_answer_fits_a_form_with_everything_required_and_nothing_else(content: object, is_fit: bool) -> None:
    answer = raw({"action": "accept", "content": content})
    assert fits(form(requestedSchema=NAME), answer) is is_fit
    assert not fits(form(requestedSchema=NAME, mode="url"), answer)
    assert not fits(form(requestedSchema={"type": "object", "properties": {"name": {}}}), answer)
    assert not fits(form(), answer)


def test_a_form_is_cancelled_and_the_rest_fails() -> None:
    assert m.loads(refused(None, "elicitation/create", None).result or b"") == {"action": "cancel"}
    assert m.loads(refused(None, "roots/list", None).error or b"")["code"] == -32601
    error = m.loads(refused(m.request(4, "roots/list"), "roots/list", BridgeError("timeout")).error or b"")
    assert error["data"]["reason"] == "timeout"


def test_only_a_refusal_with_32042_asks_for_pages() -> None:
    page = {"mode": "url", "elicitationId": "1", "url": "https://a/", "message": "go"}
    refusal = m.error(1, {"code": -32042, "message": "x", "data": {"elicitations": [page]}})
    pages = url_elicitations(refusal)
    assert pages is not None
    assert m.loads(pages[0])["params"] == {"mode": "url", "url": "https://a/", "message": "go"}
    assert url_elicitations(m.error(1, {"code": -32000, "message": "x"})) is None
    assert url_elicitations(m.result(1, {})) is None
    for data in ({}, {"elicitations": []}, {"elicitations": [1]}, {"elicitations": {}}, 1):
        with pytest.raises(BridgeError) as caught:
            url_elicitations(m.error(1, {"code": -32042, "message": "x", "data": data}))
        assert caught.value.reason == "bad_answer"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(["elicitation/create", "sampling/createMessage", "roots/list"]), JSON, JSON)
def test_whatever_is_asked_or_answered_the_only_error_is_ours(method: str, params: Any, answer: Any) -> None:
    question = m.request(1, method, {k: v for k, v in params.items() if k != "_meta"} if isinstance(params, dict) else None)
    lacking(question, declared({"elicitation": {}, "sampling": {}, "roots": {}}))
    fits(question, raw(answer))
    with suppress(BridgeError):
        check_answer("k", method, raw(answer))
