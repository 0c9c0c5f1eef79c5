"""``mcpbridge token issue|inspect``: signed gateway tokens; the rest of ``token`` is ``cli.stored``.

Source: contract section 1.1 (``cli.gateway.token-create``, ``cli.token.issue``, ``cli.token.decode``).
"""

from __future__ import annotations

import json
import os
import sys
import time

from mcpbridge.cli.complaints import complain
from mcpbridge.cli.parsing import Parser
from mcpbridge.config.gateway import MCP_SCOPES
from mcpbridge.config.kinds import parse_duration
from mcpbridge.config.load import load_gateway
from mcpbridge.config.problems import ConfigError, Place, Problem
from mcpbridge.observe.snapshot import timestamp

EX_DATAERR = 65
STORED = ("set", "list", "test", "get", "delete", "rotate")


def run(name: str, arguments: list[str]) -> int:
    """Dispatch to ``issue`` (alias ``create``) or ``inspect``."""
    program = f"{name} token"
    if arguments[:1] in (["issue"], ["create"]):
        return _issue(f"{program} {arguments[0]}", arguments[1:])
    if arguments[:1] == ["inspect"]:
        return _inspect(f"{program} inspect", arguments[1:])
    if arguments[:1] and arguments[0] in STORED:
        from mcpbridge.cli.stored import run as run_stored

        return run_stored(program, arguments[0], arguments[1:])
    parser = Parser(
        program,
        "Tokens: those that a gateway signs, and secrets that are stored on this computer.",
        [(f"{program} set --name gateway-token", "store one in the keychain"),
         (f"{program} list", "what is stored"),
         (f"{program} issue --user alice --expiry 7d --scopes mcp:read,mcp:write", "sign a token with auth.jwt.secret"),
         (f'echo "$MCP_AUTH_TOKEN" | {program} inspect', "show its claims and expiry")],
    )  # fmt: skip
    parser.add_argument("action", choices=["issue", "inspect", *STORED], help="each has --help; create is issue")
    parser.parse(arguments[:1])
    return 0


def _issue(program: str, arguments: list[str]) -> int:
    parser = Parser(
        program,
        "Sign a token with the gateway's auth.jwt.secret (JWT_SECRET) and print it.",
        [(f"{program} --user alice", "7 days, read and write"),
         (f"{program} --user ops --expiry 8h --scopes mcp:read,mcp:admin", "an operator's working day")],
    )  # fmt: skip
    parser.add_argument("--user", required=True, help="who the token speaks for (sub)")
    parser.add_argument("--expiry", default="7d", metavar="TIME", help="such as 30m, 8h, 7d (default 7d)")
    parser.add_argument("--scopes", default="mcp:read,mcp:write", metavar="CSV", help=f"of {', '.join(MCP_SCOPES)}")
    parser.add_argument("--config", metavar="FILE", help="the gateway's configuration file")
    options = parser.parse(arguments)
    scopes = tuple(dict.fromkeys(part.strip() for part in options.scopes.split(",") if part.strip()))
    if not scopes or any(scope not in MCP_SCOPES for scope in scopes):
        parser.error(f"--scopes must be of {', '.join(MCP_SCOPES)}, not {options.scopes!r}")
    try:
        ttl = parse_duration(options.expiry)
    except ValueError as error:
        parser.error(f"--expiry must be {error}, not {options.expiry!r}")
    try:
        config = load_gateway(options.config, os.environ).config
        from mcpbridge.gateway import jwt_keys

        keys = jwt_keys(config)
        if keys is None:
            why = "auth.jwt.secret is not set, so there is nothing to sign with"
            problem = Problem(Place(), why, "export JWT_SECRET=$(openssl rand -base64 48), the same for the gateway")
            raise ConfigError([problem])
    except ConfigError as error:
        return complain(program, error)
    from mcpbridge.policies.jwt import issue

    try:
        print(issue(keys, subject=options.user, scopes=scopes, ttl=ttl, now=time.time()))
    except ValueError as error:
        parser.error(str(error))
    return 0


def _inspect(program: str, arguments: list[str]) -> int:
    parser = Parser(
        program,
        "Show header, claims and expiry of a token; its signature is checked when auth.jwt.secret is known here.",
        [
            (f'echo "$MCP_AUTH_TOKEN" | {program}', "from stdin, so that it stays out of the process list"),
            (f"{program} TOKEN", ""),
        ],
    )
    parser.add_argument("token", nargs="?", metavar="TOKEN", help="the token; without it the first line of stdin")
    parser.add_argument("--config", metavar="FILE", help="the gateway's configuration file")
    options = parser.parse(arguments)
    if options.token is None and sys.stdin.isatty():
        parser.error("no token: give it as argument or on stdin")
    token = (options.token if options.token is not None else sys.stdin.readline()).strip().removeprefix("Bearer ")
    from mcpbridge.policies.jwt import TokenError, inspect

    try:
        seen = inspect(token)
    except TokenError as error:
        print(f"{program}: not a JWT: {error}", file=sys.stderr)
        return EX_DATAERR
    expiry = seen.claims.get("exp")
    ends = float(expiry) if isinstance(expiry, (int, float)) and not isinstance(expiry, bool) else None
    document = {
        "schema": "mcpbridge.token/v1",
        "header": seen.header,
        "claims": seen.claims,
        "expires": None if ends is None else timestamp(ends),
        "expired": None if ends is None else time.time() >= ends,
        "valid": _verdict(token, options.config),
    }
    print(json.dumps(document, indent=2, ensure_ascii=False))
    return 0


def _verdict(token: str, path: str | None) -> str:
    from mcpbridge.gateway import jwt_keys
    from mcpbridge.policies.jwt import TokenError, verify

    try:
        keys = jwt_keys(load_gateway(path, os.environ).config)
    except ConfigError:
        keys = None
    if keys is None:
        return "not checked: auth.jwt.secret is not known here"
    try:
        verify(token, keys, time.time())
    except TokenError as error:
        return f"no: {error}"
    return "yes"
