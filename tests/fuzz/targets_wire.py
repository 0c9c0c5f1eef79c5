"""Fuzz targets for messages, lines, header values and the first bytes."""

from __future__ import annotations

import json
import zlib
from typing import Any

from mcpbridge.errors import BridgeError, to_wire
from mcpbridge.wire.envelope import items, members, parse, text
from mcpbridge.wire.framing import LineFramer, Overlong
from mcpbridge.wire.headers import decode_header, encode_header
from mcpbridge.wire.message import Message, Notification, Request, Response
from mcpbridge.wire.sniff import ENOUGH, sniff
from mcpbridge.wire.spec import check_modern, classify

REASONS = {"parse_error", "invalid_request", "invalid_params"}

CALL = (
    b'{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"x","arguments":{"a":[1,{"b":2.50}],"t":"\\u00e9"},'
    b'"_meta":{"progressToken":1,"io.modelcontextprotocol/protocolVersion":"2026-07-28",'
    b'"io.modelcontextprotocol/clientCapabilities":{}}}}'
)
MESSAGES = [
    CALL,
    json.dumps(json.loads(CALL), indent=1).encode(),
    b'{"method":"m","params":{"a":"\xc3\xa9"},"jsonrpc":"2.0","id":"a"}',
    b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":3}}',
    b'{"jsonrpc":"2.0","id":7,"result":{"content":[{"type":"text","text":"cut \\ud83d \\\\ud83d"}],"_meta":{"\\ud800":1}}}',
    b'{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"m","data":[1.0,null]},"extra":1}',
    b'[{"jsonrpc":"2.0","id":1,"method":"a"},{"jsonrpc":"2.0","method":"b"},{"jsonrpc":"2.0","id":1,"result":{}}]',
]


def parse_client(data: bytes) -> None:
    """A client's bytes: refused with a row of the table, or one message that means what a strict parser reads."""
    message = _parse(data, client=True)
    if message is None:
        return
    plain = _loads(data, object_pairs_hook=_without_duplicates)
    for one, value in zip(message, plain if isinstance(plain, list) else [plain], strict=True):
        _check(one, value, client=True)
    try:
        era = classify(message if isinstance(plain, list) else message[0], None)
        if era == "modern" and isinstance(message[0], Request):
            check_modern(message[0], {"mcp-method": "tools/call", "mcp-protocol-version": "2026-07-28"})
    except BridgeError as error:
        json.dumps(to_wire(error))


def parse_server(data: bytes) -> None:
    """A server's bytes: the same, but only the levels that are read are free of duplicates."""
    message = _parse(data, client=False)
    if message is None:
        return
    plain = _loads(data)
    for one, value in zip(message, plain if isinstance(plain, list) else [plain], strict=True):
        _check(one, value, client=False)


def frame_lines(data: bytes) -> None:
    """Lines in two chunkings are the same lines, whole or cut at the limit."""
    max_message = 1 + zlib.crc32(data) % 64
    whole = LineFramer(max_message)
    expected = whole.feed(data) + whole.end()
    pieces, step = LineFramer(max_message), 1 + zlib.crc32(data) % 7
    found = [line for start in range(0, len(data), step) for line in pieces.feed(data[start : start + step])] + pieces.end()
    assert found == expected
    assert [isinstance(line, Overlong) for line in found] == [isinstance(line, Overlong) for line in expected]
    for line in found:
        assert b"\n" not in line and line.strip()
        if isinstance(line, Overlong):
            assert _parse(line, client=True) is None
        else:
            assert len(line) <= max_message


def sniff_bytes(data: bytes) -> None:
    """A verdict stays, however many bytes follow, and comes within 64."""
    verdicts = [sniff(data[:length]) for length in range(min(len(data), ENOUGH + 4) + 1)]
    decided = [verdict for verdict in verdicts if verdict != "more"]
    assert len(set(decided)) <= 1
    assert verdicts == ["more"] * (len(verdicts) - len(decided)) + decided
    assert len(data) < ENOUGH or decided


def header_values(data: bytes) -> None:
    """Any text survives the way through a header; a header value is refused or means one text."""
    written = data.decode("latin-1")
    assert decode_header(encode_header(written)) == written
    try:
        carried = decode_header(written)
    except ValueError:
        return
    assert decode_header(encode_header(carried)) == carried


def _parse(data: bytes, *, client: bool) -> list[Message] | None:
    try:
        message = parse(data, client=client)
    except BridgeError as error:
        refusal = error
    else:
        return message if isinstance(message, list) else [message]
    assert refusal.reason in REASONS, refusal.reason
    assert refusal.id is None or type(refusal.id) in (int, str)
    return None


def _check(message: Message, plain: object, *, client: bool) -> None:
    """What was read is what a plain parser reads, and patched messages read back equal."""
    assert isinstance(plain, dict)
    assert plain["jsonrpc"] == "2.0"
    assert _loads(message.encode()) == plain
    if isinstance(message, Response):
        assert message.id == plain.get("id")
        kind, raw = ("result", message.result) if message.error is None else ("error", message.error)
        assert raw is not None and _loads(bytes(raw)) == plain[kind]
        _look_into(bytes(raw))
        patched: Message = message.with_id("new")
    elif isinstance(message, Request):
        assert type(message.id) is type(plain["id"]) and message.id == plain["id"]
        assert message.method == plain["method"]
        _check_params(message, plain)
        patched = message.with_id("new")
    else:
        assert "id" not in plain
        _check_params(message, plain)
        patched = message.with_params(message.params)
    again = parse(patched.encode(), client=client)
    assert not isinstance(again, list)
    expected = dict(plain) if isinstance(message, Notification) else {**plain, "id": "new"}
    if plain.get("params", ...) is None and "params" not in _loads(patched.encode()):
        del expected["params"]  # null and absent say the same
    assert _loads(again.encode()) == expected


def _check_params(message: Request | Notification, plain: dict[str, object]) -> None:
    params = plain.get("params")
    if params is None:
        assert message.params is None
        return
    assert isinstance(params, dict) and message.params is not None
    assert {name: _loads(bytes(raw)) for name, raw in message.params.items()} == params
    assert {name: _loads(bytes(raw)) for name, raw in message.meta.items()} == (params.get("_meta") or {})


def _look_into(raw: bytes) -> None:
    """The readers for deeper levels refuse or agree with a plain parser."""
    plain = _loads(raw)
    try:
        if isinstance(plain, dict):
            assert {name: _loads(bytes(value)) for name, value in members(raw).items()} == plain
        if isinstance(plain, list):
            assert [_loads(bytes(value)) for value in items(raw)] == plain
    except BridgeError:
        pass
    found = text(raw)
    assert found is None or found == plain


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    assert len(dict(pairs)) == len(pairs), "a duplicate key was let in"
    return dict(pairs)


def _loads(data: bytes, **options: Any) -> Any:
    """The plain parser's reading. Very long integers stay text: Python refuses to convert them."""
    return json.loads(data, parse_constant=_no_constant, parse_int=lambda n: int(n) if len(n) < 4000 else n, **options)


def _no_constant(name: str) -> object:
    raise AssertionError(f"{name} was let in")


TARGETS = {
    "parse-client": parse_client,
    "parse-server": parse_server,
    "framer": frame_lines,
    "sniff": sniff_bytes,
    "headers": header_values,
}
SEEDS = {
    "parse-client": MESSAGES,
    "parse-server": MESSAGES,
    "framer": [b"\n".join(MESSAGES), b"a\nb\r\n\n\r\n  \nc"],
    "sniff": [
        b"POST /mcp HTTP/1.1\r\n",
        b"\x16\x03\x01\x02\x00\x01",
        b"MCPB\x00\x01\x00\x06",
        b' \r\n{"jsonrpc"',
        b"\xef\xbb\xbf{",
    ],
    "headers": [b"echo", b"=?base64?w6ljaG8=?=", b" x ", "é".encode()],
}
