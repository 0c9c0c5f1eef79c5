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

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Raw

RequestId = int | str
Members = dict[str, Raw]
"""One level of a JSON object: member name -> its exact bytes, in the order they came."""

_encode = msgspec.json.Encoder().encode


def dumps(value: Any) -> bytes:
    """Compact JSON of a plain value (Raw members are copied as they are)."""
    return _encode(value)


def loads(raw: bytes | Raw) -> Any:
    """A plain value of proven JSON bytes. Never used on a payload that only passes through."""
    return msgspec.json.decode(raw)


def join(members: Mapping[str, bytes | Raw]) -> bytes:
    """The compact JSON object of these members, byte-exact and in this order."""
    return b"{" + b",".join([_encode(name) + b":" + bytes(raw) for name, raw in members.items()]) + b"}"


class Request(msgspec.Struct):
    """A call that wants an answer. ``params`` is None when absent; ``meta`` is ``params._meta`` or {}."""

    id: RequestId
    method: str
    params: Members | None = None
    meta: Members = {}
    raw: bytes = b""
    extra: Members = {}  # unknown members beside jsonrpc/id/method/params: kept, never read

    def encode(self) -> bytes:
        """The bytes to send: as received when nothing was changed."""
        if not self.raw:
            self.raw = _assemble(b'"id":' + _encode(self.id) + b',"method":' + _encode(self.method), self.params, self.extra)
        return self.raw

    def param(self, name: str) -> Raw | None:
        return None if self.params is None else self.params.get(name)

    def with_id(self, id: RequestId) -> Request:
        return Request(id, self.method, self.params, self.meta, b"", self.extra)

    def with_params(self, params: Members | None) -> Request:
        """The same call with other params; ``meta`` follows ``params["_meta"]`` only if the caller changed it through ``with_meta``."""
        return Request(self.id, self.method, params, self.meta, b"", self.extra)

    def with_meta(self, meta: Members) -> Request:
        """The same call with these ``_meta`` members; an empty mapping removes ``_meta``."""
        return Request(self.id, self.method, _meta_into(self.params, meta), meta, b"", self.extra)


class Notification(msgspec.Struct):
    """A message without id that nobody answers."""

    method: str
    params: Members | None = None
    meta: Members = {}
    raw: bytes = b""
    extra: Members = {}

    def encode(self) -> bytes:
        if not self.raw:
            self.raw = _assemble(b'"method":' + _encode(self.method), self.params, self.extra)
        return self.raw

    def param(self, name: str) -> Raw | None:
        return None if self.params is None else self.params.get(name)

    def with_params(self, params: Members | None) -> Notification:
        return Notification(self.method, params, self.meta, b"", self.extra)

    def with_meta(self, meta: Members) -> Notification:
        return Notification(self.method, _meta_into(self.params, meta), meta, b"", self.extra)


class Response(msgspec.Struct):
    """An answer: exactly one of ``result`` and ``error`` is set. ``id`` is None when the peer could not tell it."""

    id: RequestId | None
    result: Raw | None = None
    error: Raw | None = None
    raw: bytes = b""
    extra: Members = {}

    def encode(self) -> bytes:
        if not self.raw:
            body = b'"result":' + bytes(self.result) if self.result is not None else b'"error":' + bytes(self.error or b"null")
            head = b'"id":' + _encode(self.id) + b"," + body
            self.raw = _assemble(head, None, self.extra)
        return self.raw

    def with_id(self, id: RequestId | None) -> Response:
        return Response(id, self.result, self.error, b"", self.extra)

    def with_result(self, result: bytes) -> Response:
        return Response(self.id, Raw(result), None, b"", self.extra)


Message = Request | Notification | Response


def request(id: RequestId, method: str, params: Mapping[str, Any] | None = None) -> Request:
    """A request of our own. ``params`` values may be plain values or Raw."""
    members = None if params is None else _members(params)
    meta: Members = {}
    if params is not None and isinstance(params.get("_meta"), Mapping):
        meta = _members(params["_meta"])
    return Request(id, method, members, meta)


def notification(method: str, params: Mapping[str, Any] | None = None) -> Notification:
    members = None if params is None else _members(params)
    meta: Members = {}
    if params is not None and isinstance(params.get("_meta"), Mapping):
        meta = _members(params["_meta"])
    return Notification(method, members, meta)


def result(id: RequestId | None, value: Any) -> Response:
    """A success of our own; ``value`` is a plain value, Raw or a mapping with Raw members."""
    return Response(id, Raw(_encode(value)))


def error(id: RequestId | None, value: Mapping[str, Any]) -> Response:
    """A failure of our own; ``value`` is ``{code, message, data}``, as ``errors.to_wire`` makes it."""
    return Response(id, None, Raw(_encode(value)))


def _members(values: Mapping[str, Any]) -> Members:
    return {name: value if isinstance(value, Raw) else Raw(_encode(value)) for name, value in values.items()}


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
        parts.append(b"," + _encode(name) + b":" + bytes(raw))
    parts.append(b"}")
    return b"".join(parts)
