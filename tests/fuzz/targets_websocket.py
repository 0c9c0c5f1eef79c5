"""Fuzz targets for WebSocket frames, against a decoder of our own that knows nothing but RFC 6455 section 5."""

from __future__ import annotations

import asyncio
import zlib

from tests.support.frames import BINARY, CLOSE, CONT, PING, PONG, TEXT, Frame, close, fragments
from tests.support.websocket_pipe import received

LIMIT = 4096
LOOP = asyncio.new_event_loop()


def client_frames(data: bytes) -> None:
    """What clients send."""
    _check(data, is_client=False)


def server_frames(data: bytes) -> None:
    """What servers send."""
    _check(data, is_client=True)


def _check(data: bytes, *, is_client: bool) -> None:
    """Two chunkings give the same messages, which are those the decoder finds before the first mistake."""
    step = 1 + zlib.crc32(data) % 23
    cuts = list(range(step, len(data), step))
    whole = LOOP.run_until_complete(received(data, [], is_client=is_client, pauses=False, limit=LIMIT))
    cut = LOOP.run_until_complete(received(data, cuts, is_client=is_client, pauses=True, limit=LIMIT))
    assert whole[0] == cut[0]
    assert whole[0] == decode(data, is_masked=not is_client)
    assert whole[2] is not None and type(whole[2]) is type(cut[2])


def decode(data: bytes, *, is_masked: bool) -> list[bytes]:
    messages: list[bytes] = []
    partial: bytes | None = None
    controls = 0
    while len(data) >= 2:
        fin, rsv, opcode, length, at = data[0] & 0x80, data[0] & 0x70, data[0] & 0x0F, data[1] & 0x7F, 2
        if bool(data[1] & 0x80) != is_masked or opcode not in (CONT, TEXT, BINARY, CLOSE, PING, PONG):
            break
        if length >= 126:
            at = 4 if length == 126 else 10
            if len(data) < at:
                break
            length = int.from_bytes(data[2:at])
        if length > LIMIT + 125 - len(partial or b""):
            break
        key = data[at : at + 4] if is_masked else b"\0\0\0\0"
        at += 4 if is_masked else 0
        if len(data) < at + length:
            break
        payload = bytes(byte ^ key[i % 4] for i, byte in enumerate(data[at : at + length]))
        data = data[at + length :]
        if rsv or (opcode >= CLOSE and (not fin or length > 125)):
            break
        if opcode in (PING, PONG):
            controls += 1
            if controls > 200:
                break
            continue
        if opcode in (CLOSE, BINARY) or (opcode == TEXT) is (partial is not None):
            break
        partial = (partial or b"") + payload
        if fin:
            if len(partial) > LIMIT or not _is_text(partial):
                break
            messages.append(partial)
            partial = None
        elif not _may_become_text(partial):
            break
    return messages


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _may_become_text(data: bytes) -> bool:
    """Whether something appended could make it UTF-8."""
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return error.reason == "unexpected end of data"
    return True


def _seeds(*, mask: bool) -> list[bytes]:
    text = '{"jsonrpc":"2.0","id":1,"method":"é\U0001f600"}'.encode()
    talks = [
        [Frame(TEXT, text), Frame(PING, b"there?"), close(1000, "bye")],
        [*fragments(text, 5, 12, 36), Frame(PONG), Frame(TEXT)],
        [Frame(TEXT, b"a" * 200), Frame(BINARY, b"b")],
        [Frame(TEXT, b"x" * 4096), Frame(TEXT, b"x" * 4097)],
    ]
    return [b"".join(frame.encode(mask=mask) for frame in talk) for talk in talks]


TARGETS = {"websocket_client_frames": client_frames, "websocket_server_frames": server_frames}
SEEDS = {"websocket_client_frames": _seeds(mask=True), "websocket_server_frames": _seeds(mask=False)}
