"""Keychains for tests: a backend of keyring that keeps its items in memory, and can fail as real ones do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import keyring
from keyring.backend import KeyringBackend
from keyring.errors import PasswordDeleteError


class MemoryKeychain(KeyringBackend):
    """``error`` is raised by every call; ``longest``: values beyond it are refused, as by Windows."""

    priority = 9.0  # type: ignore[assignment]

    def __init__(self, items: dict[str, str] | None = None, *, longest: int = 1_000_000) -> None:
        super().__init__()
        self.items = {("mcpbridge", name): value for name, value in (items or {}).items()}
        self.error: Exception | None = None
        self.longest = longest
        self.asked: list[str] = []

    def get_password(self, service: str, username: str) -> str | None:
        self._fail()
        self.asked.append(username)
        return self.items.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self._fail()
        if len(password.encode("utf-16-le")) > 2 * self.longest:
            raise OSError("(1783, 'CredWrite', 'The stub received bad data')")
        self.items[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        self._fail()
        if self.items.pop((service, username), None) is None:
            raise PasswordDeleteError("not found")

    def _fail(self) -> None:
        if self.error is not None:
            raise self.error


@contextmanager
def as_keyring(backend: KeyringBackend) -> Iterator[None]:
    """keyring uses this backend meanwhile."""
    before = keyring.get_keyring()
    keyring.set_keyring(backend)
    try:
        yield
    finally:
        keyring.set_keyring(before)
