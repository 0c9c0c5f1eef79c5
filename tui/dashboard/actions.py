"""Actions on a running gateway: a menu that says what each does before it is done, and what came of it.

    a -> Menu (one letter per act) -> what has to be typed, if anything -> asked of the gateway -> its answer, in words

Source: ux.md section 1.2 principle 6; contract http.gateway.backends.*, http.gateway.lb.*.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input

from mcpbridge.admin.text import clean
from tui.widgets.lines import Line, Lines
from tui.widgets.table import Cell

Ask = Callable[[str, str, Mapping[str, Any]], Awaitable[tuple[int, dict[str, Any]]]]
"""Asks the gateway: method, path below its API, body -> status and document. Raises Unreachable."""


@dataclass(frozen=True)
class Typed:
    """What has to be typed: ``exactly`` this, or a number from 0 to 100."""

    prompt: str
    exactly: str = ""

    def fault(self, text: str) -> str:
        """Why it will not do, or nothing."""
        if self.exactly:
            return "" if text.strip() == self.exactly else f"that is not {self.exactly}"
        try:
            return "" if 0 <= float(text) <= 100 else "a number from 0 to 100"
        except ValueError:
            return "a number from 0 to 100"


@dataclass(frozen=True)
class Act:
    """One thing to be done. ``says``: what it does, in the present; ``body`` makes the request of what was typed."""

    key: str
    title: str
    says: str
    method: str
    path: str
    asks: Typed | None = None
    body: Callable[[str], Mapping[str, Any]] = lambda _text: {}


def outcome(act: Act, status: int, answer: Mapping[str, Any]) -> tuple[str, bool]:
    """What the gateway answered, for people, and whether it was done."""
    error = answer.get("error")
    if status in (401, 403):
        return f"{act.title}: not allowed. It needs a token with the scope mcp:admin (MCP_AUTH_TOKEN or --token-env)", False
    if isinstance(error, dict):
        return f"{act.title}: {clean(str(error.get('message', 'refused')))}", False
    stages = answer.get("stages")
    if isinstance(stages, list) and stages:
        last = stages[-1]
        took = sum(float(stage.get("ms", 0)) for stage in stages)
        if answer.get("ok"):
            return f"{act.title}: all {len(stages)} stages well, {took:.0f} ms", True
        return f"{act.title}: {clean(str(last.get('stage')))} failed: {clean(str(last.get('detail')))}", False
    if status == 200:
        state = f": {answer['endpoint']} is {answer['state']}" if "endpoint" in answer and "state" in answer else ": done"
        return act.title + clean(state), True
    return f"{act.title}: the gateway answered HTTP {status}", False


class Menu(ModalScreen[None]):
    """What can be done about one thing; a letter does it, Esc does nothing."""

    AUTO_FOCUS = ""
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q", "dismiss", "Close")]

    def __init__(self, title: str, acts: Sequence[Act], *, plain: bool) -> None:
        super().__init__()
        self.heading = title
        self.acts = {act.key: act for act in acts}
        self.plain = plain
        self.chosen: Act | None = None
        self.set_class(plain, "-ascii")

    def compose(self) -> ComposeResult:
        """A box of lines, and a place to type."""
        with Vertical(id="menu") as box:
            box.border_title = self.heading
            box.border_subtitle = "Esc: nothing is done"
            yield Lines(id="choices", plain=self.plain)
            yield Input(id="typed")

    def on_mount(self) -> None:
        self.query_one("#typed", Input).display = False
        made = []
        for act in self.acts.values():
            made.append(Line((Cell(f"{act.key}  ", "info"), Cell(act.title))))
            made.append(Line((Cell(f"   {clean(act.says, plain=self.plain)}", "muted"),)))
        self.query_one("#choices", Lines).show(lambda width: made)

    def on_key(self, event: events.Key) -> None:
        """A letter of the menu, unless something is being typed."""
        act = self.acts.get(event.key) if self.chosen is None else None
        if act is None:
            return
        event.stop()
        event.prevent_default()
        if act.asks is None:
            self._do(act, "")
            return
        self.chosen = act
        asks = act.asks
        said = [
            Line((Cell(f"{act.title}: ", "warn" if asks.exactly else "plain"), Cell(clean(act.says, plain=self.plain)))),
            Line((Cell(asks.prompt, "muted"),)),
        ]
        self.query_one("#choices", Lines).show(lambda width: said)
        field = self.query_one("#typed", Input)
        field.display = True
        field.focus()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        act = self.chosen
        if act is None or act.asks is None:
            return
        if fault := act.asks.fault(event.value):
            said = [Line((Cell(act.asks.prompt, "muted"),)), Line((Cell(fault, "bad"),))]
            self.query_one("#choices", Lines).show(lambda width: said)
            return
        self._do(act, event.value)

    def _do(self, act: Act, text: str) -> None:
        self.dismiss()
        self.app.act(act, text)  # type: ignore[attr-defined]
