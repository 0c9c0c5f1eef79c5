"""Messages keep the bytes they came in; a patch changes what it names and nothing else."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from mcpbridge.wire import message as m
from mcpbridge.wire.envelope import parse
from mcpbridge.wire.message import Notification, Request, Response


def read(raw: bytes) -> Request:
    request = parse(raw)
    assert isinstance(request, Request)
    return request


PARAMS = b'"params":{"b": 1.00,"a":[ 1, 2],"_meta":{"x" :1}}'


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'{"jsonrpc":"2.0","id":7,"method":"m",' + PARAMS + b"}", b'{"jsonrpc":"2.0","id":"n",'),
        (b'{"method":"m",' + PARAMS + b',"jsonrpc":"2.0","id":7}', b',"id":"n"}'),
    ],
)
def test_a_new_id_leaves_every_other_byte_where_it_was(before, after):
    assert read(before).with_id("n").encode() == before.replace(b'"id":7', b'"id":"n"')
    assert after in read(before).with_id("n").encode()
    assert read(before).with_id("n").with_id(7).encode() == before


@pytest.mark.parametrize(
    "before",
    [
        b'{"jsonrpc":"2.0","id":7,"method":"m","params":{"a":{"jsonrpc":"2.0","id":7},"b":{"x":1,"id":7}}}',
        b'{"jsonrpc":"2.0","method":"m","id":7,"params":{"id":7}}',
        b'{"jsonrpc": "2.0", "id": 7, "method": "m", "params": {"s": ",\\"id\\":7}"}}',
        b'{"jsonrpc":"2.0","id":"7","method":"m","params":{"id":7},"x":{"a":1,"id":"7"}}',
        b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"n":12,"id":1},"y":[{"jsonrpc":"2.0","id":1}]}',
    ],
)
def test_a_new_id_is_never_put_anywhere_else(before):
    patched = json.loads(read(before).with_id(99).encode())
    assert patched == {**json.loads(before), "id": 99}


def test_an_id_that_begins_like_another_is_not_mistaken_for_it():
    request = Request(1, "m", None, {}, b'{"jsonrpc":"2.0","id":12,"method":"m"}')
    assert json.loads(request.with_id(3).encode()) == {"jsonrpc": "2.0", "id": 3, "method": "m"}


def test_responses_get_their_id_the_same_way():
    raw = b'{"jsonrpc":"2.0","id":3,"result":{"a" : 1.0}}'
    response = parse(raw, client=False)
    assert isinstance(response, Response)
    assert response.with_id("c").encode() == b'{"jsonrpc":"2.0","id":"c","result":{"a" : 1.0}}'
    assert response.with_id(None).encode() == b'{"jsonrpc":"2.0","id":null,"result":{"a" : 1.0}}'
    assert response.with_result(b"{}").encode() == b'{"jsonrpc":"2.0","id":3,"result":{}}'


def test_new_params_bring_their_own_meta_or_keep_the_known_one():
    request = read(b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"name":"a","_meta":{"k":1}}}')
    params = dict(request.params or {})
    renamed = request.with_params({**params, "name": Raw(b'"b"')})
    assert renamed.meta is request.meta
    assert renamed.encode() == b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"name":"b","_meta":{"k":1}}}'
    assert request.with_params({"_meta": Raw(b'{"k":2}')}).meta == {"k": Raw(b"2")}
    assert request.with_params({}).meta == {} == request.with_params(None).meta
    assert request.with_params(None).encode() == b'{"jsonrpc":"2.0","id":1,"method":"m"}'
    with pytest.raises(ValueError):
        request.with_params({"_meta": Raw(b"5")})


def test_new_meta_stands_in_the_params_and_goes_with_the_last_key():
    notification = Notification("m")
    tagged = notification.with_meta({"k": Raw(b"1.0")})
    assert tagged.encode() == b'{"jsonrpc":"2.0","method":"m","params":{"_meta":{"k":1.0}}}'
    assert tagged.with_meta({}).encode() == b'{"jsonrpc":"2.0","method":"m","params":{}}'


def test_messages_of_our_own_hold_plain_values_and_raw_ones():
    request = m.request(1, "m", {"a": 1, "r": Raw(b"1.0"), "_meta": {"k": Raw(b"[ ]")}})
    assert request.encode() == b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"a":1,"r":1.0,"_meta":{"k":[ ]}}}'
    assert request.meta == {"k": Raw(b"[ ]")}
    assert m.notification("n").encode() == b'{"jsonrpc":"2.0","method":"n"}'
    assert m.result("x", {"a": Raw(b"1.0")}).encode() == b'{"jsonrpc":"2.0","id":"x","result":{"a":1.0}}'
    assert (
        m.error(None, {"code": 1, "message": "m"}).encode() == b'{"jsonrpc":"2.0","id":null,"error":{"code":1,"message":"m"}}'
    )
    assert m.request(1, "m", {"_meta": Raw(b'{"k":1}')}).meta == {"k": Raw(b"1")}


def test_text_without_utf8_is_written_with_escapes():
    assert m.dumps({"a": "\ud83d", "b": Raw(b"[1]")}) == b'{"a":"\\ud83d","b":[1]}'
    assert m.join({"\udc80": Raw(b"1.0")}) == b'{"\\udc80":1.0}'
    assert m.error(1, {"code": 1, "message": "no such file: \udcff"}).encode().isascii()


def test_what_is_no_json_value_is_still_a_mistake():
    with pytest.raises(TypeError):
        m.dumps({"a": "\ud83d", "b": object()})


names = st.text(st.characters(codec="utf-8"), max_size=8).filter(lambda name: name not in {"_meta", "id", "jsonrpc"})
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | names,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)


@given(
    st.dictionaries(names, plain, max_size=4),
    st.dictionaries(names, plain, max_size=2),
    st.sampled_from([(",", ":"), (", ", ": ")]),
)
def test_patching_and_reading_again_loses_nothing(params, meta, separators):
    body = {"jsonrpc": "2.0", "id": 1, "method": "m", "params": {**params, "_meta": meta}}
    request = read(json.dumps(body, separators=separators).encode())
    patched = read(request.with_id(2).with_meta({**request.meta, "added": Raw(b"true")}).encode())
    assert json.loads(patched.encode()) == {**body, "id": 2, "params": {**params, "_meta": {**meta, "added": True}}}
    back = patched.with_meta(request.meta).with_params(request.params).with_id(1)
    assert read(back.encode()) == Request(1, "m", request.params, request.meta, back.raw)
