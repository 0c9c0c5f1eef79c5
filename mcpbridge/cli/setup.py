"""``mcpbridge setup``: a router's configuration, a stored token, a tested connection, and the clients that start it.

    flags (--yes) or plain questions -> Answers -> test -> Plan with every diff -> written, with a backup and an undo

Exit 64: something is missing (all of it at once); 65: a token or file that is none; 69, 76, 77: the gateway was not reached, is
none, or refused (nothing is written with --yes); 73: not written; 75: no store for the token; 78: a file that cannot be loaded.

Source: contract cli.setup.*; ux section 1b.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Sequence
from typing import Any, Final

from mcpbridge.cli.coded import coded
from mcpbridge.cli.parsing import Parser
from mcpbridge.cli.stored import clean
from mcpbridge.cli.test import tested
from mcpbridge.clients.changes import this_machine, undo
from mcpbridge.clients.faults import ClientFileError
from mcpbridge.clients.journal import journal_of
from mcpbridge.clients.table import CLIENTS, SCOPES, Layout
from mcpbridge.config.kinds import parse_duration
from mcpbridge.config.problems import ConfigError
from mcpbridge.config.walk import suggestion
from mcpbridge.errors import BridgeError
from mcpbridge.observe.redact import redact
from mcpbridge.process import run as run_loop
from mcpbridge.secrets import SecretError
from mcpbridge.secrets.stores import find
from mcpbridge.setup.answers import TOKEN_NAME, Answers, Keep, SignIn, address, gaps, hazard, unreadable
from mcpbridge.setup.plan import Done, Plan, config_path, importable, make, plan

SCHEMA: Final = "mcpbridge.setup/v1"
EX_USAGE, EX_DATAERR, EX_TEMPFAIL = 64, 65, 75


class Stop(Exception):
    """Setup ends here. ``documents``: more for ``--json``."""

    def __init__(self, status: int, said: Sequence[str], code: str = "", **document: Any) -> None:
        self.status = status
        self.said = list(said)
        self.code = code
        self.document = document
        super().__init__("; ".join(said))


def run(name: str, arguments: list[str]) -> int:
    """Ask, test, show, write."""
    parser = _parser(f"{name} setup")
    options = parser.parse(arguments)
    layout = this_machine(os.environ)
    try:
        if options.undo:
            return _undo(options, layout)
        if not options.yes and not (sys.stdin is not None and sys.stdin.isatty()):
            parser.error("there is no terminal to ask at; give the answers as options, with --yes")
        _check(parser, options)
        if options.yes:
            return _unattended(parser, options, layout)
        from mcpbridge.cli.interview import interview

        return interview(options, layout)
    except Stop as stop:
        return _stopped(parser, options, stop)
    except SecretError as error:
        return _stopped(parser, options, Stop(EX_TEMPFAIL, [error.detail], error.code))
    except ClientFileError as error:
        return _stopped(parser, options, Stop(error.exit_code, [str(error.problems[0])], error.code))
    except ConfigError as error:
        return _stopped(parser, options, Stop(error.exit_code, [str(problem) for problem in error.problems]))


def _parser(program: str) -> Parser:
    parser = Parser(
        program,
        "Set up the router of this computer: the gateway, a stored token, the servers and the clients that use it. What would\n"
        "be written is shown first, every file has a backup, and one command takes it back.",
        [
            (program, "questions one by one"),
            (f"{program} --yes --gateway-url https://gw.example.com --token-stdin --clients cursor < token.txt", ""),
            (f"{program} --yes --no-gateway --import all --clients all", "no gateway: local servers only"),
            (f"{program} --yes --gateway-url https://gw.example.com --token-env TOKEN --dry-run", "what would be written"),
            (f"{program} --undo", "put every file back"),
        ],
    )
    add = parser.add_argument
    add("--yes", action="store_true", help="ask nothing: everything is in the options")
    add("--no-tui", action="store_true", help="plain questions (they are what there is today)")
    add("--gateway-url", metavar="URL", help="address of the gateway")
    add("--no-gateway", action="store_true", help="no gateway: local servers only")
    add("--auth", choices=["bearer", "mtls", "none"], help="how to sign in (default bearer)")
    add("--token-stdin", action="store_true", help="the token is the first line of stdin")
    add("--token-file", metavar="FILE", help="the token is the first line of a file; it is stored")
    add("--token-env", metavar="NAME", help="the token is in this variable whenever the router starts; it is not stored")
    add("--token-name", metavar="NAME", default=TOKEN_NAME, help=f"its name in the store (default {TOKEN_NAME})")
    add(
        "--secret-store",
        choices=["auto", "keychain", "file", "plain", "none"],
        default="auto",
        help="where secrets are kept: auto is the keychain or nothing, file is encrypted, none keeps nothing",
    )
    add("--ca-file", metavar="FILE", default="", help="authority of the gateway's certificate, PEM")
    add("--client-cert", metavar="FILE", default="", help="certificate of ours, PEM")
    add("--client-key", metavar="FILE", default="", help="its private key, PEM")
    add("--import", dest="imports", metavar="CSV", help="none, all, or clients whose servers move behind mcpbridge")
    add("--clients", metavar="CSV", help="none, all (that are installed), or clients that are to start mcpbridge")
    add("--scope", choices=SCOPES, default="user", help="which of the clients' files (default user)")
    add("--server-name", metavar="NAME", default="mcpbridge", help="what clients call it (default mcpbridge)")
    add("--config", metavar="FILE", help="the router's file (default: where mcpbridge router looks first)")
    add("--no-test", action="store_true", help="do not try the gateway")
    add("--test-timeout", metavar="TIME", default="10s", help="for each step of the test (default 10s)")
    add("--dry-run", action="store_true", help="show what would be written; write nothing")
    add("--undo", action="store_true", help="put every file back as it was before the last change")
    add("--json", action="store_true", help="one JSON document (with --yes or --undo)")
    return parser


def _check(parser: Parser, options: argparse.Namespace) -> None:
    if options.gateway_url and options.no_gateway:
        parser.error("--gateway-url or --no-gateway, not both")
    if sum(bool(given) for given in (options.token_stdin, options.token_file, options.token_env)) > 1:
        parser.error("one of --token-stdin, --token-file and --token-env")
    if options.json and not options.yes:
        parser.error("--json belongs to --yes and --undo")
    for flag in ("imports", "clients"):
        for key in _names(getattr(options, flag)):
            if key not in CLIENTS and key not in ("none", "all"):
                hint = suggestion(key, CLIENTS) or f"there are {', '.join(CLIENTS)}"
                parser.error(f"--{'import' if flag == 'imports' else flag}: unknown client {key}: {hint}")
    try:
        options.test_timeout = parse_duration(options.test_timeout)
    except ValueError as error:
        parser.error(f"--test-timeout must be {error}, not {options.test_timeout!r}")


def _names(text: str | None) -> list[str]:
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def _unattended(parser: Parser, options: argparse.Namespace, layout: Layout) -> int:
    if not options.gateway_url and not options.no_gateway:
        missing = [("an address of a gateway", "--gateway-url URL, or --no-gateway")]
        missing += list(gaps(_answers(options, layout, "https://gateway.invalid")))
        raise Stop(EX_USAGE, [f"missing: {what} ({how})" for what, how in missing])
    try:
        gateway = address(options.gateway_url) if options.gateway_url else ""
    except ValueError as error:
        raise Stop(EX_USAGE, [f"--gateway-url: {error}"]) from None
    answers = _answers(options, layout, gateway)
    missing = list(gaps(answers))
    if missing:
        raise Stop(EX_USAGE, [f"missing: {what} ({how})" for what, how in missing])
    if answers.keep == "none" and answers.is_bearer and answers.token and not answers.token_file:
        raise Stop(EX_USAGE, ["--secret-store none keeps no token; use --token-env or --token-file"])
    if bad := list(unreadable(answers)):
        raise Stop(EX_DATAERR, bad)
    found = planned(answers, options, layout)
    checks: list[dict[str, Any]] = []
    if gateway and not options.no_test and not options.dry_run:
        report = try_gateway(found, options.test_timeout, quiet=options.json)
        checks = report["stages"]
        if not report["ok"]:
            why = coded(checks[-1], report["target"])
            raise Stop(int(report["exit_code"]), [why.said, why.action, "nothing was written (--no-test skips this)"],
                       why.code, checks=checks)  # fmt: skip
    done = None if options.dry_run else make(found, layout)
    if options.json:
        print(json.dumps({"schema": SCHEMA, "ok": True, **document(found, done, checks)}, ensure_ascii=False))
    else:
        show(found, done)
    return 0


def _answers(options: argparse.Namespace, layout: Layout, gateway: str) -> Answers:
    """The answers that the options give."""
    sign_in: SignIn = options.auth or "bearer"
    needs_token = bool(gateway) and sign_in == "bearer"
    token = ""
    if needs_token and (options.token_stdin or options.token_file):
        try:
            if options.token_file:
                with open(os.path.expanduser(options.token_file), encoding="utf-8") as file:
                    token = clean(file.readline(65_536))
            else:
                token = clean(sys.stdin.readline(65_536))
        except (OSError, UnicodeDecodeError) as error:
            raise Stop(EX_DATAERR, [f"{options.token_file}: {getattr(error, 'strerror', None) or 'is no text'}"]) from None
        except ValueError as error:
            raise Stop(EX_DATAERR, [str(error)]) from None
    keep: Keep = options.secret_store
    keeps_file = keep == "none" and bool(options.token_file)
    return Answers(
        gateway=gateway,
        sign_in=sign_in,
        token="" if keeps_file else token,
        token_name=options.token_name,
        token_env=options.token_env or "",
        token_file=os.path.abspath(os.path.expanduser(options.token_file)) if keeps_file else "",
        keep=keep,
        ca_file=options.ca_file,
        client_cert=options.client_cert,
        client_key=options.client_key,
        imports=chosen(options.imports, [file.client.key for file in importable(layout)]),
        clients=chosen(options.clients, installed(layout)),
        scope=options.scope,
        server_name=options.server_name,
        has_token=keeps_file or (needs_token and not token and is_stored(options.token_name)),
    )


def is_stored(name: str) -> bool:
    """Whether a secret of this name is stored here; a locked keychain has none."""
    try:
        return find(name) is not None
    except SecretError:
        return False


def chosen(text: str | None, everyone: Sequence[str]) -> tuple[str, ...]:
    """The clients that a list names: none, all of ``everyone``, or these."""
    names = _names(text)
    return tuple(everyone) if "all" in names else () if "none" in names else tuple(names)


def installed(layout: Layout) -> list[str]:
    """Clients that seem to be on this machine."""
    from mcpbridge.clients.changes import look_at_all

    files = look_at_all(layout, (), ["user"])  # a file that lies in the home directory itself says nothing by its place
    return [one.client.key for one in files if one.exists or (one.installed and os.path.dirname(one.path) != layout.home)]


def planned(answers: Answers, options: argparse.Namespace, layout: Layout) -> Plan:
    """What would be written. Raises Stop, ConfigError, ClientFileError."""
    program = shutil.which(sys.argv[0]) or shutil.which("mcpbridge")
    if program is None:
        raise Stop(EX_USAGE, ["mcpbridge is not on PATH, so no client could start it; install it first"])
    path = os.path.abspath(os.path.expanduser(options.config)) if options.config else config_path(layout)
    return plan(answers, layout, path, os.path.abspath(program), os.environ)


def try_gateway(found: Plan, timeout: float, *, quiet: bool) -> dict[str, Any]:
    """The report of ``mcpbridge test`` on the gateway as the router would reach it."""
    from mcpbridge.gateways import gateway_spec

    try:
        spec = gateway_spec(found.config.config, found.answers.token or None)
    except BridgeError as error:
        raise Stop(EX_TEMPFAIL, [str(error)]) from None
    report: dict[str, Any] = {}

    async def main() -> int:
        nonlocal report
        report = await tested([spec], timeout, quiet=quiet)
        return 0

    if run_loop(main):
        raise KeyboardInterrupt
    return report


def document(found: Plan, done: Done | None, checks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What was planned and done, for programs."""
    records = {record.path: record for record in done.records} if done else {}
    return {
        "written": done is not None,
        "changes": [
            {
                "client": change.client.key,
                "file": change.path,
                "changed": change.is_needed,
                "diff": redact(change.diff()),
                "backup": records[change.path].backup if change.path in records else None,
            }
            for change in found.changes
        ],
        "secrets": {"names": sorted(found.secrets), "store": done.store if done else None},
        "notes": list(found.notes),
        "checks": list(checks),
    }


def show(found: Plan, done: Done | None) -> None:
    """What was planned and done, for people."""
    for note in found.notes:
        print(f"note: {note}")
    if danger := hazard(found.answers.gateway):
        print(f"note: {danger}")
    for diff in found.diffs:
        print(diff)
    if done is None:
        for name in sorted(found.secrets):
            print(f"would store {name}")
        print("nothing was written")
        return
    for name in done.secrets:
        print(f"stored {name} in {done.store}")
    for record in done.records:
        print(f"{record.path}: written" + (f", backup {record.backup}" if record.backup else ""))
    for restart in done.restarts:
        print(f"next: {restart}")
    print("take it back: mcpbridge setup --undo" if done.records else "everything was as it should be already")


def _undo(options: argparse.Namespace, layout: Layout) -> int:
    restored = undo(journal_of(layout), (), force=False, dry_run=options.dry_run)
    if options.json:
        rows = [{"file": one.record.path, "changed": one.changed, "diff": redact(one.diff)} for one in restored]
        print(json.dumps({"schema": SCHEMA, "ok": True, "written": not options.dry_run, "changes": rows}))
        return 0
    for one in restored:
        print(redact(one.diff) if one.changed else f"{one.record.path}: is as it was before")
    print("stored secrets stay: mcpbridge token list" if restored else "nothing to undo")
    return 0


def _stopped(parser: Parser, options: argparse.Namespace, stop: Stop) -> int:
    if options.json:
        error = {"errors": stop.said, "code": stop.code or None, "exit_code": stop.status}
        print(json.dumps({"schema": SCHEMA, "ok": False, **error, **stop.document}))
        return stop.status
    for said in stop.said:
        print(f"{parser.prog}: {said}", file=sys.stderr)
    if stop.code:
        print(f"  [{stop.code}]", file=sys.stderr)
    return stop.status
