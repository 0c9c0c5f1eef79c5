"""``mcpbridge detect URL...``: which protocol and era a server speaks, with the evidence.

Source: contract section 1.1 (``cli.detect``); reliability section 6.
"""

from __future__ import annotations

import asyncio
import json

from mcpbridge.cli.outcomes import EX_FOREIGN, EX_UNREACHABLE
from mcpbridge.cli.parsing import Parser
from mcpbridge.config.kinds import parse_duration
from mcpbridge.core.detect import Target, Verdict
from mcpbridge.detection import shown
from mcpbridge.observe.log import configure
from mcpbridge.process import run as run_loop


def run(name: str, arguments: list[str]) -> int:
    """Examine each address side by side and print what was proven; the exit status."""
    program = f"{name} detect"
    parser = Parser(
        program,
        "Find out which protocol and era a server speaks, by proof. Sends server/discover and initialize, calls no tool."
        "\nExit 0: all proven, 76: one could not be proven, 69: one could not be reached.",
        [
            (f"{program} http://localhost:8081/mcp", "one address"),
            (f"{program} localhost:8444 ws://localhost:8080 /run/server.sock", "host and port, WebSocket, a unix socket"),
            (f"{program} --json https://example.com", "one JSON document"),
        ],
    )
    parser.add_argument("url", nargs="+", metavar="URL", help="http(s)://, ws(s)://, tcp(s)://, unix://, HOST:PORT or a path")
    parser.add_argument("--timeout", default="1s", metavar="TIME", help="for all probes of one address (1s)")
    parser.add_argument("--json", action="store_true", help='one JSON document: {"results":[{"target","protocol",...}]}')
    options = parser.parse(arguments)
    try:
        budget = parse_duration(options.timeout)
        for url in options.url:
            Target.of(url)
    except ValueError as error:
        parser.error(str(error))
    if budget <= 0:
        parser.error("--timeout must be more than 0")
    configure("error", "text")
    status = 0

    async def main() -> int:
        nonlocal status
        from mcpbridge.detect.detector import Detector
        from mcpbridge.wiring import through_proxy

        async with asyncio.TaskGroup() as group:
            detector = Detector(group.create_task, budget=budget, via=through_proxy)
            found = await asyncio.gather(*(detector.find(url) for url in options.url))
            if options.json:
                print(json.dumps({"results": [shown(verdict, cached=cached) for verdict, cached in found]}), flush=True)
            else:
                print("\n".join(_line(verdict) for verdict, _ in found), flush=True)
        results = {verdict.result for verdict, _ in found}
        status = EX_FOREIGN if "unknown" in results else EX_UNREACHABLE if "unreachable" in results else 0
        return 0

    return run_loop(main) or status


def _line(verdict: Verdict) -> str:
    """One verdict for people."""
    what = f"{verdict.protocol} ({verdict.era or 'era unknown'})" if verdict.is_proven else verdict.result
    sure = f", confidence {verdict.confidence:g}" if verdict.is_proven else ""
    evidence = "".join(f"\n  {said}" for said in verdict.evidence)
    return f"{verdict.target}: {what}{sure}, {verdict.duration_ms:.0f} ms{evidence}"
