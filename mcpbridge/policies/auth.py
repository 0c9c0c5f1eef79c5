"""Sign-in: who sends this message? The one choke point of every frontend.

    Authorization: Bearer TOKEN -> static token (digest, constant time) or JWT (policies.jwt) -> x.caller.principal

Every refusal has the same text, whatever was wrong, and no token is ever logged: the log names its first 8 digits of SHA-256.
A verified token is remembered by its full SHA-256 for at most CACHE_SECONDS and never past its end.

Source: contract http.gateway.execute.noauth, limit.input.token, limit.auth.per-message, ``auth.*``; RFC 6750; reliability
section 2, rows 4, 25 and 26.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Awaitable, Callable, Sequence
from hashlib import sha256
from typing import NamedTuple

from mcpbridge.core.exchange import ANONYMOUS, Exchange, Handler, Policy, Principal
from mcpbridge.errors import BridgeError
from mcpbridge.observe.log import log
from mcpbridge.policies import jwt
from mcpbridge.wire.message import Response

MAX_TOKEN_LENGTH = 4096
CACHE_SECONDS = 300.0
CACHE_ENTRIES = 4096
STATIC_ISSUER = "static"

_REFUSAL = "a valid bearer token is needed"
_CHALLENGE = 'Bearer realm="mcpbridge", scope="mcp:read"'
_log = log("auth")

Verify = Callable[[str | None], Principal]
"""The principal behind an ``Authorization`` header (None when there is none). Raises BridgeError("unauthorized")."""


class StaticToken(NamedTuple):
    """One configured token and what it allows; ``mcp:*`` is everything."""

    name: str
    token: str
    scopes: frozenset[str]


def authenticate(verify: Verify | None) -> Policy:
    """Set ``x.caller.principal``, on every message. ``verify`` None is ``auth.type: none``: everybody is ANONYMOUS."""

    def policy(x: Exchange, handler: Handler) -> Awaitable[Response | None]:
        if verify is None:
            x.caller.principal = ANONYMOUS
        else:
            x.caller.principal = None
            x.caller.principal = verify(x.caller.headers.get("authorization"))
        return handler(x)

    return policy


def bearer(
    static: Sequence[StaticToken] = (),
    keys: jwt.JwtKeys | None = None,
    *,
    max_token_length: int = MAX_TOKEN_LENGTH,
    clock: Callable[[], float] = time.time,
) -> Verify:
    """Sign-in with bearer tokens. ``clock`` gives Unix seconds. Without tokens and keys it refuses everybody."""
    known = [(_digest(entry.token), Principal(STATIC_ISSUER, entry.name, entry.scopes)) for entry in static]
    cache: dict[bytes, tuple[Principal, float]] = {}

    def verify(header: str | None) -> Principal:
        token = _token(header, max_token_length)
        digest = _digest(token)
        hit = cache.get(digest)
        now = clock()
        if hit is not None:
            if now < hit[1]:
                return hit[0]
            del cache[digest]
        principal: Principal | None = None
        for expected, holder in known:  # all of them, so that the time says nothing about which one it is
            if hmac.compare_digest(digest, expected):
                principal = holder
        until = now + CACHE_SECONDS
        if principal is None:
            principal, expires = _by_jwt(token, digest, keys, now)
            until = min(until, expires)
        if until > now:
            if len(cache) >= CACHE_ENTRIES:
                del cache[next(iter(cache))]
            cache[digest] = (principal, until)
        return principal

    return verify


def _by_jwt(token: str, digest: bytes, keys: jwt.JwtKeys | None, now: float) -> tuple[Principal, float]:
    why = "it is not known"
    if keys is not None:
        try:
            return jwt.verify(token, keys, now)
        except jwt.TokenError as error:
            why = str(error)
    _log.info(f"token refused: {why}", event="token_refused", token_hash=digest.hex()[:8])
    raise _refused(invalid=True)


def _token(header: str | None, max_length: int) -> str:
    if header is None:
        raise _refused(invalid=False)
    scheme, _, token = header.partition(" ")
    token = token.strip(" ")
    if scheme.lower() != "bearer" or not 0 < len(token) <= max_length or not token.isascii():
        raise _refused(invalid=True)
    if not token.isprintable() or " " in token:
        raise _refused(invalid=True)
    return token


def _digest(token: str) -> bytes:
    return sha256(token.encode()).digest()


def _refused(*, invalid: bool) -> BridgeError:
    # A request without a token gets the bare challenge, one with a bad token also the error code (RFC 6750 section 3.1).
    challenge = _CHALLENGE + (', error="invalid_token"' if invalid else "")
    return BridgeError("unauthorized", _REFUSAL, sent=False, challenge=challenge)
