"""What speaks, from the first bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpbridge.wire.sniff import ENOUGH, sniff

HELLO = bytes.fromhex("160301020001000 1fc0303".replace(" ", ""))
WHOLE = {
    HELLO: "tls",
    bytes.fromhex("16030100050100"): "tls",
    b"GET / HTTP/1.1\r\n": "http",
    b"POST /mcp HTTP/1.1\r\n": "http",
    b"\r\nDELETE /mcp HTTP/1.1\r\n": "http",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n": "http",
    b"MCPB\x00\x01\x00\x06\x00\x00\x00\x02{}": "mcpb",
    b"MCP\x00\x00\x01\x00\x06": "mcpb",
    b'{"jsonrpc":"2.0"}': "json",
    b"[]": "json",
    b' \r\n\t{"jsonrpc"': "json",
    b"\xef\xbb\xbf{": "json",
    b"\x16\x03\x01\x00\x05\x02": "unknown",
    b"\x16\x02\x01\x00\x05\x01": "unknown",
    b"\x16\x03\x05\x00\x05\x01": "unknown",
    b"get / HTTP/1.1\r\n": "unknown",
    b"GETX": "unknown",
    b"SSH-2.0-x\r\n": "unknown",
    b"MCPX": "unknown",
    b" MCPB": "unknown",
    b"\x00\x00": "unknown",
    b'"text"': "unknown",
    b" " * ENOUGH: "unknown",
}


@pytest.mark.parametrize(("first", "speech"), WHOLE.items())
def test_the_first_bytes_name_the_protocol(first, speech):
    assert sniff(first) == speech


@pytest.mark.parametrize(("first", "speech"), [item for item in WHOLE.items() if item[1] != "unknown"])
def test_fewer_bytes_ask_for_more_and_never_mislead(first, speech):
    verdicts = [sniff(first[:length]) for length in range(len(first) + 1)]
    known = [verdict for verdict in verdicts if verdict != "more"]
    assert set(known) == {speech}
    assert verdicts == ["more"] * (len(verdicts) - len(known)) + known


@given(st.binary(max_size=80), st.binary(max_size=80))
def test_a_verdict_never_changes_with_more_bytes(first, more):
    verdict = sniff(first)
    if verdict != "more":
        assert sniff(first + more) == verdict
    else:
        assert len(first) < ENOUGH
