"""Gateway tokens from the command line."""

from __future__ import annotations

import base64
import io
import json
import sys
from pathlib import Path

import pytest

from mcpbridge.cli import main

SECRET = "kX9v2mQ7pL4sR8tY1wZ5bN3cF6hJ0dG="


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.chdir(tmp_path)


def issued(capsys: pytest.CaptureFixture[str], *arguments: str, verb: str = "issue") -> str:
    assert main(["mcp-gateway", "token", verb, *arguments]) == 0
    return capsys.readouterr().out.rstrip("\n")


@pytest.mark.requirement("cli.gateway.token-create")
@pytest.mark.parametrize("verb", ["issue", "create"])
def test_a_token_has_the_claims_of_the_guide(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    monkeypatch.setenv("JWT_SECRET", SECRET)
    token = issued(capsys, "--user", "alice", "--expiry", "7d", "--scopes", "mcp:read,mcp:admin", verb=verb)
    claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    assert claims.keys() == {"iss", "aud", "sub", "iat", "exp", "jti", "scopes"}
    assert (claims["sub"], claims["scopes"], claims["exp"] - claims["iat"]) == ("alice", ["mcp:read", "mcp:admin"], 7 * 86400)


@pytest.mark.requirement("cli.token.decode")
@pytest.mark.parametrize("user", ["alice", "bob?", "a~b>c", "ünï", "x" * 50, "ab", "abc"])
def test_plain_base64_decodes_what_was_issued(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], user: str
) -> None:
    monkeypatch.setenv("JWT_SECRET", SECRET)
    payload = issued(capsys, "--user", user).split(".")[1]
    assert json.loads(base64.b64decode(payload, validate=True))["sub"] == user


@pytest.mark.requirement("cli.gateway.token-create")
def test_without_a_secret_it_is_78_with_the_next_step(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mcp-gateway", "token", "issue", "--user", "a"]) == 78
    seen = capsys.readouterr()
    assert seen.out == "" and "auth.jwt.secret is not set" in seen.err and "JWT_SECRET" in seen.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--scopes", "mcp:root"], "mcp:read, mcp:write, mcp:admin"),
        (["--scopes", ","], "--scopes"),
        (["--expiry", "soon"], "a duration"),
        (["--expiry", "0"], "time to live"),
        (["--user", ""], "subject"),
    ],
)
def test_wrong_arguments_are_64(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    monkeypatch.setenv("JWT_SECRET", SECRET)
    assert main(["mcpbridge", "token", "issue", "--user", "a", *arguments]) == 64
    assert words in capsys.readouterr().err


def test_inspect_shows_claims_expiry_and_whether_the_signature_holds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JWT_SECRET", SECRET)
    token = issued(capsys, "--user", "alice", "--expiry", "1h")

    def inspected(text: str) -> dict[str, object]:
        monkeypatch.setattr(sys, "stdin", io.StringIO(f"Bearer {text}\n"))
        assert main(["mcpbridge", "token", "inspect"]) == 0
        document = json.loads(capsys.readouterr().out)
        assert isinstance(document, dict)
        return document

    seen = inspected(token)
    assert (seen["schema"], seen["expired"], seen["valid"]) == ("mcpbridge.token/v1", False, "yes")
    assert str(seen["expires"]).endswith("Z")
    assert str(inspected(token[:-3] + "AAA")["valid"]).startswith("no: ")
    monkeypatch.delenv("JWT_SECRET")
    assert str(inspected(token)["valid"]).startswith("not checked")


@pytest.mark.parametrize("text", ["", "x", "a.b", "....", "e30.e30.x y", "\x1b[2J"])
def test_what_is_no_token_is_65(capsys: pytest.CaptureFixture[str], text: str) -> None:
    assert main(["mcpbridge", "token", "inspect", text]) == 65
    seen = capsys.readouterr()
    assert seen.out == "" and "not a JWT" in seen.err and "\x1b" not in seen.err
