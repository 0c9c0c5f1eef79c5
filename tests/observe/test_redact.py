"""Secrets are masked by key, by shape and by value."""

from __future__ import annotations

import json

import pytest

from mcpbridge.observe import redact as module
from mcpbridge.observe.redact import MASK, conceal, redact, safe

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl"


@pytest.mark.parametrize(
    "key",
    ["password", "Authorization", "access_token", "accessToken", "token", "tokens", "client_secret", "Set-Cookie", "X-Api-Key",
    "apiKey", "JWT_SECRET", "private_key", "seal_keys", "Mcp-Session-Id", "AWS_CREDENTIALS"],
)  # fmt: skip
def test_a_secret_key_masks_its_value(key: str) -> None:
    assert safe(key, "some value") == MASK
    assert safe("headers", {key: "some value"}) == {key: MASK}
    assert safe(key, ["a", "b"]) == MASK


@pytest.mark.parametrize(
    "key", ["server", "token_env", "session_hash", "max_tokens_left", "principal_hash", "url", "keys_total"]
)
def test_an_ordinary_key_keeps_its_value(key: str) -> None:
    assert safe(key, "some value") == "some value"


@pytest.mark.parametrize("number", [0, 5, 1.5, True, None])
def test_numbers_are_no_secrets(number: object) -> None:
    assert safe("max_tokens", number) == number


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("sent Authorization: Basic dXNlcjpwYXNzd29yZA==", "dXNlcjpwYXNz"),
        ("{'authorization': 'Digest abcdef'}", "abcdef"),
        ("Bearer abcdefgh1234", "abcdefgh1234"),
        (f"got {JWT} from client", JWT[30:]),
        ("connect to https://bob:hunter2@example.com/x failed", "hunter2"),
        ("redis://:p%40ss@127.0.0.1:6379/0", "p%40ss"),
        ("GET /x?access_token=verysecretvalue&y=1", "verysecretvalue"),
        ("DB_PASSWORD=letmein rest", "letmein"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY----- after", "MIIE"),
        ("-----BEGIN PRIVATE KEY-----\nMIIE cut off", "MIIE"),
        ("key sk-abcdefghijklmnopqrstuv is wrong", "sk-abcdefghijklmnopqrstuv"),
        ("Cookie: session=abcdef; other=1", "abcdef"),
    ],
)
def test_a_secret_shape_is_masked_inside_text(text: str, secret: str) -> None:
    assert secret in text
    assert secret not in redact(text)
    assert MASK in redact(text)


@pytest.mark.parametrize(
    "text",
    [
        "https://example.com/a@b",
        "token: unexpected end of input",
        "the bearer type",
        "user@example.com",
        "eyJ",
        "password must be set",
    ],
)
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert redact(text) == text


def test_a_concealed_value_never_appears_again_and_the_set_is_bounded() -> None:
    conceal("plain-looking-value\n")
    assert redact("env plain-looking-value!") == f"env {MASK}!"
    conceal("abc")
    assert redact("abc") == "abc"
    for number in range(1100):
        conceal(f"secret-number-{number}")
    assert len(module._known.values) <= 500
    assert redact("secret-number-1099") == MASK


def test_nested_and_endless_values_are_bounded() -> None:
    endless: list[object] = []
    endless.append(endless)
    assert len(json.dumps(safe("x", endless))) < 3000
    assert len(safe("x", list(range(10_000)))) <= 50


@pytest.mark.parametrize(
    "hostile", ["a" * 200_000, "a_" * 100_000, "://" * 60_000, "eyJ" * 60_000, "-----BEGIN PRIVATE KEY-----" * 8000]
)
def test_hostile_text_is_masked_in_bounded_work(hostile: str) -> None:
    assert len(safe("x", hostile).encode()) <= 2048
