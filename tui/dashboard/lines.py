"""Snapshot -> the lines around the tables: head, figures, what needs somebody, the selected backend, the lost gateway. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from textwrap import wrap
from typing import NamedTuple

from mcpbridge.admin.text import (
    MARKS,
    NEEDS_ATTENTION,
    Tone,
    by_attention,
    calls_per_second,
    cause,
    clean,
    clock,
    duration,
    endpoint,
    error_rate,
    milliseconds,
    percent,
    rate,
    seconds_between,
    state_word,
)
from mcpbridge.observe.snapshot import BackendStatus, Snapshot, State, timestamp
from tui.dashboard.rows import HIGH_ERROR_RATE
from tui.widgets.lines import Line
from tui.widgets.spark import spark
from tui.widgets.table import Cell

AMBER_INTERVALS, RED_INTERVALS = 3, 10
"""Age of the data, in intervals, above which it is amber and red. Source: ux.md section 1.2."""

_SHOWN_STATES: tuple[State, ...] = ("ok", "degraded", "down", "draining", "starting", "unknown")


class Outage(NamedTuple):
    """The gateway does not answer: since when, why, when the next try is. Unix times in seconds."""

    since: float
    why: str
    retry_at: float


class Freshness(NamedTuple):
    """How far the picture can be trusted: its age and the interval in seconds, documents held back by a pause (None: no pause),
    whether the gateway is lost."""

    age: float | None
    interval: float
    held: int | None = None
    lost: bool = False


def head(snapshot: Snapshot | None, url: str, fresh: Freshness, *, plain: bool) -> Line:
    """Who it is, how it is, how old the picture is."""
    left = [Cell(" mcpbridge ", "info")]
    if snapshot is not None:
        left += [
            Cell(f"{clean(snapshot.version, plain=plain)}  "),
            Cell(f"{snapshot.role} {clean(snapshot.instance, plain=plain)}  "),
        ]
    left.append(Cell(clean(url, plain=plain), "muted"))
    right: list[Cell] = []
    if fresh.held is not None:
        right.append(Cell(f"paused, {fresh.held} newer   ", "warn"))
    if snapshot is not None and fresh.lost:
        right.append(Cell(f"was {state_word(snapshot.status, plain=plain)}   ", "muted"))
    elif snapshot is not None:
        right.append(Cell(state_word(snapshot.status, plain=plain) + "   ", MARKS[snapshot.status].tone))
    right.append(_age(fresh.age, fresh.interval))
    return Line(tuple(left), tuple(right))


def _age(age: float | None, interval: float) -> Cell:
    if age is None:
        return Cell("no data yet ", "muted")
    tone: Tone = "bad" if age > RED_INTERVALS * interval else "warn" if age > AMBER_INTERVALS * interval else "muted"
    return Cell(f"{age:.1f}s old " if age < 9.95 else f"{duration(age)} old ", tone)


def banner(outage: Outage, now: float, *, plain: bool) -> Line:
    """One line for the time without a gateway; the last picture stays below it."""
    glyph = MARKS["down"].plain if plain else MARKS["down"].glyph
    wait = max(0, round(outage.retry_at - now))
    text = f" {glyph} gateway unreachable since {clock(timestamp(outage.since))}: {outage.why}"
    return Line((Cell(clean(text, plain=plain)),), (Cell(f"retry in {wait} s (r now) " if wait else "retrying ... "),))


def figures(snapshot: Snapshot, history: Sequence[float | None], width: int, *, plain: bool) -> Line:
    """The line of figures of a small window."""
    calls = rate(calls_per_second(snapshot))
    parts: list[Cell] = [Cell(" calls/s ", "muted"), Cell(calls), Cell("   ")]
    for state, count in _counts(snapshot):
        parts.append(Cell(f"{_glyph(state, plain)} {count} ", MARKS[state].tone))
    parts += [Cell("  errors ", "muted"), Cell(_percent_sign(error_rate(snapshot)))]
    parts += [Cell("   sessions ", "muted"), Cell(str(snapshot.sessions.active))]
    right = [Cell("up ", "muted"), Cell(duration(snapshot.uptime_sec) + " ")]
    room = width - sum(len(cell.text) for cell in (*parts, *right)) - 2
    if room >= 6:
        parts.insert(2, Cell(" " + spark(history, min(24, room - 1), plain=plain), "info"))
    return Line(tuple(parts), tuple(right))


def calls_tile(snapshot: Snapshot, history: Sequence[float | None], width: int, *, plain: bool) -> list[Line]:
    """Calls per second, and how they went since this dashboard was opened."""
    top = max((value for value in history if value is not None), default=None)
    line = Line((Cell(rate(calls_per_second(snapshot))),), (Cell(f"top {rate(top)}", "muted"),))
    return [line, Line((Cell(spark(history, width, plain=plain), "info"),))]


def errors_tile(snapshot: Snapshot, history: Sequence[float | None], width: int, *, plain: bool) -> list[Line]:
    """Share of failed calls, and how it went; the bars are full from HIGH_ERROR_RATE on."""
    now = error_rate(snapshot)
    tone: Tone = "warn" if now else "plain"
    bars = spark(history, width, full=HIGH_ERROR_RATE, plain=plain)
    return [Line((Cell(_percent_sign(now), tone),)), Line((Cell(bars, "warn"),))]


def backends_tile(snapshot: Snapshot, *, plain: bool) -> list[Line]:
    """How many backends are in which state, of how many servers."""
    cells = tuple(Cell(f"{_glyph(state, plain)} {count}  ", MARKS[state].tone) for state, count in _counts(snapshot))
    return [Line(cells or (Cell("none configured", "muted"),)), Line((Cell(_usable(snapshot), "muted"),))]


def sessions_tile(snapshot: Snapshot, *, plain: bool) -> list[Line]:
    """Open sessions and their store; how long the program is up."""
    ok: State = "ok" if snapshot.sessions.store_healthy else "down"
    store = Cell(f"{clean(snapshot.sessions.store, plain=plain)} {_glyph(ok, plain)}", MARKS[ok].tone)
    return [
        Line((Cell(str(snapshot.sessions.active)),), (store,)),
        Line((Cell(f"up {duration(snapshot.uptime_sec)}", "muted"),)),
    ]


def problems(snapshot: Snapshot, width: int, *, plain: bool, limit: int = 6) -> list[Line]:
    """What needs somebody: every backend that is down or degraded with its cause; then reasons that no backend explains."""
    lines: list[Line] = []
    sick = [b for b in by_attention(snapshot.backends) if b.state in NEEDS_ATTENTION]
    for backend in sick[:limit]:
        name = f"{_glyph(backend.state, plain)} {endpoint(backend, plain=plain)}"
        lines.append(Line((Cell(name, MARKS[backend.state].tone),), (_since(backend, snapshot),)))
        lines += [Line((Cell(f"  {part}"),)) for part in _wrapped(cause(backend, plain=plain), width - 2, 2)]
    if len(sick) > limit:
        lines.append(Line((Cell(f"  and {len(sick) - limit} more", "muted"),)))
    told = {b.protocol for b in sick}
    for reason in snapshot.reasons:
        if reason.partition(":")[0] not in told:
            lead = _glyph("degraded", plain)
            for part in _wrapped(clean(reason, plain=plain), width - 2, 2):
                lines.append(Line((Cell(f"{lead} {part}", "warn"),)))
                lead = " "
    if not lines:
        lines.append(Line((Cell(f"{_glyph('ok', plain)} nothing", "good"),)))
    return lines


def selected(backend: BackendStatus, snapshot: Snapshot, width: int, *, plain: bool) -> list[Line]:
    """Everything the document says about one backend."""
    latency = backend.latency_ms
    score = "–" if backend.health_score is None else f"{backend.health_score:.2f}"
    failures = f"{backend.consecutive_failures} in a row" if backend.consecutive_failures else "none in a row"
    values = [
        ("protocol", f"{backend.protocol} · {backend.era or 'era unknown'}{f' {backend.version}' if backend.version else ''}"),
        ("address", backend.address or "–"),
        ("source", f"{backend.source} · namespace {backend.namespace}"),
        ("weight", f"{backend.weight:.2f} · health score {score}"),
        ("in flight", f"{backend.in_flight} · breaker {(backend.breaker or '–').replace('_', ' ')}"),
        ("ms", f"p50 {milliseconds(latency.p50)} · p95 {milliseconds(latency.p95)} · p99 {milliseconds(latency.p99)}"),
        ("errors", f"{_percent_sign(backend.error_rate)} · failures {failures}"),
        ("checked", clock(backend.last_check) if backend.last_check else "–"),
    ]
    state = Cell(state_word(backend.state, plain=plain), MARKS[backend.state].tone)
    lines = [Line((Cell(endpoint(backend, plain=plain) + "  "), state), (_since(backend, snapshot),))]
    for name, value in values:
        lines.append(Line((Cell(f"{name:<10}", "muted"), Cell(clean(value, plain=plain)))))
    lines += [Line((Cell(part, MARKS[backend.state].tone),)) for part in _wrapped(cause(backend, plain=plain), width, 3)]
    return lines


def selected_line(backend: BackendStatus, snapshot: Snapshot, *, plain: bool) -> Line:
    """The selected backend in one line of a small window: its cause in full width, else where it is and what it speaks."""
    speaks = " ".join(part for part in (backend.era, backend.version) if part)
    text = cause(backend, plain=plain) or " · ".join(part for part in (backend.address, speaks, backend.source) if part)
    state = Cell(f" {_glyph(backend.state, plain)} {endpoint(backend, plain=plain)}  ", MARKS[backend.state].tone)
    since = _since(backend, snapshot)
    return Line((state, Cell(clean(text, plain=plain))), (since._replace(text=since.text + " "),))


def compact(snapshot: Snapshot | None, size: tuple[int, int], needed: tuple[int, int], *, plain: bool) -> list[Line]:
    """What a window too small for tables shows: the states, one per line, and what to do."""
    lines = [Line((Cell(f" Window {size[0]}x{size[1]}: make it {needed[0]}x{needed[1]} or larger", "warn"),))]
    if snapshot is None:
        return lines
    calls = Cell(f" {rate(calls_per_second(snapshot))} calls/s  {_usable(snapshot)}")
    lines.append(Line((calls,)))
    for item in by_attention(snapshot.backends):
        text = f" {_glyph(item.state, plain)} {endpoint(item, plain=plain)}  "
        lines.append(Line((Cell(text, MARKS[item.state].tone), Cell(cause(item, plain=plain)))))
    return lines


def title(snapshot: Snapshot, shown: int) -> str:
    """Title of the backends table: how many, of how many servers, how many the filter hides."""
    servers = len({(b.namespace, b.server) for b in snapshot.backends})
    total = len(snapshot.backends)
    text = f"Servers and backends  {_plural(servers, 'server')}, {_plural(total, 'backend')}"
    return text + (f", {shown} shown" if shown != total else "")


def _usable(snapshot: Snapshot) -> str:
    active = [b for b in snapshot.backends if b.state != "disabled"]
    servers = len({(b.namespace, b.server) for b in active})
    return f"{sum(b.state in ('ok', 'degraded') for b in active)} of {len(active)} usable, {_plural(servers, 'server')}"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _counts(snapshot: Snapshot) -> list[tuple[State, int]]:
    counts = Counter(b.state for b in snapshot.backends)
    return [(state, counts[state]) for state in _SHOWN_STATES if counts[state]]


def _since(backend: BackendStatus, snapshot: Snapshot) -> Cell:
    age = seconds_between(backend.since, snapshot.time)
    return Cell(f"{backend.state} {duration(age)}" if age is not None else "", "muted")


def _glyph(state: State, plain: bool) -> str:
    return MARKS[state].plain if plain else MARKS[state].glyph


def _percent_sign(fraction: float | None) -> str:
    return percent(fraction) if fraction is None else f"{percent(fraction)} %"


def _wrapped(text: str, width: int, limit: int) -> list[str]:
    return wrap(text, max(10, width), max_lines=limit, placeholder=" ...") if text else []
