"""Seals: short texts only this bridge can make and read. They locate state; they never authorize anything.

    v1 | key id (4) | nonce (12) | AES-256-GCM( expiry u48 in ms | payload ) | tag (16)      -> base64url without padding
         authenticated data: the first byte, the key id and the purpose

Every purpose (session, requestState, cursor, ...) has a key of its own, derived from the secret with HKDF, and is authenticated
data as well, so a seal made for one purpose opens for no other. The first secret seals, all of them open: rotation is putting a
new one in front. The text has exactly one spelling; anything else is refused.

Source: architecture section 7; shared decision 5; NIST SP 800-38D; RFC 5869; RFC 4648 section 5.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import os
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

MIN_SECRET_BYTES = 32
MAX_SEAL_CHARS = 16_384
"""No seal that holds only our own words is longer; what a client sends beyond it is refused before any work."""

_VERSION = b"\x01"
_HEAD = 5  # version and key id
_NONCE = 12
_EXPIRY = 6
_TAG = 16
_NEVER = b"\xff" * _EXPIRY


class SealError(Exception):
    """Not a seal of ours for this purpose, or its time is over. The text says no more: an attacker learns nothing from it."""


class Sealer:
    """Makes and opens seals. ``secrets``: at least one, each of 32 bytes or more. ``clock`` gives Unix seconds.

    Raises ValueError for no secret or a short one.
    """

    def __init__(self, secrets: Sequence[bytes], clock: Callable[[], float] = time.time) -> None:
        if not secrets:
            raise ValueError("a seal needs a secret")
        if any(len(secret) < MIN_SECRET_BYTES for secret in secrets):
            raise ValueError(f"a seal secret has at least {MIN_SECRET_BYTES} bytes")
        self._secrets = list(secrets)
        self._clock = clock
        self._ids: list[bytes] = []
        self._nonce_keys: dict[str, bytes] = {}
        self._ciphers: dict[tuple[int, str], AESGCM] = {}

    def seal(self, purpose: str, payload: bytes, ttl: float) -> str:
        """A URL-safe text of ``payload`` that opens for ``purpose`` during ``ttl`` seconds, 4/3 of its length + 64."""
        head = _VERSION + self._key_ids()[0]
        nonce = os.urandom(_NONCE)
        expiry = int((self._clock() + ttl) * 1000).to_bytes(_EXPIRY, "big")
        body = self._cipher(0, purpose).encrypt(nonce, expiry + payload, head + purpose.encode())
        return _text(head + nonce + body)

    def name(self, purpose: str, payload: bytes) -> str:
        """A seal that is the same text whenever the same is sealed with the same secret, and does not expire: for ids.

        Its nonce is a keyed hash of what it seals, so that no two payloads meet under one (a synthetic IV, RFC 5297).
        """
        head = _VERSION + self._key_ids()[0]
        key = self._nonce_keys.get(purpose)
        if key is None:
            key = self._nonce_keys[purpose] = derive_key(self._secrets[0], f"nonce {purpose}")
        nonce = hmac.digest(key, payload, "sha256")[:_NONCE]
        return _text(head + nonce + self._cipher(0, purpose).encrypt(nonce, _NEVER + payload, head + purpose.encode()))

    def open(self, purpose: str, token: str, max_chars: int = MAX_SEAL_CHARS) -> bytes:
        """The payload of an untouched, living seal of this purpose, at most ``max_chars`` long. Raises SealError."""
        raw = _decode(token, max_chars)
        if len(raw) < _HEAD + _NONCE + _EXPIRY + _TAG or raw[:1] != _VERSION:
            raise SealError("not a seal")
        from cryptography.exceptions import InvalidTag

        head, nonce, body = raw[:_HEAD], raw[_HEAD : _HEAD + _NONCE], raw[_HEAD + _NONCE :]
        for number, id in enumerate(self._key_ids()):
            if id != head[1:]:
                continue
            try:
                plain = self._cipher(number, purpose).decrypt(nonce, body, head + purpose.encode())
            except InvalidTag:
                continue
            if int.from_bytes(plain[:_EXPIRY], "big") <= self._clock() * 1000:
                raise SealError("expired")
            return plain[_EXPIRY:]
        raise SealError("not a seal")

    def _key_ids(self) -> list[bytes]:
        if not self._ids:
            self._ids = [derive_key(secret, "key id", 4) for secret in self._secrets]
        return self._ids

    def _cipher(self, number: int, purpose: str) -> AESGCM:
        cipher = self._ciphers.get((number, purpose))
        if cipher is None:
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM

            cipher = self._ciphers[number, purpose] = AESGCM(derive_key(self._secrets[number], f"purpose {purpose}"))
        return cipher


def derive_key(secret: bytes, label: str, length: int = 32) -> bytes:
    """HKDF-SHA256 of ``secret`` for one use, ``length`` bytes. Also makes the seal secret from the JWT secret (decision 5)."""
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return HKDF(SHA256(), length, None, b"mcpbridge v1 " + label.encode()).derive(secret)


def certificate_end(path: str) -> float:
    """Unix time at which the first certificate of a PEM file ends. Raises OSError or ValueError."""
    from cryptography.x509 import load_pem_x509_certificate

    with open(path, "rb") as file:
        return load_pem_x509_certificate(file.read()).not_valid_after_utc.timestamp()


def random_secret() -> bytes:
    """A secret for one process and its workers, when none is configured."""
    return os.urandom(MIN_SECRET_BYTES)


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _decode(token: str, max_chars: int) -> bytes:
    if len(token) > max_chars or not token.isascii():
        raise SealError("not a seal")
    try:
        raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    except (binascii.Error, ValueError):
        raise SealError("not a seal") from None
    # The decoder skips foreign characters and ignores spare bits: one seal would have many spellings.
    if _text(raw) != token:
        raise SealError("not a seal")
    return raw
