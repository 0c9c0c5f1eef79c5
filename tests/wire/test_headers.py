"""MCP's header values and mirrored tool arguments."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpbridge.errors import BridgeError
from mcpbridge.wire.headers import Mirrored, check_param_headers, decode_header, encode_header, mirrored, param_headers


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("echo", "echo"),
        ("", ""),
        ("a b,c", "a b,c"),
        ("file:///a%20b", "file:///a%20b"),
        ("écho", "=?base64?w6ljaG8=?="),
        (" x", "=?base64?IHg=?="),
        ("x\t", "=?base64?eAk=?="),
        ("a\r\nb: c", "=?base64?YQ0KYjogYw==?="),
        ("=?base64?YQ==?=", "=?base64?PT9iYXNlNjQ/WVE9PT89?="),
        ("=?BASE64?YQ==?=", "=?BASE64?YQ==?="),
    ],
)
def test_a_text_and_its_header_value(text, value):
    assert encode_header(text) == value
    assert decode_header(value) == text


@pytest.mark.parametrize(
    "value",
    ["é", "a\x00", "a\tb", "=?base64?YQ?=", "=?base64?YR==?=", "=?base64?/w==?=", "=?base64?Y Q==?=", "=?base64?_w==?="],
)
def test_a_value_that_is_no_encoding_is_refused(value):
    with pytest.raises(ValueError):
        decode_header(value)


@given(st.text(st.characters(codec="utf-8")))
def test_every_text_survives_as_printable_ascii(text):
    value = encode_header(text)
    assert value.isascii() and (value.isprintable() or not value) and value == value.strip()
    assert decode_header(value) == text


SCHEMA = {
    "type": "object",
    "properties": {
        "region": {"type": "string", "x-mcp-header": "Region"},
        "limits": {"type": "object", "properties": {"n": {"type": "integer", "x-mcp-header": "N"}}},
        "dry": {"type": "boolean", "x-mcp-header": "Dry-Run", "default": {"x-mcp-header": "data, no annotation"}},
        "x-mcp-header": {"type": "string"},
        "plain": {"type": "array", "items": {"type": "string"}},
    },
    "$defs": {"x-mcp-header": {"type": "string"}},
}
WANTED = (
    Mirrored(("region",), "region", "string"),
    Mirrored(("limits", "n"), "n", "integer"),
    Mirrored(("dry",), "dry-run", "boolean"),
)


def test_annotations_are_found_along_properties():
    assert mirrored(SCHEMA) == WANTED
    assert mirrored({}) == () == mirrored(True)


@pytest.mark.parametrize(
    "schema",
    [
        {"x-mcp-header": "A"},
        {"properties": {"a": {"type": "number", "x-mcp-header": "A"}}},
        {"properties": {"a": {"type": ["string", "null"], "x-mcp-header": "A"}}},
        {"properties": {"a": {"x-mcp-header": "A"}}},
        {"properties": {"a": {"type": "string", "x-mcp-header": ""}}},
        {"properties": {"a": {"type": "string", "x-mcp-header": "a b"}}},
        {"properties": {"a": {"type": "string", "x-mcp-header": 1}}},
        {"properties": {"a": {"type": "string", "x-mcp-header": "A"}, "b": {"type": "string", "x-mcp-header": "a"}}},
        {"properties": {"a": {"items": {"type": "string", "x-mcp-header": "A"}}}},
        {"anyOf": [{"properties": {"a": {"type": "string", "x-mcp-header": "A"}}}]},
        {"$defs": {"d": {"properties": {"a": {"type": "string", "x-mcp-header": "A"}}}}},
    ],
)
def test_an_annotation_out_of_place_spoils_the_schema(schema):
    with pytest.raises(ValueError):
        mirrored(schema)


def test_a_schema_without_end_is_refused():
    schema: dict = {}
    for _ in range(200):
        schema = {"properties": {"a": schema}}
    with pytest.raises(ValueError, match="too deep"):
        mirrored(schema)


def test_arguments_become_headers():
    assert param_headers({"region": "Köln", "limits": {"n": 42.0}, "dry": False}, WANTED) == [
        ("mcp-param-region", "=?base64?S8O2bG4=?="),
        ("mcp-param-n", "42"),
        ("mcp-param-dry-run", "false"),
    ]
    assert param_headers({"region": None, "limits": 3, "dry": []}, WANTED) == [] == param_headers(None, WANTED)
    assert param_headers({"limits": {"n": 2**60 + 1}}, WANTED) == [("mcp-param-n", str(2**60 + 1))]


@pytest.mark.parametrize("n", ["42", "42.0", "42.000", "042"])
def test_integers_are_compared_as_numbers(n):
    check_param_headers({"limits": {"n": 42}}, WANTED, {"mcp-param-n": n, "mcp-param-other": "x"})


@pytest.mark.parametrize(
    ("arguments", "headers"),
    [
        ({"region": "a"}, {}),
        ({}, {"mcp-param-region": "a"}),
        ({"region": "a"}, {"mcp-param-region": "b"}),
        ({"region": "a"}, {"mcp-param-region": "=?base64?!?="}),
        ({"region": "42"}, {"mcp-param-region": "42.0"}),
        ({"limits": {"n": 42}}, {"mcp-param-n": "4.2e1"}),
        ({"limits": {"n": 42}}, {"mcp-param-n": "42.5"}),
        ({"dry": True}, {"mcp-param-dry-run": "1"}),
    ],
)
def test_headers_that_do_not_say_what_the_body_says_are_refused(arguments, headers):
    with pytest.raises(BridgeError) as caught:
        check_param_headers(arguments, WANTED, headers)
    assert caught.value.reason == "header_mismatch"


@given(
    st.fixed_dictionaries(
        {}, optional={"region": st.text(), "dry": st.booleans(), "limits": st.fixed_dictionaries({"n": st.integers()})}
    )
)
def test_what_is_written_passes_the_check(arguments):
    try:
        headers = param_headers(arguments, WANTED)
    except UnicodeEncodeError:  # a lone surrogate has no UTF-8; parsed arguments never hold one
        return
    if all(len(value) <= 64 for _, value in headers):
        check_param_headers(arguments, WANTED, dict(headers))
