"""From the bytes of one message to a Request, Notification or Response, with proof of every level that is read.

    guards (strict) -> duplicates at all levels (clients) -> one msgspec pass -> proof -> rules for id, method, params, ...
                                                                         \\-> slow path: same rules, with reasons

The levels that are read are the message, its params and params._meta; ``members``, ``items`` and ``text`` read further ones.

Source: JSON-RPC 2.0 sections 4-6; contract limit.json, limit.input.*; architecture section 4 "Envelope", "Strict JSON".
"""

from __future__ import annotations

import re

import msgspec
from msgspec import UNSET, Raw, UnsetType

from mcpbridge.errors import BridgeError
from mcpbridge.wire import level, strict
from mcpbridge.wire.framing import Overlong
from mcpbridge.wire.level import items, members, text
from mcpbridge.wire.message import Members, Message, Notification, Request, RequestId, Response
from mcpbridge.wire.spec import METHODS

__all__ = ["MAX_BATCH", "items", "members", "parse", "text"]

MAX_BATCH = 50  # messages of one array; more is refused, whichever version the caller speaks
MAX_NAME = 255  # characters of a method and of a client's string id

_NONE = Raw()  # "absent": no JSON value is empty


class _Envelope(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """The shape nearly every message has. Anything else fails here and goes the slow path, which says what is wrong."""

    jsonrpc: str = ""
    id: int | str | UnsetType | None = UNSET
    method: str | UnsetType = UNSET
    params: dict[str, Raw] | UnsetType = UNSET
    result: Raw = _NONE
    error: Raw = _NONE


class _Object(msgspec.Struct, gc=False):
    """Any object; nothing of it is kept."""


_decode = msgspec.json.Decoder(_Envelope).decode
_decode_objects = msgspec.json.Decoder(list[_Object]).decode

# Fixed bytes of a compact message
_HEAD = len(b'{"jsonrpc":"2.0"}')
_ID = len(b',"id":')
_METHOD = len(b',"method":""')
_PARAMS = len(b',"params":')
_RESULT = len(b',"result":')
_ERROR = len(b',"error":')

_METHOD_RULE = re.compile(r"(?!.*\.\.)[A-Za-z0-9._/-]{1,255}").fullmatch
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]").search
_INTEGER = re.compile(rb"-?[0-9]{1,255}").fullmatch

_HEAD_MEMBER = re.compile(
    rb'\s*[{,]\s*"(jsonrpc|id|method|result|error)"\s*:\s*("[^"\\\x00-\x1f]{0,255}"|-?[0-9]{1,64}(?=\s*[,}])|)'
)
_TAIL_ID = re.compile(rb',\s*"jsonrpc"\s*:\s*"2\.0"\s*,\s*"id"\s*:\s*("[^"\\\x00-\x1f]{0,255}"|-?[0-9]{1,64})\s*}\s*$')
_TAIL = 400  # bytes at the end that can hold jsonrpc and id
_LEADING_METHOD = re.compile(rb'\s*{\s*"method"\s*:')
_LEADING_ANSWER = re.compile(rb'\s*{\s*"(?:result|error)"\s*:')


def parse(raw: bytes, *, client: bool = True, max_depth: int = strict.MAX_DEPTH) -> Message | list[Message]:
    """The message in these bytes, or the list of messages of a JSON-RPC batch (1-50; whether one is allowed is the caller's).

    ``client`` says who sent it: a client's message must be strict JSON through and through and its id and method obey the
    limits; a server's is only checked where it is read, and its lone surrogate escapes pass. ``encode()`` of what is returned
    gives ``raw`` back unchanged. The caller has checked the size.

    Raises BridgeError("parse_error" | "invalid_request" | "invalid_params"). Its ``id`` names the message that failed when it
    can be told: a client's request (answer it) or a server's response (fail that call); None otherwise.
    """
    try:
        strict.check_bytes(raw, client=client, max_depth=max_depth)
        proven = client and len(raw) <= strict.DUPLICATES_UP_TO
        if proven:
            strict.check_duplicates(raw)
        return _parse(raw, client, proven)
    except BridgeError as err:
        if isinstance(raw, Overlong):
            raise BridgeError("parse_error", "message longer than allowed", id=_recover_id(raw, client)) from None
        if err.id is None and err.reason == "parse_error":
            err.id = _recover_id(raw, client)
        raise


def _parse(raw: bytes, client: bool, proven: bool) -> Message | list[Message]:
    try:
        envelope = _decode(raw)
    except msgspec.ValidationError:
        return _batch(raw, client, proven) if raw.lstrip(b" \t\r\n")[:1] == b"[" else _slow(raw, client, proven)
    except (msgspec.DecodeError, RecursionError) as err:
        if client or not level.has_surrogates(raw):
            raise BridgeError("parse_error", str(err)) from None
        return _slow(raw, client, proven)
    return _fast(envelope, raw, client, proven) or _slow(raw, client, proven)


def _fast(envelope: _Envelope, raw: bytes, client: bool, proven: bool) -> Message | None:
    """The message if it is of an ordinary shape and proven; None sends it the slow path, which decides."""
    id, method = envelope.id, envelope.method
    if envelope.jsonrpc != "2.0" or id is None or (client and isinstance(id, str) and not _is_fit(id)):
        return None
    if method is UNSET:
        return None if id is UNSET or envelope.params is not UNSET else _fast_answer(id, envelope, raw, proven)
    if envelope.result or envelope.error:
        return None
    if method not in METHODS and not (_METHOD_RULE(method) if client else 0 < len(method) <= MAX_NAME):
        return None
    meta: Members = {}
    params = None if envelope.params is UNSET else envelope.params
    if params is not None:
        if len(params) > level.MAX_MEMBERS:
            return None
        found = params.get("_meta")
        if found is not None:
            try:
                meta = level.decode_members(found)
            except msgspec.ValidationError:
                return None
            if len(meta) > level.MAX_MEMBERS or not (proven or level.length(meta) == len(found)):
                return None
    if not proven:
        size = _HEAD + (0 if id is UNSET else _id_length(id)) + _METHOD + len(method)
        if len(raw) != (size if params is None else size + _PARAMS + level.length(params)):
            return None
    return Notification(method, params, meta, raw) if id is UNSET else Request(id, method, params, meta, raw)


def _fast_answer(id: RequestId, envelope: _Envelope, raw: bytes, proven: bool) -> Response | None:
    result, error = envelope.result, envelope.error
    if result and not error and (proven or _HEAD + _id_length(id) + _RESULT + len(result) == len(raw)):
        return Response(id, result, None, raw)
    if error and not result and (proven or _HEAD + _id_length(id) + _ERROR + len(error) == len(raw)):
        return Response(id, None, error, raw) if bytes(error).startswith(b"{") else None
    return None


def _id_length(id: RequestId) -> int:
    return _ID + (len(id) + 2 if isinstance(id, str) else len(str(id)))


def _is_fit(id: str) -> bool:
    """A client's id within contract limit.input.request-id (integers are bounded by the number guard)."""
    return len(id) <= MAX_NAME and not _CONTROL(id)


def _batch(raw: bytes, client: bool, proven: bool) -> list[Message]:
    try:
        count = len(_decode_objects(raw))
    except msgspec.ValidationError:
        raise BridgeError("invalid_request", "a batch holds messages only") from None
    except (msgspec.DecodeError, RecursionError) as err:
        raise BridgeError("parse_error", str(err)) from None
    if not 1 <= count <= MAX_BATCH:
        raise BridgeError("invalid_request", f"a batch holds 1 to {MAX_BATCH} messages")
    batch: list[Message] = []
    for item in items(raw):
        message = _parse(bytes(item), client, proven)
        assert not isinstance(message, list)  # only objects got past the count
        batch.append(message)
    return batch


def _slow(raw: bytes, client: bool, proven: bool) -> Message:
    """Every other message: the same rules, with the reason of each refusal."""
    rest = level.prove(raw, "invalid_request", "message", proven=proven, surrogates=not client)
    version, id, method, params, result, error = (rest.pop(name, None) for name in _Envelope.__struct_fields__)
    known = None if id is None or bytes(id) == b"null" else _id(id, client)
    try:
        if text(version) != "2.0":
            raise BridgeError("invalid_request", 'jsonrpc must be "2.0"')
        if (method is not None) + (result is not None) + (error is not None) != 1:
            raise BridgeError("invalid_request", "exactly one of method, result and error is needed")
        if method is None:
            if params is not None:
                rest["params"] = params  # means nothing in an answer, and stays
            return _answer(known, result, error, raw, rest, client)
        if known is None and id is not None:
            raise BridgeError("invalid_request", "the id of a request must not be null")
        return _call(known, _name(method, client), params, raw, rest, client, proven)
    except BridgeError as err:
        # An error about an answer must not look like an answer to a request, nor the other way round.
        err.id = known if (method is not None) == client else None
        raise


def _answer(id: RequestId | None, result: Raw | None, error: Raw | None, raw: bytes, extra: Members, client: bool) -> Response:
    if error is not None and bytes(error)[:1] != b"{":
        raise BridgeError("invalid_request", "error must be an object")
    if id is None and client and error is None:
        raise BridgeError("invalid_request", "a result needs an id")
    return Response(id, result, error, raw, extra)


def _call(
    id: RequestId | None, method: str, params: Raw | None, raw: bytes, extra: Members, client: bool, proven: bool
) -> Request | Notification:
    members: Members | None = None
    meta: Members = {}
    if params is not None and (client or bytes(params) != b"null"):  # some servers write null; it says the same as no params
        members = level.prove(params, "invalid_request", "params", proven=proven, surrogates=not client)
        found = members.get("_meta")
        if found is not None and bytes(found) != b"null":
            meta = level.prove(found, "invalid_params", "params._meta", proven=proven, surrogates=not client)
    if id is None:
        return Notification(method, members, meta, raw, extra)
    return Request(id, method, members, meta, raw, extra)


def _name(method: Raw, client: bool) -> str:
    name = text(method)
    if client and name is not None and _METHOD_RULE(name):
        return name
    if not client and name and len(name) <= MAX_NAME:
        return name
    raise BridgeError("invalid_request", f"method must be 1 to {MAX_NAME} characters of A-Z a-z 0-9 . _ / - without '..'")


def _id(raw: Raw, client: bool) -> RequestId:
    """A string or an integer, exactly. Raises BridgeError("invalid_request")."""
    written = bytes(raw)
    if _INTEGER(written):
        return int(written)
    name = text(raw)
    if name is None or (client and not _is_fit(name)):
        raise BridgeError("invalid_request", f"id must be an integer or a string of at most {MAX_NAME} printable characters")
    return name


def _recover_id(raw: bytes, client: bool) -> RequestId | None:
    """The id in bytes that are no JSON, from where the SDKs write it: among the first members, or at the very end.

    Only a client's request and a server's response are looked for: an error that carried the id of anything else would be
    taken for the answer to something it is not.
    """
    found: dict[bytes, bytes] = {}
    position = 0
    while match := _HEAD_MEMBER.match(raw, position):
        if match[1] in found:
            return None
        found[match[1]], position = match[2], match.end()
        if not match[2]:
            break  # a nested value, or one that is broken
    written = found.get(b"id")
    if written is None:
        tail = _TAIL_ID.search(raw[-_TAIL:]) if (_LEADING_METHOD if client else _LEADING_ANSWER).match(raw) else None
        written = tail[1] if tail else None
    else:
        calls, answers = b"method" in found, b"result" in found or b"error" in found
        if calls == answers or calls != client:
            return None
    if not written:
        return None
    try:
        return _id(Raw(written), client)
    except BridgeError:
        return None
