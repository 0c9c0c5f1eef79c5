"""MCPB version 1: MCP messages in length-prefixed frames over TCP or TLS. This text is the whole protocol. Pure codec.

    0               4       6       8              12
    +---------------+-------+-------+---------------+---------------- - -
    | 4D 43 50 42   | 00 01 | type  | length        | payload            all numbers big-endian, length <= 10 MiB
    +---------------+-------+-------+---------------+---------------- - -

    type            payload
    1 request       one JSON-RPC message (or batch, where the MCP version has them) on its way to the server, whatever it is
    2 response      likewise, on its way to the client: also notifications, and the server's own questions
    3 control       JSON object; to the server: {"authorization": "Bearer ..."}. Members and objects not known are ignored
    4 health        0 to 125 bytes of any kind; the server answers with the same bytes in a frame of type 4
    5 error         JSON object {"code", "message", "data": {"reason", ...}}, or a text; the sender closes behind it
    6 negotiate     {"min_version": 1, "max_version": 1, "preferred_version": 1, "supported_versions": [1]}
    7 ack           {"agreed_version": 1}

    client                                server
      6 negotiate  ------------------------>            within 5 s of the connection (TLS: of the handshake)
                   <------------------------  7 ack     the highest version both have; none: 5 error
      3 control    ------------------------>            where the server asks for sign-in: within 5 s, before any message;
                                                        nothing says "accepted", a refused token is a 5 error
      1 request    ------------------------>
                   <------------------------  2 response

Frames may follow each other without waiting, and they are read in order: a health frame behind the control frame is answered
once the token was accepted. A later control frame renews the token; each message is judged by the token that came last.
Requests run side by side, answers come in any order, cancelling is MCP's ``notifications/cancelled``. The payloads of types 3,
6 and 7 are at most 16 KiB. A begun frame goes on with at least 1 KiB a second.

A wrong magic, version, type, length or order gets a 5 error "protocol mismatch" with ``data.expected`` and ``data.got``, then
the connection ends and with it all that was in flight, as with any end but one: a client may shut down its sending side; it
gets the answers to what it asked, then the end. While it waits the server may send health frames that nobody answers, to learn
whether the client still reads (a TLS connection has no half-closed state: there an end is an end). The client asks after a
silent server by health frames of its own. There is no compression, no checksum and no reserved field; TLS has no ALPN name.

Source: architecture section 8; mcp-eras sections 1.1 (custom transports) and 9; contract http.gateway.tcp, error.tcp-mismatch.
"""

from __future__ import annotations

import struct
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from mcpbridge.errors import FAULTS, BridgeError, to_wire
from mcpbridge.wire.framing import HEAD, cut

MAGIC: Final = b"MCPB"
VERSION: Final = 1
REQUEST, RESPONSE, CONTROL, HEALTH, ERROR, NEGOTIATE, ACK = range(1, 8)
MESSAGES: Final = frozenset((REQUEST, RESPONSE))
KINDS: Final = frozenset(range(1, 8))
MAX_PAYLOAD: Final = 10 * 1024 * 1024
MAX_CONTROL: Final = 16 * 1024  # bytes of a payload that is no message
MAX_HEALTH: Final = 125

T = TypeVar("T")
_HEADER = struct.Struct(">4sHHI")
_NAMES = ("", "request", "response", "control", "health", "error", "negotiate", "ack")
_LIMITS = {CONTROL: MAX_CONTROL, HEALTH: MAX_HEALTH, ERROR: MAX_CONTROL, NEGOTIATE: MAX_CONTROL, ACK: MAX_CONTROL}


class Frame(NamedTuple):
    """One frame. The payload of a message longer than the reader's limit is ``Overlong``: its beginning."""

    kind: int
    payload: bytes


def encode(kind: int, payload: bytes = b"") -> bytes:
    """The bytes of one frame. Raises BridgeError("answer_too_large" | "request_too_large") above 10 MiB."""
    if len(payload) > MAX_PAYLOAD:
        reason = "request_too_large" if kind == REQUEST else "answer_too_large"
        raise BridgeError(reason, f"{len(payload)} bytes do not fit a frame of {MAX_PAYLOAD}", sent=False)
    return _HEADER.pack(MAGIC, VERSION, kind, len(payload)) + payload


class FrameReader:
    """Cuts a byte stream into frames: ``feed`` what came, then take ``next`` until it is None.

    ``kinds``: the types that may come now; may be changed between two calls of ``next``. A message of more than ``max_message``
    bytes comes out as ``Overlong`` and the rest of it is skipped. Holds at most one frame and one chunk, and only bytes that
    were really sent. A magic is refused at its first wrong byte; after a refusal nothing more can be read.
    """

    __slots__ = ("_buffer", "_skip", "kinds", "max_message")

    def __init__(self, max_message: int = MAX_PAYLOAD, kinds: frozenset[int] = KINDS) -> None:
        self.max_message = max_message
        self.kinds = kinds
        self._buffer = bytearray()
        self._skip = 0  # bytes of an overlong message that are still to come

    @property
    def has_begun(self) -> bool:
        """Whether a frame was begun and is not complete; after ``next`` said None."""
        return bool(self._buffer) or self._skip > 0

    @property
    def held(self) -> int:
        """Bytes that wait for ``next``."""
        return len(self._buffer)

    def feed(self, data: bytes) -> None:
        """Bytes that came."""
        if self._skip:
            skipped = min(self._skip, len(data))
            self._skip -= skipped
            data = data[skipped:]
        self._buffer += data

    def next(self) -> Frame | None:
        """The next complete frame; None when bytes are missing. Raises BridgeError("protocol_mismatch", expected=, got=)."""
        buffer = self._buffer
        if len(buffer) < _HEADER.size:
            if not MAGIC.startswith(bytes(buffer[:4])):
                raise _wrong_magic(bytes(buffer[:4]))
            return None
        magic, version, kind, length = _HEADER.unpack_from(buffer)
        if magic != MAGIC:
            raise _wrong_magic(magic)
        if version != VERSION:
            raise mismatch(f"version {VERSION}", f"version {version}")
        if kind not in self.kinds:
            expected = " or ".join(f"{kind} {_NAMES[kind]}" for kind in sorted(self.kinds))
            raise mismatch(f"type {expected}", f"type {kind} {_NAMES[kind] if kind in KINDS else ''}".rstrip())
        if length > _LIMITS.get(kind, MAX_PAYLOAD):
            raise mismatch(f"length <= {_LIMITS.get(kind, MAX_PAYLOAD)}", f"length {length}")
        end = _HEADER.size + length
        if length > self.max_message and kind in MESSAGES:
            head = min(HEAD, length, self.max_message)
            if len(buffer) < _HEADER.size + head:
                return None
            payload: bytes = cut(bytes(buffer[_HEADER.size : _HEADER.size + head]), self.max_message)
            self._skip = max(0, end - len(buffer))
        elif len(buffer) < end:
            return None
        else:
            payload = bytes(buffer[_HEADER.size : end])
        del buffer[:end]
        return Frame(kind, payload)


def mismatch(expected: str, got: str) -> BridgeError:
    """The other side does not speak as it should."""
    said = f"expected {expected}, got {got}"
    return BridgeError("protocol_mismatch", said, sent=False, protocol="tcp_binary", expected=expected, got=got)


def _wrong_magic(got: bytes) -> BridgeError:
    foreign = ", the 16-byte header of another program" if got == b"MCP\x00" else ""
    return mismatch(f"magic {_spaced(MAGIC)}", f"{_spaced(got)}{foreign}")


def _spaced(data: bytes) -> str:
    return data.hex(" ").upper()


# What the payloads say


class _Offer(msgspec.Struct):
    min_version: int = 0
    max_version: int = 0
    preferred_version: int = 0
    supported_versions: list[int] = []


class _Ack(msgspec.Struct):
    agreed_version: int


class _Control(msgspec.Struct):
    authorization: str | None = None


class _Error(msgspec.Struct):
    message: str
    data: dict[str, Any] = {}


OFFER: Final = encode(
    NEGOTIATE,
    b'{"min_version":%d,"max_version":%d,"preferred_version":%d,"supported_versions":[%d]}' % ((VERSION,) * 4),
)
"""The frame a client begins with."""
AGREED: Final = encode(ACK, b'{"agreed_version":%d}' % VERSION)
"""The frame a server answers with."""


def agree(payload: bytes) -> None:
    """Whether the versions a client offers have ours among them. Raises BridgeError("protocol_mismatch")."""
    offer = _read(payload, _Offer, "an offer of versions")
    offered = offer.supported_versions or range(offer.min_version, offer.max_version + 1)
    if VERSION not in offered:
        got = f"versions {offer.min_version} to {offer.max_version}"
        raise mismatch(f"version {VERSION}", f"versions {offer.supported_versions}"[:200] if offer.supported_versions else got)


def check_ack(payload: bytes) -> None:
    """Whether a server agreed to our version. Raises BridgeError("protocol_mismatch")."""
    agreed = _read(payload, _Ack, "agreed_version").agreed_version
    if agreed != VERSION:
        raise mismatch(f"version {VERSION}", f"version {agreed}"[:200])


def authorization(payload: bytes) -> str | None:
    """What a control frame says for sign-in, None if it says something else. Raises BridgeError("protocol_mismatch")."""
    return _read(payload, _Control, "a control object").authorization


def authorize(value: str) -> bytes:
    """The control frame that signs in with an Authorization header's value."""
    return encode(CONTROL, msgspec.json.encode({"authorization": value}))


def refuse(error: BridgeError) -> bytes:
    """The error frame."""
    return encode(ERROR, msgspec.json.encode(to_wire(error)))


def refused(payload: bytes) -> BridgeError:
    """What an error frame says: the row of ours that it names, else a mismatch in the words of the other side."""
    try:
        said = msgspec.json.decode(payload, type=_Error)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        said = _Error(payload[:200].decode(errors="replace"))
    reason = said.data.get("reason")
    detail = "".join(character if character.isprintable() else " " for character in said.message[:200])
    if isinstance(reason, str) and reason in FAULTS:
        text = FAULTS[reason].text
        named = {name: said.data[name] for name in ("expected", "got") if isinstance(said.data.get(name), str)}
        return BridgeError(reason, detail.removeprefix("tcp_binary: ").removeprefix(text).removeprefix(": "), **named)
    return BridgeError("protocol_mismatch", f"the other side says: {detail}")


def _read(payload: bytes, type: type[T], expected: str) -> T:
    try:
        return msgspec.json.decode(payload, type=type)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise mismatch(expected, str(error)[:200] or "something else") from None
