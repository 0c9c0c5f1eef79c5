"""Which era a server speaks: ask `server/discover`, and believe only what it says. An outage is never a verdict.

    1. a DiscoverResult                                    -> modern
    2. an error that only a modern server knows (-3202x)   -> modern
    3. any other error, or HTTP refusal                    -> legacy
    4. silence                                             -> ask `initialize` too; the first answer decides

Source: mcp-eras section 2 (client probe) and section 8 (real servers).
"""

from __future__ import annotations

import asyncio

from mcpbridge.core.exchange import Era, NoReply
from mcpbridge.core.ports import Upstream
from mcpbridge.era.translate import bridge_info, initialize_params
from mcpbridge.errors import FAULTS, BridgeError
from mcpbridge.wire import message as m
from mcpbridge.wire.envelope import members, text
from mcpbridge.wire.message import Request, Response
from mcpbridge.wire.spec import CLIENT_CAPABILITIES, CLIENT_INFO, MODERN, PROTOCOL_VERSION

SILENCE = 10.0  # seconds without an answer to server/discover after which initialize is asked as well
_MODERN_CODES = frozenset({b"-32020", b"-32021", b"-32022"})
_UNAUTHORIZED = b"%d" % FAULTS["unauthorized"].code
_FOREIGN = frozenset({"backend_error", "bad_answer", "http_not_found", "backend_session_lost"})
_NO_REPLY = NoReply()


def is_modern_only(response: Response) -> bool:
    """Whether an answer to a legacy ``initialize`` comes from a server that speaks only the modern era.

    Such a server does not know the method (-32601), misses the per-request metadata and names it (-32602 about ``_meta``), or
    says which versions it has (-32022).
    """
    if response.error is None:
        return False
    error = members(response.error, "bad_answer")
    code = bytes(error.get("code") or b"")
    if code in _MODERN_CODES or code == b"-32601":
        return True
    said = bytes(response.error)
    return code in (b"-32602", b"-32600") and (b"io.modelcontextprotocol/" in said or MODERN[0].encode() in said)


def may_be_modern(refusal: Response | BridgeError) -> bool:
    """Whether a refused ``initialize`` may come from a modern server that does not say so: asking it is worth a request.

    It may refuse the POST altogether, or call the message invalid; an outage says nothing, and 401 is about something else.
    """
    if isinstance(refusal, BridgeError):
        return refusal.reason in _FOREIGN and refusal.data.get("status") != 401
    return bytes(members(refusal.error or b"{}", "bad_answer").get("code") or b"") in (b"-32600", b"-32602")


async def probe(upstream: Upstream, timeout: float) -> tuple[Era, Response]:
    """The era behind a fresh conversation and its DiscoverResult or InitializeResult.

    ``timeout`` in seconds bounds the whole. Raises BridgeError when the server cannot be reached or stays silent.
    """
    meta = {PROTOCOL_VERSION: MODERN[0], CLIENT_INFO: bridge_info(), CLIENT_CAPABILITIES: {}}
    discover = m.request(0, "server/discover", {"_meta": meta})
    initialize = m.request(1, "initialize", initialize_params({}, bridge_info()))
    try:
        async with asyncio.timeout(timeout):
            verdict = await _ask(upstream, discover, initialize)
    except TimeoutError:
        raise BridgeError("timeout", "neither server/discover nor initialize was answered", sent=False) from None
    if isinstance(verdict, BridgeError):
        raise verdict
    return verdict


Outcome = Response | BridgeError
Verdict = tuple[Era, Response]


async def _ask(upstream: Upstream, discover: Request, initialize: Request) -> Verdict | BridgeError:
    """The verdict, or the outage that kept it from being found (returned, so that no task group wraps it)."""
    async with asyncio.TaskGroup() as group:
        asked = group.create_task(_outcome(upstream, discover))
        await asyncio.wait([asked], timeout=SILENCE)
        if asked.done():
            verdict = _of_discover(asked.result())
            return verdict if verdict is not None else _of_initialize(await _outcome(upstream, initialize))
        initialized = group.create_task(_outcome(upstream, initialize))
        await asyncio.wait([asked, initialized], return_when=asyncio.FIRST_COMPLETED)
        try:
            if asked.done() and (verdict := _of_discover(asked.result())) is not None:
                return verdict
            return _of_initialize(await initialized)
        finally:
            asked.cancel()
            initialized.cancel()


async def _outcome(upstream: Upstream, request: Request) -> Outcome:
    try:
        return await upstream.call(request, _NO_REPLY)
    except BridgeError as error:
        return error


def _of_initialize(answer: Outcome) -> Verdict | BridgeError:
    return answer if isinstance(answer, BridgeError) else ("legacy", answer)


def _of_discover(answer: Outcome) -> Verdict | BridgeError | None:
    """The verdict of an answer to server/discover; None = not modern; an outage is no verdict."""
    if isinstance(answer, BridgeError):
        return None if may_be_modern(answer) else answer  # it answered, but not as a modern server answers
    if answer.result is not None:
        return ("modern", answer) if "supportedVersions" in members(answer.result, "bad_answer") else None
    said = members(answer.error or b"{}", "bad_answer")
    code = bytes(said.get("code") or b"")
    if code == _UNAUTHORIZED:  # a bridge like this one that is no HTTP server; it closes next
        return BridgeError("backend_refused", (text(said.get("message")) or "")[:200], sent=False)
    return ("modern", answer) if code in _MODERN_CODES else None
