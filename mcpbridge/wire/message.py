"""The three JSON-RPC messages as the bridge holds them: original bytes plus the few members it reads.

    {"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"x","_meta":{...},...}}
                     --id-  -----method----------  ---------params (one level of Raw)----
                                                             meta (one level of Raw)

A message is never re-modelled. ``raw`` is what came in; a ``with_*`` method joins a new message from the parts and leaves
every other byte as it was. ``wire.envelope.parse`` makes them from bytes; ``request``/``notification``/... make new ones.
A Raw pins the whole message it was cut from: copy (``bytes(raw)``) what outlives the exchange.

Source: JSON-RPC 2.0 sections 4-5; MCP base protocol; architecture section 4.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Raw

RequestId = int | str
Members = dict[str, Raw]
"""One level of a JSON object: member name -> its exact bytes, in the order they came."""

_encode = msgspec.json.Encoder().encode
_decode_members = msgspec.json.Decoder(Members).decode


def dumps(value: Any) -> bytes:
    """Compact JSON of a plain value (Raw members are copied as they are).

    A text with a lone surrogate (a cut emoji of a server, an undecodable file name) is written with escapes, never refused.
    """
    try:
        return _encode(value)
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":"), default=_plain).encode()


def _plain(value: Any) -> Any:
    if isinstance(value, Raw):
        return json.loads(bytes(value))
    raise TypeError(f"not a plain JSON value: {type(value).__name__}")


def loads(raw: bytes | Raw) -> Any:
    """A plain value of proven JSON bytes. Never used on a payload that only passes through."""
    return msgspec.json.decode(raw)


def join(members: Mapping[str, bytes | Raw]) -> bytes:
    """The compact JSON object of these members, byte-exact and in this order."""
    return b"{" + b",".join([dumps(name) + b":" + bytes(raw) for name, raw in members.items()]) + b"}"


class Request(msgspec.Struct):
    """A call that wants an answer. ``params`` is None when absent; ``meta`` is ``params._meta`` or {}."""

    id: RequestId
    method: str
    params: Members | None = None
    meta: Members = {}
    raw: bytes = b""
    extra: Members = {}  # unknown members beside jsonrpc/id/method/params: kept, never read
    beside: tuple[tuple[str, str], ...] = ()  # HTTP headers that say something about it and go on with it

    def encode(self) -> bytes:
        """The bytes to send: as received when nothing was changed."""
        if not self.raw:
            self.raw = _assemble(b'"id":' + _encode(self.id) + b',"method":' + _encode(self.method), self.params, self.extra)
        return self.raw

    def param(self, name: str) -> Raw | None:
        """One member of params, or None."""
        return None if self.params is None else self.params.get(name)

    def with_id(self, id: RequestId) -> Request:
        """The same call under another id; every other byte stays when the id stands first or last, as all SDKs write it."""
        return Request(id, self.method, self.params, self.meta, _splice_id(self.raw, self.id, id), self.extra, self.beside)

    def with_params(self, params: Members | None) -> Request:
        """The same call with other params; ``meta`` is read anew when their ``_meta`` is new (ValueError: no object)."""
        return Request(self.id, self.method, params, _meta_of(params, self.params, self.meta), b"", self.extra, self.beside)

    def with_meta(self, meta: Members) -> Request:
        """The same call with these ``_meta`` members; an empty mapping removes ``_meta``."""
        return Request(self.id, self.method, _meta_into(self.params, meta), meta, b"", self.extra, self.beside)


class Notification(msgspec.Struct):
    """A message without id that nobody answers."""

    method: str
    params: Members | None = None
    meta: Members = {}
    raw: bytes = b""
    extra: Members = {}

    def encode(self) -> bytes:
        """The bytes to send: as received when nothing was changed."""
        if not self.raw:
            self.raw = _assemble(b'"method":' + _encode(self.method), self.params, self.extra)
        return self.raw

    def param(self, name: str) -> Raw | None:
        """One member of params, or None."""
        return None if self.params is None else self.params.get(name)

    def with_params(self, params: Members | None) -> Notification:
        """See ``Request.with_params``."""
        return Notification(self.method, params, _meta_of(params, self.params, self.meta), b"", self.extra)

    def with_meta(self, meta: Members) -> Notification:
        """See ``Request.with_meta``."""
        return Notification(self.method, _meta_into(self.params, meta), meta, b"", self.extra)


class Response(msgspec.Struct):
    """An answer: exactly one of ``result`` and ``error`` is set. ``id`` is None when the peer could not tell it."""

    id: RequestId | None
    result: Raw | None = None
    error: Raw | None = None
    raw: bytes = b""
    extra: Members = {}

    def encode(self) -> bytes:
        """The bytes to send: as received when nothing was changed."""
        if not self.raw:
            body = b'"result":' + bytes(self.result) if self.result is not None else b'"error":' + bytes(self.error or b"null")
            head = b'"id":' + _encode(self.id) + b"," + body
            self.raw = _assemble(head, None, self.extra)
        return self.raw

    def with_id(self, id: RequestId | None) -> Response:
        """The same answer under another id; see ``Request.with_id``."""
        return Response(id, self.result, self.error, _splice_id(self.raw, self.id, id), self.extra)

    def with_result(self, result: bytes) -> Response:
        """A success with these bytes as its result, under the same id."""
        return Response(self.id, Raw(result), None, b"", self.extra)


Message = Request | Notification | Response


def request(id: RequestId, method: str, params: Mapping[str, Any] | None = None) -> Request:
    """A request of our own. ``params`` values may be plain values or Raw; a ``_meta`` must be an object (ValueError)."""
    members = None if params is None else _members(params)
    return Request(id, method, members, _meta_of(members, None, {}))


def notification(method: str, params: Mapping[str, Any] | None = None) -> Notification:
    """A notification of our own; see ``request``."""
    members = None if params is None else _members(params)
    return Notification(method, members, _meta_of(members, None, {}))


def result(id: RequestId | None, value: Any) -> Response:
    """A success of our own; ``value`` is a plain value, Raw or a mapping with Raw members."""
    return Response(id, Raw(dumps(value)))


def error(id: RequestId | None, value: Mapping[str, Any]) -> Response:
    """A failure of our own; ``value`` is ``{code, message, data}``, as ``errors.to_wire`` makes it."""
    return Response(id, None, Raw(dumps(value)))


def _members(values: Mapping[str, Any]) -> Members:
    return {name: value if isinstance(value, Raw) else Raw(dumps(value)) for name, value in values.items()}


def _meta_of(params: Members | None, known: Members | None, meta: Members) -> Members:
    """The members of ``params._meta``; ``meta`` as it is when it was read from that very Raw (``known``)."""
    raw = None if params is None else params.get("_meta")
    if raw is None:
        return {}
    if known is not None and raw is known.get("_meta"):
        return meta
    return _decode_members(raw)  # ours, or moved here from another proven message: no second proof


def _splice_id(raw: bytes, old: RequestId | None, new: RequestId | None) -> bytes:
    """``raw`` with the id replaced, or b"" when it does not stand where the SDKs put it (then the parts are joined).

    Both places are certain: right after the opening brace nothing is nested yet, and what ends in ``,"id":7}`` closes the
    message with that brace (a quote inside a string is escaped, so the key cannot be part of one).
    """
    known = dumps(old)
    head = b'{"jsonrpc":"2.0","id":' + known
    if raw.startswith(head) and raw[len(head) : len(head) + 1] in (b",", b"}"):
        return b'{"jsonrpc":"2.0","id":' + dumps(new) + raw[len(head) :]
    tail = b',"id":' + known + b"}"
    if raw.endswith(tail):
        return raw[: -len(tail)] + b',"id":' + dumps(new) + b"}"
    return b""


def _meta_into(params: Members | None, meta: Members) -> Members | None:
    params = dict(params or {})
    if meta:
        params["_meta"] = Raw(join(meta))
    else:
        params.pop("_meta", None)
    return params


def _assemble(head: bytes, params: Members | None, extra: Members) -> bytes:
    parts = [b'{"jsonrpc":"2.0",', head]
    if params is not None:
        parts.append(b',"params":' + join(params))
    for name, raw in extra.items():
        parts.append(b"," + dumps(name) + b":" + bytes(raw))
    parts.append(b"}")
    return b"".join(parts)
