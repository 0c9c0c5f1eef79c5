"""Lines of coloured words, built for the width at hand. Text is never markup; of what does not fit, the left part is cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple

from rich.cells import cell_len
from rich.segment import Segment
from textual.geometry import Size
from textual.strip import Strip
from textual.widget import Widget

from mcpbridge.admin.text import to_ascii
from tui.widgets.table import Cell, cut


class Line(NamedTuple):
    """Words from the left edge and words to the right edge; the right ones are kept when both do not fit."""

    left: tuple[Cell, ...] = ()
    right: tuple[Cell, ...] = ()


Build = Callable[[int], Sequence[Line]]
"""Makes the lines for a width in cells."""


def _nothing(width: int) -> Sequence[Line]:
    return ()


class Lines(Widget):
    """Shows what its ``Build`` makes. With ``height: auto`` it is as high as its lines."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"lines--good", "lines--warn", "lines--bad", "lines--info", "lines--muted"}

    def __init__(self, *, id: str, plain: bool = False) -> None:
        super().__init__(id=id)
        self.plain = plain
        self.ellipsis = "..." if plain else "…"
        self._build: Build = _nothing
        self._made: Sequence[Line] = ()
        self._width = -1

    def show(self, build: Build) -> None:
        """Take a new content; painted only when its lines differ from those on the screen."""
        self._build = build
        width = self._width if self._width > 0 else self.size.width
        made = self._make(width)
        if made == self._made and self._width == width:
            return
        taller = len(made) != len(self._made)
        self._made, self._width = made, width
        self.refresh(layout=taller)

    def text(self) -> str:
        """The lines as text, for tests and for people who copy."""
        return "\n".join("".join(c.text for c in (*line.left, *line.right)) for line in self._at(self.size.width))

    def _at(self, width: int) -> Sequence[Line]:
        if width != self._width:
            self._made, self._width = self._make(width), width
        return self._made

    def _make(self, width: int) -> Sequence[Line]:
        made = tuple(self._build(width))
        return tuple(Line(_to_ascii_cells(line.left), _to_ascii_cells(line.right)) for line in made) if self.plain else made

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        return len(self._at(width))

    def render_line(self, y: int) -> Strip:
        width = self.size.width
        made = self._at(width)
        base = self.rich_style
        if y >= len(made):
            return Strip.blank(width, base)
        right = sum(cell_len(cell.text) for cell in made[y].right)
        space = max(0, width - right - (1 if right else 0))
        segments: list[Segment] = []
        for cell in made[y].left:
            size = cell_len(cell.text)
            segments.append(self._segment(cut(cell.text, space, self.ellipsis) if size > space else cell.text, cell))
            space -= min(size, space)
            if not space:
                break
        segments.append(Segment(" " * (space + (1 if right else 0)), base))
        segments += [self._segment(cell.text, cell) for cell in made[y].right]
        return Strip(segments).adjust_cell_length(width, base)

    def _segment(self, text: str, cell: Cell) -> Segment:
        base = self.rich_style
        if cell.tone == "plain":
            return Segment(text, base)
        return Segment(text, base + self.get_component_rich_style(f"lines--{cell.tone}", partial=True))


def _to_ascii_cells(cells: tuple[Cell, ...]) -> tuple[Cell, ...]:
    return tuple(cell._replace(text=to_ascii(cell.text)) for cell in cells)
