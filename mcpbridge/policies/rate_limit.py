"""Rate limit: a token bucket in front of everything that is asked.

Source: contract ``local.rate_limit.*``, error 1010.
"""

from __future__ import annotations

from collections.abc import Awaitable
from time import monotonic

from mcpbridge.core.exchange import Exchange, Handler, Policy
from mcpbridge.errors import BridgeError
from mcpbridge.wire.message import Request, Response


class Bucket:
    """Holds at most ``burst`` tokens and gains ``rate`` a second; pure, whoever takes says what time it is (seconds)."""

    __slots__ = ("_at", "_burst", "_rate", "_tokens")

    def __init__(self, rate: float, burst: int, now: float) -> None:
        self._rate = rate
        self._burst = float(burst)
        self._tokens = self._burst
        self._at = now

    def take(self, now: float) -> float:
        """Take one token: 0.0, or the seconds until there is one."""
        self._tokens = min(self._burst, self._tokens + self._rate * max(0.0, now - self._at))
        self._at = now
        if self._tokens < 1.0:
            return (1.0 - self._tokens) / self._rate
        self._tokens -= 1.0
        return 0.0


def rate_limit(rate: float, burst: int) -> Policy:
    """Requests above ``rate`` a second, after ``burst`` at once, fail with the time to wait. Notifications and answers pass:
    what belongs to a call in flight must not be lost. Raises BridgeError("rate_limited")."""
    bucket = Bucket(rate, burst, monotonic())

    def policy(x: Exchange, handler: Handler) -> Awaitable[Response | None]:
        if isinstance(x.message, Request):
            wait = bucket.take(monotonic())
            if wait:
                detail = f"more than {rate:g} requests a second; try again in {wait:.2f} s"
                raise BridgeError("rate_limited", detail, sent=False, retry_after_ms=round(wait * 1000) + 1)
        return handler(x)

    return policy
