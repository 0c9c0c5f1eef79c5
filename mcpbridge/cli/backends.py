"""``mcpbridge backends``: what a running gateway reaches, and how much of it gets calls.

Source: contract section 1.1 (``cli.backends``), 2.3 (http.gateway.backends.*, http.gateway.lb.weights.put).
"""

from __future__ import annotations

import asyncio
import json
import math
import sys
from typing import Any
from urllib.parse import quote

from mcpbridge.admin.client import Unreachable, act, fetch
from mcpbridge.admin.text import clean
from mcpbridge.admin.views import body as body_of
from mcpbridge.cli.outcomes import EX_FAILED, EX_REFUSED, EX_UNREACHABLE
from mcpbridge.cli.window import where, window_parser
from mcpbridge.observe.snapshot import BackendStatus

VERBS = ("list", "test", "drain", "undrain", "weight")


def run(name: str, arguments: list[str]) -> int:
    """One verb on one backend, or the list; 0 done, 1 it failed, 69 no gateway answers, 77 refused."""
    program = f"{name} backends"
    parser = window_parser(
        program,
        "The backends of a running gateway. All but list need a token with the scope mcp:admin, where anybody can sign in."
        "\nExit 0: done, 1: the gateway says no or the test failed, 69: no gateway there, 77: refused.",
        [
            (f"{program} list", "every backend, its state, weight and latency"),
            (f"{program} drain weather/0", "no new calls; those in flight end, sessions move"),
            (f"{program} undrain weather/0", "calls again"),
            (f"{program} weight weather/1 2.5", "its share among the endpoints of its protocol, 0 to 100; 0: a last resort"),
            (f"{program} test weather/0", "reach it stage by stage; calls no tool"),
        ],
    )
    parser.add_argument("verb", choices=VERBS, metavar="VERB", help=", ".join(VERBS))
    parser.add_argument("endpoint", nargs="?", metavar="NAME", help="name of the backend, as list shows it")
    parser.add_argument("weight", nargs="?", metavar="WEIGHT", help="for weight: a number")
    parser.add_argument("--json", action="store_true", help="one JSON document: what the gateway answers")
    options = parser.parse(arguments)
    if (options.verb == "list") == (options.endpoint is not None):
        parser.error("list takes no name" if options.verb == "list" else f"{options.verb} what? {program} list shows the names")
    if (options.verb == "weight") != (options.weight is not None):
        parser.error("weight needs a name and a number" if options.verb == "weight" else f"{options.verb} takes no number")
    url, token = where(parser, options)
    try:
        if options.verb == "list":
            backends = asyncio.run(fetch(url, token)).backends
            print(body_of({"backends": backends}).decode().rstrip() if options.json else _table(backends))
            return 0
        if options.verb == "weight":
            try:
                weight = float(options.weight)
            except ValueError:
                weight = math.nan
            if not 0 <= weight <= 100:
                parser.error(f"a weight is a number from 0 to 100, not {options.weight!r}")
            body = {"endpoints": {options.endpoint: weight}}
            return _told(program, asyncio.run(act("PUT", url, "/load-balancer/weights", body, token)), options)
        path = f"/backends/{quote(options.endpoint)}/{options.verb}"
        return _told(program, asyncio.run(act("POST", url, path, {}, token)), options)
    except Unreachable as error:
        print(f"{program}: {error}", file=sys.stderr)
        return EX_REFUSED if error.kind == "refused" else EX_UNREACHABLE


def _told(program: str, said: tuple[int, Any], options: Any) -> int:
    """Print what the gateway answered; the exit status."""
    status, answer = said
    error = answer.get("error")
    if options.json:
        print(json.dumps(answer))
    elif isinstance(error, dict):
        hint = f"\n  {error['hint']}" if error.get("hint") else ""
        print(f"{program}: {clean(str(error.get('message')))}{hint}", file=sys.stderr)
    elif options.verb == "weight":
        print(f"{options.endpoint}: weight {answer['endpoints'][options.endpoint]:g}")
    elif options.verb == "test":
        for stage in answer["stages"]:
            print(
                f"{'ok' if stage['ok'] else 'fail':4} {stage['stage']:10} {stage['ms']:8.1f} ms  {clean(str(stage['detail']))}"
            )
    else:
        print(f"{answer['endpoint']}: {answer['state']}, {answer['in_flight']} calls in flight")
    if status in (401, 403):
        return EX_REFUSED
    return 0 if status == 200 and answer.get("ok", True) else EX_FAILED


def _table(backends: tuple[BackendStatus, ...]) -> str:
    rows = [("NAME", "PROTOCOL", "STATE", "WEIGHT", "SCORE", "IN FLIGHT", "P95", "REASON")]
    for one in backends:
        p95 = one.latency_ms.p95
        rows.append(
            (
                clean(one.endpoint),
                one.protocol,
                one.state,
                f"{one.weight:g}",
                "–" if one.health_score is None else f"{one.health_score:.2f}",
                str(one.in_flight),
                "–" if p95 is None else f"{p95:.1f} ms",
                clean(one.reason or ""),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
