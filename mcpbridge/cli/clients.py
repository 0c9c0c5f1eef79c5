"""``mcpbridge clients``: what the MCP clients of this machine start, and mcpbridge or any server put there and taken out again.

Source: contract section 1.1 (``cli.clients``); issue 6 (client files).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from typing import Any

from mcpbridge.cli.parsing import Parser
from mcpbridge.clients import changes
from mcpbridge.clients.entry import Entry, secrets_of
from mcpbridge.clients.faults import ClientFileError
from mcpbridge.clients.journal import Record, journal_of
from mcpbridge.clients.table import CLIENTS, SCOPES, Client, Layout, Location
from mcpbridge.config.walk import suggestion

VERBS = ("list", "add", "diff", "remove", "import", "export", "undo")
SCHEMA = "mcpbridge.clients/v1"


def run(name: str, arguments: list[str]) -> int:
    """One verb; 0 done, 64 misuse, 65 a file that cannot be read, 73 not written, 75 try again."""
    program = f"{name} clients"
    parser = _parser(program)
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    options = parser.parse(arguments[:cut])
    options.command = arguments[cut + 1 :]
    _check(parser, options)
    layout = changes.this_machine(os.environ)
    try:
        return _VERBS[options.verb](parser, options, layout)
    except ClientFileError as error:
        if options.json:
            print(json.dumps({"schema": SCHEMA, "ok": False, "error": error.as_json()}))
        else:
            print(f"{program}: {error.problems[0]} [{error.code}]", file=sys.stderr)
        return error.exit_code


def _parser(program: str) -> Parser:
    parser = Parser(
        program,
        "The files in which MCP clients name their servers. A change touches nothing but its own entry, keeps a backup\n"
        "beside the file and can be undone. CLIENT is one of: " + ", ".join(CLIENTS) + ".",
        [
            (f"{program} list", "every client's servers, and what is wrong with a file"),
            (f"{program} add cursor", "let Cursor start mcpbridge"),
            (f"{program} diff vscode", "what add would change; writes nothing"),
            (f"{program} add zed --name time -- uvx mcp-server-time", "a server of your own"),
            (f"{program} add claude-code --name docs --url https://example.com/mcp", "one at an address"),
            (f"{program} remove cursor", "take it out again"),
            (f"{program} import cursor > mcp.json", "a client's servers, for router --config mcp.json"),
            (f"{program} export codex", "the entry for you to paste; writes nothing"),
            (f"{program} undo", "put back what the last change changed"),
        ],
    )
    parser.add_argument("verb", choices=VERBS, metavar="VERB", help=", ".join(VERBS))
    parser.add_argument("clients", nargs="*", metavar="CLIENT", help="which ones (list, import, undo: all when none is named)")
    parser.add_argument(
        "--name", default=None, help="name of the server there (default mcpbridge); remove, import: only this one"
    )
    parser.add_argument("--url", default="", help="add, diff, export: a server at this address")
    parser.add_argument("--scope", choices=SCOPES, default="user", help="user (default), project: this directory, local: both")
    parser.add_argument("--replace", action="store_true", help="add, diff: take the place of another server of that name")
    parser.add_argument("--dry-run", action="store_true", help="show what would change, write nothing")
    parser.add_argument("--force", action="store_true", help="undo: also when somebody else changed the file since")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    return parser


def _check(parser: Parser, options: argparse.Namespace) -> None:
    for key in options.clients:
        if key not in CLIENTS:
            parser.error(f"unknown client {key}: {suggestion(key, CLIENTS) or 'there are ' + ', '.join(CLIENTS)}")
    if options.verb in ("add", "diff", "remove", "export") and not options.clients:
        parser.error(f"{options.verb} needs a client: {', '.join(CLIENTS)}")
    if options.verb not in ("add", "diff", "export") and (options.command or options.url):
        parser.error("a command and --url belong to add, diff and export")
    if options.replace and options.verb not in ("add", "diff"):
        parser.error("--replace belongs to add and diff")
    if options.command and options.url:
        parser.error("a command and --url are both given")
    if options.force and options.verb != "undo":
        parser.error("--force belongs to undo")


def _list(_parser: Parser, options: argparse.Namespace, layout: Layout) -> int:
    files = [file for file in changes.look_at_all(layout, options.clients) if file.exists or file.installed or options.clients]
    if options.json:
        rows = [
            {
                "client": file.client.key, "scope": file.scope, "file": file.path, "exists": file.exists,
                "servers": {
                    name: {"transport": entry.transport, "disabled": entry.disabled} for name, entry in file.entries.items()
                },
                "unreadable": dict(file.odd),
                "fault": file.fault.as_json() if file.fault else None,
            }
            for file in files
        ]  # fmt: skip
        print(json.dumps({"schema": SCHEMA, "ok": True, "files": rows}))
        return 0
    for file in files:
        print(f"{file.client.title} ({file.client.key}, {file.scope}): {file.path}{'' if file.exists else ' (not there yet)'}")
        for name, entry in file.entries.items():
            print(f"  {name:<20} {entry.transport:<6} {entry.command or _place(entry.url)}{' (off)' if entry.disabled else ''}")
        for name, cause in file.odd.items():
            print(f"  {name:<20} cannot be used: {cause}")
        if file.fault:
            print(f"  {file.fault.problems[0]}")
    if not files:
        print("no client found; name one to see where its file would be")
    return 0


def _place(url: str) -> str:
    """An address without what may be secret in it."""
    return url.split("?", 1)[0].rsplit("@", 1)[-1]


def _add(parser: Parser, options: argparse.Namespace, layout: Layout) -> int:
    places = _locations(parser, options, layout)
    entry = _wanted(parser, options)
    plans = [changes.plan_add(client, location, [entry], replace=options.replace) for client, location in places]
    return _make(options, layout, plans)


def _remove(parser: Parser, options: argparse.Namespace, layout: Layout) -> int:
    names = [options.name or "mcpbridge"]
    plans = [changes.plan_remove(client, location, names) for client, location in _locations(parser, options, layout)]
    return _make(options, layout, plans)


def _wanted(parser: Parser, options: argparse.Namespace) -> Entry:
    name = options.name or "mcpbridge"
    if options.url:
        if not options.url.startswith(("http://", "https://")):
            parser.error(f"--url must be http:// or https://, not {options.url!r}; for any other: -- mcpbridge router URL")
        return Entry(name, "http", url=options.url)
    if options.command:
        return Entry(name, "stdio", command=options.command[0], args=tuple(options.command[1:]))
    ourselves = shutil.which(sys.argv[0]) or shutil.which("mcpbridge")
    if ourselves is None:
        parser.error("mcpbridge is not on PATH; give its command: -- /path/to/mcpbridge router")
    return Entry(name, "stdio", command=os.path.abspath(ourselves), args=("router",))


def _locations(parser: Parser, options: argparse.Namespace, layout: Layout) -> list[tuple[Client, Location]]:
    found = []
    for key in dict.fromkeys(options.clients):
        location = CLIENTS[key].location(layout, options.scope)
        if location is None:
            parser.error(f"{key} has no file of scope {options.scope}")
        found.append((CLIENTS[key], location))
    return found


def _make(options: argparse.Namespace, layout: Layout, plans: list[changes.Change]) -> int:
    is_dry = options.dry_run or options.verb == "diff"
    needed = [plan for plan in plans if plan.is_needed]
    made = [] if is_dry else changes.make(plans, journal_of(layout))
    if options.json:
        rows = [
            {"client": plan.client.key, "scope": plan.scope, "file": plan.path, "changed": plan.is_needed, "diff": plan.diff()}
            for plan in plans
        ]
        backups = {record.path: record.backup for record in made}
        print(json.dumps({"schema": SCHEMA, "ok": True, "written": not is_dry, "changes": rows, "backups": backups}))
        return 0
    for plan in plans:
        print(plan.diff() if plan.is_needed else f"{plan.path}: nothing to change")
    for record in made:
        print(_told(record))
    for plan in needed if made else ():
        print(f"next: {plan.client.restart}")
    return 0


def _told(record: Record) -> str:
    return f"{record.path}: written" + (f", backup {record.backup}" if record.backup else "")


def _import(_parser: Parser, options: argparse.Namespace, layout: Layout) -> int:
    servers: dict[str, dict[str, Any]] = {}
    for file in changes.look_at_all(layout, options.clients):
        if file.fault is not None:
            if options.clients:
                raise file.fault
            print(f"left out: {file.fault.problems[0]}", file=sys.stderr)
        for name, cause in file.odd.items():
            print(f"left out: {name} of {file.client.key}: {cause}", file=sys.stderr)
        for name, entry in file.entries.items():
            if (options.name is not None and name != options.name) or entry.disabled:
                continue
            if name in servers and servers[name] != entry.as_config():
                print(f"left out: {name} of {file.client.key}: another server has this name", file=sys.stderr)
                continue
            servers.setdefault(name, entry.as_config())
            for member, key, _ in secrets_of(entry):
                print(f"{name}: {member} {key}".rstrip() + " looks like a secret; keep this output private", file=sys.stderr)
    print(json.dumps({"mcpServers": servers}, indent=2, ensure_ascii=False))
    return 0


def _export(parser: Parser, options: argparse.Namespace, layout: Layout) -> int:
    places = _locations(parser, options, layout)
    entry = _wanted(parser, options)
    texts = [(client, location, changes.exported(client, location, [entry])) for client, location in places]
    if options.json:
        rows = [{"client": client.key, "file": location.path(), "text": text} for client, location, text in texts]
        print(json.dumps({"schema": SCHEMA, "ok": True, "exports": rows}))
        return 0
    for client, location, text in texts:
        print(f"{client.title}: merge this into {location.path()}", file=sys.stderr)
        print(text.rstrip())
    return 0


def _undo(_parser: Parser, options: argparse.Namespace, layout: Layout) -> int:
    restored = changes.undo(journal_of(layout), options.clients, force=options.force, dry_run=options.dry_run)
    if options.json:
        rows = [
            {"client": one.record.client, "file": one.record.path, "changed": one.changed, "diff": one.diff} for one in restored
        ]
        print(json.dumps({"schema": SCHEMA, "ok": True, "written": not options.dry_run, "changes": rows}))
        return 0
    for one in restored:
        print(one.diff if one.changed else f"{one.record.path}: is as it was before")
    if not restored:
        print("nothing to undo")
    return 0


_VERBS = {"list": _list, "add": _add, "diff": _add, "remove": _remove, "import": _import, "export": _export, "undo": _undo}
