"""The Events screen: everything that happened lately, newest first, and the selected one in full.

Source: ux.md section 1.4.
"""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap
from typing import Any

from textual.app import ComposeResult
from textual.containers import Container

from mcpbridge.admin.text import LEVEL_TONES, MARKS, clean, clock
from mcpbridge.observe.snapshot import Event, Snapshot
from tui.dashboard.rows import named_events, where_of
from tui.dashboard.view import View
from tui.widgets.lines import Line, Lines
from tui.widgets.table import Cell, Column, LiveTable, Row

COLUMNS = (
    Column("TIME", 8),
    Column("LEVEL", 7, priority=9),
    Column("EVENT", 18, priority=4),
    Column("WHERE", 20, priority=6),
    Column("WHAT", 0),
)


class Events(View):
    """See the module."""

    AUTO_FOCUS = "#log"
    table = "log"
    columns = COLUMNS
    nothing = "nothing happened yet"

    def parts(self) -> ComposeResult:
        """The table, and the selected event in full."""
        looks: dict[str, Any] = {"plain": self.plain}
        with Container(id="pair"):
            waiting = f"connecting to {self.url} ..."
            tail = LiveTable(COLUMNS, empty=waiting, id="log", newest_first=True, **looks)
            yield self.titled(tail, "Events, newest first")
            yield self.titled(Lines(id="detail", **looks), "Selected event")

    def rows(self, snapshot: Snapshot) -> Sequence[Row]:
        """Newest first."""
        return [Row(name, _cells(event, self.plain)) for name, event in named_events(snapshot.events)][::-1]

    def highlighted(self) -> None:
        """The whole text of the one under the cursor."""
        snapshot, wanted, plain = self.snapshot, self.main.key, self.plain
        event = next((event for name, event in named_events(snapshot.events) if name == wanted), None) if snapshot else None
        if event is None:
            self.block("detail").show(lambda width: [Line()])
            return
        about = clean(f"{event.level}  {event.event}  {where_of(event)}", plain=plain)
        head = Line((Cell(f"{clean(event.time)}  ", "muted"), Cell(about)))
        text = clean(event.message, plain=plain)
        self.block("detail").show(
            lambda width: [head, *(Line((Cell(part),)) for part in wrap(text, max(10, width), max_lines=4))]
        )


def _cells(event: Event, plain: bool) -> tuple[Cell, ...]:
    tone = LEVEL_TONES.get(event.level, "plain")
    mark = {"bad": MARKS["down"], "warn": MARKS["degraded"]}.get(tone)
    lead = (mark.plain if plain else mark.glyph) if mark else " "
    return (
        Cell(clock(event.time), "muted"),
        Cell(clean(f"{lead} {event.level}", plain=plain), tone),
        Cell(clean(event.event, plain=plain), "muted"),
        Cell(clean(where_of(event), plain=plain)),
        Cell(clean(event.message, plain=plain), tone),
    )
