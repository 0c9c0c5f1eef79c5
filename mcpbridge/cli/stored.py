"""``mcpbridge token set|list|test|get|delete|rotate``: secrets that are kept on this computer.

A value comes from a prompt, from stdin or from a file, never from an argument, which other programs could read; it is shown
only when it is asked for. Exit 65: what was given is no secret; 66: there is none of this name; 75: the store cannot be used.

Source: contract cli.token.set, cli.token.store, cli.token.others; ux section 5.4.
"""

from __future__ import annotations

import argparse
import getpass
import json
import os
import re
import sys
import time
from typing import Any, Final

from mcpbridge.cli.parsing import Parser
from mcpbridge.cli.test import run_candidates
from mcpbridge.config.kinds import parse_duration
from mcpbridge.config.sections import EndpointSpec, ServerSpec
from mcpbridge.observe.redact import conceal
from mcpbridge.observe.snapshot import timestamp
from mcpbridge.secrets import MAX_TOKEN_CHARS, SecretError, lookup
from mcpbridge.secrets.faults import NONE
from mcpbridge.secrets.stores import KINDS, Store, find, fit, keep, store

SCHEMA: Final = "mcpbridge.secrets/v1"
DEFAULT: Final = "gateway-token"
EX_DATAERR, EX_NOINPUT, EX_TEMPFAIL, EX_REFUSED = 65, 66, 75, 77
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")
_LARGEST = 65_536  # bytes that are read to say that they are too many


class _Unfit(ValueError):
    """What was given is no secret. The text says why, and never what it was."""


def parser_of_stored(program: str, action: str) -> Parser:
    """The parser of one action."""
    about = {
        "set": "Store a secret under a name. Its value is asked for, or read from stdin or a file.",
        "list": "Names of the secrets that are stored, where, since when, and until when they are good; never values.",
        "test": "Look whether a secret is there and still good; with --gateway, whether that gateway takes it.",
        "get": "Show a secret.",
        "delete": "Forget a secret.",
        "rotate": "Replace a secret by another value, which with --gateway must be taken there first.",
    }[action]
    line = f"{program} {action}"
    examples = {
        "set": [(f"{line} --name {DEFAULT}", "asks for it"), (f"{line} --name k --file key.txt", "the first line of a file")],
        "list": [(line, ""), (f"{line} --json", "for programs")],
        "test": [(f"{line} {DEFAULT}", ""), (f"{line} {DEFAULT} --gateway https://gw.example.com/mcp", "ask the gateway too")],
        "get": [(f"{line} {DEFAULT} --reveal", "the value, alone on a line")],
        "delete": [(f"{line} old-token", "")],
        "rotate": [(f"{line} {DEFAULT} --gateway https://gw.example.com/mcp", "nothing changes when it is not taken")],
    }[action]
    parser = Parser(line, about, examples)
    if action != "list":
        parser.add_argument("words", nargs="*", metavar="NAME", help=f"the secret's name (default {DEFAULT})")
        parser.add_argument("--name", metavar="NAME", help="the same as an option")
    if action in ("set", "rotate"):
        parser.add_argument("--stdin", action="store_true", help="read its value from the first line of stdin")
        parser.add_argument("--file", metavar="FILE", help="read its value from the first line of a file")
    if action == "set":
        where = "keychain, file (encrypted) or plain; auto: the keychain, or none"
        parser.add_argument("--store", choices=["auto", *KINDS], default="auto", help=where)
    if action == "delete":
        parser.add_argument("--store", choices=KINDS, help="in this store only (default: in all)")
    if action == "get":
        parser.add_argument("--reveal", action="store_true", help="really show it")
    if action in ("test", "rotate"):
        parser.add_argument("--gateway", metavar="URL", help="a gateway or server that must take it as a bearer token")
        parser.add_argument("--timeout", default="10s", metavar="TIME", help="for each step there (default 10s)")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    return parser


def run(program: str, action: str, arguments: list[str]) -> int:
    """One of ``cli.token.STORED``."""
    parser = parser_of_stored(program, action)
    options = parser.parse(arguments)
    words = getattr(options, "words", [])
    if len(words) > 1:
        parser.error("one name, and no value: a value in an argument can be read by other programs; use --stdin or --file")
    if action != "list":
        if words and options.name:
            parser.error("the name twice")
        options.name = options.name or (words[0] if words else DEFAULT)
        if _NAME.fullmatch(options.name) is None:
            parser.error("a name has letters, digits, '-', '_' and '.', at most 128")
    if action in ("test", "rotate"):
        try:
            options.timeout = parse_duration(options.timeout)
        except ValueError as error:
            parser.error(f"--timeout must be {error}, not {options.timeout!r}")
    try:
        return _ACTS[action](parser, options)
    except _Unfit as error:
        return _fail(parser, options, EX_DATAERR, str(error))
    except SecretError as error:
        is_store = bool(error.code)
        return _fail(parser, options, EX_TEMPFAIL if is_store else EX_NOINPUT, error.detail, error.code)


def _set(parser: Parser, options: argparse.Namespace) -> int:
    chosen = fit(options.store)
    value = _value(parser, options)
    keep(chosen, options.name, value)
    return _done(options, {"name": options.name, "store": chosen.kind}, f"stored {options.name} in {chosen.title}")


def _list(parser: Parser, options: argparse.Namespace) -> int:
    rows: list[dict[str, Any]] = []
    failures: list[dict[str, str]] = []
    for kind in KINDS:
        one = store(kind)
        try:
            for name, at in sorted(one.stored().items()):
                rows.append({"name": name, "store": kind, "stored_at": timestamp(at), "expires": _expiry(one, name)})
        except SecretError as error:
            failures.append({"store": kind, "error": error.detail})
    if options.json:
        print(json.dumps({"schema": SCHEMA, "secrets": rows, "failures": failures}))
    else:
        for row in rows:
            until = f"  good until {row['expires']}" if row["expires"] else ""
            print(f"{row['name']:28} {row['store']:9} since {row['stored_at']}{until}")
        if not rows and not failures:
            print(f"nothing is stored; mcpbridge token set --name {DEFAULT}")
        for failure in failures:
            print(f"{parser.prog}: {failure['error']}", file=sys.stderr)
    return EX_TEMPFAIL if failures else 0


def _test(parser: Parser, options: argparse.Namespace) -> int:
    found = find(options.name) if not _is_elsewhere(options.name) else None
    value = found[1] if found is not None else lookup(options.name, os.environ)
    conceal(value)
    where = found[0].title if found is not None else "a variable or a mounted file"
    expires = _end_of(value)
    if expires is not None and expires <= time.time():
        return _fail(parser, options, EX_REFUSED, f"{options.name}: ended at {timestamp(expires)}; store a new one")
    document = {"name": options.name, "source": found[0].kind if found else "environment", "expires": _shown(expires)}
    said = f"{options.name}: is in {where}" + (f", good until {timestamp(expires)}" if expires is not None else "")
    return _asked(parser, options, value) or _done(options, document, said)


def _get(parser: Parser, options: argparse.Namespace) -> int:
    if not options.reveal:
        parser.error("it would be shown on the screen; add --reveal when that is what you want")
    value = lookup(options.name, os.environ)
    print(json.dumps({"schema": SCHEMA, "name": options.name, "value": value}) if options.json else value)
    return 0


def _delete(parser: Parser, options: argparse.Namespace) -> int:
    kinds = [options.store] if options.store else list(KINDS)
    gone: list[str] = []
    failure: SecretError | None = None
    for kind in kinds:
        try:
            if store(kind).delete(options.name):
                gone.append(kind)
        except SecretError as error:
            failure = failure or (error if error.code != NONE or options.store else None)
    if not gone:
        if failure is not None:
            raise failure
        return _fail(parser, options, EX_NOINPUT, f"{options.name}: is not stored here; see mcpbridge token list")
    return _done(options, {"name": options.name, "deleted": gone}, f"deleted {options.name} from {', '.join(gone)}")


def _rotate(parser: Parser, options: argparse.Namespace) -> int:
    found = find(options.name)
    if found is None:
        return _fail(parser, options, EX_NOINPUT, f"{options.name}: is not stored here; use set")
    value = _value(parser, options)
    if value == found[1]:
        return _fail(parser, options, EX_DATAERR, f"{options.name}: that is the value it has")
    failed = _asked(parser, options, value)
    if failed:
        return failed
    keep(found[0], options.name, value)
    return _done(options, {"name": options.name, "store": found[0].kind}, f"replaced {options.name} in {found[0].title}")


_ACTS: Final = {"set": _set, "list": _list, "test": _test, "get": _get, "delete": _delete, "rotate": _rotate}


def clean(text: str) -> str:
    """The secret in what somebody typed or pasted. Raises ValueError, which says why it is none and not what it was."""
    value = re.sub(r"^[Bb]earer(?:\s+|$)", "", text.strip())
    conceal(value)
    if not value:
        raise _Unfit("the value is empty")
    if len(value) > MAX_TOKEN_CHARS:
        raise _Unfit(f"the value has {len(value)} characters, more than {MAX_TOKEN_CHARS}; is it the secret only?")
    if not value.isprintable():
        raise _Unfit("the value has control characters; is it the secret only?")
    return value


def _value(parser: Parser, options: argparse.Namespace) -> str:
    if options.stdin and options.file:
        parser.error("--stdin or --file, not both")
    if options.file:
        try:
            with open(options.file, encoding="utf-8") as file:
                return clean(file.readline(_LARGEST))
        except (OSError, UnicodeDecodeError) as error:
            raise _Unfit(f"{options.file}: {getattr(error, 'strerror', None) or 'is no text'}") from None
    if options.stdin or sys.stdin is None or not sys.stdin.isatty():
        try:
            return clean(sys.stdin.readline(_LARGEST) if sys.stdin is not None else "")
        except UnicodeDecodeError:
            raise _Unfit("the value is no text") from None
    return clean(getpass.getpass(f"{options.name}: "))


def _asked(parser: Parser, options: argparse.Namespace, value: str) -> int:
    """0 when no gateway is named or it takes the value; else the exit status of the test."""
    if not options.gateway:
        return 0
    endpoint = EndpointSpec(url=options.gateway, headers={"authorization": f"Bearer {value}"})
    report = run_candidates([ServerSpec(name="gateway", endpoints=(endpoint,))], options.timeout, quiet=True)
    if report["ok"]:
        return 0
    last = report["stages"][-1]
    return _fail(parser, options, int(report["exit_code"]), f"{options.gateway}: {last['stage']}: {last['detail']}")


def _is_elsewhere(name: str) -> bool:
    """Whether the environment gives it, which comes before every store."""
    variable = "MCPBRIDGE_SECRET_" + re.sub(r"[^A-Z0-9]", "_", name.upper())
    return bool(os.environ.get(variable) or os.environ.get(f"{variable}_FILE"))


def _expiry(one: Store, name: str) -> str | None:
    value = one.read(name)
    return None if value is None else _shown(_end_of(value))


def _shown(expires: float | None) -> str | None:
    return None if expires is None else timestamp(expires)


def _end_of(value: str) -> float | None:
    """When a JWT ends, Unix seconds; None for what is none, or does not say."""
    if value.count(".") != 2:
        return None
    from mcpbridge.policies.jwt import TokenError, inspect

    try:
        ends = inspect(value).claims.get("exp")
    except TokenError:
        return None
    return float(ends) if isinstance(ends, (int, float)) and not isinstance(ends, bool) else None


def _done(options: argparse.Namespace, document: dict[str, Any], said: str) -> int:
    print(json.dumps({"schema": SCHEMA, "ok": True, **document}) if options.json else said)
    return 0


def _fail(parser: Parser, options: argparse.Namespace, status: int, said: str, code: str = "") -> int:
    if options.json:
        print(json.dumps({"schema": SCHEMA, "ok": False, "error": said, "code": code or None, "exit_code": status}))
    else:
        print(f"{parser.prog}: {said}" + (f" [{code}]" if code else ""), file=sys.stderr)
    return status
