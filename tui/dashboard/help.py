"""What every key does and what every glyph means, made from the tables that define them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import ModalScreen

from mcpbridge.admin.text import MARKS
from tui.widgets.lines import Line, Lines
from tui.widgets.table import Cell

_NAMES = {
    "question_mark": "?",
    "slash": "/",
    "pagedown": "PgDn",
    "pageup": "PgUp",
    "shift+tab": "Shift-Tab",
    "ctrl+c": "Ctrl-C",
}


class Help(ModalScreen[None]):
    """A box over the screen; any of its keys closes it."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,question_mark,f1,q,enter,space", "dismiss", "Close")]

    def __init__(self, actions: Sequence[BindingType], moves: Sequence[BindingType], *, plain: bool) -> None:
        """``moves`` come in pairs of opposites; a pair is one line, so that the list fits into 24 lines."""
        super().__init__()
        self.actions = [b for b in actions if isinstance(b, Binding)]
        self.moves = [b for b in moves if isinstance(b, Binding)]
        self.plain = plain
        self.set_class(plain, "-ascii")

    def compose(self) -> ComposeResult:
        """One box."""
        box = Lines(id="help", plain=self.plain)
        box.border_title = "Keys and glyphs"
        box.border_subtitle = "Esc closes"
        yield box

    def on_mount(self) -> None:
        made = [Line((Cell(f"{_keys(b):<18}", "info"), Cell(b.tooltip or b.description))) for b in self.actions]
        for there, back in zip(self.moves[::2], self.moves[1::2], strict=True):
            text = f"{there.description}, {back.description.lower()}"
            made.append(Line((Cell(f"{f'{_keys(there)}, {_keys(back)}':<18}", "info"), Cell(text))))
        made.append(Line())
        for state, mark in MARKS.items():
            made.append(
                Line((Cell(f"{mark.plain if self.plain else mark.glyph} {state:<15} ", mark.tone), Cell(_MEANINGS[state])))
            )
        made += [Line((Cell("– means not measured. Filter: text  !text  state:down  protocol:http", "muted"),))]
        self.query_one("#help", Lines).show(lambda width: made)


_MEANINGS = {
    "ok": "answers",
    "degraded": "answers, with a problem that is named",
    "down": "does not answer",
    "draining": "finishes its calls, gets no new ones",
    "starting": "being started, or asked for the first time",
    "unknown": "nothing known about it",
    "disabled": "switched off in the configuration",
}


def _keys(binding: Binding) -> str:
    return " ".join(_NAMES.get(name, name.capitalize() if len(name) > 1 else name) for name in binding.key.split(","))
