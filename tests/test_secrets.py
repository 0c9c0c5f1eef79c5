"""Where secrets come from, in which order, and what is said when one is not there."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from keyring.errors import InitError, KeyringLocked, NoKeyringError

from mcpbridge import secrets
from mcpbridge.config.router import GatewayAuth
from mcpbridge.config.sections import EndpointSpec
from mcpbridge.errors import BridgeError, to_wire
from mcpbridge.observe.redact import redact
from mcpbridge.secrets import SecretError, gateway_token, read_stored, resolve_endpoint
from tests.support.keychains import MemoryKeychain, as_keyring


@pytest.fixture
def keychain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[MemoryKeychain]:
    (tmp_path / "run").mkdir()
    monkeypatch.setattr(secrets, "_MOUNTED", (str(tmp_path / "run"),))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    stand_in = MemoryKeychain({"item": "from-the-keychain"})
    with as_keyring(stand_in):
        yield stand_in


def secret_file(tmp_path: Path, text: str, mode: int = 0o600) -> str:
    path = tmp_path / "token"
    path.write_text(text)
    path.chmod(mode)
    return str(path)


@pytest.mark.requirement("config.router.gateway.auth.token_env", "env.MCP_AUTH_TOKEN")
def test_the_order_is_variable_keychain_named_variable_file(keychain: MemoryKeychain, tmp_path: Path) -> None:
    path = secret_file(tmp_path, "Bearer from-the-file\nsecond line\n")
    auth = GatewayAuth(token_secure_key="item", token_env="MINE", token_file=path)
    env = {"MCP_AUTH_TOKEN": " from-mcp-auth-token\n", "MINE": "from-mine"}
    assert gateway_token(auth, env) == "from-mcp-auth-token"
    assert gateway_token(auth, {"MINE": "from-mine"}) == "from-the-keychain"
    assert keychain.asked == ["item"]
    assert gateway_token(GatewayAuth(token_env="MINE", token_file=path), env | {"MCP_AUTH_TOKEN": ""}) == "from-mine"
    assert gateway_token(GatewayAuth(token_file=path), {}) == "from-the-file"
    assert gateway_token(GatewayAuth(), {}) is None


def test_a_configured_source_without_a_token_is_an_error_not_the_next_source(keychain: MemoryKeychain, tmp_path: Path) -> None:
    path = secret_file(tmp_path, "from-the-file")
    with pytest.raises(SecretError, match="variable MINE: is not set or empty; set it"):
        gateway_token(GatewayAuth(token_env="MINE", token_file=path), {})
    with pytest.raises(SecretError, match=r"other: is not stored here; mcpbridge token set .*token_env or token_file"):
        gateway_token(GatewayAuth(token_secure_key="other", token_file=path), {})


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX")
@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_a_token_file_that_others_can_read_is_refused_with_the_command_that_helps(tmp_path: Path, mode: int) -> None:
    path = secret_file(tmp_path, "secret-value", mode)
    with pytest.raises(SecretError, match=f"mode {mode:04o}.*chmod 600 {path}"):
        gateway_token(GatewayAuth(token_file=path), {})


@pytest.mark.parametrize(
    ("text", "cause"),
    [("", "is empty"), ("\n\n", "is empty"), ("a b", "has spaces"), ("tökén", "non-ASCII"), ("x" * 4097, "longer than")],
)
def test_what_is_no_token_is_refused_without_showing_it(tmp_path: Path, text: str, cause: str) -> None:
    with pytest.raises(SecretError, match=cause) as caught:
        gateway_token(GatewayAuth(token_file=secret_file(tmp_path, text)), {})
    assert not text.strip() or text not in str(caught.value)


def test_a_missing_or_strange_token_file_is_named(tmp_path: Path) -> None:
    for path in (str(tmp_path / "none"), str(tmp_path)):
        with pytest.raises(SecretError, match=path):
            gateway_token(GatewayAuth(token_file=path), {})


def test_references_are_filled_in_from_variable_file_and_keychain(keychain: MemoryKeychain, tmp_path: Path) -> None:
    (tmp_path / "run/two").write_text("line 1\nline 2\n")
    endpoint = EndpointSpec(
        url="https://x.example/?k=${secret:one}",
        args=("--k=${secret:item}", "plain"),
        env={"K": "<${secret:two}>"},
        headers={"X-Key": "${secret:one}${secret:item}"},
    )
    filled = resolve_endpoint(endpoint, {"MCPBRIDGE_SECRET_ONE": "value-1"})
    assert filled.url == "https://x.example/?k=value-1"
    assert filled.args == ("--k=from-the-keychain", "plain")
    assert filled.env == {"K": "<line 1\nline 2>"}
    assert filled.headers == {"X-Key": "value-1from-the-keychain"}
    assert "${secret:one}" in endpoint.url, "the configuration itself keeps the reference"


def test_what_was_resolved_is_never_logged_again(keychain: MemoryKeychain) -> None:
    resolve_endpoint(EndpointSpec(command="x", args=("${secret:rare}",)), {"MCPBRIDGE_SECRET_RARE": "some unsuspicious words"})
    assert redact("said: some unsuspicious words") == "said: ***"


def test_a_token_variable_becomes_the_one_authorization_header() -> None:
    endpoint = EndpointSpec(url="http://x/", headers={"Authorization": "old", "X": "y"}, token_env="T")
    filled = resolve_endpoint(endpoint, {"T": "Bearer abc"})
    assert filled.headers == {"X": "y", "authorization": "Bearer abc"} and filled.token_env == ""
    with pytest.raises(SecretError, match="variable T: is not set"):
        resolve_endpoint(endpoint, {})


def test_a_secret_that_is_nowhere_names_every_place_it_could_be(keychain: MemoryKeychain, tmp_path: Path) -> None:
    with pytest.raises(SecretError) as caught:
        resolve_endpoint(EndpointSpec(command="x", args=("${secret:my.key}",)), {})
    for place in ("my.key", "mcpbridge token set", "MCPBRIDGE_SECRET_MY_KEY", str(tmp_path / "run/my.key")):
        assert place in str(caught.value)
    error: BridgeError = caught.value
    assert not error.sent
    assert to_wire(error)["data"]["reason"] == "secret_unavailable"


def test_a_keychain_that_fails_says_what_else_is_possible(keychain: MemoryKeychain, monkeypatch: pytest.MonkeyPatch) -> None:
    for error, cause, code in (
        (KeyringLocked("locked"), "the keychain is locked .KeyringLocked.; unlock it", "MCPB-KEY-LOCKED"),
        (InitError("dismissed"), "the keychain is locked .InitError.; unlock it", "MCPB-KEY-LOCKED"),
        (OSError("dbus"), "the keychain failed .OSError.", "MCPB-KEY-UNREADABLE"),
    ):
        keychain.error = error
        with pytest.raises(SecretError, match=cause) as caught:
            read_stored("item")
        assert "token_env or token_file" in str(caught.value) and caught.value.code == code
        assert to_wire(caught.value)["data"]["code"] == code
    for missing in (NoKeyringError(), None):
        keychain.error = missing
        if missing is None:
            monkeypatch.setitem(sys.modules, "keyring", None)
        with pytest.raises(SecretError, match="item: is not stored here; mcpbridge token set"):
            read_stored("item")


def test_mounted_files_and_a_named_one_come_before_the_keychain(keychain: MemoryKeychain, tmp_path: Path) -> None:
    folder = tmp_path / "credentials"
    folder.mkdir()
    (folder / "item").write_text("from-systemd\n")
    (tmp_path / "run/item").write_text("from-docker")
    named = secret_file(tmp_path, "from-a-named-file")
    endpoint = EndpointSpec(command="x", args=("${secret:item}",))
    assert resolve_endpoint(endpoint, {}).args == ("from-docker",)
    env = {"CREDENTIALS_DIRECTORY": str(folder)}
    assert resolve_endpoint(endpoint, env).args == ("from-systemd",)
    env["MCPBRIDGE_SECRET_ITEM_FILE"] = named
    assert resolve_endpoint(endpoint, env).args == ("from-a-named-file",)
    env["MCPBRIDGE_SECRET_ITEM"] = "from-a-variable"
    with pytest.raises(SecretError, match="both MCPBRIDGE_SECRET_ITEM and MCPBRIDGE_SECRET_ITEM_FILE"):
        resolve_endpoint(endpoint, env)
