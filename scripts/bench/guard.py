"""The guard of the hot path: CPU per call of the bridge's HTTP-to-HTTP hop, as a ratio to a bare relay in the same run.

    guard.py [--rounds 5] [--seconds 1.0] [--limit RATIO] [--output FILE]

Both are measured in turns on the same core; the ratio of each round is taken from two neighbouring measurements and the median
of the rounds counts, so that the speed of the machine and its neighbours cancel out. Exit code 1 above the limit, 2 when it
could not be measured.

Source: performance.md (targets); architecture section 5 (budget of a hop).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
from pathlib import Path

import peers
from measure import Load, Sample, machine, median, sample
from messages import Dialect
from processes import Running, cores, free_port, python

LIMIT = 7.5
"""Measured medians: 4.6 to 5.5 on a shared 2-core machine; single rounds from 3.3 to 9. Lower it when the hop gets cheaper."""
CLIENTS = 16
DIALECTS: tuple[Dialect, ...] = ("legacy", "modern")


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--limit", type=float, default=LIMIT)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    try:
        found = measure(options.rounds, options.seconds)
    except RuntimeError as error:
        print(f"not measured: {error}")
        return 2
    verdict = 0
    for dialect, pairs in found.items():
        failed = sum(one.errors for pair in pairs for one in pair)
        ratios = [ours.cpu_us / bare.cpu_us for bare, ours in pairs if ours.cpu_us and bare.cpu_us]
        if failed or not ratios:
            print(
                f"{dialect}: {failed} calls failed: {next((o.first_error for p in pairs for o in p if o.errors), 'no calls')}"
            )
            verdict = 2
            continue
        ratio = median(ratios) or 0.0
        bare, ours = (median([pair[i].cpu_us for pair in pairs]) or 0.0 for i in (0, 1))
        good = ratio <= options.limit
        print(
            f"{dialect}: {ours:.1f} us CPU per call against {bare:.1f} of the reference hop: ratio {ratio:.2f} "
            f"({min(ratios):.2f}-{max(ratios):.2f} in {len(ratios)} rounds), limit {options.limit:.2f}: "
            f"{'ok' if good else 'TOO SLOW'}"
        )
        verdict = verdict or (0 if good else 1)
    if options.output:
        rows = {d: [{"reference": a._asdict(), "bridge": b._asdict()} for a, b in pairs] for d, pairs in found.items()}
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps({"machine": machine(), "limit": options.limit, "rounds": rows}, indent=1) + "\n")
    return verdict


def measure(rounds: int, seconds: float) -> dict[Dialect, list[tuple[Sample, Sample]]]:
    """Pairs of (reference hop, bridge) per dialect. Raises RuntimeError when one does not start or answer."""
    load_core, hop_core = cores("split")
    with contextlib.ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mcpbridge-guard-")))

        def start(name: str, command: list[str], port: int, core: int | None) -> Running:
            one = stack.enter_context(Running(name, command, port=port, core=core, log=work / f"{name}.log"))
            one.wait_until_it_listens()
            return one

        backend, relay, front = free_port(), free_port(), free_port()
        bridge = peers.bridge("http-http", work)
        start("echo", python("echo_http.py", str(backend)), backend, load_core)
        bare = start("reference", python("reference_hop.py", str(relay), str(backend)), relay, hop_core)
        ours = start("mcpbridge", bridge.command(front, backend), front, hop_core)
        sides = ((bare, f"http://127.0.0.1:{relay}/mcp"), (ours, f"http://127.0.0.1:{front}{bridge.path}"))
        found: dict[Dialect, list[tuple[Sample, Sample]]] = {dialect: [] for dialect in DIALECTS}
        for _ in range(rounds):
            for dialect in DIALECTS:
                first, second = (
                    sample(Load("http", (url,), dialect, CLIENTS, seconds, load_core), running.cpu_ns, running.rss_mb)
                    for running, url in sides
                )
                found[dialect].append((first, second))
        return found


if __name__ == "__main__":
    sys.exit(main())
