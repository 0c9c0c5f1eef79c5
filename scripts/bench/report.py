"""The README's table from what ``hop.py`` measured: ``hop.py --table FILE``.

FILE is what ``hop.py --output`` wrote, or the record of a full run (``tests/results/<commit>.json``) that holds it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from measure import median

HOPS = {"http-http": "HTTP → HTTP", "http-stdio": "HTTP → stdio"}
OWN = ("mcpbridge", "no bridge")
CLIENTS, DIALECT = 16, "legacy"  # what every peer can do


def read(path: Path) -> dict[str, Any]:
    """The measurements in a file. Raises ValueError when there are none."""
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    for stage in document.get("stages", ()):
        if "hop" in stage["numbers"]:
            found: dict[str, Any] = stage["numbers"]["hop"]
            return found
    if "rows" not in document:
        raise ValueError(f"{path} holds no measurements of hops")
    return document


def report(document: dict[str, Any]) -> Iterator[str]:
    """Where and how it was measured, the table, and the bridge beside the fastest peer of each hop."""
    machine = document["machine"]
    yield f"{document['rounds']} rounds of {document['seconds']} s, {CLIENTS} connections of {DIALECT} clients;"
    yield f"{machine['cpu']}, {machine['cores']} cores, CPython {machine['python']}, load average {machine['load_average']}."
    yield ""
    yield "| hop | program | calls/s | p50 ms | p99 ms | CPU µs per call | memory MB |"
    yield "|---|---|---:|---:|---:|---:|---:|"
    rates: dict[tuple[str, str], float] = {}
    for hop, shown in HOPS.items():
        for row in document["rows"]:
            if (row["hop"], row["clients"], row["dialect"]) == (hop, CLIENTS, DIALECT):
                rates[hop, row["program"]] = _middle(row, "calls_per_second") or 0.0
                yield "| " + " | ".join((shown, f"{row['program']} {row['version']}".strip(), *_cells(row))) + " |"
    yield ""
    for hop, shown in HOPS.items():
        peers = {program: rate for (where, program), rate in rates.items() if where == hop and program not in OWN}
        if peers and (hop, "mcpbridge") in rates:
            best = max(peers, key=lambda program: peers[program])
            yield f"{shown}: {rates[hop, 'mcpbridge'] / peers[best]:.1f} times the fastest peer ({best})."


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    is_hop = (row["program"], row["hop"]) != ("no bridge", "http-stdio")  # its child belongs to the load generator
    p50, p99 = (_middle(row, name) for name in ("p50_us", "p99_us"))
    return (
        f"{_middle(row, 'calls_per_second'):,.0f}",
        *("–" if value is None else f"{value / 1000:,.1f}" for value in (p50, p99)),
        f"{_middle(row, 'cpu_us'):,.0f}" if is_hop else "–",
        f"{_middle(row, 'rss_mb'):,.0f}" if is_hop else "–",
    )


def _middle(row: dict[str, Any], name: str) -> float | None:
    return median([sample[name] for sample in row["samples"]])
