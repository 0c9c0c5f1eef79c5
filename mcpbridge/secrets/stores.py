"""The places where secrets are kept here, and which one takes a new secret.

Source: contract cli.token.store, cli.install.storage; ux section 5.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final, Protocol

from mcpbridge.private_files import data_directory
from mcpbridge.secrets.entries import Entries
from mcpbridge.secrets.faults import NONE, UNREADABLE, SecretError
from mcpbridge.secrets.file import EncryptedFile, PlainFile
from mcpbridge.secrets.keychain import Keychain

KINDS: Final = ("keychain", "file", "plain")
OTHERS: Final = "--store file (encrypted), or a variable or file that token_env or token_file names"


class Store(Protocol):
    """One place. All but ``kind`` raise SecretError."""

    @property
    def kind(self) -> str:
        """One of KINDS."""
        ...

    @property
    def title(self) -> str:
        """What it is, for people."""
        ...

    def probe(self) -> None:
        """Raises when it cannot be used."""
        ...

    def read(self, name: str) -> str | None:
        """The value, or None."""
        ...

    def write(self, name: str, value: str) -> None:
        """Store it."""
        ...

    def delete(self, name: str) -> bool:
        """Whether it was there."""
        ...

    def stored(self) -> dict[str, float]:
        """Names, and when each was stored (Unix seconds)."""
        ...


def store(kind: str, env: Mapping[str, str] | None = None) -> Store:
    """One of KINDS. Raises KeyError for another."""
    folder = data_directory()
    if kind == "keychain":
        return Keychain(Entries(folder / "keychain-names.json"))
    if kind == "file":
        return EncryptedFile(Entries(folder / "secrets.json"), os.environ if env is None else env)
    return {"plain": PlainFile(Entries(folder / "plain-secrets.json"))}[kind]


def fit(kind: str = "auto") -> Store:
    """The store for a new secret: the one that is asked for, else the keychain. Never another one in silence.

    Raises SecretError when it cannot be used.
    """
    found = store("keychain" if kind == "auto" else kind)
    try:
        found.probe()
    except SecretError as error:
        if kind == "auto" and error.code:
            raise SecretError("keychain", error.detail.partition(": ")[2].partition("; ")[0], OTHERS, error.code) from error
        raise
    return found


def keep(one: Store, name: str, value: str) -> None:
    """Store a secret and read it back. Raises SecretError."""
    one.write(name, value)
    if one.read(name) != value:
        raise SecretError(name, "the store does not give back what was stored", "use another one", UNREADABLE)


def find(name: str) -> tuple[Store, str] | None:
    """Where a secret is, and its value. The files are asked when the keychain cannot be, or has none.

    Raises SecretError when no store has it and one could not be asked.
    """
    failure: SecretError | None = None
    for kind in KINDS:
        one = store(kind)
        try:
            value = one.read(name)
        except SecretError as error:
            failure = failure or (error if error.code != NONE else None)
            continue
        if value:
            return one, value
    if failure is not None:
        raise failure
    return None
