"""Sign-in: who gets in, who does not, and that a refusal tells nothing. OWASP MCP07 and MCP01."""

from __future__ import annotations

import io

import pytest

from mcpbridge.core.exchange import ANONYMOUS, Caller, Deadline, Exchange, NoReply, View
from mcpbridge.errors import BridgeError
from mcpbridge.observe import log
from mcpbridge.policies.auth import CACHE_SECONDS, StaticToken, Verify, authenticate, bearer
from mcpbridge.policies.jwt import JwtKeys, issue
from mcpbridge.wire import message as m

NOW = 1_795_442_400.0
KEYS = JwtKeys((b"a secret of this test, 32 bytes or more",))
STATIC = StaticToken("ci", "ci-token-0123456789-0123456789-0123", frozenset({"mcp:read"}))


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


def exchange(**headers: str) -> Exchange:
    request = m.request(1, "tools/list")
    return Exchange(
        request, View(request.method), Caller("http", "modern", "127.0.0.1", headers), NoReply(), Deadline(5.0, 0.0)
    )


async def answer(x: Exchange) -> m.Response:
    return m.result(1, {"who": x.caller.principal.key if x.caller.principal else None})


def token(**changes: object) -> str:
    return issue(KEYS, **{"subject": "alice", "scopes": ("mcp:read",), "ttl": 60.0, "now": NOW, **changes})  # type: ignore[arg-type]


def verifier(clock: Clock | None = None) -> Verify:
    return bearer([STATIC], KEYS, clock=clock or Clock())


async def test_without_sign_in_everybody_is_anonymous():
    x = exchange()
    await authenticate(None)(x, answer)
    assert x.caller.principal is ANONYMOUS


async def test_a_static_token_names_its_principal():
    x = exchange(authorization=f"Bearer {STATIC.token}")
    await authenticate(verifier())(x, answer)
    principal = x.caller.principal
    assert principal is not None
    assert (principal.issuer, principal.subject, sorted(principal.scopes)) == ("static", "ci", ["mcp:read"])


async def test_a_signed_token_names_its_subject():
    x = exchange(authorization=f"Bearer {token()}")
    await authenticate(verifier())(x, answer)
    assert x.caller.principal is not None and x.caller.principal.key == "mcpbridge\x1falice"


async def test_a_refused_message_never_reaches_the_next_policy():
    async def reached(x: Exchange) -> None:
        raise AssertionError("let in")

    x = exchange()
    x.caller.principal = ANONYMOUS  # whatever stood there before
    with pytest.raises(BridgeError):
        await authenticate(verifier())(x, reached)
    assert x.caller.principal is None


BAD_HEADERS = {
    "basic": "Basic YTpi",
    "no scheme": STATIC.token,
    "empty": "",
    "scheme only": "Bearer",
    "blank token": "Bearer  ",
    "blank inside": f"Bearer {STATIC.token} x",
    "tab": f"Bearer {STATIC.token}\t",
    "unknown": "Bearer wrong-token-0123456789-0123456789",
    "prefix": f"Bearer {STATIC.token[:-1]}",
    "longer": f"Bearer {STATIC.token}x",
    "other case": f"Bearer {STATIC.token.upper()}",
    "control characters": f"Bearer {STATIC.token}\x00",
    "line end": f"Bearer {STATIC.token}\r\nX-Admin: 1",
    "not ascii": "Bearer tökén-0123456789",
    "delete character": f"Bearer {STATIC.token}\x7f",
    "huge": "Bearer " + "a" * 4097,
    "enormous": "Bearer " + "a" * 10_000_000,
    "expired": "Bearer " + issue(KEYS, subject="a", scopes=(), ttl=1.0, now=NOW - 3600),
    "two tokens": f"Bearer {STATIC.token},Bearer {STATIC.token}",
    "comma": f"Bearer {STATIC.token}, Basic YTpi",
    "none algorithm": "Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIn0.",
}


@pytest.mark.requirement("limit.input.token")
@pytest.mark.parametrize("case", BAD_HEADERS, ids=str)
def test_bad_tokens_get_one_and_the_same_refusal(case):
    with pytest.raises(BridgeError) as refused:
        verifier()(BAD_HEADERS[case])
    error = refused.value
    assert (error.fault.code, error.fault.status, error.sent) == (1015, 401, False)
    assert str(error) == "unauthorized: a valid bearer token is needed"
    assert error.data["challenge"] == 'Bearer realm="mcpbridge", scope="mcp:read", error="invalid_token"'


def test_a_missing_token_gets_a_challenge_without_an_error_code():
    with pytest.raises(BridgeError) as refused:
        verifier()(None)
    assert str(refused.value) == "unauthorized: a valid bearer token is needed"
    assert refused.value.data["challenge"] == 'Bearer realm="mcpbridge", scope="mcp:read"'


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "Bearer "])
def test_the_scheme_is_read_in_any_case(scheme):
    assert verifier()(f"{scheme} {STATIC.token}").subject == "ci"


@pytest.mark.requirement("limit.input.token")
def test_the_length_limit_is_exact():
    long = StaticToken("long", "x" * 4096, frozenset())
    assert bearer([long])(f"Bearer {long.token}").subject == "long"
    with pytest.raises(BridgeError):
        bearer([long], max_token_length=4095)(f"Bearer {long.token}")


def test_without_tokens_and_keys_nobody_gets_in():
    with pytest.raises(BridgeError):
        bearer()(f"Bearer {token()}")


def test_a_signed_token_stops_at_its_end_although_it_was_remembered():
    clock = Clock()
    verify = bearer((), JwtKeys(KEYS.secrets, leeway=0.0), clock=clock)
    header = f"Bearer {token(ttl=3.0)}"
    verify(header)
    clock.now += 2.9
    assert verify(header).subject == "alice"
    clock.now += 0.1
    with pytest.raises(BridgeError):
        verify(header)


def test_a_verified_token_is_checked_again_after_five_minutes(monkeypatch):
    from mcpbridge.policies import jwt

    checks: list[float] = []
    real = jwt.verify

    def counted(token: str, keys: JwtKeys, now: float) -> jwt.Verified:
        checks.append(now)
        return real(token, keys, now)

    monkeypatch.setattr(jwt, "verify", counted)
    clock = Clock()
    verify = bearer((), KEYS, clock=clock)
    header = f"Bearer {token(ttl=3600.0)}"
    for _ in range(5):
        verify(header)
    assert len(checks) == 1
    clock.now += CACHE_SECONDS
    verify(header)
    assert len(checks) == 2


def test_the_memory_of_tokens_is_bounded(monkeypatch):
    monkeypatch.setattr("mcpbridge.policies.auth.CACHE_ENTRIES", 2)
    verify = verifier()
    headers = [f"Bearer {token(subject=name)}" for name in "abc"]
    assert [verify(header).subject for header in headers * 2] == list("abcabc")


def test_no_token_reaches_the_log():
    stream = io.StringIO()
    log.configure("trace", "json", stream)
    try:
        verify = verifier()
        for header in (*BAD_HEADERS.values(), f"Bearer {token()}"):
            try:
                verify(header)
            except BridgeError:
                pass
    finally:
        log.configure()
    written = stream.getvalue()
    assert "token_refused" in written
    assert "eyJ" not in written and STATIC.token not in written and "wrong-token" not in written
