"""JSON Web Tokens signed with a shared secret: issue, verify, inspect; owns PyJWT.

The algorithm is pinned to HS256 and never read from the token; headers that bring or point to a key are refused. The claims are
checked here and not by the library, so that the time is an argument and every claim that counts is mandatory: ``exp``, ``iss``,
``aud``, ``sub``.

Source: RFC 7515, 7519, 8725; contract ``auth.jwt``, cli.gateway.token-create, cli.token.decode; reliability section 2,
rows 3 and 4.
"""

from __future__ import annotations

import base64
import json
import re
import secrets as random
from dataclasses import dataclass
from typing import Any, NamedTuple

from mcpbridge.core.exchange import Principal

ALGORITHM = "HS256"
MIN_SECRET_BYTES = 32
DEFAULT_NAME = "mcpbridge"
"""Issuer and audience when none is configured: tokens of ``mcpbridge token issue`` carry both, so both are always checked."""

_SHAPE = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_KEY_HEADERS = frozenset({"jku", "jwk", "x5u", "x5c", "crit", "b64", "zip"})
_TYPES = frozenset({"jwt", "at+jwt"})


class TokenError(Exception):
    """Why a token is not accepted: for logs and ``token inspect``, never for the one who sent it."""


@dataclass(slots=True, frozen=True)
class JwtKeys:
    """What tokens are checked against. The first secret signs, all verify. ``leeway``: seconds clocks may differ.

    Raises ValueError for no secret or one under 32 bytes.
    """

    secrets: tuple[bytes, ...]
    issuer: str = DEFAULT_NAME
    audience: str = DEFAULT_NAME
    leeway: float = 30.0

    def __post_init__(self) -> None:
        if not self.secrets or any(len(secret) < MIN_SECRET_BYTES for secret in self.secrets):
            raise ValueError(f"a JWT secret has at least {MIN_SECRET_BYTES} bytes")

    def __repr__(self) -> str:
        return f"JwtKeys(issuer={self.issuer!r}, audience={self.audience!r})"  # never the secrets


class Verified(NamedTuple):
    """Who a token speaks for, and the Unix time at which it ends."""

    principal: Principal
    expires: float


class Inspection(NamedTuple):
    """What a token says of itself, not verified."""

    header: dict[str, Any]
    claims: dict[str, Any]


def issue(keys: JwtKeys, *, subject: str, scopes: tuple[str, ...], ttl: float, now: float) -> str:
    """A token for ``subject`` with ``scopes`` that ends ``ttl`` seconds after ``now``.

    Its payload is spelled so that plain ``base64 -d`` decodes it: ASCII, padded with blanks to a multiple of three bytes, and
    without the characters whose bits would make ``-`` or ``_``.

    Raises ValueError for an empty subject or a ttl that is not positive.
    """
    if not _is_name(subject) or ttl <= 0:
        raise ValueError("a token needs a subject of printable characters and a time to live")
    from jwt.api_jws import PyJWS

    claims = {
        "iss": keys.issuer,
        "aud": keys.audience,
        "sub": subject,
        "iat": int(now),
        "exp": int(now + ttl),
        "jti": random.token_hex(16),
        "scopes": list(scopes),
    }
    payload = json.dumps(claims, separators=(",", ":"))
    for character in ">?~\x7f":  # strings are the only place where they can stand
        payload = payload.replace(character, f"\\u{ord(character):04x}")
    payload += " " * (-len(payload) % 3)
    return PyJWS().encode(payload.encode("ascii"), keys.secrets[0], algorithm=ALGORITHM, headers={"typ": "JWT"})


def verify(token: str, keys: JwtKeys, now: float) -> Verified:
    """The principal of an authentic token that is valid at ``now`` (Unix seconds) for this bridge. Raises TokenError."""
    _check_header(_part(token, 0))
    claims = _object(_signed_payload(token, keys))
    expires = _time(claims, "exp")
    if expires is None:
        raise TokenError("it has no exp")
    if now >= expires + keys.leeway:
        raise TokenError("it has expired")
    for name in ("nbf", "iat"):
        start = _time(claims, name)
        if start is not None and start > now + keys.leeway:
            raise TokenError(f"its {name} is in the future")
    if claims.get("iss") != keys.issuer:
        raise TokenError("it has another issuer")
    audience = claims.get("aud")
    if keys.audience not in (audience if isinstance(audience, list) else [audience]):
        raise TokenError("it is for another audience")
    subject, client = claims.get("sub"), claims.get("client_id", "")
    if not isinstance(subject, str) or not _is_name(subject):
        raise TokenError("it has no usable sub")
    if not isinstance(client, str):
        raise TokenError("its client_id is no text")
    return Verified(Principal(keys.issuer, subject, scopes_of(claims), client), expires)


def inspect(token: str) -> Inspection:
    """Header and claims of a token as they are, without any check of signature or time. Raises TokenError if it is no JWT."""
    return Inspection(_object(_part(token, 0)), _object(_part(token, 1)))


def scopes_of(claims: dict[str, Any]) -> frozenset[str]:
    """``scopes`` as a list or ``scope`` as a text with blanks (RFC 8693 section 4.2); anything else is no scope."""
    value = claims.get("scopes", claims.get("scope"))
    if isinstance(value, str):
        value = value.split(" ")
    return frozenset(scope for scope in value if isinstance(scope, str) and scope) if isinstance(value, list) else frozenset()


def _signed_payload(token: str, keys: JwtKeys) -> bytes:
    from jwt.api_jws import PyJWS
    from jwt.exceptions import InvalidSignatureError, PyJWTError

    for secret in keys.secrets:
        try:
            payload = PyJWS().decode_complete(token, secret, algorithms=[ALGORITHM])["payload"]
        except InvalidSignatureError:
            continue
        except (PyJWTError, ValueError, RecursionError) as error:
            raise TokenError("it is no JWT") from error
        assert isinstance(payload, bytes)
        return payload
    raise TokenError("its signature is not ours")


def _check_header(raw: bytes) -> None:
    header = _object(raw)
    if header.get("alg") != ALGORITHM:
        raise TokenError("its algorithm is not HS256")
    if _KEY_HEADERS & header.keys():
        raise TokenError("its header brings a key or an extension")
    if str(header.get("typ", "JWT")).lower() not in _TYPES:
        raise TokenError("its type is not JWT")


def _part(token: str, number: int) -> bytes:
    if _SHAPE.fullmatch(token) is None:
        raise TokenError("it is no JWT")
    text = token.split(".")[number]
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError:
        raise TokenError("it is no JWT") from None


def _object(raw: bytes) -> dict[str, Any]:
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        raise TokenError("it is no JWT") from None
    if not isinstance(value, dict):
        raise TokenError("it is no JWT")
    return value


def _time(claims: dict[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e12:
        raise TokenError(f"its {name} is no time")
    return float(value)


def _is_name(text: str) -> bool:
    return 0 < len(text) <= 255 and text.isprintable()
