"""A Snapshot as plain lines of text, and the words every face uses for it: glyphs, numbers, durations, causes.

    Snapshot -> report() -> ``mcpbridge status`` | ``mcpbridge tui`` without a terminal
                the same glyphs and numbers     -> the cells of the dashboard

Pure; imports neither a terminal library nor anything of a live bridge. A value that was not measured is ``–``, never a number.
What came over the wire is cleaned before it is shown: a server's name must not move the cursor of the terminal.

Source: ux.md sections 1.2 and 1.3; contract cli.status, cli.tui.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from datetime import datetime
from typing import Literal, NamedTuple

from mcpbridge.observe.snapshot import BackendStatus, ProtocolStatus, Snapshot, State

Tone = Literal["plain", "good", "warn", "bad", "info", "muted"]
"""What a value means; a face maps it to a colour and never shows the colour alone."""


class Mark(NamedTuple):
    """How a state looks: glyph, glyph of an ASCII terminal, meaning, place in a list that has problems first."""

    glyph: str
    plain: str
    tone: Tone
    rank: int


MARKS: dict[State, Mark] = {
    "down": Mark("✖", "x", "bad", 0),
    "degraded": Mark("▲", "!", "warn", 1),
    "draining": Mark("◐", "~", "info", 2),
    "starting": Mark("◌", "~", "info", 2),
    "unknown": Mark("?", "?", "muted", 3),
    "ok": Mark("●", "+", "good", 4),
    "disabled": Mark("○", "-", "muted", 5),
}
LEVEL_TONES: dict[str, Tone] = {"error": "bad", "warn": "warn", "warning": "warn", "info": "plain", "debug": "muted"}
NEEDS_ATTENTION: frozenset[State] = frozenset({"down", "degraded"})

EXIT_OK, EXIT_DEGRADED, EXIT_DOWN = 0, 1, 2

_DASH = "–"
_PLAIN = {"–": "-", "·": "|", "…": "...", "→": "->", "×": "x"}
_UNPRINTABLE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def clean(text: str, *, plain: bool = False) -> str:
    """One printable line: white space becomes one blank, control, format and direction characters are dropped.

    With ``plain`` every character outside ASCII becomes its plain twin or ``?``.
    """
    line = "".join(c for c in " ".join(text.split()) if (c.isascii() and c.isprintable()) or not _is_unprintable(c))
    return to_ascii(line) if plain else line


def to_ascii(text: str) -> str:
    """The text with every character outside ASCII replaced by its plain twin or ``?``."""
    return text if text.isascii() else "".join(c if c.isascii() else _PLAIN.get(c, "?") for c in text)


def _is_unprintable(character: str) -> bool:
    return unicodedata.category(character) in _UNPRINTABLE


def state_word(state: State, *, plain: bool = False) -> str:
    """Glyph and word of a state: ``● ok``."""
    mark = MARKS[state]
    return f"{mark.plain if plain else mark.glyph} {state}"


def rate(value: float | None) -> str:
    """Calls per second: ``1,284``, ``395.5``, ``0.0``; ``–`` when not measured."""
    if value is None:
        return _DASH
    return f"{value:,.0f}" if value >= 999.95 else f"{value:.1f}"


def milliseconds(value: float | None) -> str:
    """Milliseconds without the unit: ``0.82``, ``3.1``, ``410``; ``–`` without samples."""
    if value is None:
        return _DASH
    if value >= 99.95:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 0.995 else f"{value:.2f}"


def percent(fraction: float | None) -> str:
    """A fraction 0..1 in percent without the sign: ``0.21``, ``12.0``; ``–`` when not measured."""
    if fraction is None:
        return _DASH
    return f"{fraction * 100:.1f}" if fraction >= 0.09995 else f"{fraction * 100:.2f}"


def duration(seconds: float) -> str:
    """Two units at most: ``4s``, ``4m 12s``, ``3h 05m``, ``6d 4h``."""
    total = max(0, int(seconds))
    minutes, sec = divmod(total, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d {hours}h"
    if hours:
        return f"{hours}h {minutes:02d}m"
    return f"{minutes}m {sec:02d}s" if minutes else f"{sec}s"


def seconds_between(earlier: str | None, later: str) -> float | None:
    """Seconds between two RFC 3339 times of a Snapshot; None when one is missing or is not a time."""
    if earlier is None:
        return None
    try:
        return (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds()
    except (ValueError, TypeError):
        return None


def clock(time: str) -> str:
    """``14:02:11`` in local time of an RFC 3339 time; what is not one is shown cleaned and cut to eight characters."""
    try:
        return datetime.fromisoformat(time).astimezone().strftime("%H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return clean(time)[:8]


def endpoint(backend: BackendStatus, *, plain: bool = False) -> str:
    """A backend's name for people: its endpoint, behind its namespace unless that is the default one."""
    name = backend.endpoint if backend.namespace == "default" else f"{backend.namespace}:{backend.endpoint}"
    return clean(name, plain=plain)


def cause(item: BackendStatus | ProtocolStatus, *, plain: bool = False) -> str:
    """Why it is in its state, as far as the document says; empty when there is nothing to say."""
    parts = [clean(item.reason, plain=plain)] if item.reason else []
    if isinstance(item, BackendStatus) and item.state in NEEDS_ATTENTION:
        if item.consecutive_failures > 1:
            parts.append(f"{item.consecutive_failures} failures in a row")
        if item.breaker in ("open", "half_open"):
            parts.append(f"breaker {item.breaker.replace('_', ' ')}")
    return clean(" · ".join(parts), plain=plain)


def calls_per_second(snapshot: Snapshot) -> float | None:
    """Sum over the protocols that measured it; None when none did."""
    measured = [p.requests_per_sec for p in snapshot.protocols if p.requests_per_sec is not None]
    return sum(measured) if measured else None


def error_rate(snapshot: Snapshot) -> float | None:
    """Share of failed calls 0..1 over all protocols, weighted by their calls; None when nothing was measured."""
    pairs = [(p.requests_per_sec, p.error_rate) for p in snapshot.protocols]
    measured = [(calls, errors) for calls, errors in pairs if calls is not None and errors is not None]
    total = sum(calls for calls, _ in measured)
    return sum(calls * errors for calls, errors in measured) / total if total else None


def exit_code(snapshot: Snapshot) -> int:
    """0 ok, 2 down, 1 anything else (degraded, starting, draining). Source: contract cli.status."""
    return {"ok": EXIT_OK, "down": EXIT_DOWN}.get(snapshot.status, EXIT_DEGRADED)


def report(snapshot: Snapshot, *, url: str = "", plain: bool = False, events: int = 5) -> list[str]:
    """The whole document as lines without a newline: head, reasons, protocols, backends (problems first), last events."""
    head = [f"mcpbridge {snapshot.role} {snapshot.instance} {snapshot.version}", state_word(snapshot.status, plain=plain)]
    head += [f"up {duration(snapshot.uptime_sec)}", f"{rate(calls_per_second(snapshot))} calls/s"]
    head += [f"{snapshot.sessions.active} sessions ({snapshot.sessions.store})"] + ([url] if url else [])
    lines = ["   ".join(head)]
    lines += [f"  {reason}" for reason in snapshot.reasons]
    lines += ["", *columns(_protocol_cells(snapshot, plain), right=(2, 3, 4, 5, 6, 7))]
    backends = columns(_backend_cells(snapshot, plain), right=(4, 5, 6)) if snapshot.backends else ["no servers configured"]
    lines += ["", *backends]
    if events and snapshot.events:
        lines += ["", "EVENTS"]
        for event in snapshot.events[-events:]:
            where = "/".join(part for part in (event.protocol, event.server) if part)
            lines.append(f"{clock(event.time)}  {event.level:<5}  {f'{where}: ' if where else ''}{event.message}")
    return [_printable(line, plain) for line in lines]


def unreachable(url: str, why: str, *, plain: bool = False) -> list[str]:
    """What is printed when no gateway answers: the fact, the cause, the next step."""
    mark = MARKS["down"]
    return [
        f"{mark.plain if plain else mark.glyph} {clean(url, plain=plain)} unreachable: {clean(why, plain=plain)}",
        "  is it running? start one with: mcpbridge gateway",
    ]


def _printable(line: str, plain: bool) -> str:
    # Columns are aligned with blanks, which clean() would fold; so the parts between runs of blanks are cleaned one by one.
    return " ".join(clean(part, plain=plain) for part in line.split(" ")).rstrip()


def _protocol_cells(snapshot: Snapshot, plain: bool) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = [("PROTOCOL", "STATE", "UP", "CLIENTS", "CALLS/S", "P50 ms", "P95 ms", "ERR %", "CAUSE")]
    for p in snapshot.protocols:
        up = f"{p.backends.healthy + p.backends.degraded}/{p.backends.total}"
        latency = (milliseconds(p.latency_ms.p50), milliseconds(p.latency_ms.p95))
        numbers = (rate(p.requests_per_sec), *latency, percent(p.error_rate))
        name = clean(p.name, plain=plain)
        rows.append((name, state_word(p.state, plain=plain), up, str(p.frontend.connections), *numbers, cause(p, plain=plain)))
    return rows


def _backend_cells(snapshot: Snapshot, plain: bool) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = [("BACKEND", "STATE", "PROTOCOL", "ERA", "IN FLIGHT", "P95 ms", "SINCE", "CAUSE")]
    for b in by_attention(snapshot.backends):
        age = seconds_between(b.since, snapshot.time)
        numbers = (str(b.in_flight), milliseconds(b.latency_ms.p95), duration(age) if age is not None else _DASH)
        words = (endpoint(b, plain=plain), state_word(b.state, plain=plain), clean(b.protocol, plain=plain), b.era or _DASH)
        rows.append((*words, *numbers, cause(b, plain=plain)))
    return rows


def by_attention(backends: Sequence[BackendStatus]) -> list[BackendStatus]:
    """Problems first, otherwise the order of the document."""
    return sorted(backends, key=lambda backend: MARKS[backend.state].rank)


def columns(rows: Sequence[Sequence[str]], *, right: Sequence[int]) -> list[str]:
    """Rows of cells as aligned lines; ``right``: which columns are numbers."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    align = [str.rjust if i in right else str.ljust for i in range(len(widths))]
    return ["  ".join(put(cell, width) for put, cell, width in zip(align, row, widths, strict=True)) for row in rows]
