"""Secrets in a file of this user: encrypted, or in plain text for whoever asks for that by name.

    passphrase (MCPBRIDGE_PASSPHRASE, _FILE) -> Argon2id -> AES-256-GCM for each entry; its name is authenticated too
    or a key beside the file, which protects backups and accidental sharing, not against somebody with this account

Source: ux section 5.4; contract cli.token.store; RFC 9106 (Argon2id), SP 800-38D (GCM).
"""

from __future__ import annotations

import os
from base64 import b64decode, b64encode
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Final

from mcpbridge.private_files import write_private
from mcpbridge.secrets.entries import Entries
from mcpbridge.secrets.faults import LOCKED, UNREADABLE, SecretError

KEY_BYTES: Final = 32
_NONCE = 12
_MEMORY, _PASSES, _LANES = 65_536, 3, 4  # KiB; RFC 9106 section 4, second recommendation
_PASSPHRASE = "MCPBRIDGE_PASSPHRASE"  # noqa: S105 - the name of a variable


class EncryptedFile:
    """See the module. ``env`` may have the passphrase; it is asked for at every use, so a changed one counts."""

    kind: Final = "file"

    def __init__(self, entries: Entries, env: Mapping[str, str]) -> None:
        self._entries = entries
        self._env = env

    @property
    def title(self) -> str:
        """What it is, for people. Raises SecretError."""
        by = self._entries.head().get("key") or ("passphrase" if self._passphrase() else "key file")
        return f"the encrypted file {self._entries.path} ({by})"

    def probe(self) -> None:
        """Raises SecretError when the file or its key cannot be used."""
        head = self._entries.head()
        if head:
            self._key(head)

    def read(self, name: str) -> str | None:
        """The value, or None. Raises SecretError."""
        text = self._entries.get(name)
        if text is None:
            return None
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        key = self._key(self._entries.head())
        try:
            data = b64decode(text, validate=True)
            return AESGCM(key).decrypt(data[:_NONCE], data[_NONCE:], name.encode()).decode()
        except (InvalidTag, ValueError):
            raise SecretError(name, "the passphrase is another one, or the entry is damaged", "check it", LOCKED) from None

    def write(self, name: str, value: str) -> None:
        """Store it. Raises SecretError; nothing has changed then."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        head = self._entries.head() or self._new_head()
        known = next(iter(self._entries.times()), None)
        if known is not None:
            self.read(known)  # another passphrase would make a file that nobody can read as a whole
        nonce = os.urandom(_NONCE)
        sealed = AESGCM(self._key(head)).encrypt(nonce, value.encode(), name.encode())
        self._entries.put(name, b64encode(nonce + sealed).decode(), head)

    def delete(self, name: str) -> bool:
        """Whether it was there. Raises SecretError."""
        return self._entries.remove(name)

    def stored(self) -> dict[str, float]:
        """Names, and when each was stored (Unix seconds)."""
        return self._entries.times()

    def _new_head(self) -> dict[str, str]:
        salt = b64encode(os.urandom(16)).decode()
        return {"cipher": "aes-256-gcm", "key": "passphrase" if self._passphrase() else "key file", "salt": salt}

    def _passphrase(self) -> str:
        said, path = self._env.get(_PASSPHRASE, ""), self._env.get(f"{_PASSPHRASE}_FILE", "")
        if said and path:
            raise SecretError(_PASSPHRASE, f"is set, and {_PASSPHRASE}_FILE too", "set one of them")
        if not path:
            return said
        try:
            return Path(path).read_text(encoding="utf-8").strip("\r\n")
        except (OSError, UnicodeDecodeError):
            raise SecretError(f"{_PASSPHRASE}_FILE", f"{path} cannot be read", "check it", LOCKED) from None

    def _key(self, head: Mapping[str, str]) -> bytes:
        said = self._passphrase()
        if head.get("key") == "passphrase":
            if not said:
                where = str(self._entries.path)
                raise SecretError(where, "needs its passphrase", f"set {_PASSPHRASE} or {_PASSPHRASE}_FILE", LOCKED)
            return _derive(said, head.get("salt", ""))
        return self._key_file()

    def _key_file(self) -> bytes:
        """The key beside the file; made when it is not there and nothing is stored yet."""
        path = self._entries.path.with_name("key")
        try:
            if not self._entries.times() and not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                write_private(str(path), os.urandom(KEY_BYTES))
            key = path.read_bytes()
        except OSError as error:
            raise SecretError(str(path), error.strerror or "cannot be read", "restore it from a backup", LOCKED) from None
        if len(key) != KEY_BYTES:
            raise SecretError(str(path), "is no key of ours", "restore it from a backup", UNREADABLE)
        return key


class PlainFile:
    """Values as they are, in a file that only its owner may read."""

    kind: Final = "plain"

    def __init__(self, entries: Entries) -> None:
        self._entries = entries

    @property
    def title(self) -> str:
        """What it is, for people."""
        return f"the file {self._entries.path}, in plain text"

    def probe(self) -> None:
        """Raises SecretError when the file cannot be used."""
        self._entries.head()

    def read(self, name: str) -> str | None:
        """The value, or None. Raises SecretError."""
        return self._entries.get(name)

    def write(self, name: str, value: str) -> None:
        """Store it. Raises SecretError."""
        self._entries.put(name, value)

    def delete(self, name: str) -> bool:
        """Whether it was there. Raises SecretError."""
        return self._entries.remove(name)

    def stored(self) -> dict[str, float]:
        """Names, and when each was stored (Unix seconds)."""
        return self._entries.times()


@lru_cache(maxsize=4)
def _derive(passphrase: str, salt: str) -> bytes:
    """Half a second of work on purpose, once per process."""
    from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

    kdf = Argon2id(salt=b64decode(salt), length=KEY_BYTES, iterations=_PASSES, lanes=_LANES, memory_cost=_MEMORY)
    return kdf.derive(passphrase.encode())
