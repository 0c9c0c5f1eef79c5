"""The least of WebSocket: the upgrade and one text message each way, as detection needs it. Pure.

    GET /ws HTTP/1.1, Upgrade: websocket, Sec-WebSocket-Key  ->  101, Sec-WebSocket-Accept      RFC 6455 section 4
    81 FE <length> <mask> <payload>                          ->  81 <length> <payload>          section 5

Conversations are the ``websockets`` library's (``transports.websocket``); a probe needs no more than this, before it is known
whether there will be one.

Source: RFC 6455.
"""

from __future__ import annotations

import base64
import hashlib

from mcpbridge.wire.http1 import Headers, encode_fields, encode_request

SUBPROTOCOL = "mcp"
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_TEXT, _CLOSE, _PING, _PONG = 1, 8, 9, 10


def accept_of(key: str) -> str:
    """The Sec-WebSocket-Accept that answers this key."""
    return base64.b64encode(hashlib.sha1(key.encode() + _GUID, usedforsecurity=False).digest()).decode()


def upgrade(path: str, host: str, key: str, agent: str) -> bytes:
    """The request that opens a WebSocket. ``key``: 16 random bytes in base64."""
    fields = [
        ("upgrade", "websocket"),
        ("connection", "Upgrade"),
        ("sec-websocket-key", key),
        ("sec-websocket-version", "13"),
        ("sec-websocket-protocol", SUBPROTOCOL),
        ("user-agent", agent),
    ]
    return encode_request("GET", path, encode_fields([("host", host)]), fields, 0)


def is_accepted(headers: Headers, key: str) -> bool:
    """Whether a 101 with these headers is the answer to our upgrade and to no other."""
    return (
        headers.get("sec-websocket-accept") == accept_of(key)
        and (headers.get("upgrade") or "").lower() == "websocket"
        and headers.get("sec-websocket-protocol") in (None, SUBPROTOCOL)
        and "sec-websocket-extensions" not in headers
    )


def text_frame(payload: bytes, mask: bytes) -> bytes:
    """One text message of a client. ``mask``: 4 random bytes."""
    return _frame(_TEXT, payload, mask)


def close_frame(mask: bytes) -> bytes:
    """The polite end: code 1000."""
    return _frame(_CLOSE, b"\x03\xe8", mask)


def _frame(opcode: int, payload: bytes, mask: bytes) -> bytes:
    length = len(payload)
    if length < 126:
        head = bytes((0x80 | opcode, 0x80 | length))
    elif length < 65_536:
        head = bytes((0x80 | opcode, 0xFE)) + length.to_bytes(2, "big")
    else:
        head = bytes((0x80 | opcode, 0xFF)) + length.to_bytes(8, "big")
    mixed = bytes(byte ^ mask[at & 3] for at, byte in enumerate(payload))
    return head + mask + mixed


class TextReader:
    """The text messages of a server, from bytes in any pieces. ``ended`` once it closed or broke the protocol.

    A message or frame of more than ``limit`` bytes breaks it, too.
    """

    def __init__(self, limit: int) -> None:
        self.ended = False
        self._limit = limit
        self._buffer = bytearray()
        self._parts = bytearray()
        self._is_open = False  # a fragmented message is under way

    def feed(self, data: bytes) -> list[bytes]:
        """The messages these bytes complete."""
        self._buffer += data
        messages: list[bytes] = []
        while not self.ended and (frame := self._next()) is not None:
            final, opcode, payload = frame
            if opcode == _CLOSE or opcode not in (0, _TEXT, _PING, _PONG) or (opcode == 0) != self._is_open & (opcode < _CLOSE):
                self.ended = True
            elif opcode in (0, _TEXT):
                self._parts += payload
                self._is_open = not final
                if len(self._parts) > self._limit:
                    self.ended = True
                elif final:
                    messages.append(bytes(self._parts))
                    self._parts.clear()
        return messages

    def _next(self) -> tuple[bool, int, bytes] | None:
        """The next whole frame: (final, opcode, payload)."""
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        length, at = buffer[1] & 0x7F, 2
        if buffer[0] & 0x70 or buffer[1] & 0x80:  # reserved bits without an extension, or a server that masks
            self.ended = True
            return None
        if length >= 126:
            size = 2 if length == 126 else 8
            if len(buffer) < 2 + size:
                return None
            length, at = int.from_bytes(buffer[2 : 2 + size], "big"), 2 + size
        if length > self._limit:
            self.ended = True
            return None
        if len(buffer) < at + length:
            return None
        frame = bool(buffer[0] & 0x80), buffer[0] & 0x0F, bytes(buffer[at : at + length])
        del buffer[: at + length]
        return frame
