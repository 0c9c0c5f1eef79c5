"""``mcpbridge logs [-f] [--server N]``: what the local routers wrote, which editors do not show.

Source: contract cli.logs.
"""

from __future__ import annotations

import heapq
import json
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from mcpbridge.cli.parsing import Parser
from mcpbridge.observe.journal import log_directory, logs
from mcpbridge.observe.log import LEVELS, as_text, shows_colour

PAUSE: Final = 0.2  # seconds between two looks for new lines
Lines = Iterator[tuple[str, str, dict[str, Any]]]
"""(time, as it stands in the file, its members)."""


def run(name: str, arguments: list[str]) -> int:
    """Print the newest lines of all routers in the order of their time; with ``-f`` those that come, until Ctrl-C."""
    program = f"{name} logs"
    parser = Parser(
        program,
        "The logs of the routers that ran here for you, newest last.",
        [(program, "the newest 100 lines"),
         (f"{program} -f", "and those that come, until Ctrl-C"),
         (f"{program} --server memory --level warn", "what went wrong with one server"),
         (f"{program} --json -n 1000", "as they were written, for programs")],
    )  # fmt: skip
    parser.add_argument("-f", "--follow", action="store_true", help="go on with new lines until Ctrl-C")
    parser.add_argument("-n", "--lines", type=int, default=100, metavar="N", help="how many of the past (default 100)")
    parser.add_argument("--server", metavar="NAME", help="only lines about this server")
    parser.add_argument("--level", choices=[*LEVELS], default="trace", help="only lines of this level and above")
    parser.add_argument("--json", action="store_true", help="one JSON object per line, as it was written")
    options = parser.parse(arguments)
    if options.lines < 0:
        parser.error("-n: 0 or more")

    def is_wanted(line: dict[str, Any]) -> bool:
        fits = options.server is None or line.get("server") == options.server
        return fits and LEVELS.get(str(line.get("level")), 0) >= LEVELS[options.level]

    colour = shows_colour(sys.stdout)
    files: dict[int, _File] = {}

    def show(newest: int | None) -> None:
        _look(files)
        lines = heapq.merge(*(file.new(is_wanted) for file in files.values()), key=lambda line: line[0])
        for _, raw, line in deque(lines, newest):
            print(raw if options.json else as_text(line, colour=colour), flush=options.follow)

    show(options.lines)
    if not files and not options.follow:
        print(f"{program}: no router has run here for you (looked in {log_directory()})", file=sys.stderr)
    while options.follow:
        time.sleep(PAUSE)
        show(None)
    return 0


def _look(files: dict[int, _File]) -> None:
    """Note the logs there are: by what they are, for a full one gets another name."""
    for path in logs():
        with suppress(OSError):
            files.setdefault(path.stat().st_ino, _File()).path = path


class _File:
    """One log, read on from where it was left."""

    def __init__(self) -> None:
        self.path = Path()
        self._at = 0

    def new(self, is_wanted: Callable[[dict[str, Any]], bool]) -> Lines:
        """The whole lines that have come since the last time, of those that are wanted."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._at)
                data = file.read()
        except OSError:
            return
        whole = data[: data.rfind(b"\n") + 1]
        self._at += len(whole)
        for raw in whole.decode("utf-8", "replace").splitlines():
            try:
                line = json.loads(raw)
            except ValueError:
                continue
            if isinstance(line, dict) and is_wanted(line):
                yield str(line.get("time", "")), raw, line
