"""Any chunking and any fragmentation frames to the same messages, in their order, on both sides."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.support.frames import PING, PONG, Frame, fragments
from tests.support.websocket_pipe import received

texts = st.text(max_size=300).map(str.encode)
pieces = st.tuples(texts, st.lists(st.integers(0, 300), max_size=6), st.lists(st.binary(max_size=125), max_size=2))


@given(st.lists(pieces, max_size=6), st.lists(st.integers(0, 1 << 16), max_size=20), st.booleans(), st.booleans())
async def test_any_chunking_and_fragmentation_gives_the_same_messages(messages, cuts, is_client, pauses):
    wire = b""
    pings: list[bytes] = []
    for text, places, payloads in messages:
        parts = fragments(text, *sorted(place % (len(text) + 1) for place in places))
        for number, part in enumerate(parts):
            wire += part.encode(mask=not is_client)
            if number == 0:
                wire += b"".join(Frame(PING, payload).encode(mask=not is_client) for payload in payloads)
                pings += payloads
    got, written, end = await received(wire, cuts, is_client=is_client, pauses=pauses)
    assert got == [text for text, _, _ in messages]
    if not is_client:
        assert written == b"".join(Frame(PONG, payload).encode(mask=False) for payload in pings)
    assert isinstance(end, ConnectionError)


@given(st.binary(max_size=400), st.lists(st.integers(0, 400), max_size=10), st.booleans())
async def test_any_bytes_give_one_verdict_however_they_are_cut(wire, cuts, is_client):
    whole = await received(wire, [], is_client=is_client, pauses=False)
    cut = await received(wire, cuts, is_client=is_client, pauses=True)
    assert whole[0] == cut[0]
    assert type(whole[2]) is type(cut[2])
