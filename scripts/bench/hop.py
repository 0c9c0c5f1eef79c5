"""The hop benchmark: HTTP to HTTP and HTTP to stdio, through the bridge, through its peers, and through nothing.

    hop.py [--rounds 5] [--seconds 1.5] [--placement split|one] [--clients 1 16] [--without-peers] [--without-bridge]
           [--output FILE]
    hop.py --table FILE      the table of the README from what was measured earlier

All programs stay up for the whole run; every round measures each of them once per number of clients, one after the other
(A B C A B C ...), every second round backwards, so that a slow minute of the machine hits all alike. Prints a table of medians
with ranges, writes everything that was measured to a JSON file.

Source: performance.md, "How to measure".
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import peers
import report
from measure import Load, Sample, machine, median, sample
from messages import Dialect
from processes import ROOT, Running, cores, free_port, pinned, python

OUTPUT = ROOT / ".cache" / "bench" / "hop.json"


class Row(NamedTuple):
    """One line of the table: a program, in one dialect."""

    name: str
    hop: str
    version: str
    dialect: Dialect
    kind: str
    target: tuple[str, ...]
    cpu_ns: Callable[[], int]
    rss_mb: Callable[[], float]
    post_mortem: Callable[[], str] = lambda: ""

    @property
    def program(self) -> str:
        """Names the running program that several rows may share."""
        return f"{self.name} {self.hop}"


class Options(NamedTuple):
    """What the command line says."""

    rounds: int
    seconds: float
    placement: str
    clients: tuple[int, ...]
    with_bridge: bool
    with_peers: bool
    output: Path
    table: Path | None


def main() -> int:
    """Measure and print. Returns 1 when a program could not be measured or answered wrongly."""
    options = parse()
    if options.table is not None:
        print("\n".join(report.report(report.read(options.table))))
        return 0
    if options.with_peers:
        peers.install()
    load_core, hop_core = cores(options.placement)
    before = machine()
    with contextlib.ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mcpbridge-bench-")))
        rows, broken = start_all(stack, options, work, load_core, hop_core)
        samples: dict[tuple[int, int], list[Sample]] = {}
        for number in range(options.rounds):
            for clients in options.clients:
                order = list(enumerate(rows))
                for place, row in order if number % 2 == 0 else order[::-1]:
                    if row.program in broken:
                        continue
                    load = Load(row.kind, row.target, row.dialect, clients, options.seconds, load_core)
                    try:
                        samples.setdefault((place, clients), []).append(sample(load, row.cpu_ns, row.rss_mb))
                    except RuntimeError as error:
                        broken[row.program] = f"{error}\n{row.post_mortem()}"
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr, flush=True)
    document = {
        "machine": before,
        "load_average_after": machine()["load_average"],
        "placement": describe(load_core, hop_core),
        "rounds": options.rounds,
        "seconds": options.seconds,
        "rows": list(raw(rows, samples)),
        "broken": broken,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(document, indent=1) + "\n")
    print("\n".join(table(rows, samples, options, document)))
    for name, why in broken.items():
        print(f"\n{name} was not measured: {why}")
    print(f"\neverything measured: {options.output}")
    wrong = any(one.errors for many in samples.values() for one in many)
    return 1 if broken or wrong else 0


def parse() -> Options:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each measurement")
    parser.add_argument("--placement", choices=("split", "one"), default="split")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--without-bridge", action="store_true")
    parser.add_argument("--without-peers", action="store_true")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--table", type=Path, metavar="FILE", help="print what FILE holds and measure nothing")
    found = parser.parse_args()
    some = (not found.without_bridge, not found.without_peers)
    return Options(found.rounds, found.seconds, found.placement, tuple(found.clients), *some, found.output, found.table)


def start_all(
    stack: contextlib.ExitStack, options: Options, work: Path, load_core: int | None, hop_core: int | None
) -> tuple[list[Row], dict[str, str]]:
    """Start the backend and every contender. Returns the rows and why some cannot be measured."""
    backend = free_port()
    command = python("echo_http.py", str(backend))
    echo = stack.enter_context(Running("echo", command, port=backend, core=load_core, log=work / "echo.log"))
    echo.wait_until_it_listens()
    straight = (f"http://127.0.0.1:{backend}/mcp",)
    dialects: tuple[Dialect, ...] = ("legacy", "modern")
    rows = [Row("no bridge", "http-http", "", d, "http", straight, echo.cpu_ns, echo.rss_mb) for d in dialects]
    child = tuple(pinned(peers.echo_stdio(), hop_core))
    rows += [Row("no bridge", "http-stdio", "", "legacy", "stdio", child, lambda: 0, lambda: 0.0)]
    contenders = [peers.bridge(hop, work) for hop in ("http-http", "http-stdio")] if options.with_bridge else []
    contenders += peers.PEER_LIST if options.with_peers else ()
    broken: dict[str, str] = {}
    for contender in contenders:
        port = free_port()
        log = work / f"{contender.name.replace(' ', '-')}-{contender.hop}.log"
        running = stack.enter_context(
            Running(contender.name, contender.command(port, backend), port=port, core=hop_core, log=log)
        )
        try:
            running.wait_until_it_listens()
        except RuntimeError as error:
            broken[f"{contender.name} {contender.hop}"] = str(error)
        target = (f"http://127.0.0.1:{port}{contender.path}",)
        rows += [
            Row(
                contender.name,
                contender.hop,
                contender.version,
                d,
                "http",
                target,
                running.cpu_ns,
                running.rss_mb,
                running.post_mortem,
            )
            for d in contender.dialects
        ]
    return sorted(rows, key=lambda row: row.hop), broken


def describe(load_core: int | None, hop_core: int | None) -> str:
    """Where everything ran."""
    if load_core is None:
        return "not pinned"
    if load_core == hop_core:
        return f"everything on core {load_core}"
    return f"load generator and HTTP backend on core {load_core}; the hop and its stdio children on core {hop_core}"


def raw(rows: list[Row], samples: dict[tuple[int, int], list[Sample]]) -> Iterator[dict[str, object]]:
    """Every sample as it was measured."""
    for (place, clients), many in sorted(samples.items()):
        row = rows[place]
        names = {"program": row.name, "version": row.version, "hop": row.hop, "dialect": row.dialect, "clients": clients}
        yield {**names, "samples": [one._asdict() for one in many]}


def table(
    rows: list[Row], samples: dict[tuple[int, int], list[Sample]], options: Options, document: dict[str, object]
) -> Iterator[str]:
    """The table for people: medians, the range of calls per second, the ratio to no bridge."""
    about = dict(machine())
    yield f"{about['cpu']}, {about['cores']} cores, Linux {about['kernel']}, Python {about['python']}, Node {about['node']}"
    yield f"load average {about['load_average']}; {document['placement']}; {options.rounds} rounds of {options.seconds} s"
    heads = ("hop", "program", "dialect", "clients", "calls/s", "range", "to none", "p50 ms", "p99 ms", "CPU us/call", "MB")
    yield ""
    yield "| " + " | ".join(heads) + " |"
    yield "|" + "---|" * 4 + "---:|" * (len(heads) - 4)
    none: dict[tuple[str, int, str], float] = {}
    for clients in options.clients:
        for place, row in enumerate(rows):
            many = samples.get((place, clients))
            if not many:
                continue
            rates = [one.calls_per_second for one in many]
            middle = median(rates) or 0.0
            if row.name == "no bridge":
                none[row.hop, clients, row.dialect] = middle
            base = none.get((row.hop, clients, row.dialect)) or none.get((row.hop, clients, "legacy"))
            cells = [row.hop, f"{row.name} {row.version}".strip(), row.dialect, str(clients), f"{middle:,.0f}"]
            cells += [f"{min(rates):,.0f}-{max(rates):,.0f}", f"{middle / base:.3f}" if base else "-"]
            cells += [_ms(median([one.p50_us for one in many])), _ms(median([one.p99_us for one in many]))]
            cpu = median([one.cpu_us for one in many]) if row.kind == "http" else None
            cells += [f"{cpu:,.1f}" if cpu is not None else "-", f"{median([one.rss_mb for one in many]) or 0:,.0f}"]
            failed = sum(one.errors for one in many)
            first = next((one.first_error for one in many if one.errors), "")
            yield "| " + " | ".join(cells) + " |" + (f" {failed} calls failed: {first[:120]}" if failed else "")


def _ms(micro: float | None) -> str:
    return "-" if micro is None else f"{micro / 1000:,.3f}"


if __name__ == "__main__":
    sys.exit(main())
