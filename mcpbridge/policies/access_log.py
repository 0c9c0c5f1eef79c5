"""One log line and one count per finished exchange. Stands outermost, so it sees every outcome, also refusals.

    answered                   debug     a client's fault, refusals   info     a fault of a backend or of ours   warn

Only requests are counted: notifications, answers to questions and operations on sessions finish no JSON-RPC request. A request
its client cancelled counts with status 499. A listen stream has no duration worth a quantile.

Source: contract sections 5 and 6.1; architecture section 5.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from hashlib import sha256
from time import perf_counter
from typing import Any

import msgspec

from mcpbridge.core.exchange import Exchange, Handler, Policy, SessionOp
from mcpbridge.core.server import Server
from mcpbridge.errors import BridgeError, counted_status, status_of
from mcpbridge.observe.log import log
from mcpbridge.observe.metrics import Counter, Histogram, Registry, Summary
from mcpbridge.wire.message import Request, Response

CANCELLED = 499
_log = log("access")


class _ErrorCode(msgspec.Struct):
    code: int = 0


_code_of = msgspec.json.Decoder(_ErrorCode).decode


class Tally:
    """Finished requests of one frontend protocol since the start, and how many failed through no fault of the client."""

    __slots__ = ("failures", "requests")

    def __init__(self) -> None:
        self.requests = 0
        self.failures = 0


def access_log(
    registry: Registry, tallies: dict[str, Tally] | None = None, clock: Callable[[], float] = perf_counter
) -> Policy:
    """``tallies`` by frontend protocol, for rates. ``clock`` gives seconds that never go back."""
    tallies = {} if tallies is None else tallies
    counters: dict[tuple[str, int], Counter] = {}
    durations: dict[str, tuple[Summary, Histogram]] = {}

    def count(protocol: str, status: int, seconds: float | None) -> None:
        counter = counters.get((protocol, status))
        if counter is None:
            counter = counters[protocol, status] = registry.counter(
                "mcp_gateway_requests_total", method="POST", status=str(status), protocol=protocol
            )
        counter.inc()
        if seconds is None:
            return
        tally = tallies.get(protocol)
        if tally is None:
            tally = tallies[protocol] = Tally()
        tally.requests += 1
        tally.failures += status >= 500
        pair = durations.get(protocol)
        if pair is None:
            pair = durations[protocol] = (
                registry.summary("mcp_gateway_request_duration_seconds", protocol=protocol),
                registry.histogram("mcp_gateway_request_duration_histogram_seconds", protocol=protocol),
            )
        pair[0].observe(seconds)
        pair[1].observe(seconds)

    async def policy(x: Exchange, handler: Handler) -> Response | None:
        started = clock()
        status = 200
        error: BaseException | None = None
        code: int | None = None
        try:
            response = await handler(x)
            if response is None:
                status = 202
            elif response.error is not None:
                code = _answered_code(response)
                status = status_of(code, legacy=x.caller.era == "legacy")
            return response
        except BridgeError as refused:
            error, code = refused, refused.fault.code
            status = counted_status(refused.fault, legacy=x.caller.era == "legacy")
            raise
        except asyncio.CancelledError as cancelled:
            error, status = cancelled, CANCELLED
            raise
        except BaseException as mistake:
            error, status = mistake, 500
            raise
        finally:
            seconds = clock() - started
            if isinstance(x.message, Request):
                count(x.caller.protocol, status, None if x.view.method == "subscriptions/listen" else seconds)
            _write(x, status, seconds, error, code)

    return policy


def _write(x: Exchange, status: int, seconds: float, error: BaseException | None, code: int | None) -> None:
    if error is None or isinstance(error, asyncio.CancelledError):
        if _log.enabled("debug"):
            _log.debug("cancelled" if error else "answered", protocol=x.caller.protocol, **_fields(x, status, seconds, code))
    elif isinstance(error, BridgeError) and error.fault.blames == "client":
        if _log.enabled("info"):
            _log.info(str(error), event="refused", protocol=x.caller.protocol, **_fields(x, status, seconds, code))
    elif _log.enabled("warn"):
        text = str(error) if isinstance(error, BridgeError) else f"request failed inside the bridge: {type(error).__name__}"
        _log.warn(text, event="failed", protocol=x.caller.protocol, **_fields(x, status, seconds, code))


def _fields(x: Exchange, status: int, seconds: float, code: int | None) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "method": x.view.method,
        "duration_ms": round(seconds * 1000, 3),
        "status": status,
        "caller": x.caller.address,
    }
    if isinstance(x.message, Request):
        fields["rpc_id"] = x.message.id
    if isinstance(x.target, Server):
        fields["server"] = x.target.name
    if x.backend is not None:
        fields["backend"] = x.backend.name
    if code is not None:
        fields["error_code"] = code
    if x.caller.principal is not None:
        fields["principal_hash"] = _hash(x.caller.principal.key)
    session_id = x.session.record.id if x.session is not None else x.session_id
    if session_id:
        fields["session_hash"] = _hash(session_id)
    if x.caller.request_id is not None:
        fields["request_id"] = x.caller.request_id
    if isinstance(x.message, SessionOp):
        fields["method"] = f"{x.message.method} session"
    return fields


def _hash(text: str) -> str:
    """The first 8 digits of SHA-256: enough to follow one caller through a log, no use to anybody else."""
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]


def _answered_code(response: Response) -> int:
    try:
        return _code_of(response.error or b"{}").code
    except msgspec.DecodeError:  # a server may answer an error that is no error object; it is passed on as it is
        return 0
