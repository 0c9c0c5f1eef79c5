"""The Overview: protocols, servers and backends, figures, what needs somebody, events. Shows what it is given, fetches nothing.

    80x24   head, figures, protocols, backends, the selected one in one line, events below
    140x40  head, four tiles, tables at the left; problems, the selected backend and events at the right

Source: ux.md sections 1.2, 1.4, 1.7.
"""

from __future__ import annotations

from collections import deque
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Horizontal, Vertical
from textual.screen import Screen
from textual.widgets import Footer, Input, Label

from mcpbridge.admin.text import calls_per_second, error_rate
from mcpbridge.observe.snapshot import BackendStatus, Snapshot
from tui.dashboard import lines
from tui.dashboard.filter import Accept, BadFilter, parse_filter
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
from tui.widgets.lines import Line, Lines
from tui.widgets.table import LiveTable

HISTORY = 300
"""Documents whose figures are kept for the bars."""
RESORT_SECONDS = 2.0
"""Rows change places at most this often. Source: ux.md section 1.2."""
MIN_SIZE = (60, 15)
TILES = {"calls": "Calls per second", "usable": "Backends", "errors": "Errors", "sessions": "Sessions"}


class Overview(Screen[None]):
    """See the module."""

    HORIZONTAL_BREAKPOINTS = [(0, "-xs"), (MIN_SIZE[0], "-narrow"), (80, "-normal"), (120, "-wide")]  # noqa: RUF012
    VERTICAL_BREAKPOINTS = [(0, "-tiny"), (MIN_SIZE[1], "-short"), (24, "-tall"), (34, "-high")]  # noqa: RUF012
    AUTO_FOCUS = "#backends"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("tab", "app.focus_next", "Tables", key_display="tab", tooltip="Next table (Shift-Tab: previous)")
    ]

    def __init__(self, url: str, *, plain: bool) -> None:
        super().__init__()
        self.url = url
        self.plain = plain
        self.snapshot: Snapshot | None = None
        self.calls: deque[float | None] = deque(maxlen=HISTORY)
        self.errors: deque[float | None] = deque(maxlen=HISTORY)
        self._order: list[str] = []
        self._sorted_at = float("-inf")
        self._accept: Accept | None = None
        self.set_class(plain, "-ascii")

    def compose(self) -> ComposeResult:
        """The parts, in the order of a small window."""
        looks: dict[str, Any] = {"plain": self.plain}
        yield Lines(id="head", **looks)
        yield Lines(id="banner", **looks)
        yield Lines(id="figures", **looks)
        with Horizontal(id="tiles"):
            for name, heading in TILES.items():
                tile = Lines(id=f"tile-{name}", **looks)
                tile.border_title = heading
                yield tile
        with Container(id="body"):
            with Vertical(id="main"):
                waiting = f"connecting to {self.url} ..."
                yield self._titled(LiveTable(PROTOCOL_COLUMNS, empty=waiting, id="protocols", **looks), "Protocols")
                yield self._titled(LiveTable(BACKEND_COLUMNS, empty="", id="backends", **looks), "Servers and backends")
                yield Lines(id="chosen", **looks)
            with Vertical(id="side"):
                yield self._titled(Lines(id="problems", **looks), "What needs you")
                yield self._titled(Lines(id="selected", **looks), "Selected backend")
                tail = LiveTable(EVENT_COLUMNS, empty="", id="events", heading=False, newest_first=True, **looks)
                yield self._titled(tail, "Events, newest first")
        yield Lines(id="compact", **looks)
        with Horizontal(id="filter-bar"):
            yield Label("/")
            yield Input(placeholder="text  !text  state:down  protocol:http   (Enter keeps it, Esc clears it)", id="filter")
            yield Label("", id="filter-error")
        yield Footer(show_command_palette=False)

    def _titled(self, widget: LiveTable | Lines, heading: str) -> LiveTable | Lines:
        widget.add_class("panel")
        widget.border_title = heading
        return widget

    def record(self, snapshot: Snapshot) -> None:
        """Keep a document's figures for the bars; also done while the view is paused."""
        self.calls.append(calls_per_second(snapshot))
        self.errors.append(error_rate(snapshot))

    def show(self, snapshot: Snapshot, now: float) -> None:
        """Paint a document. ``now`` is a time in seconds of any clock that does not go back."""
        self.snapshot = snapshot
        resort = now - self._sorted_at >= RESORT_SECONDS and not self.query_one("#filter", Input).has_focus
        self._order = attention_order(snapshot, self._order, resort=resort)
        self._sorted_at = now if resort else self._sorted_at
        with self.app.batch_update():
            protocols = self.query_one("#protocols", LiveTable)
            protocols.show(protocol_rows(snapshot, plain=self.plain))
            self.query_one("#events", LiveTable).empty = "nothing happened yet"
            self.query_one("#events", LiveTable).show(event_rows(snapshot.events, plain=self.plain))
            self._show_backends(snapshot)
            self._show_figures(snapshot)
            self._show_compact()

    def _show_backends(self, snapshot: Snapshot) -> None:
        table = self.query_one("#backends", LiveTable)
        rows = backend_rows(snapshot, plain=self.plain)
        ordered = [rows[name] for name in self._order]
        shown = [row for row in ordered if self._accept(row)] if self._accept else ordered
        table.empty = "no backend matches the filter" if rows else "no servers configured: mcpbridge gateway --server NAME=URL"
        table.border_title = lines.title(snapshot, len(shown))
        table.show(shown)
        self._show_selected()

    def _show_figures(self, snapshot: Snapshot) -> None:
        plain, calls, errors = self.plain, self.calls, self.errors
        self._lines("figures").show(lambda width: [lines.figures(snapshot, list(calls), width, plain=plain)])
        self._lines("tile-calls").show(lambda width: lines.calls_tile(snapshot, list(calls), width, plain=plain))
        self._lines("tile-errors").show(lambda width: lines.errors_tile(snapshot, list(errors), width, plain=plain))
        self._lines("tile-usable").show(lambda width: lines.backends_tile(snapshot, plain=plain))
        self._lines("tile-sessions").show(lambda width: lines.sessions_tile(snapshot, plain=plain))
        self._lines("problems").show(lambda width: lines.problems(snapshot, width, plain=plain))

    def _show_selected(self) -> None:
        snapshot, chosen, plain = self.snapshot, self.selected, self.plain
        if snapshot is None or chosen is None:
            self._lines("chosen").show(lambda width: [Line()])
            self._lines("selected").show(lambda width: [Line()])
            return
        self._lines("chosen").show(lambda width: [lines.selected_line(chosen, snapshot, plain=plain)])
        self._lines("selected").show(lambda width: lines.selected(chosen, snapshot, width, plain=plain))

    def _show_compact(self) -> None:
        snapshot, plain, size = self.snapshot, self.plain, (self.size.width, self.size.height)
        self._lines("compact").show(lambda width: lines.compact(snapshot, size, MIN_SIZE, plain=plain))

    @property
    def selected(self) -> BackendStatus | None:
        """The backend under the cursor of its table."""
        wanted = self.query_one("#backends", LiveTable).key
        return next((b for b in self.snapshot.backends if key(b) == wanted), None) if self.snapshot else None

    def show_head(self, fresh: lines.Freshness) -> None:
        """Repaint the first line."""
        line = lines.head(self.snapshot, self.url, fresh, plain=self.plain)
        self._lines("head").show(lambda width: [line])

    def show_outage(self, outage: lines.Outage | None, now: float) -> None:
        """Grey the last picture and say since when and why there is no newer one; None ends that. ``now``: Unix seconds."""
        self.set_class(outage is not None, "-lost")
        if outage is None:
            return
        line = lines.banner(outage, now, plain=self.plain)
        self._lines("banner").show(lambda width: [line])
        if self.snapshot is None:
            table = self.query_one("#protocols", LiveTable)
            table.empty = "no data yet. Start a gateway with: mcpbridge gateway   or name another one: --gateway URL"
            table.refresh()

    def start_filter(self) -> None:
        """Open the filter line and put the cursor in it."""
        self.add_class("-filtering")
        self.query_one("#filter", Input).focus()

    def clear_filter(self) -> None:
        """Close the filter line; all rows are shown."""
        field = self.query_one("#filter", Input)
        field.value = ""
        self.remove_class("-filtering")
        self.query_one("#backends", LiveTable).focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        problem = ""
        try:
            self._accept = parse_filter(event.value, BACKEND_COLUMNS) if event.value.strip() else None
        except BadFilter as error:
            problem = str(error)
        self.query_one("#filter-bar").set_class(bool(problem), "-invalid")
        self.query_one("#filter-error", Label).update(problem, layout=True)
        if not problem and self.snapshot is not None:
            self._show_backends(self.snapshot)

    def on_input_submitted(self) -> None:
        if not self.query_one("#filter", Input).value.strip():
            self.clear_filter()
        self.query_one("#backends", LiveTable).focus()

    def on_live_table_highlighted(self, event: LiveTable.Highlighted) -> None:
        if event.table.id == "backends":
            self._show_selected()

    def on_resize(self) -> None:
        self._show_compact()

    def _lines(self, name: str) -> Lines:
        return self.query_one(f"#{name}", Lines)
