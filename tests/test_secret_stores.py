"""Where secrets are kept: what each store gives back, what it refuses, and that nobody else can read it."""

from __future__ import annotations

import json
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from keyring.errors import KeyringLocked

from mcpbridge.secrets.entries import Entries
from mcpbridge.secrets.faults import SecretError
from mcpbridge.secrets.file import EncryptedFile, PlainFile
from mcpbridge.secrets.keychain import Keychain
from mcpbridge.secrets.stores import find, fit, store
from tests.support.keychains import MemoryKeychain, as_keyring


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.delenv("MCPBRIDGE_PASSPHRASE", raising=False)


@pytest.fixture
def keychain() -> Iterator[MemoryKeychain]:
    stand_in = MemoryKeychain()
    with as_keyring(stand_in):
        yield stand_in


def encrypted(folder: Path, **env: str) -> EncryptedFile:
    return EncryptedFile(Entries(folder / "secrets.json"), env)


@pytest.mark.parametrize("passphrase", ["", "correct horse"])
def test_an_encrypted_file_gives_back_what_was_stored_and_shows_none_of_it(tmp_path: Path, passphrase: str) -> None:
    one = encrypted(tmp_path, **({"MCPBRIDGE_PASSPHRASE": passphrase} if passphrase else {}))
    for name, value in (("a", "first-value"), ("b", "zweiter ünicode"), ("a", "third-value")):
        one.write(name, value)
    assert (one.read("a"), one.read("b"), one.read("c")) == ("third-value", "zweiter ünicode", None)
    assert set(one.stored()) == {"a", "b"}
    raw = (tmp_path / "secrets.json").read_bytes()
    assert b"value" not in raw.replace(b'"value"', b"") and "ünicode".encode() not in raw
    assert one.delete("a") and not one.delete("a")
    assert one.read("a") is None
    assert ("passphrase" if passphrase else "key file") in one.title


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX")
def test_files_of_secrets_are_for_their_owner_only_and_are_refused_when_they_are_not(tmp_path: Path) -> None:
    one = encrypted(tmp_path / "new")
    one.write("a", "value")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "new").iterdir()}
    assert set(modes.values()) == {0o600} and stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700
    (tmp_path / "new/secrets.json").chmod(0o640)
    with pytest.raises(SecretError, match="can be read by others; chmod 600"):
        one.read("a")


def test_another_passphrase_reads_nothing_and_writes_nothing(tmp_path: Path) -> None:
    encrypted(tmp_path, MCPBRIDGE_PASSPHRASE="one").write("a", "value")
    other = encrypted(tmp_path, MCPBRIDGE_PASSPHRASE="two")
    for act in (lambda: other.read("a"), lambda: other.write("b", "value"), lambda: encrypted(tmp_path).read("a")):
        with pytest.raises(SecretError, match="passphrase") as caught:
            act()
        assert caught.value.code == "MCPB-KEY-LOCKED"
    assert set(other.stored()) == {"a"}


def test_a_passphrase_may_lie_in_a_file_but_not_in_both_places(tmp_path: Path) -> None:
    path = tmp_path / "phrase"
    path.write_text("correct horse\n")
    encrypted(tmp_path, MCPBRIDGE_PASSPHRASE_FILE=str(path)).write("a", "value")
    assert encrypted(tmp_path, MCPBRIDGE_PASSPHRASE="correct horse").read("a") == "value"
    with pytest.raises(SecretError, match="set one of them"):
        encrypted(tmp_path, MCPBRIDGE_PASSPHRASE="x", MCPBRIDGE_PASSPHRASE_FILE=str(path)).read("a")


def test_an_entry_moved_to_another_name_is_not_believed(tmp_path: Path) -> None:
    one = encrypted(tmp_path)
    one.write("a", "value")
    path = tmp_path / "secrets.json"
    document = json.loads(path.read_text())
    document["entries"]["b"] = document["entries"]["a"]
    path.write_text(json.dumps(document))
    with pytest.raises(SecretError, match="b: the passphrase is another one, or the entry is damaged"):
        one.read("b")


def test_a_lost_key_is_told_and_never_replaced(tmp_path: Path) -> None:
    one = encrypted(tmp_path)
    one.write("a", "value")
    (tmp_path / "key").unlink()
    for act in (lambda: one.read("a"), lambda: one.write("b", "value")):
        with pytest.raises(SecretError, match="restore it from a backup"):
            act()
    assert not (tmp_path / "key").exists()


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"version": 2}', b'{"entries": {"a": 1}}', b"\xff" * 100])
def test_a_damaged_file_is_named_and_left_as_it_is(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "secrets.json"
    path.write_bytes(data)
    path.chmod(0o600)
    for act in (lambda: encrypted(tmp_path).read("a"), lambda: PlainFile(Entries(path)).write("a", "value")):
        with pytest.raises(SecretError, match=str(path)):
            act()
    assert path.read_bytes() == data


def test_writers_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    names = [f"n{number}" for number in range(20)]
    threads = [threading.Thread(target=PlainFile(Entries(tmp_path / "f")).write, args=(name, "v")) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert set(PlainFile(Entries(tmp_path / "f")).stored()) == set(names)


@pytest.mark.requirement("cli.token.store")
def test_without_a_keychain_nothing_is_stored_unless_a_file_is_asked_for(keychain: MemoryKeychain, tmp_path: Path) -> None:
    assert fit().kind == "keychain" and keychain.items == {}, "the probe left something behind"
    keychain.error = KeyringLocked("locked")
    with pytest.raises(SecretError, match=r"locked.*--store file") as caught:
        fit()
    assert caught.value.code == "MCPB-KEY-LOCKED" and not (tmp_path / "data").exists()
    assert [fit(kind).kind for kind in ("file", "plain")] == ["file", "plain"]


def test_a_locked_keychain_does_not_hide_what_is_in_a_file(keychain: MemoryKeychain) -> None:
    store("file").write("a", "value")
    keychain.error = KeyringLocked("locked")
    found = find("a")
    assert found is not None and (found[0].kind, found[1]) == ("file", "value")
    with pytest.raises(SecretError, match="locked"):
        find("b")


def test_a_keychain_that_waits_for_somebody_is_given_up(tmp_path: Path) -> None:
    over = threading.Event()

    class Waiting(MemoryKeychain):
        def get_password(self, service: str, username: str) -> str | None:
            over.wait(20)
            return None

    with as_keyring(Waiting()):
        with pytest.raises(SecretError, match=r"did not answer in 0\.05 s; it may show a dialog"):
            Keychain(Entries(tmp_path / "names"), timeout=0.05).read("a")
    over.set()


@given(
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=300), st.text(min_size=1, max_size=90)
)
def test_values_longer_than_a_keychain_takes_lie_in_parts_and_leave_none_behind(value: str, shorter: str) -> None:
    backend = MemoryKeychain(longest=64)
    with as_keyring(backend):
        one = Keychain(_Names(), limit=64)
        for given_value in (value, shorter, value):
            one.write("n", given_value)
            assert one.read("n") == given_value
        one.write("n", "x")
        assert set(backend.items) == {("mcpbridge", "n")}
        one.write("n", value)
        assert one.delete("n") and backend.items == {}


class _Names(Entries):
    """Names that are not written down."""

    def __init__(self) -> None:
        super().__init__(Path(os.devnull))

    def put(self, *_: object) -> None: ...

    def remove(self, name: str) -> bool:
        return bool(name)


def test_a_missing_part_is_told(keychain: MemoryKeychain, tmp_path: Path) -> None:
    one = Keychain(Entries(tmp_path / "names"), limit=10)
    one.write("n", "0123456789abcdef")
    del keychain.items["mcpbridge", "n#2"]
    with pytest.raises(SecretError, match="n: a part of it is missing in the keychain; store it again"):
        one.read("n")


def test_keychains_that_keep_plain_text_are_refused(tmp_path: Path) -> None:
    from keyring.backends.null import Keyring

    with as_keyring(Keyring()), pytest.raises(SecretError, match=r"keyring\.backends\.null keeps secrets in plain text"):
        Keychain(Entries(tmp_path / "names")).probe()
