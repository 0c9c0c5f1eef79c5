"""Snapshot -> rows of the tables. Pure; every number is one of the document's own."""

from __future__ import annotations

from collections.abc import Sequence

from mcpbridge.admin.text import (
    LEVEL_TONES,
    MARKS,
    Tone,
    cause,
    clean,
    clock,
    duration,
    endpoint,
    milliseconds,
    percent,
    rate,
    seconds_between,
    state_word,
)
from mcpbridge.observe.snapshot import BackendStatus, Event, Latency, ProtocolStatus, Snapshot
from tui.widgets.table import Cell, Column, Row

PROTOCOL_COLUMNS = (
    Column("PROTOCOL", 10),
    Column("STATE", 10),
    Column("UP", 5, right=True, priority=8),
    Column("CLIENTS", 7, right=True, priority=4),
    Column("CALLS/S", 8, right=True, priority=9),
    Column("P50 ms", 7, right=True, priority=2),
    Column("P95 ms", 7, right=True, priority=7),
    Column("P99 ms", 7, right=True, priority=1),
    Column("ERR %", 6, right=True, priority=6),
    Column("CAUSE · ADDRESS", 0),
)
BACKEND_COLUMNS = (
    Column("BACKEND", 20),
    Column("STATE", 10, priority=9),
    Column("PROTOCOL", 10, priority=6),
    Column("ERA", 6, priority=2),
    Column("BUSY", 4, right=True, priority=3),
    Column("P95 ms", 7, right=True, priority=5),
    Column("ERR %", 6, right=True, priority=4),
    Column("SINCE", 7, right=True, priority=7),
    Column("CAUSE · ADDRESS", 0),
)
EVENT_COLUMNS = (Column("TIME", 8), Column("WHAT", 0))

HIGH_ERROR_RATE = 0.05
"""Share of failed calls from which the number is shown as a problem; below, anything above zero is a warning."""


def protocol_rows(snapshot: Snapshot, *, plain: bool = False) -> list[Row]:
    """One row per protocol, in the order of the document; a disabled one is there, greyed."""
    return [Row(p.name, _protocol(p, plain)) for p in snapshot.protocols]


def backend_rows(snapshot: Snapshot, *, plain: bool = False) -> dict[str, Row]:
    """One row per backend by its key, in the order of the document."""
    return {key(b): Row(key(b), _backend(b, snapshot.time, plain)) for b in snapshot.backends}


def event_rows(events: Sequence[Event], *, plain: bool = False) -> list[Row]:
    """One row per event, newest first."""
    return [Row(name, _event(event, plain)) for name, event in named_events(events)][::-1]


def named_events(events: Sequence[Event]) -> list[tuple[str, Event]]:
    """Each event with a name of its own; two may say the same in the same moment."""
    seen: dict[tuple[str, str, str], int] = {}
    named = []
    for event in events:
        same = (event.time, event.event, event.message)
        seen[same] = seen.get(same, 0) + 1
        named.append(("\0".join((*same, str(seen[same]))), event))
    return named


def key(backend: BackendStatus) -> str:
    """Names one backend for as long as it is configured."""
    return f"{backend.namespace}\0{backend.server}\0{backend.endpoint}"


def attention_order(snapshot: Snapshot, previous: Sequence[str], *, resort: bool) -> list[str]:
    """Keys of the backends, problems first. Unless ``resort``, known ones keep their places and new ones come last."""
    ranks = {key(b): MARKS[b.state].rank for b in snapshot.backends}
    if resort or not previous:
        return sorted(ranks, key=lambda k: ranks[k])
    known = [k for k in previous if k in ranks]
    return known + [k for k in ranks if k not in set(known)]


def _protocol(p: ProtocolStatus, plain: bool) -> tuple[Cell, ...]:
    tone: Tone = "muted" if p.state == "disabled" else "plain"
    why = cause(p, plain=plain)
    usable = p.backends.healthy + p.backends.degraded
    return (
        Cell(clean(p.name, plain=plain), tone),
        Cell(state_word(p.state, plain=plain), MARKS[p.state].tone),
        Cell(f"{usable}/{p.backends.total}" if p.backends.total else "–", tone if usable == p.backends.total else "warn"),
        Cell(str(p.frontend.connections) if p.frontend.listening else "–", tone),
        Cell(rate(p.requests_per_sec), tone),
        *_latency(p.latency_ms, tone),
        _errors(p.error_rate, tone),
        Cell(why, MARKS[p.state].tone) if why else Cell(clean(p.frontend.address or "", plain=plain), "muted"),
    )


def _latency(latency: Latency, tone: Tone) -> tuple[Cell, Cell, Cell]:
    return (
        Cell(milliseconds(latency.p50), tone),
        Cell(milliseconds(latency.p95), tone),
        Cell(milliseconds(latency.p99), tone),
    )


def _backend(b: BackendStatus, now: str, plain: bool) -> tuple[Cell, ...]:
    age = seconds_between(b.since, now)
    why = cause(b, plain=plain)
    return (
        Cell(endpoint(b, plain=plain)),
        Cell(state_word(b.state, plain=plain), MARKS[b.state].tone),
        Cell(clean(b.protocol, plain=plain)),
        Cell(b.era or "–", "plain" if b.era else "muted"),
        Cell(str(b.in_flight)),
        Cell(milliseconds(b.latency_ms.p95)),
        _errors(b.error_rate, "plain"),
        Cell(duration(age) if age is not None else "–"),
        Cell(why, MARKS[b.state].tone) if why else Cell(clean(b.address or "", plain=plain), "muted"),
    )


def _errors(fraction: float | None, tone: Tone) -> Cell:
    if fraction:
        tone = "bad" if fraction >= HIGH_ERROR_RATE else "warn"
    return Cell(percent(fraction), tone)


def where_of(event: Event) -> str:
    """What an event is about: protocol, server, or both."""
    return "/".join(part for part in (event.protocol, event.server) if part)


def _event(event: Event, plain: bool) -> tuple[Cell, ...]:
    tone = LEVEL_TONES.get(event.level, "plain")
    glyph = {"bad": MARKS["down"], "warn": MARKS["degraded"]}.get(tone)
    lead = (glyph.plain if plain else glyph.glyph) if glyph else ("|" if plain else "·")
    where = where_of(event)
    text = f"{lead} {f'{where}: ' if where else ''}{event.message}"
    return (Cell(clock(event.time), "muted"), Cell(clean(text, plain=plain), tone))
