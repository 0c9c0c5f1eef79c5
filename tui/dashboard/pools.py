"""The Pools screen: connections that are kept, how full they are, and what keeping them saves.

Source: ux.md section 1.4; contract section 2.1 (``pools``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from mcpbridge.admin.text import Tone, clean, percent
from mcpbridge.observe.pools import PoolStatus
from mcpbridge.observe.snapshot import Snapshot, part
from tui.dashboard.actions import Act, Menu
from tui.dashboard.view import View
from tui.widgets.table import Cell, Column, LiveTable, Row

FULL = 0.9
"""Share of a pool in use from which it is shown as a problem to come."""
BAR = 10
COLUMNS = (
    Column("SERVER", 20),
    Column("PROTOCOL", 10, priority=7),
    Column("IN USE / MAX", 23, priority=9),
    Column("IDLE", 5, right=True, priority=6),
    Column("MIN", 4, right=True, priority=1),
    Column("WAITING", 7, right=True, priority=8),
    Column("REUSED %", 8, right=True, priority=5),
    Column("TAKE us p95", 11, right=True, priority=2),
    Column("NOTE", 0),
)
TIDY = Act(
    "o", "Optimize", "closes idle connections above the minimum and dead ones, opens up to it; calls in flight are not touched",
    "POST", "/connections/optimize",
)  # fmt: skip


class Pools(View):
    """See the module."""

    AUTO_FOCUS = "#pools"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("a", "act", "Actions", tooltip="Optimize the pools")]
    table = "pools"
    columns = COLUMNS
    nothing = "no connection is kept yet"

    def parts(self) -> ComposeResult:
        """One table."""
        waiting = f"connecting to {self.url} ..."
        looks: dict[str, Any] = {"plain": self.plain}
        yield self.titled(LiveTable(COLUMNS, empty=waiting, id="pools", **looks), "Pools of connections to servers")

    def rows(self, snapshot: Snapshot) -> Sequence[Row]:
        """One per server and protocol."""
        return [Row(f"{pool.server}\0{pool.protocol}", _cells(pool, self.plain)) for pool in part(snapshot.pools) or ()]

    def action_act(self) -> None:
        """What can be done about all pools."""
        self.app.push_screen(Menu("Pools", [TIDY], plain=self.plain))


def _cells(pool: PoolStatus, plain: bool) -> tuple[Cell, ...]:
    share = pool.in_use / pool.max_size if pool.max_size else 0.0
    tone: Tone = "bad" if pool.waiting else "warn" if share >= FULL else "plain"
    filled = min(BAR, round(share * BAR + 0.499)) if pool.in_use else 0
    bar = ("#" if plain else "█") * filled + ("." if plain else "░") * (BAR - filled)
    note = (
        f"{pool.waiting} calls wait: raise connection.pool.max_size" if pool.waiting else "nearly full" if share >= FULL else ""
    )
    taken = pool.retrieval_us.p95
    return (
        Cell(clean(pool.server, plain=plain)),
        Cell(clean(pool.protocol, plain=plain)),
        Cell(f"{bar} {pool.in_use:>5}/{pool.max_size}", tone),
        Cell(str(pool.idle)),
        Cell(str(pool.min_size), "muted"),
        Cell(str(pool.waiting), "bad" if pool.waiting else "plain"),
        Cell(percent(pool.efficiency)),
        Cell("–" if taken is None else f"{taken:.1f}"),
        Cell(note, tone),
    )
