"""Secrets from the command line: stored, listed, tested, shown, replaced and forgotten, and never let out by mistake."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from keyring.errors import KeyringLocked

from mcpbridge.cli import main
from tests.support.keychains import MemoryKeychain, as_keyring
from tests.test_server_keys import plain

Out = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def keychain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MemoryKeychain]:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_DATA_HOME", "MCPBRIDGE_PASSPHRASE", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    stand_in = MemoryKeychain()
    with as_keyring(stand_in):
        yield stand_in


def token(*arguments: str, stdin: str = "") -> int:
    before = sys.stdin
    sys.stdin = io.StringIO(stdin)
    try:
        return main(["mcp-router", "token", *arguments])
    finally:
        sys.stdin = before


@pytest.mark.requirement("cli.token.set", "cli.token.store")
def test_a_token_from_stdin_is_trimmed_stored_read_back_and_not_echoed(keychain: MemoryKeychain, capsys: Out) -> None:
    assert token("set", "--name", "gateway-token", stdin="  Bearer abc.def \nmore\n") == 0
    said = capsys.readouterr()
    assert said.out.startswith("stored gateway-token in the keychain of this computer") and "abc" not in said.out + said.err
    assert keychain.items["mcpbridge", "gateway-token"] == "abc.def"
    assert not any(name.startswith("probe-") for _, name in keychain.items)


@pytest.mark.requirement("cli.token.set")
@pytest.mark.parametrize(
    ("given", "cause"), [("", "empty"), ("\n", "empty"), ("Bearer \n", "empty"), ("a\x07b", "control"), ("x" * 4097, "4097")]
)
def test_what_is_no_secret_is_65_and_nothing_is_stored(keychain: MemoryKeychain, capsys: Out, given: str, cause: str) -> None:
    assert token("set", "k", stdin=given) == 65
    assert cause in capsys.readouterr().err and keychain.items == {}


def test_a_value_is_never_taken_from_an_argument(capsys: Out) -> None:
    assert token("set", "k", "my-value") == 64
    said = capsys.readouterr().err
    assert "--stdin" in said and "--file" in said and "my-value" not in said
    assert token("set", "--name", "k", "--value", "x") == 64


@pytest.mark.requirement("cli.token.store")
def test_a_locked_keychain_is_75_with_the_other_ways(keychain: MemoryKeychain, capsys: Out) -> None:
    keychain.error = KeyringLocked("locked")
    assert token("set", "k", stdin="value") == 75
    said = capsys.readouterr().err
    assert "--store file" in said and "token_env" in said and "MCPB-KEY-LOCKED" in said
    assert token("set", "k", "--json", stdin="value") == 75
    document = json.loads(capsys.readouterr().out)
    assert (document["ok"], document["code"], document["exit_code"]) == (False, "MCPB-KEY-LOCKED", 75)
    assert token("set", "k", "--store", "file", stdin="value") == 0
    assert token("get", "k", "--reveal") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "value"


@pytest.mark.requirement("cli.token.others")
def test_the_list_names_places_and_expiry_and_no_value(capsys: Out, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JWT_SECRET", "kX9v2mQ7pL4sR8tY1wZ5bN3cF6hJ0dG=")
    assert token("issue", "--user", "alice", "--expiry", "1h") == 0
    jwt = capsys.readouterr().out.strip()
    assert token("set", "jwt", stdin=jwt) == token("set", "other", "--store", "file", stdin="abc-value") == 0
    capsys.readouterr()
    assert token("list", "--json") == 0
    out = capsys.readouterr().out
    rows = {row["name"]: row for row in json.loads(out)["secrets"]}
    assert {name: row["store"] for name, row in rows.items()} == {"jwt": "keychain", "other": "file"}
    assert rows["jwt"]["expires"] and rows["other"]["expires"] is None and jwt not in out
    assert token("list") == 0
    out = capsys.readouterr().out
    assert "jwt" in out and "good until" in out and jwt not in out and "abc-value" not in out


@pytest.mark.requirement("cli.token.others")
def test_a_secret_is_shown_only_when_that_is_said(capsys: Out) -> None:
    token("set", "k", stdin="my-value")
    assert token("get", "k") == 64
    assert "my-value" not in "".join(capsys.readouterr())
    assert token("get", "k", "--reveal") == 0 and capsys.readouterr().out == "my-value\n"
    assert token("get", "missing", "--reveal") == 66
    assert "missing: is not stored here" in capsys.readouterr().err


@pytest.mark.requirement("cli.token.others")
def test_a_test_says_where_a_secret_is_whether_it_ended_and_whether_a_server_takes_it(capsys: Out) -> None:
    token("set", "k", stdin="my-value")
    capsys.readouterr()
    with plain("application/json") as server:
        assert token("test", "k", "--gateway", server.url) == 0
        assert "k: is in the keychain" in capsys.readouterr().out
        assert server.authorization == "Bearer my-value"
    assert token("test", "k", "--gateway", "http://127.0.0.1:1/mcp") == 69
    assert "my-value" not in "".join(capsys.readouterr())
    ended = "eyJhbGciOiJIUzI1NiJ9.eyJleHAiOjF9.c2ln"
    token("set", "old", stdin=ended)
    capsys.readouterr()
    assert token("test", "old") == 77 and "ended at 1970-01-01" in capsys.readouterr().err


@pytest.mark.requirement("cli.token.others")
def test_a_rotation_that_is_not_taken_changes_nothing(keychain: MemoryKeychain, capsys: Out) -> None:
    assert token("rotate", "k", stdin="x") == 66
    token("set", "k", stdin="old-value")
    assert token("rotate", "k", "--gateway", "http://127.0.0.1:1/mcp", stdin="new-value") == 69
    assert keychain.items["mcpbridge", "k"] == "old-value"
    assert token("rotate", "k", stdin="old-value") == 65
    assert token("rotate", "k", stdin="new-value") == 0
    assert keychain.items["mcpbridge", "k"] == "new-value" and "new-value" not in capsys.readouterr().out


@pytest.mark.requirement("cli.token.others")
def test_a_deleted_secret_is_gone_from_every_store(keychain: MemoryKeychain, capsys: Out) -> None:
    token("set", "k", stdin="one")
    token("set", "k", "--store", "plain", stdin="two")
    capsys.readouterr()
    assert token("delete", "k") == 0 and capsys.readouterr().out == "deleted k from keychain, plain\n"
    assert keychain.items == {} and token("delete", "k") == 66
