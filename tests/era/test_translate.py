"""One message from one era to the other and back: what is not named there keeps every field and its bytes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from mcpbridge.era.translate import (
    discover_result,
    initialize_result,
    to_legacy_request,
    to_legacy_response,
    to_modern_request,
    to_modern_response,
)
from mcpbridge.errors import BridgeError
from mcpbridge.wire import message as m
from mcpbridge.wire.envelope import parse

KEYS = st.text(max_size=8).filter(lambda key: key not in ("_meta", "task"))
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)
META = st.dictionaries(
    st.sampled_from(["progressToken", "traceparent", "com.example/x", "x"]), st.integers() | st.text(max_size=5)
)
PARAMS = st.dictionaries(KEYS, VALUES, max_size=4)
METHODS = st.sampled_from(["tools/call", "tools/list", "resources/read", "com.example/unknown", "prompts/get"])
OURS = {"resultType", "ttlMs", "cacheScope"}


def loads(message: m.Message) -> Any:
    return m.loads(message.encode())


@given(METHODS, PARAMS, META, st.sampled_from([None, "debug"]))
def test_a_legacy_request_comes_back_with_every_field(
    method: str, params: dict[str, Any], meta: dict[str, Any], level: str | None
) -> None:
    whole = params | ({"_meta": meta} if meta else {})
    request = m.request(7, method, whole)
    modern = to_modern_request(request, client_info=Raw(b'{"name":"c"}'), capabilities=Raw(b"{}"), log_level=level)
    reparsed = parse(modern.encode())
    assert isinstance(reparsed, m.Request)
    back = to_legacy_request(reparsed)
    assert m.loads(m.join(back.params or {})) == whole
    assert (back.id, back.method) == (7, method)


@given(METHODS, st.dictionaries(KEYS.filter(lambda key: key not in OURS), VALUES, max_size=4), META, st.booleans())
def test_a_legacy_result_comes_back_with_every_field(
    method: str, result: dict[str, Any], meta: dict[str, Any], has_info: bool
) -> None:
    whole = result | ({"_meta": meta} if meta else {})
    modern = to_modern_response(method, m.result(3, whole), Raw(b'{"name":"s","version":"1"}') if has_info else None)
    assert m.loads(modern.result or b"")["resultType"] == "complete"
    back = to_legacy_response(method, modern)
    assert loads(back) == {"jsonrpc": "2.0", "id": 3, "result": whole}


@given(st.integers() | st.sampled_from([-32002, -32042]), st.text(max_size=10), VALUES)
def test_errors_pass_but_for_the_codes_that_modern_servers_must_not_send(code: int, message: str, data: Any) -> None:
    error = {"code": code, "message": message, "data": data}
    found = loads(to_modern_response("resources/read", m.error(1, error), None))["error"]
    assert found == error | ({"code": {-32002: -32602, -32042: -32603}.get(code, code)})
    assert loads(to_legacy_response("tools/call", m.error(1, error)))["error"] == error


@pytest.mark.parametrize(
    ("method", "message", "code"),
    [
        ("vendor/x", "Invalid request parameters", -32601),
        ("vendor/x", "a is missing", -32602),
        ("tools/list", "Invalid request parameters", -32602),
    ],
)
def test_a_method_that_the_old_sdk_does_not_know_is_not_found(method: str, message: str, code: int) -> None:
    answer = m.error(1, {"code": -32602, "message": message, "data": ""})
    assert loads(to_modern_response(method, answer, None))["error"] == {"code": code, "message": message, "data": ""}


def test_what_a_legacy_server_calls_its_result_cannot_ask_for_another_round() -> None:
    answer = m.result(1, {"resultType": "input_required", "requestState": "x"})
    assert loads(to_modern_response("tools/call", answer, None))["result"]["resultType"] == "complete"


@pytest.mark.parametrize(("version", "is_kept"), [("2024-11-05", False), ("2025-03-26", False), ("2025-06-18", True)])
def test_the_context_of_a_completion_goes_to_servers_that_know_it(version: str, is_kept: bool) -> None:
    completion = m.request(1, "completion/complete", {"ref": {}, "context": {"arguments": {}}})
    assert ("context" in (to_legacy_request(completion, version).params or {})) is is_kept
    call = m.request(1, "tools/call", {"context": 1, "inputResponses": {}, "requestState": "x"})
    assert set(to_legacy_request(call, version).params or {}) == {"context"}


def test_a_servers_own_values_are_not_overwritten() -> None:
    said = {
        "tools": [],
        "resultType": "complete",
        "ttlMs": 5,
        "cacheScope": "public",
        "_meta": {"io.modelcontextprotocol/serverInfo": 1},
    }
    found = to_modern_response("tools/list", m.result(1, said), Raw(b'{"name":"other"}'))
    assert m.loads(found.result or b"") == said


@pytest.mark.parametrize("kind", ["input_required", "task", "com.example/later"])
def test_a_result_that_has_no_legacy_form_is_an_error_and_never_passed_as_a_result(kind: str) -> None:
    with pytest.raises(BridgeError) as caught:
        to_legacy_response("tools/call", m.result(1, {"resultType": kind}))
    assert caught.value.reason == "unsupported_across_eras"


def test_numbers_that_no_double_holds_survive_both_ways() -> None:
    raw = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"n":12345678901234567890123,"f":1.10,"e":1E400}}'
    request = parse(raw)
    assert isinstance(request, m.Request)
    modern = to_modern_request(request, client_info=Raw(b"{}"), capabilities=Raw(b"{}"), log_level=None)
    assert b'"n":12345678901234567890123,"f":1.10,"e":1E400' in to_legacy_request(modern).encode()


def test_what_servers_say_of_themselves_is_told_in_the_other_era() -> None:
    hello = {
        "protocolVersion": "2025-11-25",
        "capabilities": {"tools": {"listChanged": True}, "tasks": {}, "experimental": {"x": {}}},
        "serverInfo": {"name": "s", "version": "2"},
        "instructions": "be kind",
    }
    discovered = discover_result(m.result(0, hello))
    assert m.loads(m.dumps(discovered["capabilities"])) == {"tools": {"listChanged": True}, "experimental": {"x": {}}}
    back = m.loads(m.dumps(initialize_result(m.result(0, discovered), "2025-06-18", "name")))
    assert back["protocolVersion"] == "2025-06-18"
    assert back["serverInfo"] == hello["serverInfo"]
    assert back["instructions"] == "be kind"


def test_a_version_that_no_legacy_client_may_speak_is_answered_with_the_newest() -> None:
    assert initialize_result(m.result(0, {}), "2099-01-01", "s")["protocolVersion"] == "2025-11-25"
