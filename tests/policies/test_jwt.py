"""Tokens: what we issue we accept; everything forged, foreign or out of its time is refused. OWASP MCP07."""

from __future__ import annotations

import base64
import hmac
import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcpbridge.policies.jwt import JwtKeys, TokenError, inspect, issue, scopes_of, verify

NOW = 1_795_442_400.0
SECRET = b"a secret of this test, 32 bytes or more"
OTHER = b"another secret of this test, 32 bytes long"
KEYS = JwtKeys((SECRET,))
CLAIMS = {"iss": "mcpbridge", "aud": "mcpbridge", "sub": "alice", "exp": NOW + 60, "scopes": ["mcp:read"]}


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def signed(claims: Any, header: Any = None, secret: bytes = SECRET, digest: str = "sha256") -> str:
    """A token made by hand, so that no library's own checks stand between the attack and us."""
    head = {"alg": "HS256", "typ": "JWT"} if header is None else header
    parts = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in (head, claims)]
    text = ".".join(map(b64, parts))
    return f"{text}.{b64(hmac.digest(secret, text.encode(), digest))}"


def claims(**changes: Any) -> dict[str, Any]:
    return {name: value for name, value in {**CLAIMS, **changes}.items() if value is not None}


def test_a_token_made_by_hand_is_accepted():
    principal, expires = verify(signed(CLAIMS), KEYS, NOW)
    assert (principal.key, list(principal.scopes), expires) == ("mcpbridge\x1falice", ["mcp:read"], NOW + 60)


def test_what_we_issue_we_accept():
    token = issue(KEYS, subject="bob", scopes=("mcp:read", "mcp:write"), ttl=60.0, now=NOW)
    principal, expires = verify(token, KEYS, NOW)
    assert (principal.subject, sorted(principal.scopes), expires) == ("bob", ["mcp:read", "mcp:write"], NOW + 60)
    assert set(inspect(token).claims) == {"iss", "aud", "sub", "iat", "exp", "jti", "scopes"}


def test_every_token_has_an_id_of_its_own():
    one, two = (inspect(issue(KEYS, subject="bob", scopes=(), ttl=60.0, now=NOW)).claims["jti"] for _ in "ab")
    assert one != two


def test_the_official_library_accepts_what_we_issue():
    import jwt

    now = 4_000_000_000.0  # it looks at the real clock
    token = issue(KEYS, subject="bob", scopes=("mcp:read",), ttl=60.0, now=now)
    decoded = jwt.decode(
        token, SECRET, algorithms=["HS256"], audience="mcpbridge", issuer="mcpbridge", options={"verify_iat": False}
    )
    assert decoded["sub"] == "bob"


@pytest.mark.requirement("cli.token.decode")
@given(st.text(min_size=1, max_size=60).filter(str.isprintable), st.lists(st.text(max_size=20), max_size=4))
@settings(deadline=None)
def test_plain_base64_decodes_the_payload_of_every_token(subject, scopes):
    token = issue(KEYS, subject=subject, scopes=tuple(scopes), ttl=60.0, now=NOW)
    payload = token.split(".")[1]
    assert len(payload) % 4 == 0
    decoded = json.loads(base64.b64decode(payload, validate=True))
    assert decoded["sub"] == subject and decoded["scopes"] == scopes
    assert verify(token, KEYS, NOW).principal.subject == subject


@pytest.mark.requirement("cli.token.decode", "defect.base64")
def test_plain_base64_on_the_command_line_decodes_it_without_a_warning():
    token = issue(KEYS, subject="who? ~me~ >you<", scopes=("mcp:read",), ttl=60.0, now=NOW)
    done = subprocess.run(["base64", "-d"], input=token.split(".")[1].encode(), capture_output=True, timeout=5, check=True)
    assert done.stderr == b"" and json.loads(done.stdout)["sub"] == "who? ~me~ >you<"


ATTACKS = {
    "alg none, no signature": signed(CLAIMS, {"alg": "none"}).rsplit(".", 1)[0] + ".",
    "alg none, our signature": signed(CLAIMS, {"alg": "none"}),
    "alg None": signed(CLAIMS, {"alg": "None"}),
    "alg nOnE": signed(CLAIMS, {"alg": "nOnE"}),
    "alg hs256": signed(CLAIMS, {"alg": "hs256"}),
    "alg HS384": signed(CLAIMS, {"alg": "HS384"}, digest="sha384"),
    "alg HS512": signed(CLAIMS, {"alg": "HS512"}, digest="sha512"),
    "alg RS256": signed(CLAIMS, {"alg": "RS256"}),
    "alg ES256": signed(CLAIMS, {"alg": "ES256"}),
    "alg missing": signed(CLAIMS, {"typ": "JWT"}),
    "alg null": signed(CLAIMS, {"alg": None}),
    "alg list": signed(CLAIMS, {"alg": ["HS256"]}),
    "alg object": signed(CLAIMS, {"alg": {}}),
    "alg twice, HS256 first": signed(CLAIMS, b'{"alg":"HS256","alg":"none"}'),
    "jku": signed(CLAIMS, {"alg": "HS256", "jku": "https://evil.example/keys"}),
    "jwk": signed(CLAIMS, {"alg": "HS256", "jwk": {"kty": "oct", "k": b64(OTHER)}}, OTHER),
    "x5u": signed(CLAIMS, {"alg": "HS256", "x5u": "https://evil.example/cert"}),
    "x5c": signed(CLAIMS, {"alg": "HS256", "x5c": ["MII"]}),
    "crit": signed(CLAIMS, {"alg": "HS256", "crit": ["exp"]}),
    "b64": signed(CLAIMS, {"alg": "HS256", "b64": False}),
    "kid with a path and another key": signed(CLAIMS, {"alg": "HS256", "kid": "../../../../dev/null"}, b""),
    "kid with sql and another key": signed(CLAIMS, {"alg": "HS256", "kid": "x' UNION SELECT 'key'--"}, b"key"),
    "another type": signed(CLAIMS, {"alg": "HS256", "typ": "secevent+jwt"}),
    "another secret": signed(CLAIMS, secret=OTHER),
    "empty secret": signed(CLAIMS, secret=b""),
    "empty signature": signed(CLAIMS).rsplit(".", 1)[0] + ".",
    "no signature": signed(CLAIMS).rsplit(".", 1)[0],
    "truncated signature": signed(CLAIMS)[:-4],
    "longer signature": signed(CLAIMS) + "AAAA",
    "zero signature": signed(CLAIMS).rsplit(".", 1)[0] + "." + b64(bytes(32)),
    "four parts": signed(CLAIMS) + "." + b64(b"x"),
    "five parts": ".".join([b64(b'{"alg":"dir","enc":"A256GCM"}')] * 5),
    "padding": signed(CLAIMS) + "=",
    "blank inside": signed(CLAIMS).replace(".", ". ", 1),
    "line end": signed(CLAIMS) + "\n",
    "foreign characters in the signature": signed(CLAIMS) + "!",
    "empty": "",
    "dots": "..",
    "header no object": signed(CLAIMS, ["HS256"]),
    "header no json": signed(CLAIMS, b"HS256"),
    "header deep": signed(CLAIMS, b"[" * 100_000),
    "payload deep": signed(b"[" * 100_000),
    "payload deep object": signed(b'{"a":' * 50_000),
    "payload no json": signed(b"alice"),
    "payload a list": signed([CLAIMS]),
    "payload invalid utf-8": signed(b'{"sub":"\xff"}'),
    "payload a number of a million digits": signed(b'{"exp":' + b"9" * 1_000_000 + b"}"),
    "no exp": signed(claims(exp=None)),
    "exp a text": signed(claims(exp=str(NOW + 60))),
    "exp true": signed(claims(exp=True)),
    "exp infinite": signed(b'{"iss":"mcpbridge","aud":"mcpbridge","sub":"alice","exp":Infinity}'),
    "exp not a number": signed(b'{"iss":"mcpbridge","aud":"mcpbridge","sub":"alice","exp":NaN}'),
    "exp negative": signed(claims(exp=-1)),
    "exp in milliseconds": signed(claims(exp=NOW * 1000)),
    "expired": signed(claims(exp=NOW - 31)),
    "not yet valid": signed(claims(nbf=NOW + 31)),
    "issued in the future": signed(claims(iat=NOW + 31)),
    "nbf a text": signed(claims(nbf="tomorrow")),
    "no issuer": signed(claims(iss=None)),
    "another issuer": signed(claims(iss="https://evil.example")),
    "issuer a list": signed(claims(iss=["mcpbridge"])),
    "issuer in other case": signed(claims(iss="MCPBridge")),
    "no audience": signed(claims(aud=None)),
    "another audience": signed(claims(aud="https://other.example/mcp")),
    "audience a prefix": signed(claims(aud="mcpbridge/")),
    "audience an object": signed(claims(aud={"mcpbridge": 1})),
    "audiences without ours": signed(claims(aud=["a", "b"])),
    "azp only": signed(claims(aud=None, azp="mcpbridge")),
    "no subject": signed(claims(sub=None)),
    "subject empty": signed(claims(sub="")),
    "subject a number": signed(claims(sub=7)),
    "subject with a separator": signed(claims(sub="alice\x1fbob")),
    "subject endless": signed(claims(sub="a" * 256)),
    "client id a number": signed(claims(client_id=7)),
}


@pytest.mark.parametrize("attack", ATTACKS, ids=str)
def test_attacks_are_refused(attack):
    with pytest.raises(TokenError):
        verify(ATTACKS[attack], KEYS, NOW)


@pytest.mark.parametrize(
    "good",
    [
        claims(aud=["other", "mcpbridge"]),
        claims(exp=NOW - 29),
        claims(nbf=NOW + 29, iat=NOW + 29),
        claims(exp=int(NOW) + 1),
        claims(client_id="cli", jti="1", extra={"a": 1}),
    ],
)
def test_what_a_bit_of_tolerance_allows_is_accepted(good):
    assert verify(signed(good), KEYS, NOW).principal.subject == "alice"


def test_leeway_ends_exactly():
    token = signed(claims(exp=NOW))
    assert verify(token, KEYS, NOW + 29.9).expires == NOW
    with pytest.raises(TokenError):
        verify(token, KEYS, NOW + 30)


@given(st.data())
@settings(deadline=None, max_examples=200)
def test_a_changed_character_is_refused(data):
    token = signed(CLAIMS)
    place = data.draw(st.integers(0, len(token) - 2))  # the last one has two spare bits
    character = data.draw(st.sampled_from("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_."))
    changed = token[:place] + character + token[place + 1 :]
    if changed != token:
        with pytest.raises(TokenError):
            verify(changed, KEYS, NOW)


@given(st.text(max_size=100))
def test_any_other_text_is_refused(text):
    with pytest.raises(TokenError):
        verify(text, KEYS, NOW)


def test_rotation_all_secrets_verify_and_the_first_signs():
    rotated = JwtKeys((OTHER, SECRET))
    assert verify(signed(CLAIMS), rotated, NOW).principal.subject == "alice"
    token = issue(rotated, subject="bob", scopes=(), ttl=60.0, now=NOW)
    with pytest.raises(TokenError):
        verify(token, KEYS, NOW)


@pytest.mark.parametrize("secrets", [(), (b"short",), (SECRET, b"x" * 31)])
def test_short_secrets_are_refused(secrets):
    with pytest.raises(ValueError):
        JwtKeys(secrets)


def test_secrets_do_not_show():
    assert "secret" not in repr(KEYS)


@pytest.mark.parametrize(("subject", "ttl"), [("", 60.0), ("a\nb", 60.0), ("a", 0.0), ("a", -1.0)])
def test_tokens_nobody_could_use_are_not_issued(subject, ttl):
    with pytest.raises(ValueError):
        issue(KEYS, subject=subject, scopes=(), ttl=ttl, now=NOW)


@pytest.mark.parametrize(
    ("given_claims", "scopes"),
    [
        ({"scopes": ["mcp:read", "mcp:write"]}, {"mcp:read", "mcp:write"}),
        ({"scope": "mcp:read  mcp:write"}, {"mcp:read", "mcp:write"}),
        ({"scopes": "mcp:read"}, {"mcp:read"}),
        ({"scopes": ["mcp:read", 7, None, ""]}, {"mcp:read"}),
        ({"scopes": {"mcp:admin": True}}, set()),
        ({"scopes": [], "scope": "mcp:admin"}, set()),
        ({}, set()),
    ],
)
def test_scopes_are_read_from_both_spellings_and_nothing_else(given_claims, scopes):
    assert scopes_of(given_claims) == scopes


def test_inspecting_shows_a_token_we_would_not_accept():
    seen = inspect(signed(claims(sub="mallory"), {"alg": "RS256"}, OTHER))
    assert seen.header == {"alg": "RS256"} and seen.claims["sub"] == "mallory"
    for nothing in ("", "abc", "a.b.c", signed(b"[]")):
        with pytest.raises(TokenError):
            inspect(nothing)


def test_importing_the_module_does_not_import_the_library():
    code = "import sys, mcpbridge.policies.auth; sys.exit('jwt' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=20, check=False).returncode == 0
