"""The Backends screen: every endpoint with everything known of it, and what can be done about it.

Source: ux.md section 1.4; contract http.gateway.backends.*.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container

from mcpbridge.admin.text import MARKS, cause, clean, duration, endpoint, milliseconds, percent, seconds_between, state_word
from mcpbridge.observe.snapshot import BackendStatus, Snapshot
from tui.dashboard import lines
from tui.dashboard.actions import Act, Menu, Typed
from tui.dashboard.rows import HIGH_ERROR_RATE, key
from tui.dashboard.view import View
from tui.widgets.lines import Line, Lines
from tui.widgets.table import Cell, Column, LiveTable, Row

COLUMNS = (
    Column("BACKEND", 20),
    Column("STATE", 10, priority=9),
    Column("PROTOCOL", 10, priority=7),
    Column("ERA", 6, priority=2),
    Column("WEIGHT", 6, right=True, priority=6),
    Column("SCORE", 5, right=True, priority=3),
    Column("BUSY", 4, right=True, priority=5),
    Column("P95 ms", 7, right=True, priority=8),
    Column("ERR %", 6, right=True, priority=8),
    Column("BREAKER", 9, priority=4),
    Column("SOURCE", 10, priority=1),
    Column("SINCE", 7, right=True, priority=6),
    Column("CAUSE · ADDRESS", 0),
)


class Backends(View):
    """See the module."""

    AUTO_FOCUS = "#all"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("a", "act", "Actions", tooltip="Drain, test or weigh the selected backend")
    ]
    table = "all"
    columns = COLUMNS
    nothing = "no servers configured: mcpbridge gateway --server NAME=URL"

    def parts(self) -> ComposeResult:
        """The table above, or left of, everything about one."""
        looks: dict[str, Any] = {"plain": self.plain}
        with Container(id="pair"):
            waiting = f"connecting to {self.url} ..."
            yield self.titled(LiveTable(COLUMNS, empty=waiting, id="all", **looks), "Backends")
            yield self.titled(Lines(id="detail", **looks), "Selected backend")

    def rows(self, snapshot: Snapshot) -> Sequence[Row]:
        """In the order of the document, so that rows stay where they are."""
        return [Row(key(one), _cells(one, snapshot.time, self.plain)) for one in snapshot.backends]

    def highlighted(self) -> None:
        """Everything about the one under the cursor."""
        snapshot, chosen, plain = self.snapshot, self.selected, self.plain
        if snapshot is None or chosen is None:
            self.block("detail").show(lambda width: [Line()])
            return
        self.block("detail").show(lambda width: lines.selected(chosen, snapshot, width, plain=plain))

    @property
    def selected(self) -> BackendStatus | None:
        """The backend under the cursor."""
        wanted = self.main.key
        return next((b for b in self.snapshot.backends if key(b) == wanted), None) if self.snapshot else None

    def action_act(self) -> None:
        """What can be done about the selected backend."""
        if self.snapshot is not None and self.selected is not None:
            self.app.push_screen(Menu(endpoint(self.selected), acts(self.selected, self.snapshot), plain=self.plain))


def acts(backend: BackendStatus, snapshot: Snapshot) -> list[Act]:
    """What can be done about a backend, each with what it does."""
    name, busy = backend.endpoint, f"{backend.in_flight} calls in flight"
    others = [b for b in snapshot.backends if b.server == backend.server and b.namespace == backend.namespace]
    usable = [b for b in others if b.state in ("ok", "degraded") and b.endpoint != name]
    if backend.state == "draining":
        turn = Act("d", "Undrain", f"{name} gets calls again", "POST", f"/backends/{name}/undrain")
    else:
        last = "" if usable else f"It is the last that answers calls for {backend.server}: they will fail. "
        said = f"{last}no new calls for {name}; {busy} end, sessions move" if not last else f"{last}{busy} end."
        wants = Typed(f"type {name} to do it", name) if last else None
        turn = Act("d", "Drain", said, "POST", f"/backends/{name}/drain", asks=wants)
    return [
        Act("t", "Test", f"reaches {name} stage by stage; calls no tool", "POST", f"/backends/{name}/test"),
        turn,
        Act(
            "w", "Weight", f"its share among the endpoints of {backend.protocol}, now {backend.weight:g}; 0 is a last resort",
            "PUT", "/load-balancer/weights", asks=Typed("new weight, 0 to 100"),
            body=lambda text: {"endpoints": {name: float(text)}},
        ),
    ]  # fmt: skip


def _cells(b: BackendStatus, now: str, plain: bool) -> tuple[Cell, ...]:
    age, why, mark = seconds_between(b.since, now), cause(b, plain=plain), MARKS[b.state]
    breaker = (b.breaker or "–").replace("_", " ")
    failing = b.error_rate or 0.0
    return (
        Cell(endpoint(b, plain=plain)),
        Cell(state_word(b.state, plain=plain), mark.tone),
        Cell(clean(b.protocol, plain=plain)),
        Cell(b.era or "–", "plain" if b.era else "muted"),
        Cell(f"{b.weight:g}"),
        Cell("–" if b.health_score is None else f"{b.health_score:.2f}", "warn" if (b.health_score or 1.0) < 0.5 else "plain"),
        Cell(str(b.in_flight)),
        Cell(milliseconds(b.latency_ms.p95)),
        Cell(percent(b.error_rate), "bad" if failing >= HIGH_ERROR_RATE else "warn" if failing else "plain"),
        Cell(breaker, "plain" if b.breaker in (None, "closed") else "bad"),
        Cell(clean(b.source, plain=plain), "muted"),
        Cell(duration(age) if age is not None else "–"),
        Cell(why, mark.tone) if why else Cell(clean(b.address or "", plain=plain), "muted"),
    )
