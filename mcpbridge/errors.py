"""Every way a call can fail, declared once: THE table and the one exception that carries a row of it.

A policy, a transport or the wire raises ``BridgeError("reason", detail)``; nothing but a listener turns it into a reply
(``to_wire``). ``blames`` decides breaker, health and metrics; ``retryable`` tells the client whether a retry may help.

Legacy clients get what is about one call with 200: to them a status of 500 and more says that the transport broke, and the
Python SDK 1.x then ends the whole session with every call in flight, without the cause.

Source: contract section 6.4, shared decision 2 (own codes are positive, 1000-1999), mcp-eras section 0 (specification codes).
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

Blame = Literal["client", "backend", "bridge"]


class Fault(NamedTuple):
    """One row: JSON-RPC code, HTTP status (modern, legacy), may a retry help, whose fault, first words of the message."""

    code: int
    status: int
    legacy_status: int
    retryable: bool
    blames: Blame
    text: str


FAULTS: dict[str, Fault] = {
    # JSON-RPC and MCP specification codes
    "parse_error": Fault(-32700, 400, 400, False, "client", "Parse error"),
    "invalid_request": Fault(-32600, 400, 400, False, "client", "Invalid request"),
    "method_not_found": Fault(-32601, 404, 200, False, "client", "Method not found"),
    "invalid_params": Fault(-32602, 400, 200, False, "client", "Invalid params"),
    "unknown_request_state": Fault(-32602, 400, 200, False, "client", "Unknown or expired requestState"),
    "request_state_mismatch": Fault(-32602, 400, 200, False, "client", "requestState of another call"),
    "internal_error": Fault(-32603, 500, 200, False, "bridge", "Internal error"),
    "header_mismatch": Fault(-32020, 400, 400, False, "client", "Header mismatch"),
    "missing_capability": Fault(-32021, 400, 200, False, "client", "Missing required client capability"),
    "unsupported_version": Fault(-32022, 400, 400, False, "client", "Unsupported protocol version"),
    # our own, in the order of contract 6.4
    "detection_failed": Fault(1001, 502, 200, True, "backend", "protocol_detection_failed"),
    "no_backend": Fault(1002, 503, 200, True, "backend", "cross_protocol_load_balance_failed"),
    "stdio_no_such_file": Fault(1003, 502, 200, False, "backend", "stdio: no such file or directory"),
    "stdio_cannot_start": Fault(1003, 502, 200, False, "backend", "stdio: cannot start"),
    "proxy_failed": Fault(1027, 502, 200, True, "backend", "proxy"),
    "connection_refused": Fault(1004, 502, 200, True, "backend", "connection refused"),
    "websocket_refused": Fault(1004, 502, 200, True, "backend", "websocket: connection refused"),
    "http_not_found": Fault(1005, 502, 200, False, "backend", "http: 404 not found"),
    "stream_closed": Fault(1006, 502, 200, True, "backend", "stream closed"),
    "protocol_mismatch": Fault(1007, 502, 200, False, "backend", "protocol mismatch"),
    "timeout": Fault(1008, 504, 200, True, "backend", "timeout"),
    "unanswered": Fault(1008, 504, 200, True, "client", "timeout"),
    "queue_full": Fault(1009, 503, 200, True, "bridge", "queue full"),
    "server_busy": Fault(1009, 503, 200, True, "bridge", "server busy"),
    "rate_limited": Fault(1010, 429, 429, True, "client", "rate limited"),
    "breaker_open": Fault(1011, 503, 200, True, "backend", "circuit breaker open"),
    "draining": Fault(1012, 503, 200, True, "bridge", "draining"),
    "session_unknown": Fault(1013, 404, 404, False, "client", "session unknown"),
    "session_required": Fault(1013, 400, 400, False, "client", "session id required"),
    "event_unknown": Fault(1026, 400, 400, False, "client", "event unknown"),
    "forbidden": Fault(1014, 403, 403, False, "client", "forbidden"),
    "unauthorized": Fault(1015, 401, 401, False, "client", "unauthorized"),
    "answer_too_large": Fault(1016, 502, 200, False, "backend", "answer too large"),
    "request_too_large": Fault(1017, 413, 413, False, "client", "request too large"),
    "server_exited": Fault(1018, 502, 200, True, "backend", "server exited"),
    "bad_answer": Fault(1019, 502, 200, False, "backend", "server answered nonsense"),
    "backend_session_lost": Fault(1023, 502, 200, True, "backend", "backend session lost"),
    "session_moved": Fault(1023, 502, 200, True, "bridge", "backend session lost"),  # by us, while the call was on its way
    "backend_error": Fault(1020, 502, 200, True, "backend", "backend error"),
    "unsupported_across_eras": Fault(1021, 502, 200, False, "bridge", "not possible between these protocol versions"),
    "too_many_sessions": Fault(1022, 429, 429, True, "client", "too many sessions"),
    "backend_refused": Fault(1028, 502, 200, False, "backend", "backend refused our credentials"),
    "secret_unavailable": Fault(1024, 502, 200, False, "bridge", "secret not available"),
    "too_many_parked": Fault(1025, 429, 429, True, "client", "too many calls wait for answers"),
}


def counted_status(fault: Fault, *, legacy: bool) -> int:
    """The status under which logs and metrics have a refusal: a failure of ours or a backend's is one in either era."""
    return fault.legacy_status if legacy and fault.status < 500 else fault.status


_NAME_PROTOCOL = frozenset(("connection_refused", "stream_closed", "protocol_mismatch"))  # their texts begin with it


class BridgeError(Exception):
    """One failed exchange, by the name of its row in ``FAULTS``.

    ``detail`` is for people and follows the row's text; ``data`` joins ``error.data``. ``sent`` is False only when it is
    certain that no byte of the request reached a backend: such a call may always be tried elsewhere. ``id`` is the id of the
    message that failed, when the one who raises can tell it and the one who answers could not (``wire.envelope.parse``).
    """

    def __init__(self, reason: str, detail: str = "", *, sent: bool = True, id: int | str | None = None, **data: Any) -> None:
        self.reason = reason
        self.fault = FAULTS[reason]
        self.detail = detail
        self.sent = sent
        self.id = id
        self.data = data
        super().__init__(f"{self.fault.text}: {detail}" if detail else self.fault.text)

    @property
    def retry_after(self) -> str | None:
        """Seconds until a try may help, as the HTTP header has them; None where the status asks for none. ``data.retry_after``
        tells other protocols."""
        return str(self.data.get("retry_after", 1)) if self.fault.status in (429, 503) else None


def to_wire(error: BridgeError, request_id: str | None = None) -> dict[str, Any]:
    """The JSON-RPC ``error`` member ``{code, message, data}`` for a client. Never holds tokens or tracebacks. The message
    names the server that failed: of the whole, clients show nothing else.

    ``request_id``: the id of the HTTP request, by which the log has more.
    """
    data = {"reason": error.reason, "retryable": error.fault.retryable, **error.data}
    if request_id:
        data["request_id"] = request_id
    protocol = error.data.get("protocol") if error.reason in _NAME_PROTOCOL else None
    message = f"{protocol}: {error}" if protocol else str(error)
    server = error.data.get("server") if error.fault.blames == "backend" else None
    if server is not None and repr(server) not in message:
        message += f" (server {server!r})"
    return {"code": error.fault.code, "message": message, "data": data}


_ANSWER_STATUS = {fault.code: fault.status for fault in reversed(FAULTS.values()) if fault.code < 0}


def status_of(code: int, *, legacy: bool) -> int:
    """HTTP status of a JSON-RPC error that a server answered: legacy clients get it with 200, modern ones as MCP says."""
    return 200 if legacy else _ANSWER_STATUS.get(code, 200)
