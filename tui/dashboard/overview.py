"""The Overview: protocols, servers and backends, figures, what needs somebody, events.

    80x24   head, figures, protocols, backends, the selected one in one line, events below
    140x40  head, four tiles, tables at the left; problems, the selected backend and events at the right

Source: ux.md sections 1.2, 1.4, 1.7.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Horizontal, Vertical

from mcpbridge.admin.text import calls_per_second, error_rate
from mcpbridge.observe.snapshot import BackendStatus, Snapshot
from tui.dashboard import lines
from tui.dashboard.rows import (
    BACKEND_COLUMNS,
    EVENT_COLUMNS,
    PROTOCOL_COLUMNS,
    attention_order,
    backend_rows,
    event_rows,
    key,
    protocol_rows,
)
from tui.dashboard.view import Tab, View
from tui.widgets.lines import Line, Lines
from tui.widgets.table import LiveTable, Row

HISTORY = 300
"""Documents whose figures are kept for the bars."""
RESORT_SECONDS = 2.0
"""Rows change places at most this often. Source: ux.md section 1.2."""
TILES = {"calls": "Calls per second", "usable": "Backends", "errors": "Errors", "sessions": "Sessions"}


class Overview(View):
    """See the module."""

    AUTO_FOCUS = "#backends"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "app.open", "Open", key_display="Enter", tooltip="The row on its own screen"),
    ]
    table = "backends"
    columns = BACKEND_COLUMNS
    nothing = "no servers configured: mcpbridge gateway --server NAME=URL"
    counts = False  # its title does

    def __init__(self, url: str, tab: Tab, tabs: Sequence[Tab], *, plain: bool) -> None:
        super().__init__(url, tab, tabs, plain=plain)
        self.calls: deque[float | None] = deque(maxlen=HISTORY)
        self.errors: deque[float | None] = deque(maxlen=HISTORY)
        self._order: list[str] = []
        self._sorted_at = float("-inf")

    def parts(self) -> ComposeResult:
        """In the order of a small window."""
        looks: dict[str, Any] = {"plain": self.plain}
        yield Lines(id="figures", **looks)
        with Horizontal(id="tiles"):
            for name, heading in TILES.items():
                tile = Lines(id=f"tile-{name}", **looks)
                tile.border_title = heading
                yield tile
        with Container(id="body"):
            with Vertical(id="main"):
                waiting = f"connecting to {self.url} ..."
                yield self.titled(LiveTable(PROTOCOL_COLUMNS, empty=waiting, id="protocols", **looks), "Protocols")
                yield self.titled(LiveTable(BACKEND_COLUMNS, empty="", id="backends", **looks), "Servers and backends")
                yield Lines(id="chosen", **looks)
            with Vertical(id="side"):
                yield self.titled(Lines(id="problems", **looks), "What needs you")
                yield self.titled(Lines(id="selected", **looks), "Selected backend")
                tail = LiveTable(EVENT_COLUMNS, empty="", id="events", heading=False, newest_first=True, **looks)
                yield self.titled(tail, "Events, newest first")

    def record(self, snapshot: Snapshot) -> None:
        """Keep a document's figures for the bars; also done while another screen is shown, or the view is paused."""
        self.calls.append(calls_per_second(snapshot))
        self.errors.append(error_rate(snapshot))

    def show(self, snapshot: Snapshot, now: float) -> None:
        """Paint a document; problems come first, and rows change places only now and then."""
        resort = now - self._sorted_at >= RESORT_SECONDS and not self.is_typing
        self._order = attention_order(snapshot, self._order, resort=resort)
        self._sorted_at = now if resort else self._sorted_at
        super().show(snapshot, now)

    def rows(self, snapshot: Snapshot) -> Sequence[Row]:
        """Backends, problems first."""
        rows = backend_rows(snapshot, plain=self.plain)
        return [rows[name] for name in self._order if name in rows]

    def paint(self, snapshot: Snapshot, now: float) -> None:
        """The other tables, and the figures."""
        self.query_one("#protocols", LiveTable).show(protocol_rows(snapshot, plain=self.plain))
        self.query_one("#events", LiveTable).empty = "nothing happened yet"
        self.query_one("#events", LiveTable).show(event_rows(snapshot.events, plain=self.plain))
        self.main.border_title = lines.title(snapshot, len(self.main.rows))
        plain, calls, errors = self.plain, self.calls, self.errors
        self.block("figures").show(lambda width: [lines.figures(snapshot, list(calls), width, plain=plain)])
        self.block("tile-calls").show(lambda width: lines.calls_tile(snapshot, list(calls), width, plain=plain))
        self.block("tile-errors").show(lambda width: lines.errors_tile(snapshot, list(errors), width, plain=plain))
        self.block("tile-usable").show(lambda width: lines.backends_tile(snapshot, plain=plain))
        self.block("tile-sessions").show(lambda width: lines.sessions_tile(snapshot, plain=plain))
        self.block("problems").show(lambda width: lines.problems(snapshot, width, plain=plain))

    def highlighted(self) -> None:
        """The backend under the cursor, in one line and in full."""
        snapshot, chosen, plain = self.snapshot, self.selected, self.plain
        if snapshot is None or chosen is None:
            self.block("chosen").show(lambda width: [Line()])
            self.block("selected").show(lambda width: [Line()])
            return
        self.block("chosen").show(lambda width: [lines.selected_line(chosen, snapshot, plain=plain)])
        self.block("selected").show(lambda width: lines.selected(chosen, snapshot, width, plain=plain))

    @property
    def selected(self) -> BackendStatus | None:
        """The backend under the cursor of its table."""
        wanted = self.main.key
        return next((b for b in self.snapshot.backends if key(b) == wanted), None) if self.snapshot else None

    def show_outage(self, outage: lines.Outage | None, now: float) -> None:
        """Also the first table says what to do while there never was a document."""
        super().show_outage(outage, now)
        if outage is not None and self.snapshot is None:
            table = self.query_one("#protocols", LiveTable)
            table.empty, self.main.empty = self.main.empty, ""
            table.refresh()
            self.main.refresh()
