"""The Autobahn suite itself against both halves, where it is installed (tests/support/autobahn.py): cases 1-7 and 10.

What may fail, with the reason, is the list below; the newest run is in tests/results/autobahn.json, written
where ``BRIDGE_AUTOBAHN_RESULTS`` says.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from websockets.uri import parse_uri

from mcpbridge.transports.proxy import Route
from mcpbridge.transports.websocket import dial
from tests.support import autobahn
from tests.support.peers import free_port
from tests.transports.websocket.conftest import Open, Talk

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(240),
    pytest.mark.skipif(not autobahn.is_ready(), reason="Autobahn is not installed: python tests/support/autobahn.py"),
]
#: case -> why it fails
KNOWN = {
    **{f"1.2.{n}": "binary messages are refused with 1003, as MCP is text (contract http.gateway.ws)" for n in range(1, 9)},
    "7.1.5": "a goodbye inside an unfinished message is answered with 1002 instead of its own code (RFC 6455 section 5.4)",
}
AGENT = "mcpbridge"
LIMIT = 1 << 25
RESULTS = Path(os.environ["BRIDGE_AUTOBAHN_RESULTS"]) if "BRIDGE_AUTOBAHN_RESULTS" in os.environ else None


def judged(report: Path, side: str) -> Counter[str]:
    """Count the verdicts; what fails must be known, and what is known must fail."""
    rows = json.loads((report / "index.json").read_text())[AGENT]
    failed = {
        case for case, row in rows.items() if {row["behavior"], row["behaviorClose"]} & {"FAILED", "WRONG CODE", "UNCLEAN"}
    }
    assert failed == set(KNOWN), f"{side}: {sorted(failed ^ set(KNOWN))}"
    assert len(rows) == 247
    verdicts = Counter(row["behavior"] for row in rows.values())
    if RESULTS:
        others = {case: row["behavior"] for case, row in rows.items() if row["behavior"] != "OK"}
        kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"suite": autobahn.SUITE[1], "known": KNOWN}
        RESULTS.write_text(json.dumps(kept | {side: {"verdicts": verdicts, "not OK": others}}, indent=1) + "\n")
    return verdicts


async def ended(process: Any) -> None:
    try:
        async with asyncio.timeout(200):
            while process.poll() is None:
                await asyncio.sleep(0.1)
    finally:
        process.kill()
        process.wait()


async def test_its_fuzzing_client_finds_only_what_is_known_at_our_listener(hall: Open, tmp_path: Path):
    it = await hall(max_message=LIMIT, server={"max_connections_per_ip": 1000})
    servers = [{"agent": AGENT, "url": f"ws://127.0.0.1:{it.port}"}]
    options = {"outdir": str(tmp_path / "report"), "servers": servers, "cases": autobahn.CASES}
    await ended(autobahn.wstest("fuzzingclient", options | {"exclude-cases": [], "exclude-agent-cases": {}}, tmp_path))
    assert judged(tmp_path / "report", "listener")["OK"] >= 220


async def test_its_fuzzing_server_finds_only_what_is_known_at_our_dialler(tmp_path: Path):
    port = free_port()
    options = {"outdir": str(tmp_path / "report"), "url": f"ws://127.0.0.1:{port}", "webport": 0, "cases": autobahn.CASES}
    process = autobahn.wstest("fuzzingserver", options | {"exclude-cases": [], "exclude-agent-cases": {}}, tmp_path)
    try:
        count = int((await run_case(port, "/getCaseCount"))[0])
        for number in range(1, count + 1):
            await run_case(port, f"/runCase?case={number}&agent={AGENT}")
        await run_case(port, f"/updateReports?agent={AGENT}")
        async with asyncio.timeout(10):
            while not (tmp_path / "report" / "index.json").exists():
                await asyncio.sleep(0.1)
        assert judged(tmp_path / "report", "dialler")["OK"] >= 220
    finally:
        process.kill()
        process.wait()


async def run_case(port: int, path: str) -> list[bytes]:
    """One connection to the fuzzing server, echoing; tried again until it listens."""
    uri = parse_uri(f"ws://127.0.0.1:{port}{path}")
    talk = Talk()
    async with asyncio.timeout(30):
        while True:
            try:
                connection = await dial.connect(uri, Route(uri.host, uri.port), None, {}, LIMIT, False)
                break
            except ConnectionRefusedError:
                await asyncio.sleep(0.1)
        talk.begin(connection)
        await talk.over.wait()
        await connection.close()
    return talk.messages
