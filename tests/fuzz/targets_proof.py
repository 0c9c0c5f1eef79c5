"""Fuzz targets for the grammar of proofs: no bytes surprise it, and a proof never comes from an echo."""

from __future__ import annotations

from mcpbridge.wire.proof import DISCOVER_ID, INITIALIZE_ID, HttpReply, judge, judge_events, judge_post, question
from mcpbridge.wire.websocket import TextReader

HELLO = b'{"jsonrpc":"2.0","id":%d,"result":{"supportedVersions":["2026-07-28"],"capabilities":{}}}' % DISCOVER_ID
OLD = (
    b'{"jsonrpc":"2.0","id":%d,"result":{"protocolVersion":"2025-06-18","capabilities":{},"serverInfo":{"name":"x"}}}'
    % INITIALIZE_ID
)
ERROR = b'{"jsonrpc":"2.0","id":%d,"error":{"code":-32022,"message":"x","data":{"supported":["2026-07-28"]}}}' % DISCOVER_ID


def proofs(data: bytes) -> None:
    """A message is judged or not; a proof needs our id and names what MCP names."""
    for asked in ("server/discover", "initialize"):
        found = judge(data, asked)
        if found is not None and found.era is not None:
            assert b'"result"' in data or b'"error"' in data or b"\\u" in data
            assert found.said.isascii() and len(found.said) < 200


def http_proofs(data: bytes) -> None:
    """The same finding in any pieces; nothing of the server's words in it."""
    for asked in ("server/discover", "initialize"):
        whole, pieces = _read(data, asked, len(data) + 1), _read(data, asked, 7)
        assert (whole is None) == (pieces is None)
        if whole is not None and pieces is not None:
            assert whole.era == pieces.era or "event" in whole.said + pieces.said
            assert whole.said.isascii() and len(whole.said) < 200


def _read(data: bytes, asked, step: int):
    reply = HttpReply()
    for at in range(0, len(data), step):
        reply.feed(data[at : at + step])
        if (found := judge_post(reply, asked)) is not None:
            return found
    reply.feed(b"")
    judge_events(reply, "http://a:1/sse")
    return judge_post(reply, asked)


def text_frames(data: bytes) -> None:
    """Frames in any pieces are the same messages."""
    whole, pieces = TextReader(500), TextReader(500)
    expected = whole.feed(data)
    assert [m for at in range(0, len(data), 3) for m in pieces.feed(data[at : at + 3])] == expected
    assert whole.ended == pieces.ended and all(len(message) <= 500 for message in expected)


TARGETS = {"proof": proofs, "http-proof": http_proofs, "ws-probe": text_frames}
SEEDS = {
    "proof": [HELLO, OLD, ERROR, question("server/discover"), question("initialize")],
    "http-proof": [
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(HELLO) + HELLO,
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n: c\n\nevent: endpoint\ndata: /m\n\ndata: " + OLD + b"\n\n",
        b"HTTP/1.1 401 X\r\nwww-authenticate: Bearer\r\ncontent-length: 0\r\n\r\n",
        (
            b"HTTP/1.1 100 C\r\n\r\nHTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
            b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
        ),
        b"\x15\x03\x01\x00\x02\x02\x46",
    ],
    "ws-probe": [b"\x81\x05hello", b"\x01\x02he\x89\x01x\x80\x03llo", b"\x88\x02\x03\xe8", b"\x81\x7e\x01\x00" + b"x" * 256],
}
