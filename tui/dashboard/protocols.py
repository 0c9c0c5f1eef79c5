"""The Protocols screen: what is spoken, how well, and what is known of the selected one.

Source: ux.md section 1.4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container

from mcpbridge.admin.text import MARKS, clean, clock, endpoint, milliseconds, percent, state_word
from mcpbridge.observe.findings import Detections
from mcpbridge.observe.snapshot import ProtocolStatus, Snapshot, part
from tui.dashboard.rows import PROTOCOL_COLUMNS, protocol_rows
from tui.dashboard.view import View
from tui.widgets.lines import Line, Lines
from tui.widgets.table import Cell, LiveTable, Row


class Protocols(View):
    """See the module."""

    AUTO_FOCUS = "#protocols"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "app.open", "Open", key_display="Enter", tooltip="The row on its own screen")
    ]
    table = "protocols"
    columns = PROTOCOL_COLUMNS

    def parts(self) -> ComposeResult:
        """The table above, or left of, what is known of one."""
        looks: dict[str, Any] = {"plain": self.plain}
        with Container(id="pair"):
            waiting = f"connecting to {self.url} ..."
            yield self.titled(LiveTable(PROTOCOL_COLUMNS, empty=waiting, id="protocols", **looks), "Protocols")
            yield self.titled(Lines(id="detail", **looks), "Selected protocol")

    def rows(self, snapshot: Snapshot) -> Sequence[Row]:
        """In the order of the document; disabled ones are there, greyed."""
        return protocol_rows(snapshot, plain=self.plain)

    def highlighted(self) -> None:
        """Everything about the one under the cursor."""
        snapshot, name, plain = self.snapshot, self.main.key, self.plain
        found = next((p for p in snapshot.protocols if p.name == name), None) if snapshot else None
        if snapshot is None or found is None:
            self.block("detail").show(lambda width: [Line()])
            return
        self.block("detail").show(lambda width: detail(found, snapshot, plain=plain))


def detail(protocol: ProtocolStatus, snapshot: Snapshot, *, plain: bool) -> list[Line]:
    """What the document says of one protocol: its face, its breaker, conversions, its backends."""
    face, latency, count = protocol.frontend, protocol.latency_ms, protocol.backends
    listens = (face.address or "yes") if face.listening else "no"
    values = [
        ("listens", f"{listens} · {face.connections} clients · looked at {clock(protocol.last_check or '') or '–'}"),
        ("backends", f"{count.healthy} ok · {count.degraded} degraded · {count.down} down · {count.unknown} unknown"),
        ("ms", f"p50 {milliseconds(latency.p50)} · p95 {milliseconds(latency.p95)} · p99 {milliseconds(latency.p99)}"),
        ("errors", f"{percent(protocol.error_rate)} % · breaker {(protocol.breaker or '–').replace('_', ' ')}"),
    ]
    found = part(snapshot.detection)
    if found is not None and protocol.enabled:
        values.append(("detection", f"all protocols: {_told(found)}"))
    made = [Line((Cell(f"{protocol.name}  "), Cell(state_word(protocol.state, plain=plain), MARKS[protocol.state].tone)))]
    made += [Line((Cell(f"{name:<10}", "muted"), Cell(clean(value, plain=plain)))) for name, value in values]
    if protocol.reason:
        made.append(Line((Cell(clean(protocol.reason, plain=plain), MARKS[protocol.state].tone),)))
    for backend in (one for one in snapshot.backends if one.protocol == protocol.name):
        mark = MARKS[backend.state]
        state = Cell(f"{mark.plain if plain else mark.glyph} {endpoint(backend, plain=plain)}  ", mark.tone)
        made.append(Line((state, Cell(clean(backend.reason or backend.address or "", plain=plain), "muted"))))
    return made


def _told(found: Detections) -> str:
    ratio = found.accuracy.ratio
    right = f"{percent(ratio)} % right" if ratio is not None else "none judged yet"
    return f"{found.examined} looked at · {found.failed} not found out · {right} · {len(found.results)} remembered"
