"""Messages from bytes: what is accepted, what is refused and under which id, and that nothing is lost on the way."""

import contextlib
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import Raw

from mcpbridge.errors import BridgeError
from mcpbridge.wire.envelope import MAX_BATCH, items, members, parse, text
from mcpbridge.wire.framing import Overlong
from mcpbridge.wire.message import Notification, Request, Response

CALL = (
    b'{"jsonrpc":"2.0","id":7,"method":"tools/call",'
    b'"params":{"name":"x","arguments":{"a":[1,{"b":2}]},"_meta":{"progressToken":1}}}'
)


def refused(raw: bytes, *, client: bool = True) -> BridgeError:
    with pytest.raises(BridgeError) as caught:
        parse(raw, client=client)
    return caught.value


# What is accepted


@pytest.mark.parametrize("client", [True, False])
def test_a_request_is_read_at_three_levels_and_kept_as_it_came(client):
    request = parse(CALL, client=client)
    assert isinstance(request, Request)
    assert (request.id, request.method) == (7, "tools/call")
    assert request.params is not None and list(request.params) == ["name", "arguments", "_meta"]
    assert bytes(request.params["arguments"]) == b'{"a":[1,{"b":2}]}'
    assert {name: bytes(raw) for name, raw in request.meta.items()} == {"progressToken": b"1"}
    assert request.encode() is CALL


@pytest.mark.parametrize("client", [True, False])
def test_white_space_escaped_keys_and_unknown_members_survive(client):
    raw = (
        b' { "jsonrpc" : "2.0" ,\t"id":"a" , "method" : "m", "trace" : {"x": [1, 2]},\r\n'
        b'"params" : { "\\u043a\\u043b" : 1.00, "_meta" : { "k\\"" : "v" } } } '
    )
    request = parse(raw, client=client)
    assert isinstance(request, Request)
    assert request.encode() == raw
    assert {name: bytes(value) for name, value in (request.params or {}).items()} == {
        "кл": b"1.00",
        "_meta": b'{ "k\\"" : "v" }',
    }
    assert list(request.meta) == ['k"']
    assert {name: bytes(value) for name, value in request.extra.items()} == {"trace": b'{"x": [1, 2]}'}
    again = parse(request.with_id(2**70).encode(), client=client)
    assert isinstance(again, Request)
    assert (again.id, again.params, again.meta, again.extra) == (2**70, request.params, request.meta, request.extra)


def test_names_beyond_ascii_are_read_like_any_other():
    raw = '{"jsonrpc":"2.0","id":1,"method":"m","params":{"ключ":"я","_meta":{"é":1}}}'.encode()
    request = parse(raw, client=False)
    assert isinstance(request, Request)
    assert list(request.params or {}) == ["ключ", "_meta"] and list(request.meta) == ["é"]


@pytest.mark.parametrize("client", [True, False])
@pytest.mark.parametrize(
    "id", [0, 1, -1, 2**53 + 1, -(2**63), 2**64, 10**63, "", "7", "é", "a" * 255, "\U0001f600", 'with " and \\ and /']
)
def test_ids_survive_exactly_and_keep_their_type(id, client):
    for ascii_only in (True, False):
        raw = json.dumps({"jsonrpc": "2.0", "id": id, "method": "m"}, ensure_ascii=ascii_only).encode()
        request = parse(raw, client=client)
        assert isinstance(request, Request)
        assert request.id == id and type(request.id) is type(id)
        answer = parse(json.dumps({"jsonrpc": "2.0", "id": id, "result": {}}, ensure_ascii=ascii_only).encode(), client=client)
        assert isinstance(answer, Response) and answer.id == id and type(answer.id) is type(id)


@pytest.mark.parametrize("client", [True, False])
def test_a_message_without_id_is_a_notification(client):
    message = parse(b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":3}}', client=client)
    assert isinstance(message, Notification)
    assert bytes(message.param("requestId") or b"") == b"3"


def test_the_three_forms_of_an_answer():
    ok = parse(b'{"jsonrpc":"2.0","id":1,"result":{"a":1.0}}', client=False)
    failed = parse(b'{"result_":1,"jsonrpc":"2.0","id":"x","error":{"code":1,"message":"m"}}', client=False)
    lost = parse(b'{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"m"}}', client=False)
    assert isinstance(ok, Response) and bytes(ok.result or b"") == b'{"a":1.0}' and ok.error is None
    assert isinstance(failed, Response) and failed.id == "x" and failed.result is None and list(failed.extra) == ["result_"]
    assert isinstance(lost, Response) and lost.id is None and lost.error is not None
    without = parse(b'{"jsonrpc":"2.0","error":{"code":-32700,"message":"m"}}')
    assert isinstance(without, Response) and without.id is None


def test_params_in_an_answer_mean_nothing_and_stay():
    response = parse(b'{"jsonrpc":"2.0", "id":1,"result":2,"params":{"a":1}}')
    assert isinstance(response, Response)
    assert response.with_id(3).encode() == b'{"jsonrpc":"2.0","id":3,"result":2,"params":{"a":1}}'


def test_params_null_of_a_server_says_the_same_as_none():
    message = parse(b'{"jsonrpc":"2.0","method":"notifications/tools/list_changed","params":null}', client=False)
    assert isinstance(message, Notification) and message.params is None
    assert refused(b'{"jsonrpc":"2.0","id":1,"method":"m","params":null}').reason == "invalid_request"


def test_meta_null_is_no_meta():
    message = parse(b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"_meta":null}}')
    assert isinstance(message, Request) and message.meta == {}


@pytest.mark.parametrize("method", ["x", "a" * 255, "A-Z_0.9/x", "notifications/x"])
def test_methods_within_the_rules_are_accepted(method):
    message = parse(json.dumps({"jsonrpc": "2.0", "id": 1, "method": method}).encode())
    assert isinstance(message, Request) and message.method == method


def test_a_server_may_use_methods_that_clients_may_not():
    message = parse(b'{"jsonrpc":"2.0","method":"$/progress"}', client=False)
    assert isinstance(message, Notification) and message.method == "$/progress"


# What is refused

BROKEN = [
    b"",
    b"   ",
    b"nonsense",
    b"\xef\xbb\xbf" + CALL,
    CALL[:-1],
    CALL + b"x",
    CALL.replace(b"[1,", b"[NaN,"),
    CALL.replace(b"[1,", b"[-Infinity,"),
    CALL.replace(b"[1,", b"[01,"),
    CALL.replace(b"[1,", b"[1,,"),
    CALL.replace(b'"x"', b'"\xff"'),
    CALL.replace(b'"x"', b'"\xed\xa0\x80"'),
    CALL.replace(b'"x"', b'"a\nb"'),
    CALL.replace(b'"x"', b'"\\x41"'),
]


@pytest.mark.parametrize("raw", BROKEN)
@pytest.mark.parametrize("client", [True, False])
def test_what_is_no_json_is_a_parse_error(raw, client):
    assert refused(raw, client=client).reason == "parse_error"


@pytest.mark.parametrize(
    "raw",
    [
        CALL.replace(b"[1,", b"[" + b"9" * 65 + b","),
        CALL.replace(b"[1,", b"[-0." + b"9" * 70 + b","),
        CALL.replace(b'"x"', b'"\\ud800"'),
        CALL.replace(b'"x"', b'"\\udc00\\ud800"'),
        CALL.replace(b'"b":2', b'"b":2,"b":2'),
        CALL.replace(b'"b":2', b'"b":2,"\\u0062":3'),
    ],
)
def test_what_only_clients_may_not_send(raw):
    error = refused(raw)
    assert (error.reason, error.id) == ("parse_error", 7)
    assert isinstance(parse(raw, client=False), Request)


def test_long_strings_of_digits_are_no_numbers():
    assert isinstance(parse(CALL.replace(b'"x"', b'"' + b"9" * 500 + b'"')), Request)
    assert isinstance(parse(CALL.replace(b'"x"', b'"\\"' + b"9" * 500 + b'\\\\"')), Request)
    assert isinstance(parse(CALL.replace(b"[1,", b"[" + b"9" * 64 + b",")), Request)
    assert isinstance(parse(CALL.replace(b"[1,", b"[-0." + b"9" * 62 + b"e+1,")), Request)


@pytest.mark.requirement("limit.input.method", "limit.input.request-id")
@pytest.mark.parametrize(
    ("raw", "id"),
    [
        (b'{"id":7,"method":"m"}', 7),
        (b'{"jsonrpc":"1.0","id":7,"method":"m"}', 7),
        (b'{"jsonrpc":2.0,"id":7,"method":"m"}', 7),
        (b'{"jsonrpc":"2.0","id":7}', None),
        (b'{"jsonrpc":"2.0","id":7,"method":"m","result":1}', 7),
        (b'{"jsonrpc":"2.0","id":7,"result":1,"error":{}}', None),
        (b'{"jsonrpc":"2.0","id":7,"error":"text"}', None),
        (b'{"jsonrpc":"2.0","id":null,"method":"m"}', None),
        (b'{"jsonrpc":"2.0","id":true,"method":"m"}', None),
        (b'{"jsonrpc":"2.0","id":1.0,"method":"m"}', None),
        (b'{"jsonrpc":"2.0","id":1e2,"method":"m"}', None),
        (b'{"jsonrpc":"2.0","id":[1],"method":"m"}', None),
        (b'{"jsonrpc":"2.0","id":"' + b"a" * 256 + b'","method":"m"}', None),
        (b'{"jsonrpc":"2.0","id":"a\\u0000","method":"m"}', None),
        (b'{"jsonrpc":"2.0","id":"a\\u0085","method":"m"}', None),
        (b'{"jsonrpc":"2.0","id":null,"result":1}', None),
        (b'{"jsonrpc":"2.0","id":7,"method":""}', 7),
        (b'{"jsonrpc":"2.0","id":7,"method":"a b"}', 7),
        (b'{"jsonrpc":"2.0","id":7,"method":"$/x"}', 7),
        (b'{"jsonrpc":"2.0","id":7,"method":"a/../b"}', 7),
        (b'{"jsonrpc":"2.0","id":7,"method":"\\u00e9"}', 7),
        (b'{"jsonrpc":"2.0","id":7,"method":"' + b"a" * 256 + b'"}', 7),
        (b'{"jsonrpc":"2.0","id":7,"method":5}', 7),
        (b'{"jsonrpc":"2.0","id":7,"method":"m","params":[1]}', 7),
        (b'{"jsonrpc":"2.0","id":7,"method":"m","params":"x"}', 7),
        (b"7", None),
        (b'"x"', None),
        (b"null", None),
    ],
)
def test_what_is_json_but_no_message_is_an_invalid_request(raw, id):
    error = refused(raw)
    assert (error.reason, error.id, error.fault.code) == ("invalid_request", id, -32600)


def test_a_meta_that_is_no_object_is_a_matter_of_params():
    error = refused(b'{"jsonrpc":"2.0","id":7,"method":"m","params":{"_meta":5}}')
    assert (error.reason, error.id) == ("invalid_params", 7)


SMUGGLED = [
    CALL.replace(b'"method":', b'"method":"tools/list","method":'),
    CALL.replace(b'"name":"x"', b'"name":"x","name":"y"'),
    CALL.replace(b'"name":"x"', b'"name":"x","name":"x"'),
    CALL.replace(b'"name":"x"', b'"n\\u0061me":"y","name":"x"'),
    CALL.replace(b'"name":"x"', b'"name":"x", "name" : "y"'),
    CALL.replace(b'"_meta":', b'"_meta":{},"_meta":'),
    CALL.replace(b'"progressToken":1', b'"progressToken":12,"progressToken":1'),
    CALL.replace(b'"progressToken":1', b'"progressToken":1,"progress\\u0054oken":1'),
    CALL.replace(b'"id":7', b'"id":7,"id":8'),
    CALL.replace(b'"id":7', b'"id":77,"id":7'),
]


@pytest.mark.parametrize("raw", SMUGGLED)
@pytest.mark.parametrize("client", [True, False])
@pytest.mark.parametrize("spaces", [0, 20_000])
def test_duplicate_keys_at_a_level_that_is_read_are_refused_whoever_sends_them(raw, client, spaces):
    refused(raw.replace(b'"params":', b'"params":' + b" " * spaces), client=client)


@pytest.mark.parametrize("raw", SMUGGLED)
def test_duplicate_keys_in_a_client_message_too_large_for_the_complete_check_are_still_found_where_it_is_read(raw):
    padded = raw[:-2] + b',"pad":"' + b"x" * 1_100_000 + b'"}}'
    refused(padded)


def test_a_key_in_another_case_is_another_key():
    request = parse(CALL.replace(b'"name":"x"', b'"name":"x","Name":"y","NAME":"z"'))
    assert isinstance(request, Request)
    assert text(request.param("name")) == "x" and text(request.param("Name")) == "y"
    assert refused(b'{"jsonrpc":"2.0","id":7,"Method":"m"}').reason == "invalid_request"


def test_a_refusal_does_not_repeat_what_was_sent():
    error = refused(CALL.replace(b'"b":2', b'"secret\\" at line 1":2,"secret\\" at line 1":3'))
    assert "secret" not in str(error)


def test_refusals_are_never_wire_data():
    from mcpbridge.errors import to_wire

    assert "id" not in to_wire(refused(b'{"id":7,"method":"m"}'))["data"]


# Lone surrogates of servers


@pytest.mark.parametrize(
    "raw",
    [
        b'{"jsonrpc":"2.0","id":7,"result":{"t":"cut \\ud83d","u":"\\\\ud83d \\ud83d\\ude00"}}',
        b'{"result":{"t":"cut \\uD83D","u":"\\\\ud83d \\ud83d\\ude00"}, "jsonrpc":"2.0","id":7}',
    ],
)
def test_a_cut_emoji_of_a_server_passes_unchanged(raw):
    response = parse(raw, client=False)
    assert isinstance(response, Response) and response.id == 7
    assert response.encode() == raw
    inner = members(response.result)
    assert bytes(inner["u"]) == b'"\\\\ud83d \\ud83d\\ude00"'
    assert text(inner["t"]) is None and text(inner["u"]) == "\\ud83d \U0001f600"
    moved = response.with_id("n").encode()
    assert json.loads(moved) == {**json.loads(raw), "id": "n"}


def test_a_lone_surrogate_in_a_key_is_written_back_as_an_escape():
    raw = b'{"jsonrpc": "2.0", "method": "m", "params": {"\\ud800": 1, "a\\\\": "\\ud800", "_meta": {"\\udfff": 2}}}'
    message = parse(raw, client=False)
    assert isinstance(message, Notification)
    assert list(message.params or {}) == ["\ud800", "a\\", "_meta"] and list(message.meta) == ["\udfff"]
    again = message.with_meta(message.meta).encode()
    assert json.loads(again) == json.loads(raw)


def test_lone_surrogates_do_not_open_a_way_around_the_proof():
    refused(b'{"jsonrpc":"2.0","id":7,"result":"\\ud800","result":"\\ud801"}', client=False)
    refused(b'{"jsonrpc":"2.0","id":7,"result":"\\ud800","result":"\\ud800"}', client=False)
    refused(b'{"jsonrpc":"2.0","id":7,"result":"\\ud800","x":NaN}', client=False)


def test_array_elements_with_lone_surrogates_are_cut_out_exactly():
    found = items(b'[ "\\ud800" , 1, "1", {"a":"\\\\\\ud800"},[],"\\ud800"]')
    assert [bytes(item) for item in found] == [b'"\\ud800"', b"1", b'"1"', b'{"a":"\\\\\\ud800"}', b"[]", b'"\\ud800"']


@pytest.mark.parametrize(
    ("raw", "id"),
    [
        (b'{"jsonrpc":"2.0","id":7,"method":"m","params":{', 7),
        (b'{"id":"a","jsonrpc":"2.0","method":"m",', "a"),
        (b' { "method" : "m" , "id" : -3 , "params" : NaN}', -3),
        (b'{"method":"m","params":{"x":NaN},"jsonrpc":"2.0","id":9}', 9),
        (b'{"jsonrpc":"2.0","id":7,"result":{', None),
        (b'{"jsonrpc":"2.0","id":7,', None),
        (b'{"jsonrpc":"2.0","id":7,"id":8,"method":"m",', None),
        (b'{"jsonrpc":"2.0","id":7.5,"method":"m",', None),
        (b'{"x":NaN,"jsonrpc":"2.0","id":9}', None),
        (b'{"params":{"method":"m","jsonrpc":"2.0","id":9}', None),
    ],
)
def test_the_id_of_a_broken_request_is_recovered_where_it_is_certain(raw, id):
    assert refused(raw).id == id


@pytest.mark.parametrize(
    ("raw", "id"),
    [
        (b'{"jsonrpc":"2.0","id":7,"result":{"x":NaN}}', 7),
        (b'{"jsonrpc": "2.0", "id": 7, "error": {"code": NaN}}', 7),
        (b'{"result":{"x":NaN},"jsonrpc":"2.0","id":9}', 9),
        (b'{"jsonrpc":"2.0","id":7,"method":"sampling/createMessage","params":NaN}', None),
        (b'{"jsonrpc":"2.0","id":7,"result":1,"error":{}}', 7),
        (b'{"jsonrpc":"2.0","id":7,"method":"m","params":[1]}', None),
    ],
)
def test_a_broken_answer_of_a_server_names_the_call_it_fails(raw, id):
    assert refused(raw, client=False).id == id


@pytest.mark.requirement("limit.stdio-line")
def test_a_line_cut_at_the_limit_is_refused_with_its_id():
    line = Overlong(b'{"jsonrpc":"2.0","id":7,"method":"m","params":{"a":"xxxx' + "…".encode())
    error = refused(line)
    assert (error.reason, error.id, error.detail) == ("parse_error", 7, "message longer than allowed")


# Batches


def test_an_array_is_a_list_of_messages():
    batch = parse(
        b'[{"jsonrpc":"2.0","id":1,"method":"a"}, {"jsonrpc":"2.0","method":"b"}, {"jsonrpc":"2.0","id":2,"result":{}} ]'
    )
    assert isinstance(batch, list)
    assert [type(message) for message in batch] == [Request, Notification, Response]
    assert batch[0].encode() == b'{"jsonrpc":"2.0","id":1,"method":"a"}'


@pytest.mark.parametrize("raw", [b"[]", b"[[]]", b"[1]", b'[{"jsonrpc":"2.0","id":1,"method":"a"},[]]', b"[{}]", b"[null]"])
@pytest.mark.parametrize("client", [True, False])
def test_an_array_of_anything_else_is_refused(raw, client):
    assert refused(raw, client=client).reason == "invalid_request"


def test_a_batch_has_a_limit():
    one = b'{"jsonrpc":"2.0","id":1,"method":"a"}'
    batch = parse(b"[" + b",".join([one] * MAX_BATCH) + b"]")
    assert isinstance(batch, list) and len(batch) == 50
    assert refused(b"[" + b",".join([one] * (MAX_BATCH + 1)) + b"]").reason == "invalid_request"


# members, items, text


def test_members_gives_the_exact_bytes_of_one_level():
    raw = Raw(b'{"a": 1.00 ,"b":[ 1 ],"c":{}}')
    assert {name: bytes(value) for name, value in members(raw).items()} == {"a": b"1.00", "b": b"[ 1 ]", "c": b"{}"}
    assert members(None) == {} == members(b"{}") == members(b" { } ")


@pytest.mark.parametrize(
    "raw", [b"[]", b"1", b'"{}"', b"null", b'{"a":1,"a":1}', b'{"a":12,"a":1}', b'{"a" : 1, "\\u0061" : 2}']
)
def test_members_refuses_with_the_callers_reason(raw):
    with pytest.raises(BridgeError) as caught:
        members(raw, "bad_answer")
    assert caught.value.reason == "bad_answer"


def test_a_level_has_a_limit_of_members():
    level = b"{" + b",".join(b'"%d":0' % number for number in range(10_001)) + b"}"
    with pytest.raises(BridgeError):
        members(level)


def test_items_are_the_exact_elements():
    assert [bytes(item) for item in items(Raw(b'[1.0, {"a": 1},"x",[]]'))] == [b"1.0", b'{"a": 1}', b'"x"', b"[]"]
    assert items(None) == [] == items(b"[]")
    with pytest.raises(BridgeError):
        items(b"{}")


def test_text_is_a_string_or_nothing():
    assert text(Raw(b'"a\\n\\u00e9"')) == "a\né"
    assert [text(raw) for raw in (None, b"1", b"null", b"{}", b'["a"]', b'"\\ud800"')] == [None] * 6


# Properties


def pairs_of(value):
    """JSON objects as lists of pairs, so that duplicates stay visible; scalars as their text."""
    return json.loads(value, object_pairs_hook=lambda pairs: ("object", pairs), parse_int=str, parse_float=str)


def has_duplicates(value):
    if isinstance(value, tuple):
        names = [name for name, _ in value[1]]
        return len(set(names)) != len(names) or any(has_duplicates(inner) for _, inner in value[1])
    return isinstance(value, list) and any(has_duplicates(inner) for inner in value)


spaces = st.sampled_from(["", "", "", " ", "\t\n", "\r\n "])
keys = st.sampled_from(["a", "b", "_meta", "name", "é", "\\u0061", "\\u005fmeta", "n\\/x", "", '\\"', "\\\\", "\\ud83d\\ude00"])
scalars = st.sampled_from(
    ["0", "-1", "12", "1", "1.0", "1e5", "true", "null", '""', '"a"', '"\\""', '"{"', '"é"', '"\\\\"', '"a,\\"b\\":1"', '"]"']
)


@st.composite
def objects(draw, values):
    parts = []
    for _ in range(draw(st.integers(0, 4))):
        key, value = draw(keys), draw(values)
        parts.append(f'{draw(spaces)}"{key}"{draw(spaces)}:{draw(spaces)}{value}{draw(spaces)}')
    return "{" + (draw(spaces) if not parts else "") + ",".join(parts) + "}"


@st.composite
def arrays(draw, values):
    return "[" + ",".join(f"{draw(spaces)}{value}{draw(spaces)}" for value in draw(st.lists(values, max_size=3))) + "]"


values = st.recursive(scalars, lambda inner: st.one_of(objects(inner), arrays(inner)), max_leaves=8)


@given(objects(values))
@example('{"a":12,"a":1}')
@example('{"a":1,"a":12}')
def test_the_proof_of_a_level_agrees_with_a_parser_that_keeps_pairs(written):
    raw = written.encode()
    pairs = pairs_of(raw)[1]
    names = [name for name, _ in pairs]
    try:
        level = members(raw)
    except BridgeError:
        assert len(set(names)) != len(names)
        return
    assert list(level) == names
    assert [pairs_of(bytes(value)) for value in level.values()] == [value for _, value in pairs]


@given(objects(values), objects(values), st.booleans())
def test_the_verdict_on_whole_messages_agrees_with_a_parser_that_keeps_pairs(params, other, client):
    raw = f'{{"jsonrpc":"2.0","id":1,"method":"m","params":{params},"x":{other}}}'.encode()
    level = pairs_of(params)[1]
    meta = [value for name, value in level if name == "_meta"]
    is_meta_fit = not meta or meta == [None] or isinstance(meta[0], tuple)
    read = [level, meta[0][1] if meta and isinstance(meta[0], tuple) else []]
    if client:
        expected = not has_duplicates(pairs_of(raw)) and is_meta_fit
    else:
        expected = is_meta_fit and all(len({name for name, _ in pairs}) == len(pairs) for pairs in read)
    try:
        message = parse(raw, client=client)
    except BridgeError:
        assert not expected
        return
    assert expected
    assert isinstance(message, Request)
    assert message.encode() == raw
    patched = message.with_id("new").encode()
    assert pairs_of(patched) == ("object", [("jsonrpc", "2.0"), ("id", "new"), *pairs_of(raw)[1][2:]])


@given(st.integers(-(10**63), 10**63) | st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=255), st.booleans())
def test_any_id_within_the_rules_comes_back_exactly(id, ascii_only):
    request = parse(json.dumps({"jsonrpc": "2.0", "id": id, "method": "m"}, ensure_ascii=ascii_only).encode())
    assert isinstance(request, Request) and request.id == id and type(request.id) is type(id)
    assert parse(request.with_id(id).encode()) == Request(id, "m", None, {}, request.with_id(id).encode())


@given(st.binary(max_size=60), st.booleans())
@example(b'{"jsonrpc":"2.0","id":1,"method":"m"}\n', True)
def test_only_refusals_are_raised_whatever_comes(raw, client):
    with contextlib.suppress(BridgeError):
        parse(raw, client=client)
