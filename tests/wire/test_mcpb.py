"""MCPB frames: golden bytes, any chunking, and what each fault is told."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpbridge.errors import BridgeError
from mcpbridge.wire import mcpb
from mcpbridge.wire.framing import Overlong
from mcpbridge.wire.mcpb import Frame, FrameReader

GOLDEN = Path(__file__).parents[1] / "data" / "mcpb.json"
ROWS = json.loads(GOLDEN.read_text(encoding="utf-8"))


def read(data: bytes, max_message: int = mcpb.MAX_PAYLOAD, kinds: frozenset[int] = mcpb.KINDS) -> list[Frame]:
    reader = FrameReader(max_message, kinds)
    reader.feed(data)
    return list(iter(reader.next, None))


def refusal(data: bytes, **options: object) -> BridgeError:
    with pytest.raises(BridgeError) as caught:
        read(data, **options)  # type: ignore[arg-type]
    return caught.value


@pytest.mark.parametrize("row", ROWS["frames"], ids=[row["what"] for row in ROWS["frames"]])
@pytest.mark.requirement("http.gateway.tcp")
def test_golden_frames_are_written_and_read_as_ever(row):
    data, payload = bytes.fromhex(row["bytes"]), row["payload"].encode()
    assert mcpb.encode(row["type"], payload) == data
    assert read(data) == [Frame(row["type"], payload)]


@pytest.mark.parametrize("row", ROWS["refused"], ids=[row["what"] for row in ROWS["refused"]])
def test_golden_faults_are_told_in_the_same_words(row):
    error = refusal(bytes.fromhex(row["bytes"]))
    assert (error.reason, error.fault.code) == ("protocol_mismatch", 1007)
    assert error.data == {"protocol": "tcp_binary", "expected": row["expected"], "got": row["got"]}


def test_what_both_sides_begin_with_is_frozen():
    frames = {row["what"]: bytes.fromhex(row["bytes"]) for row in ROWS["frames"]}
    assert frames["offer of version 1"] == mcpb.OFFER
    assert frames["agreement on version 1"] == mcpb.AGREED
    assert mcpb.authorize("Bearer abc") == frames["sign-in"]
    assert mcpb.refuse(mcpb.mismatch("magic 4D 43 50 42", "47 45 54 20")) == frames["protocol mismatch"]


frames = st.lists(st.tuples(st.sampled_from(sorted(mcpb.KINDS)), st.binary(max_size=125)).map(lambda pair: Frame(*pair)))


@given(frames, st.lists(st.integers(0, 600)), st.integers(1, 200))
def test_any_chunking_gives_the_same_frames(sent, cuts, max_message):
    data = b"".join(mcpb.encode(*frame) for frame in sent)
    whole = read(data, max_message)
    reader, found = FrameReader(max_message), []
    marks = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    for start, end in pairwise(marks):
        reader.feed(data[start:end])
        found += iter(reader.next, None)
    assert found == whole
    assert not reader.has_begun and reader.held == 0
    assert [frame.kind for frame in whole] == [frame.kind for frame in sent]
    for frame, (kind, payload) in zip(whole, sent, strict=True):
        if kind in mcpb.MESSAGES and len(payload) > max_message:
            assert isinstance(frame.payload, Overlong) and frame.payload == payload[:max_message] + "…".encode()
        else:
            assert frame.payload == payload


@given(st.binary(max_size=200), st.integers(1, 7))
def test_any_bytes_are_refused_or_framed_alike_in_any_chunks(data, step):
    def outcome(chunks):
        reader, found = FrameReader(64), []
        try:
            for chunk in chunks:
                reader.feed(chunk)
                found += iter(reader.next, None)
        except BridgeError as error:
            return found, error.reason
        return found, None

    whole = outcome([data])
    pieces = outcome([data[start : start + step] for start in range(0, len(data), step)])
    assert whole == pieces


def test_a_declared_length_takes_no_memory_before_its_bytes_come():
    reader = FrameReader()
    reader.feed(mcpb.encode(mcpb.REQUEST)[:8] + (10 * 1024 * 1024).to_bytes(4, "big") + b"{")
    assert reader.next() is None and reader.has_begun and reader.held == 13


def test_an_overlong_message_is_known_by_its_beginning_and_the_next_frame_is_read():
    message = b'{"jsonrpc":"2.0","id":7,"method":"x","params":{"a":"' + b"x" * 5000 + b'"}}'
    found = read(mcpb.encode(mcpb.REQUEST, message) + mcpb.encode(mcpb.HEALTH, b"a"), max_message=2000)
    assert isinstance(found[0].payload, Overlong) and found[0].payload.startswith(message[:1024])
    assert found[1] == Frame(mcpb.HEALTH, b"a")


def test_a_type_that_may_not_come_now_is_named():
    error = refusal(mcpb.encode(mcpb.REQUEST, b"{}"), kinds=frozenset((mcpb.HEALTH, mcpb.NEGOTIATE)))
    assert error.data == {"protocol": "tcp_binary", "expected": "type 4 health or 6 negotiate", "got": "type 1 request"}


def test_frames_before_a_fault_come_out_first():
    reader = FrameReader()
    reader.feed(mcpb.encode(mcpb.HEALTH, b"a") + b"GET / HTTP/1.1\r\n")
    assert reader.next() == Frame(mcpb.HEALTH, b"a")
    with pytest.raises(BridgeError, match="protocol mismatch"):
        reader.next()


@pytest.mark.parametrize(("kind", "reason"), [(mcpb.REQUEST, "request_too_large"), (mcpb.RESPONSE, "answer_too_large")])
def test_a_message_that_fits_no_frame_is_not_sent(kind, reason):
    with pytest.raises(BridgeError) as caught:
        mcpb.encode(kind, bytes(mcpb.MAX_PAYLOAD + 1))
    assert (caught.value.reason, caught.value.sent) == (reason, False)
    assert len(mcpb.encode(kind, bytes(mcpb.MAX_PAYLOAD))) == mcpb.MAX_PAYLOAD + 12


@pytest.mark.parametrize(
    "offer",
    [
        {"min_version": 1, "max_version": 1, "preferred_version": 1, "supported_versions": [1]},
        {"supported_versions": [3, 2, 1]},
        {"min_version": 1, "max_version": 9},
        {"min_version": 0, "max_version": 2, "preferred_version": 2, "supported_versions": [], "later": "member"},
    ],
)
def test_an_offer_with_our_version_in_it_is_agreed_to(offer):
    mcpb.agree(json.dumps(offer).encode())


@pytest.mark.parametrize(
    "payload",
    [
        b"", b"{}", b"[]", b"null", b"{", b"\xff", b'{"min_version":2,"max_version":9}', b'{"supported_versions":[2]}',
        b'{"supported_versions":["1"]}', b'{"min_version":true,"max_version":1}', b'{"min_version":1,"max_version":1e99}',
        b'{"min_version":1,"max_version":0}', b'{"min_version":1.5,"max_version":2}', b"[" * 10000,
    ],
)  # fmt: skip
def test_no_version_in_common_is_a_mismatch(payload):
    with pytest.raises(BridgeError) as caught:
        mcpb.agree(payload)
    assert caught.value.reason == "protocol_mismatch" and caught.value.data.keys() == {"protocol", "expected", "got"}


@pytest.mark.parametrize("payload", [b"", b"{}", b'{"agreed_version":2}', b'{"agreed_version":"1"}', b"1"])
def test_an_ack_of_another_version_is_a_mismatch(payload):
    with pytest.raises(BridgeError, match="protocol mismatch"):
        mcpb.check_ack(payload)


def test_a_control_frame_signs_in_or_says_something_else():
    assert mcpb.authorization(read(mcpb.authorize("Bearer é"))[0].payload) == "Bearer é"
    assert mcpb.authorization(b'{"later":1}') is None
    for payload in (b"", b"[]", b'{"authorization":1}', b"Bearer a"):
        with pytest.raises(BridgeError, match="protocol mismatch"):
            mcpb.authorization(payload)


def test_an_error_frame_says_on_the_other_side_what_was_raised():
    said = mcpb.refused(read(mcpb.refuse(mcpb.mismatch("version 1", "version 2")))[0].payload)
    assert (said.reason, said.detail, said.data) == (
        "protocol_mismatch",
        "expected version 1, got version 2",
        {"expected": "version 1", "got": "version 2"},
    )
    assert mcpb.refused(read(mcpb.refuse(BridgeError("unauthorized", "a valid bearer token is needed")))[0].payload).reason == (
        "unauthorized"
    )


@pytest.mark.parametrize(
    "payload", [b"no such version\n\x1b[31m", b"\xff\xfe", b"", b'{"message":1}', b'{"message":"a","data":{"reason":"x"}}']
)
def test_an_error_frame_in_other_words_is_a_mismatch_with_those_words(payload):
    said = mcpb.refused(payload)
    assert said.reason == "protocol_mismatch" and said.detail.startswith("the other side says: ")
    assert said.detail.isprintable()
