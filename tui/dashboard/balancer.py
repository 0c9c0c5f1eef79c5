"""The Balancer screen: weights and the shares that come of them, why, and what another weight would do before it is set.

    configured x health x latency x errors = current weight -> share aimed at -> share that was

Source: ux.md sections 1.4, 1.7; contract http.gateway.lb.*.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container

from mcpbridge.admin.text import MARKS, Tone, clean, milliseconds, percent, state_word
from mcpbridge.observe.balancing import LoadBalancer, ProtocolShare
from mcpbridge.observe.snapshot import Snapshot, State, part
from tui.dashboard.actions import Act, Menu
from tui.dashboard.view import View
from tui.widgets.lines import Line, Lines
from tui.widgets.table import Cell, Column, LiveTable, Row

STEP = 1.1
"""A keypress makes a weight so many times larger or smaller."""
MOST = 100.0
DRIFT = 0.05
"""Difference between the share aimed at and the one that was, from which it is shown as a problem."""
BAR = 12
COLUMNS = (
    Column("TARGET", 20),
    Column("CONF", 6, right=True, priority=7),
    Column("CURRENT", 7, right=True, priority=8),
    Column("AIM %", 6, right=True, priority=9),
    Column("SHARE", BAR, priority=2),
    Column("ACTUAL %", 8, right=True, priority=9),
    Column("DRIFT", 6, right=True, priority=5),
    Column("UP", 5, right=True, priority=4),
    Column("STATE", 0),
)
REBALANCE = Act(
    "b", "Rebalance", "sets the protocols' weights by what was measured: fewer calls for those that are slow or fail",
    "POST", "/load-balancer/rebalance",
)  # fmt: skip
RESET = Act("r", "Reset", "sets all weights back to those of the configuration", "POST", "/load-balancer/reset")


class Balancer(View):
    """See the module. ``wanted``: weights that were changed here and are not applied yet, by row."""

    AUTO_FOCUS = "#weights"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("plus,equals_sign", "change(1)", "Heavier", key_display="+", tooltip="Try a larger weight; nothing is applied"),
        Binding("minus", "change(-1)", "Lighter", key_display="-", tooltip="Try a smaller weight; nothing is applied"),
        Binding("enter", "apply", "Apply", key_display="Enter", tooltip="Set the weights that were tried"),
        Binding("a", "act", "Actions", tooltip="Rebalance or reset"),
    ]
    table = "weights"
    columns = COLUMNS
    nothing = "this program balances nothing"

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.wanted: dict[str, float] = {}

    def parts(self) -> ComposeResult:
        """The table, and why and what-if beside it."""
        looks: dict[str, Any] = {"plain": self.plain}
        yield Lines(id="strategy", **looks)
        with Container(id="pair"):
            waiting = f"connecting to {self.url} ..."
            yield self.titled(LiveTable(COLUMNS, empty=waiting, id="weights", **looks), "Protocols, then endpoints")
            yield self.titled(Lines(id="detail", **looks), "Why, and what if")

    def rows(self, snapshot: Snapshot) -> Sequence[Row]:
        """Protocols, then endpoints."""
        balance = _of(snapshot)
        if balance is None:
            return []
        made = [Row(f"protocol\0{one.protocol}", _protocol(one, self.wanted, self.plain)) for one in balance.protocols]
        states = {b.endpoint: b.state for b in snapshot.backends}
        for name, weight in balance.endpoints.items():
            made.append(Row(f"endpoint\0{name}", _endpoint(name, weight, states.get(name, "unknown"), self.wanted, self.plain)))
        return made

    def paint(self, snapshot: Snapshot, now: float) -> None:
        """The strategy."""
        balance = _of(snapshot)
        if balance is not None:
            self.block("strategy").show(lambda width: [_strategy(balance, self.plain)])

    def highlighted(self) -> None:
        """Why the row has its weight, and what the weights that were tried would do."""
        balance, row = _of(self.snapshot), self.main.key
        if balance is None or row is None:
            self.block("detail").show(lambda width: [Line()])
            return
        made = [*_why(balance, row), *_preview(balance, self.wanted)]
        self.block("detail").show(lambda width: made)

    def action_change(self, by: int) -> None:
        """Try another weight for the row under the cursor."""
        balance, row = _of(self.snapshot), self.main.key
        if balance is None or row is None:
            return
        now = self.wanted.get(row, _weight(balance, row))
        changed = now * STEP if by > 0 else now / STEP
        self.wanted[row] = round(min(MOST, max(changed, 0.1 if by > 0 else 0.0)), 2) if changed >= 0.05 else 0.0
        if self.wanted[row] == _weight(balance, row):
            del self.wanted[row]
        self.show_rows()

    def action_clear(self) -> None:
        """Forget what was tried; filter and order too."""
        self.wanted.clear()
        super().action_clear()

    def action_apply(self) -> None:
        """Say what will be set, and set it when that is confirmed."""
        if not self.wanted:
            self.app.notify("no weight was changed: + and - try one")
            return
        body = weights_of(self.wanted)
        said = ", ".join(f"{name} {weight:g}" for part in body.values() for name, weight in part.items())
        act = Act("y", "Apply", f"sets {said}; calls from now on", "PUT", "/load-balancer/weights", body=lambda _text: body)
        self.app.push_screen(Menu("Set these weights?", [act], plain=self.plain))

    def applied(self) -> None:
        """What was tried is set now."""
        self.wanted.clear()
        self.show_rows()

    def action_act(self) -> None:
        """What can be done about all weights."""
        self.app.push_screen(Menu("Weights", [REBALANCE, RESET], plain=self.plain))


def weights_of(wanted: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """The body of PUT weights: the rows' names by what they are."""
    body: dict[str, dict[str, float]] = {}
    for row, weight in wanted.items():
        kind, _, name = row.partition("\0")
        body.setdefault("weights" if kind == "protocol" else "endpoints", {})[name] = weight
    return body


def shares(balance: LoadBalancer, wanted: Mapping[str, float]) -> dict[str, float]:
    """The share that each protocol with a usable backend would be aimed at, were these weights set."""
    weights: dict[str, float] = {}
    for one in balance.protocols:
        if not one.eligible:
            continue
        scale = one.current_weight / one.configured_weight if one.configured_weight else 1.0
        weights[one.protocol] = wanted.get(f"protocol\0{one.protocol}", one.configured_weight) * scale
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()} if total else {}


def _of(snapshot: Snapshot | None) -> LoadBalancer | None:
    return part(snapshot.load_balancer) if snapshot is not None else None


def _weight(balance: LoadBalancer, row: str) -> float:
    kind, _, name = row.partition("\0")
    return balance.weights.get(name, 1.0) if kind == "protocol" else balance.endpoints.get(name, 1.0)


def _strategy(balance: LoadBalancer, plain: bool) -> Line:
    parts = [balance.strategy, balance.endpoint_strategy, "health-aware" if balance.health_aware else "health ignored"]
    parts.append(f"fallback {'on' if balance.fallback_enabled else 'off'}")
    right = Cell(f"{balance.requests_window} calls in {balance.window_sec:.0f} s ", "muted")
    if balance.panicking:
        panic = f"  too few healthy: {', '.join(balance.panicking)}, so all are used"
        return Line((Cell(f" {' · '.join(parts)}"), Cell(clean(panic, plain=plain), "bad")), (right,))
    return Line((Cell(f" {' · '.join(parts)}"),), (right,))


def _protocol(one: ProtocolShare, wanted: Mapping[str, float], plain: bool) -> tuple[Cell, ...]:
    tone: Tone = "plain" if one.eligible else "muted"
    tried = wanted.get(f"protocol\0{one.protocol}")
    aim, was = one.target_share, one.actual_share
    drift = was - aim if aim is not None and was is not None else None
    state: State = "ok" if one.eligible == one.total else "degraded" if one.eligible else "down"
    known = Cell("no backend", "muted") if not one.total else Cell(state_word(state, plain=plain), MARKS[state].tone)
    return (
        Cell(one.protocol, tone),
        Cell(f"{tried:g}*" if tried is not None else f"{one.configured_weight:g}", "info" if tried is not None else tone),
        Cell(f"{one.current_weight:.2f}", "warn" if one.current_weight < one.configured_weight else tone),
        Cell(percent(aim), tone),
        Cell(_bar(aim, plain), tone),
        Cell(percent(was), tone),
        Cell("–" if drift is None else f"{drift * 100:+.1f}", "warn" if abs(drift or 0.0) >= DRIFT else tone),
        Cell(f"{one.eligible}/{one.total}" if one.total else "–", tone),
        known,
    )


def _endpoint(name: str, weight: float, state: State, wanted: Mapping[str, float], plain: bool) -> tuple[Cell, ...]:
    tried = wanted.get(f"endpoint\0{name}")
    none = Cell("", "muted")
    return (
        Cell(f"  {clean(name, plain=plain)}"),
        Cell(f"{tried:g}*" if tried is not None else f"{weight:g}", "info" if tried is not None else "plain"),
        none, none, none, none, none, none,
        Cell(state_word(state, plain=plain), MARKS[state].tone),
    )  # fmt: skip


def _bar(share: float | None, plain: bool) -> str:
    filled = round((share or 0.0) * BAR)
    return ("#" if plain else "█") * filled + ("." if plain else "░") * (BAR - filled)


def _why(balance: LoadBalancer, row: str) -> list[Line]:
    kind, _, name = row.partition("\0")
    if kind == "endpoint":
        text = f"{name}: weight {balance.endpoints.get(name, 1.0):g} among the endpoints of its server and protocol"
        return [Line((Cell(text),)), Line((Cell("of two at random the one with less to do for its weight is taken", "muted"),))]
    one = next((one for one in balance.protocols if one.protocol == name), None)
    factors = balance.factors.get(name)
    if one is None or factors is None:
        return [Line()]
    made = [
        Line((Cell(f"{name}: {one.configured_weight:g} configured"),)),
        Line((Cell(f"  × health {factors.health:.2f} ({one.eligible} of {one.total} usable)"),)),
        Line((Cell(f"  × latency {factors.latency:.2f} (p95 {milliseconds(one.latency_ms.p95)} ms)"),)),
        Line((Cell(f"  × errors {factors.errors:.2f} ({percent(one.error_rate)} % failed)"),)),
        Line((Cell(f"  = {one.current_weight:.2f}", "info"),)),
    ]
    if not one.eligible:
        made.append(Line((Cell("it gets no calls: none of its backends can take one", "bad" if one.total else "muted"),)))
    return made


def _preview(balance: LoadBalancer, wanted: Mapping[str, float]) -> list[Line]:
    if not wanted:
        return [Line(), Line((Cell("+ and - try another weight; nothing is set before Enter", "muted"),))]
    before, after = shares(balance, {}), shares(balance, wanted)
    made = [Line(), Line((Cell("PREVIEW, not applied. Enter applies, Esc forgets", "warn"),))]
    for row, weight in wanted.items():
        made.append(Line((Cell(f"  {row.partition(chr(0))[2]}: {_weight(balance, row):g} → {weight:g}", "info"),)))
    for name, share in after.items():
        if abs(share - before.get(name, 0.0)) >= 0.0005:
            made.append(Line((Cell(f"  {name} {percent(before.get(name, 0.0))} → {percent(share)} % of the calls"),)))
    return made
