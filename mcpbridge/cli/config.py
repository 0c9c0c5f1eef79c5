"""``mcpbridge config validate|show|schema|path|migrate``.

Source: contract section 1.1 (``cli.config.validate``).
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from mcpbridge.cli.complaints import complain
from mcpbridge.cli.parsing import Parser
from mcpbridge.config.load import Loaded, Program, gateway_program, load_gateway, load_router, router_program, search_path
from mcpbridge.config.problems import ConfigError
from mcpbridge.config.render import as_json, json_schema, show

if TYPE_CHECKING:
    import argparse

EX_NOINPUT = 66
ACTIONS = ("validate", "show", "schema", "path", "migrate")


def run(name: str, arguments: list[str]) -> int:
    """Dispatch to one of the actions."""
    program = f"{name} config"
    parser = Parser(
        program,
        "Check a configuration, show what holds and why, print its JSON Schema, or take over the guide's file.",
        [(f"{program} validate router.yaml", "every fault with file:line:column; exit 0, 66 or 78"),
         (f"{program} validate --json --for gateway", "the file that would be found, for programs"),
         (f"{program} show --origin --for router", "each value and where it came from"),
         (f"{program} schema --for gateway > gateway.schema.json", "for editors"),
         (f"{program} path --for router", "where a file is looked for; exit 66 when there is none"),
         (f"{program} migrate", "~/.config/claude-cli/mcp-router.yaml becomes ~/.config/mcpbridge/router.yaml")],
    )  # fmt: skip
    parser.add_argument("action", choices=ACTIONS, metavar="ACTION", help=", ".join(ACTIONS))
    parser.add_argument("file", nargs="?", metavar="FILE", help="the file (else the one that the program would find)")
    parser.add_argument("--for", dest="program", choices=["gateway", "router"], help="whose configuration (else by name)")
    parser.add_argument("--config", metavar="FILE", help="the same as FILE")
    parser.add_argument("--origin", action="store_true", help="show: where each value came from")
    parser.add_argument("--json", action="store_true", help="validate, show, path, migrate: one JSON document")
    parser.add_argument("--yes", action="store_true", help="migrate: write without asking")
    parser.add_argument("--dry-run", action="store_true", help="migrate: show what would be written, write nothing")
    parser.add_argument("--replace", action="store_true", help="migrate: take the place of a file that is there; it is kept")
    parser.add_argument("--undo", action="store_true", help="migrate: take it back")
    options = parser.parse(arguments)
    path = options.file or options.config
    if options.action == "migrate":
        from mcpbridge.cli.migrate import run as migrate

        return migrate(parser, options, path)
    if options.yes or options.dry_run or options.replace or options.undo:
        parser.error("--yes, --dry-run, --replace and --undo belong to migrate")
    rows: Program[Any] = gateway_program() if _whose(name, options, path) == "gateway" else router_program()
    if options.action == "schema":
        print(json.dumps(json_schema(rows), indent=2, ensure_ascii=False))
        return 0
    if options.action == "path":
        return _path(rows, path, as_document=options.json)
    try:
        loaded: Loaded[Any] = load_gateway(path, os.environ) if rows.name == "gateway" else load_router(path, os.environ)
    except ConfigError as error:
        if options.json:
            print(json.dumps({**error.as_json(), "program": rows.name}, ensure_ascii=False))
            return error.exit_code
        return complain(program, error)
    if options.action == "show":
        print(
            json.dumps(as_json(loaded, rows), ensure_ascii=False) if options.json else show(loaded, rows, origin=options.origin)
        )
        return 0
    if options.json:
        document = {
            "schema": "mcpbridge.config-check/v1",
            "ok": True,
            "program": rows.name,
            "path": loaded.path,
            "problems": [],
        }
        print(json.dumps({**document, "warnings": [warning.as_json() for warning in loaded.warnings]}, ensure_ascii=False))
        return 0
    for warning in loaded.warnings:
        print(f"warning: {warning}")
    print(f"{loaded.path or 'no file found; defaults'}: ok ({rows.name})")
    return 0


def _path(rows: Program[Any], named: str | None, *, as_document: bool) -> int:
    """Where the program looks, and which file it takes; 66 when there is none."""
    named = named or os.environ.get("MCPBRIDGE_CONFIG") or None
    places = [named] if named else search_path(rows, os.environ)
    used = next(filter(os.path.isfile, places), None)
    if as_document:
        print(json.dumps({"schema": "mcpbridge.config-path/v1", "program": rows.name, "path": used, "searched": places}))
    else:
        for place in places:
            print(f"{'*' if place == used else '-'} {place}")
    return 0 if used is not None else EX_NOINPUT


def _whose(name: str, options: argparse.Namespace, path: str | None) -> str:
    """Which program's rows hold: as told, as called, as the file is named, else the gateway's."""
    if options.program:
        return str(options.program)
    if name != "mcpbridge":
        return name.removeprefix("mcp-")
    return "router" if path and "router" in os.path.basename(path) else "gateway"
