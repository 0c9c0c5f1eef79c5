"""The proxy loop of one server: pick a backend, try it, try again? Decisions are the server's; I/O is the attempt ring's.

Source: architecture section 5.
"""

from __future__ import annotations

from time import monotonic

from mcpbridge.core.exchange import Exchange, Handler
from mcpbridge.core.server import Backend, Server
from mcpbridge.errors import BridgeError
from mcpbridge.wire.message import Request, Response
from mcpbridge.wire.spec import retry_safe


def forward(attempt: Handler, *, max_attempts: int = 2) -> Handler:
    """Answers an exchange whose target is one Server.

    A call that certainly never left us is tried on every backend; a sent one only when its method is retry-safe, at most
    ``max_attempts`` times, never past its deadline, and never while other backends are missing.
    """

    async def run(x: Exchange) -> Response | None:
        assert isinstance(x.target, Server)
        tried: set[Backend] = set()
        sent = 0
        while True:
            backend = x.target.choose(x, tried)
            x.backend = backend
            x.attempts += 1
            try:
                with backend.in_flight(x):
                    return await attempt(x)
            except BridgeError as error:
                if error.fault.blames == "backend":
                    error.data = {"server": x.target.name, "protocol": backend.protocol, **error.data}
                tried.add(backend)
                sent += error.sent
                if not x.target.may_retry(x, tried) or not _may_retry(x, error, sent, max_attempts):
                    raise

    return run


def _may_retry(x: Exchange, error: BridgeError, sent: int, max_attempts: int) -> bool:
    if error.fault.blames == "client" or x.deadline.remaining(monotonic()) <= 0:
        return False
    if not error.sent:
        return True
    return sent < max_attempts and isinstance(x.message, Request) and retry_safe(x.message.method)
