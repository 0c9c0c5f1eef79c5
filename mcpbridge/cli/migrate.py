"""``mcpbridge config migrate``: shows the difference, asks, writes with a backup; ``--undo`` takes it back.

Exit 64: nobody to ask and no ``--yes``; 66: nothing to migrate; 73: our file is there already; 78: the file does not load.

Source: ux section 6 (precedence); contract cli.config.validate.
"""

from __future__ import annotations

import argparse
import json
import os
import sys

from mcpbridge.cli.complaints import complain
from mcpbridge.cli.parsing import Parser
from mcpbridge.clients.changes import this_machine, undo
from mcpbridge.clients.journal import journal_of
from mcpbridge.config.problems import ConfigError
from mcpbridge.observe.redact import redact
from mcpbridge.setup.migrate import make, plan
from mcpbridge.setup.plan import ROUTER_FILE

SCHEMA = "mcpbridge.config-migration/v1"


def run(parser: Parser, options: argparse.Namespace, source: str | None) -> int:
    """Migrate, or undo it; the exit status."""
    layout = this_machine(os.environ)
    try:
        if options.undo:
            return _undo(options)
        found = plan(layout, os.environ, source, replace=options.replace)
        written = False
        if not options.json:
            _show(found.source, redact(found.change.diff()), found.warnings)
        if found.change.is_needed and not options.dry_run:
            if not (options.yes or _agrees(parser, options)):
                print("nothing was written")
                return 0
            for record in make(found, layout):
                written = True
                backup = f", backup {record.backup}" if record.backup else ""
                if not options.json:
                    print(f"{record.path}: written{backup}; {found.source} stays, and is no longer read")
    except ConfigError as error:
        if options.json:
            problems = [problem.as_json() for problem in error.problems]
            print(json.dumps({"schema": SCHEMA, "ok": False, "problems": problems}, ensure_ascii=False))
            return error.exit_code
        return complain(parser.prog, error)
    if options.json:
        document = {"schema": SCHEMA, "ok": True, "from": found.source, "to": found.change.path, "written": written}
        print(json.dumps({**document, "changed": found.change.is_needed, "warnings": list(found.warnings)}))
    return 0


def _show(source: str, diff: str, warnings: tuple[str, ...]) -> None:
    print(diff or f"nothing to do: our file says what {source} says")
    for warning in warnings:
        print(f"warning: {warning}")


def _agrees(parser: Parser, options: argparse.Namespace) -> bool:
    """Whether the person at the terminal says yes; exits with 64 where there is none."""
    if options.json or sys.stdin is None or not sys.stdin.isatty():
        parser.error("there is nobody to ask; add --yes to write it")
    return input("Write this? [y/N] ").strip().lower() in ("y", "yes")


def _undo(options: argparse.Namespace) -> int:
    restored = undo(journal_of(this_machine(os.environ)), [ROUTER_FILE.key], force=False, dry_run=options.dry_run)
    if options.json:
        rows = [{"file": one.record.path, "changed": one.changed} for one in restored]
        print(json.dumps({"schema": SCHEMA, "ok": True, "undone": rows}))
        return 0
    for one in restored:
        print(redact(one.diff) if one.changed else f"{one.record.path}: is as it was before")
    if not restored:
        print("nothing to undo")
    return 0
