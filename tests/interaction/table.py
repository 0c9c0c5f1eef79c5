"""Plays all cells and writes the table that the README shows: ``python tests/interaction/table.py [FILE]``.

The file is ``tests/results/interaction.md`` unless another is named; the exit status is 1 when a cell failed.
"""

from __future__ import annotations

import datetime
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.interaction.cells import ENDS, End, run_cells  # noqa: E402 (the root is not on the path of a script)
from tests.interaction.script import REPLACED, STEPS  # noqa: E402

RESULTS = ROOT / "tests" / "results" / "interaction.md"


def write(outcomes: dict[End, dict[End, list[str]]], commit: str, day: str) -> str:
    """The table and what it leaves out, as Markdown."""
    servers = list(outcomes)
    played = sum(len(cells) for cells in outcomes.values())
    passed = sum(not failed for cells in outcomes.values() for failed in cells.values())
    lines = [
        f"{passed} of {played} cells pass ({day}, commit {commit}). A cell is a client of one transport and era, a gateway, "
        "and a server of one transport and era; ✓ means every step of the script: " + ", ".join(STEPS) + ".",
        "",
        "| client \\ server | " + " | ".join(_name(server) for server in servers) + " |",
        "|---|" + "---|" * len(servers),
    ]
    for client in ENDS:
        cells = [outcomes[server].get(client) for server in servers]
        marks = [
            "" if cell is None else "✓" if not cell else "✗ " + ", ".join(f.partition(":")[0] for f in cell) for cell in cells
        ]
        lines.append(f"| {_name(client)} | " + " | ".join(marks) + " |")
    lines += ["", "What a revision has no form of is played in the form that took its place:", ""]
    lines += ["| era | step | instead | specification |", "|---|---|---|---|"]
    lines += [f"| {era} | {step} | {instead} | {section} |" for era, step, instead, section in REPLACED]
    return "\n".join(lines) + "\n"


def _mark(failed: list[str] | None) -> str:
    """A cell in the table: nothing where it was not played, else the steps that failed."""
    if failed is None:
        return ""
    return "✗ " + ", ".join(step.partition(":")[0] for step in failed) if failed else "✓"


def _name(end: End) -> str:
    return f"{end.protocol} {end.era}"


def main() -> int:
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else RESULTS
    outcomes = {}
    for server in ENDS:
        outcomes[server] = run_cells(server)
        failed = {str(client): why for client, why in outcomes[server].items() if why}
        print(
            f"{server}: {len(outcomes[server]) - len(failed)} of {len(outcomes[server])}",
            *failed.items(),
            sep="\n    ",
            flush=True,
        )
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    path.write_text(write(outcomes, commit.stdout.strip() or "unknown", datetime.datetime.now(datetime.UTC).date().isoformat()))
    return 1 if any(why for cells in outcomes.values() for why in cells.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
