"""The keychain of the platform: macOS Keychain, Windows Credential Manager, Secret Service, KWallet; through keyring.

It may wait for a dialog that nobody sees, so every call ends after TIMEOUT. Windows takes 1,280 characters: longer
values lie in parts, ``name#1``, ``name#2`` ..., and ``name`` says how many there are. No keychain can list what is in it: the
names are kept in a file beside, without values.

Source: ux section 5; contract cli.token.store.
"""

from __future__ import annotations

import hashlib
import re
import sys
import threading
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from mcpbridge.secrets.entries import Entries
from mcpbridge.secrets.faults import LOCKED, NONE, UNREADABLE, SecretError

if TYPE_CHECKING:
    from keyring.backend import KeyringBackend

SERVICE: Final = "mcpbridge"
"""Under this service name secrets lie in the keychain."""

TIMEOUT: Final = 20.0  # seconds
LIMIT: Final = 1280 if sys.platform == "win32" else None  # characters: 2,560 bytes of UTF-16
_PARTS = re.compile(r"mcpbridge:parts:(\d{1,3}):([0-9a-f]{16})")
_INSECURE = ("keyrings.alt", "keyring.backends.null")


class Keychain:
    """See the module. ``names`` is the file of names. Imports keyring, which takes 100 ms and more, when it is used."""

    kind: Final = "keychain"

    def __init__(self, names: Entries, *, limit: int | None = LIMIT, timeout: float = TIMEOUT) -> None:
        self._names = names
        self._limit = limit
        self._timeout = timeout

    @property
    def title(self) -> str:
        """What it is, for people. Raises SecretError when there is none."""
        backend = self._backend()
        return f"the keychain of this computer ({type(backend).__module__.rpartition('.')[2]})"

    def probe(self) -> None:
        """Write, read and delete a throw-away item. Raises SecretError when the keychain cannot be used."""
        name, value = f"probe-{uuid4().hex}", uuid4().hex
        self._call(name, "set_password", value)
        try:
            if self._call(name, "get_password") != value:
                raise SecretError("keychain", "does not give back what was stored", "use another store", UNREADABLE)
        finally:
            self._call(name, "delete_password")

    def read(self, name: str) -> str | None:
        """The value, or None. Raises SecretError."""
        head = self._call(name, "get_password")
        found = _PARTS.fullmatch(head or "")
        if found is None:
            return head or None
        parts = [self._call(f"{name}#{number}", "get_password") or "" for number in range(1, int(found[1]) + 1)]
        value = "".join(parts)
        if _digest(value) != found[2]:
            raise SecretError(name, "a part of it is missing in the keychain", "store it again", UNREADABLE)
        return value

    def write(self, name: str, value: str) -> None:
        """Store it, whole or in parts. Raises SecretError; the old value is then still there, or none."""
        before = self._parts(name)
        limit = None if self._limit is None else self._limit // 2 if max(value) > "\uffff" else self._limit
        parts: list[str] = []
        if limit is not None and len(value) > limit:
            parts = [value[at : at + limit] for at in range(0, len(value), limit)]
            for number, part in enumerate(parts, 1):
                self._call(f"{name}#{number}", "set_password", part)
            value = f"mcpbridge:parts:{len(parts)}:{_digest(value)}"
        self._call(name, "set_password", value)
        for number in range(len(parts) + 1, before + 1):
            self._call(f"{name}#{number}", "delete_password")
        self._names.put(name, "")

    def delete(self, name: str) -> bool:
        """Whether it was there. Raises SecretError."""
        parts, was_there = self._parts(name), self._call(name, "get_password") is not None
        if was_there:
            for one in (name, *(f"{name}#{number}" for number in range(1, parts + 1))):
                self._call(one, "delete_password")
        self._names.remove(name)
        return was_there

    def stored(self) -> dict[str, float]:
        """Names that were stored from here, and when (Unix seconds)."""
        return self._names.times()

    def _parts(self, name: str) -> int:
        found = _PARTS.fullmatch(self._call(name, "get_password") or "")
        return int(found[1]) if found is not None else 0

    def _backend(self) -> KeyringBackend:
        try:
            import keyring
        except ImportError:
            raise SecretError("keychain", "this installation has no keychain support", "install keyring", NONE) from None
        backend = keyring.get_keyring()
        module = type(backend).__module__
        if module.startswith(_INSECURE):
            raise SecretError("keychain", f"{module} keeps secrets in plain text, or not at all", "unset what names it", NONE)
        if backend.priority < 1:
            raise SecretError("keychain", "this machine has none", _ALTERNATIVES, NONE)
        return backend

    def _call(self, name: str, method: str, *more: str) -> Any:
        """One call of the backend, within the time. Raises SecretError."""
        from_thread: list[Any] = []

        def run() -> None:
            try:
                from_thread.append(getattr(self._backend(), method)(SERVICE, name, *more))
            except BaseException as error:  # noqa: BLE001 - judged below
                from_thread.append(error)

        thread = threading.Thread(target=run, daemon=True, name="keychain")
        thread.start()
        thread.join(self._timeout)
        if not from_thread:
            cause = f"did not answer in {self._timeout:g} s; it may show a dialog"
            raise SecretError(name, f"the keychain {cause}", "unlock it", LOCKED)
        found = from_thread[0]
        if isinstance(found, BaseException):
            raise _told(name, found) from found
        return found


_ALTERNATIVES: Final = "use token_env or token_file, or the encrypted file (--store file)"


def _told(name: str, error: BaseException) -> SecretError:
    if isinstance(error, SecretError):
        return error
    kind = type(error).__name__
    if kind in ("NoKeyringError",):
        return SecretError(name, "this machine has no keychain", _ALTERNATIVES, NONE)
    if kind in ("KeyringLocked", "InitError"):
        return SecretError(name, f"the keychain is locked ({kind})", f"unlock it, or {_ALTERNATIVES}", LOCKED)
    return SecretError(name, f"the keychain failed ({kind})", _ALTERNATIVES, UNREADABLE)


def _digest(value: str) -> str:
    return hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()[:16]
