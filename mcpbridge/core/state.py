"""requestState: what a modern client carries from one round of a call to the next, sealed so that it fits only there.

    PARKED   names a call that waits in this process for its client's answers (``era/parking``)
    OWN      holds a modern server's own state, returned to it byte for byte

A state is bound to its principal, its server and backend, and to the method and params of the call; it opens for a limited
time. A server's own state passes as it is while nothing could confuse it: one replica, one caller, no aggregate.

Source: mcp-eras sections 3 (questions of servers) and 6 (state handles); architecture section 7.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Raw

from mcpbridge.core.exchange import ANONYMOUS, QUESTION_WAIT, Exchange
from mcpbridge.errors import BridgeError
from mcpbridge.seal import Sealer, SealError
from mcpbridge.wire import message as m
from mcpbridge.wire.envelope import members, text
from mcpbridge.wire.message import Members, Request, Response

if TYPE_CHECKING:
    from mcpbridge.core.server import Backend

PARKED: Final = 0
OWN: Final = 1
PURPOSE = "requestState"
OWN_TTL = 86_400.0  # seconds a server's own state may be away; nothing is held for it here
MAX_STATE_CHARS = 4_194_304  # of a sealed state; what a server puts into its own is its affair, within a message's size
ROUNDS = frozenset({"tools/call", "prompts/get", "resources/read"})
"""Methods that may be answered by ``input_required`` (schema 2026-07-28, InputResponseRequestParams)."""
_NOT_COMPARED = frozenset({"_meta", "inputResponses", "requestState"})
_INPUT_REQUIRED = b'"input_required"'


class State(msgspec.Struct, array_like=True, frozen=True):
    """What is inside. ``principal`` and ``digest`` are hashes; ``content`` is the parked call's name or the server's state."""

    kind: int
    instance: str  # of the process that holds what a PARKED one names
    principal: bytes
    server: str
    backend: str
    digest: bytes
    content: bytes


class RequestStates:
    """Seals and opens. ``instance`` names this process; ``ttl``: seconds a question may wait for its client."""

    def __init__(self, sealer: Sealer, instance: str, *, ttl: float = QUESTION_WAIT) -> None:
        self._sealer = sealer
        self.instance = instance
        self.ttl = ttl

    def seal(self, x: Exchange, kind: int, content: bytes, ttl: float) -> str:
        """A state for the next round of ``x`` at its backend, that opens for ``ttl`` seconds."""
        assert x.backend is not None
        server = x.backend.server.name
        state = State(kind, self.instance, principal_hash(caller_key(x)), server, x.backend.name, digest(x.request), content)
        return self._sealer.seal(PURPOSE, msgspec.msgpack.encode(state), ttl)

    def peek(self, x: Exchange) -> State | None:
        """The state a request brings, if it is one of ours for this caller: it tells where the call belongs."""
        token = text(x.request.param("requestState"))
        if token is None:
            return None
        try:
            plain = self._sealer.open(PURPOSE, token, MAX_STATE_CHARS)
            state = msgspec.msgpack.decode(plain, type=State)
        except (SealError, msgspec.MsgspecError):
            return None
        return state if state.principal == principal_hash(caller_key(x)) else None

    def open(self, x: Exchange) -> State:
        """The state that ``x`` brings for the server it goes to.

        Raises BridgeError("unknown_request_state") when it is tampered, expired, someone else's or another server's, and
        ("request_state_mismatch") when it belongs to a call with another method or other params. Nothing was sent then.
        """
        assert x.backend is not None
        state = self.peek(x)
        if state is None or (state.server, state.backend) != (x.backend.server.name, x.backend.name):
            raise unknown()
        if state.digest != digest(x.request):
            detail = "the method or the params are not those of the call it belongs to"
            raise BridgeError("request_state_mismatch", detail, sent=False)
        return state

    # The straight path: a modern server's own state

    def wraps(self, x: Exchange, backend: Backend) -> bool:
        """Whether a server's own state is sealed for this caller: it must come from it, and go back where it came from."""
        return x.is_part or tells_apart(x, backend)

    def unwrapped(self, x: Exchange) -> Request:
        """The request as its server knows it, with the server's own state. Raises as ``open``."""
        state = self.open(x)
        if state.kind != OWN:
            raise unknown()
        return x.request.with_params({**(x.request.params or {}), "requestState": Raw(state.content)})

    def wrapped(self, x: Exchange, response: Response) -> Response:
        """A server's answer with its state sealed, if it asks for another round; else as it is."""
        if response.result is None or _INPUT_REQUIRED not in (response.raw or bytes(response.result)):
            return response
        result: Members = members(response.result, "bad_answer")
        state = result.get("requestState")
        if state is None or text(result.get("resultType")) != "input_required":
            return response
        sealed = self.seal(x, OWN, bytes(state), OWN_TTL)
        return response.with_result(m.join({**result, "requestState": Raw(m.dumps(sealed))}))


def tells_apart(x: Exchange, backend: Backend) -> bool:
    """Whether callers or replicas could be taken for each other: only then what they carry is sealed."""
    return x.caller.principal not in (None, ANONYMOUS) or len(backend.server.backends) > 1


def continues(x: Exchange) -> bool:
    """Whether this is a further round of a call, which belongs where the first one went."""
    message = x.message
    return isinstance(message, Request) and message.params is not None and "requestState" in message.params


def unknown() -> BridgeError:
    """What a client hears of every state that is not (or no longer) one: the same words whatever the cause."""
    return BridgeError("unknown_request_state", "begin the call anew", sent=False)


def digest(request: Request) -> bytes:
    """A hash of method and params, without what changes from round to round; the order of members does not count."""
    compared = {
        name: json.loads(bytes(raw), parse_int=_literal, parse_float=_literal, parse_constant=_literal)
        for name, raw in (request.params or {}).items()
        if name not in _NOT_COMPARED
    }
    said = json.dumps([request.method, compared], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(said.encode()).digest()[:16]


def _literal(number: str) -> Any:
    return f"\x00{number}"  # compared as written: no rounding, no limit on digits


def principal_hash(key: str) -> bytes:
    """Whoever has this ``Principal.key``, as what is sealed says it."""
    return hashlib.sha256(key.encode()).digest()[:16]


def caller_key(x: Exchange) -> str:
    """The ``Principal.key`` of who calls."""
    return (x.caller.principal or ANONYMOUS).key
