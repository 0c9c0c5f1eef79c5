"""What all screens of the dashboard have: the first lines, the line of screens, one main table with its filter, the footer.

A screen shows what it is given and fetches nothing. It says its columns and its rows; the rest is here.

Source: ux.md sections 1.2, 1.4, 1.5.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.screen import Screen
from textual.widgets import Footer, Input, Label

from mcpbridge.observe.snapshot import Snapshot
from tui.dashboard import lines
from tui.dashboard.filter import Accept, BadFilter, parse_filter
from tui.widgets.lines import Line, Lines
from tui.widgets.table import Cell, Column, LiveTable, Row

MIN_SIZE = (60, 15)
NO_DATA = "no data yet. Start a gateway with: mcpbridge gateway   or name another one: --gateway URL"
_NUMBER = re.compile(r"-?[0-9][0-9,]*(?:\.[0-9]+)?")


class Tab(NamedTuple):
    """One screen in the line of screens."""

    key: str
    title: str


class View(Screen[None]):
    """See the module. ``table`` is the id of the main table; ``tab`` its place in the line of screens."""

    HORIZONTAL_BREAKPOINTS = [(0, "-xs"), (MIN_SIZE[0], "-narrow"), (80, "-normal"), (120, "-wide")]  # noqa: RUF012
    VERTICAL_BREAKPOINTS = [(0, "-tiny"), (MIN_SIZE[1], "-short"), (24, "-tall"), (34, "-high")]  # noqa: RUF012
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("tab", "app.focus_next", "Tables", key_display="tab", tooltip="Next table (Shift-Tab: previous)", show=False),
        Binding("slash", "filter", "Filter", key_display="/", tooltip="Show only rows that match"),
        Binding("exclamation_mark", "problems", "Problems", key_display="!", tooltip="Only rows with a problem, or all"),
        Binding("s", "sort", "Sort", tooltip="By the next column; after the last one as it was"),
        Binding("escape", "clear", "Clear filter and order", show=False),
    ]
    table: ClassVar[str]
    columns: ClassVar[tuple[Column, ...]]
    nothing: ClassVar[str] = "nothing here"
    """What the main table says when the document has no row for it."""
    counts: ClassVar[bool] = True
    """Whether the main table says below itself how many rows a filter leaves."""

    def __init__(self, url: str, tab: Tab, tabs: Sequence[Tab], *, plain: bool) -> None:
        super().__init__()
        self.url = url
        self.tab = tab
        self.tabs = tabs
        self.plain = plain
        self.snapshot: Snapshot | None = None
        self._accept: Accept | None = None
        self._problems_only = False
        self._sorted_by: int | None = None
        self.is_ready = False  # its widgets are there
        self.set_class(plain, "-ascii")

    # What a screen says of itself

    @abstractmethod
    def parts(self) -> ComposeResult:
        """Its own widgets, between the first lines and the filter."""

    @abstractmethod
    def rows(self, snapshot: Snapshot) -> Sequence[Row]:
        """The rows of the main table, in their usual order."""

    def paint(self, snapshot: Snapshot, now: float) -> None:
        """Everything but the main table."""

    def highlighted(self) -> None:
        """Another row of the main table is under the cursor, or it has changed."""

    # The common part

    def compose(self) -> ComposeResult:
        """First lines, the screen's own parts, filter line, footer."""
        looks: dict[str, Any] = {"plain": self.plain}
        yield Lines(id="head", **looks)
        yield Lines(id="tabs", **looks)
        yield Lines(id="banner", **looks)
        yield from self.parts()
        yield Lines(id="compact", **looks)
        with Horizontal(id="filter-bar"):
            yield Label("/")
            yield Input(placeholder="text  !text  state:down  protocol:http   (Enter keeps it, Esc clears it)", id="filter")
            yield Label("", id="filter-error")
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        self.block("tabs").show(lambda width: [self._tab_line(width)])
        self.is_ready = True
        self.app.call_later(self.app.repaint)  # type: ignore[attr-defined]

    def _tab_line(self, width: int) -> Line:
        bar = "|" if self.plain else "│"
        is_short = sum(len(tab.title) + 5 for tab in self.tabs) > width
        cells: list[Cell] = []
        for tab in self.tabs:
            is_here = tab == self.tab
            title = tab.title[:5] if is_short and not is_here else tab.title
            lead = (">" if self.plain else "›") if is_here else " "
            cells += [Cell(f"{lead}{tab.key} {title} ", "info" if is_here else "muted"), Cell(bar, "muted")]
        return Line(tuple(cells[:-1]))

    def titled(self, widget: LiveTable | Lines, heading: str) -> LiveTable | Lines:
        """The widget as a panel with a heading."""
        widget.add_class("panel")
        widget.border_title = heading
        return widget

    def block(self, name: str) -> Lines:
        """A widget of lines by its id."""
        return self.query_one(f"#{name}", Lines)

    @property
    def main(self) -> LiveTable:
        """The main table."""
        return self.query_one(f"#{self.table}", LiveTable)

    def show(self, snapshot: Snapshot, now: float) -> None:
        """Paint a document. ``now`` is a time in seconds of any clock that does not go back."""
        self.snapshot = snapshot
        with self.app.batch_update():
            self.show_rows()
            self.paint(snapshot, now)
            self._show_compact()

    def show_rows(self) -> None:
        """The main table as filter and order want it."""
        if self.snapshot is None:
            return
        rows = list(self.rows(self.snapshot))
        shown = [row for row in rows if self._stays(row)]
        if self._sorted_by is not None:
            place = self._sorted_by
            shown.sort(key=lambda row: _sort_key(row.cells[place].text))
        table = self.main
        table.empty = "no row matches the filter" if rows else self.nothing
        table.border_subtitle = self._subtitle(len(shown), len(rows))
        table.show(shown)
        self.highlighted()

    def _stays(self, row: Row) -> bool:
        if self._problems_only and not any(cell.tone in ("bad", "warn") for cell in row.cells):
            return False
        return self._accept is None or self._accept(row)

    def _subtitle(self, shown: int, total: int) -> str:
        said = [f"{shown} of {total}"] if shown != total and self.counts else []
        said += ["problems only"] if self._problems_only else []
        said += [f"by {self.columns[self._sorted_by].title.lower()}"] if self._sorted_by is not None else []
        return ", ".join(said)

    def show_head(self, fresh: lines.Freshness) -> None:
        """Repaint the first line."""
        line = lines.head(self.snapshot, self.url, fresh, plain=self.plain)
        self.block("head").show(lambda width: [line])

    def show_outage(self, outage: lines.Outage | None, now: float) -> None:
        """Grey the last picture and say since when and why there is no newer one; None ends that. ``now``: Unix seconds."""
        self.set_class(outage is not None, "-lost")
        if outage is None:
            return
        line = lines.banner(outage, now, plain=self.plain)
        self.block("banner").show(lambda width: [line])
        if self.snapshot is None:
            table = self.main
            table.empty = NO_DATA
            table.refresh()

    def _show_compact(self) -> None:
        snapshot, plain, size = self.snapshot, self.plain, (self.size.width, self.size.height)
        self.block("compact").show(lambda width: lines.compact(snapshot, size, MIN_SIZE, plain=plain))

    def on_resize(self) -> None:
        self._show_compact()

    # Filter and order

    def action_filter(self) -> None:
        """Open the filter line and put the cursor in it."""
        self.add_class("-filtering")
        self.query_one("#filter", Input).focus()

    def filter_by(self, text: str) -> None:
        """Filter the main table as if somebody had typed it."""
        self.add_class("-filtering")
        self.query_one("#filter", Input).value = text

    def action_clear(self) -> None:
        """Close the filter line; all rows are shown in their usual order."""
        self.query_one("#filter", Input).value = ""
        self.remove_class("-filtering")
        self._problems_only, self._sorted_by = False, None
        self.main.focus()
        self.show_rows()

    def action_problems(self) -> None:
        """Only rows with a problem, or all again."""
        self._problems_only = not self._problems_only
        self.show_rows()

    def action_sort(self) -> None:
        """Order the main table by its next column; after the last as it was."""
        following = 0 if self._sorted_by is None else self._sorted_by + 1
        self._sorted_by = following if following < len(self.columns) else None
        self.show_rows()

    @property
    def is_typing(self) -> bool:
        """Whether the cursor is in the filter line."""
        return self.query_one("#filter", Input).has_focus

    def on_input_changed(self, event: Input.Changed) -> None:
        problem = ""
        try:
            self._accept = parse_filter(event.value, self.columns) if event.value.strip() else None
        except BadFilter as error:
            problem = str(error)
        self.query_one("#filter-bar").set_class(bool(problem), "-invalid")
        self.query_one("#filter-error", Label).update(problem, layout=True)
        if not problem:
            self.show_rows()

    def on_input_submitted(self) -> None:
        if not self.query_one("#filter", Input).value.strip():
            self.action_clear()
        self.main.focus()

    def on_live_table_highlighted(self, event: LiveTable.Highlighted) -> None:
        if event.table.id == self.table:
            self.highlighted()


def _sort_key(text: str) -> tuple[int, float, str]:
    """Numbers by size, the largest first; words by the alphabet; what was not measured last."""
    number = _NUMBER.match(text.strip())
    if number is not None:
        return 0, -float(number[0].replace(",", "")), text
    return (2, 0.0, text) if text.strip() in ("–", "-", "") else (1, 0.0, text.lower())
