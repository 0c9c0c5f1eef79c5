"""The file of the guide's program becomes ours: copied as it is, comments and all, once it is known that it loads.

    ~/.config/claude-cli/mcp-router.yaml  ──>  ~/.config/mcpbridge/router.yaml        the old one is never changed

Source: ux section 6 (precedence); contract cli.setup.dir, cli.config.validate.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from mcpbridge.clients import changes, disk
from mcpbridge.clients.changes import Change
from mcpbridge.clients.faults import EX_CANTCREAT, EX_NOINPUT, ClientFileError
from mcpbridge.clients.journal import Record, journal_of
from mcpbridge.clients.table import Layout
from mcpbridge.config.problems import Place
from mcpbridge.setup.plan import GUIDES_FILE, ROUTER_FILE, config_path, proven, readable


class Migration(NamedTuple):
    """What would be done. ``warnings``: what the router says of the file."""

    source: str
    change: Change
    warnings: tuple[str, ...]


def plan(layout: Layout, env: Mapping[str, str], source: str | None = None, *, replace: bool = False) -> Migration:
    """``source``: another file than the guide's; ``replace``: take the place of a file of ours that says something else.

    Raises ClientFileError (66 nothing to migrate, 73 ours is there), ConfigError for a file that does not load.
    """
    source = source or layout.in_home(GUIDES_FILE)
    target = config_path(layout)
    if disk.read(source).data is None:
        hint = f"our file is {target}; mcpbridge config path --for router tells which is used"
        raise ClientFileError("MCPB-CFG-READ", Place(source), "no such file, so there is nothing to migrate", hint, EX_NOINPUT)
    text, _ = readable(source)
    loaded = proven(text, source, env)
    before = disk.read(target)
    change = Change(ROUTER_FILE, "user", target, before, text.encode(), f"migrate {source}")
    if before.data is not None and change.is_needed and not replace:
        hint = "compare the two; --replace takes its place and keeps a backup"
        raise ClientFileError("MCPB-CFG-EXISTS", Place(target), "is there already, with other content", hint, EX_CANTCREAT)
    return Migration(source, change, tuple(str(warning) for warning in loaded.warnings))


def make(found: Migration, layout: Layout) -> list[Record]:
    """Write it; ``clients.changes.undo`` takes it back. Raises ClientFileError."""
    return changes.make([found.change], journal_of(layout))
