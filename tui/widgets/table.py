"""A table for live data: paints only the rows in view, keeps the cursor on its row, cuts columns by priority.

    show(rows) -> the cursor stays on its key and its line of the screen; rows are given in the order to be shown

Textual's DataTable costs about 50 ms per tick and needs fixed widths; here the last column takes what is left, and columns of
low priority go first when the window is narrow. Cells are plain text, never markup.

Source: ux.md sections 1.2 (rows never jump under the cursor), 1.4 (columns hide by priority), 2.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

from mcpbridge.admin.text import Tone, to_ascii

GAP = 2
MIN_LAST = 20
"""Columns of the last, flexible column below which others are hidden."""


class Cell(NamedTuple):
    """Text of one line and what it means."""

    text: str
    tone: Tone = "plain"


class Column(NamedTuple):
    """A heading over ``width`` cells. Of the hidden ones the lowest ``priority`` goes first; the last column is flexible."""

    title: str
    width: int
    right: bool = False
    priority: int = 9


class Row(NamedTuple):
    """One line. ``key`` names the thing it shows for as long as it exists."""

    key: str
    cells: tuple[Cell, ...]


def fit_columns(columns: Sequence[Column], width: int) -> list[int]:
    """Indexes of the columns that fit into ``width`` cells beside a last column of MIN_LAST; the first and last always stay."""
    chosen = list(range(len(columns)))
    while len(chosen) > 2:
        used = sum(columns[i].width + GAP for i in chosen[:-1])
        if used + MIN_LAST <= width:
            break
        chosen.remove(min(chosen[1:-1], key=lambda i: (columns[i].priority, -i)))
    return chosen


def cut(text: str, width: int, ellipsis: str = "…") -> str:
    """``text`` in exactly ``width`` cells: padded with blanks or cut with an ellipsis."""
    if width <= 0:
        return ""
    if cell_len(text) <= width:
        return set_cell_size(text, width)
    if width <= len(ellipsis):
        return set_cell_size(text, width)
    return set_cell_size(text, width - len(ellipsis)) + ellipsis


class LiveTable(Widget, can_focus=True):
    """See the module. Posts ``Highlighted`` when another row is under the cursor."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "table--head", "table--cursor", "table--good", "table--warn", "table--bad", "table--info", "table--muted"
    }  # fmt: skip
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("down,j", "move(1)", "Down", show=False),
        Binding("up,k", "move(-1)", "Up", show=False),
        Binding("pagedown", "page(1)", "Page down", show=False),
        Binding("pageup", "page(-1)", "Page up", show=False),
        Binding("g,home", "move(-1000000)", "Top", show=False),
        Binding("G,end", "move(1000000)", "End", show=False),
    ]

    class Highlighted(Message):
        """The row under the cursor changed; ``key`` is None when the table is empty."""

        def __init__(self, table: LiveTable, key: str | None) -> None:
            super().__init__()
            self.table = table
            self.key = key

    def __init__(
        self,
        columns: Sequence[Column],
        *,
        empty: str,
        id: str,
        plain: bool = False,
        heading: bool = True,
        newest_first: bool = False,
    ) -> None:
        """``newest_first``: a cursor on the first row stays on the first row instead of on its key."""
        super().__init__(id=id)
        self.columns = tuple(columns)
        self.empty = empty
        self.plain = plain
        self.heading = int(heading)
        self.newest_first = newest_first
        self.ellipsis = "..." if plain else "…"
        self.pointer = ">" if plain else "›"
        self.rows: Sequence[Row] = ()
        self.cursor = 0
        self.top = 0

    @property
    def key(self) -> str | None:
        """Key of the row under the cursor."""
        return self.rows[self.cursor].key if self.rows else None

    @property
    def page(self) -> int:
        """Rows in view, without the heading."""
        return max(1, self.size.height - self.heading)

    def show(self, rows: Sequence[Row]) -> None:
        """Take the rows as they are now. The cursor stays with its key; when that is gone, on its line."""
        if rows == self.rows:
            return
        key, previous = self.key, self.cursor
        self.rows = rows
        place = next((i for i, row in enumerate(rows) if row.key == key), None)
        if self.newest_first and previous == 0:
            place = 0
        self.cursor = place if place is not None else min(previous, max(0, len(rows) - 1))
        self.top += self.cursor - previous if place is not None else 0
        self._keep_in_view()
        if self.key != key:
            self.post_message(self.Highlighted(self, self.key))
        self.refresh()

    def move_to(self, key: str) -> None:
        """Put the cursor on a row; nothing happens when there is no such row."""
        place = next((i for i, row in enumerate(self.rows) if row.key == key), None)
        if place is not None:
            self.action_move(place - self.cursor)

    def action_move(self, by: int) -> None:
        """Move the cursor by rows, down when positive."""
        target = max(0, min(len(self.rows) - 1, self.cursor + by))
        if self.rows and target != self.cursor:
            self.cursor = target
            self._keep_in_view()
            self.post_message(self.Highlighted(self, self.key))
            self.refresh()

    def action_page(self, by: int) -> None:
        """Move the cursor by whole views."""
        self.action_move(by * self.page)

    def _keep_in_view(self) -> None:
        lowest = max(0, len(self.rows) - self.page)
        self.top = max(0, min(self.top, self.cursor, lowest), min(self.cursor - self.page + 1, lowest))

    def on_resize(self) -> None:
        self._keep_in_view()
        self.refresh()

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        event.stop()
        self.action_move(3)

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        event.stop()
        self.action_move(-3)

    def on_click(self, event: events.Click) -> None:
        offset = event.get_content_offset(self)
        if offset is not None and offset.y >= self.heading:
            self.action_move(self.top + offset.y - self.heading - self.cursor)

    def render_line(self, y: int) -> Strip:
        """One line of the screen; the first is the heading."""
        base = self.rich_style
        width = self.size.width
        chosen = fit_columns(self.columns, width - 1)
        if y < self.heading:
            style = base + self.get_component_rich_style("table--head", partial=True)
            titles = tuple(Cell(column.title) for column in self.columns)
            return self._line(" ", titles, chosen, width, style, cursor=False)
        index = self.top + y - self.heading
        if index >= len(self.rows):
            text = f" {self.empty}" if y == self.heading and not self.rows else ""
            style = base + self.get_component_rich_style("table--muted", partial=True)
            return Strip([Segment(cut(text, width, self.ellipsis), style)], width)
        cursor = self.has_focus and index == self.cursor
        style = base + self.get_component_rich_style("table--cursor", partial=True) if cursor else base
        return self._line(self.pointer if cursor else " ", self.rows[index].cells, chosen, width, style, cursor=True)

    def _line(self, lead: str, cells: Sequence[Cell], chosen: list[int], width: int, base: Style, *, cursor: bool) -> Strip:
        segments = [Segment(lead, base)]
        left = width - 1
        for i in chosen:
            cell, column = cells[i], self.columns[i]
            last = i == chosen[-1]
            space = left if last else column.width
            words = to_ascii(cell.text) if self.plain else cell.text
            text = cut(words, space, self.ellipsis)
            if column.right and not last and cell_len(words) < space:
                text = " " * (space - cell_len(words)) + words
            style = base
            if cursor and cell.tone != "plain":
                style = base + self.get_component_rich_style(f"table--{cell.tone}", partial=True)
            segments.append(Segment(text, style))
            left -= space
            if not last:
                segments.append(Segment(" " * GAP, base))
                left -= GAP
        return Strip(segments).adjust_cell_length(width, base)
