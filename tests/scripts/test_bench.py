"""The benchmark's own parts: echo servers answer correctly, the load generator notices wrong answers, the guard judges."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[2] / "scripts" / "bench"
META = '"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}'

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads the scheduler's accounts of Linux")


def run(script: str, *arguments: str, feed: str = "", timeout: float = 60) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCH / script), *arguments]
    return subprocess.run(command, input=feed, capture_output=True, text=True, timeout=timeout, check=False)


def ask(*messages: str) -> list[dict[str, object]]:
    done = run("echo_stdio.py", feed="".join(message + "\n" for message in messages))
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_the_echo_server_speaks_the_legacy_dialect():
    opened, listed, called = ask(
        '{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-03-26","capabilities":{}}}',
        '{"jsonrpc":"2.0","method":"notifications/initialized"}',
        '{"jsonrpc":"2.0","id":"a","method":"tools/list"}',
        '{"jsonrpc":"2.0","id":9007199254740993,"method":"tools/call","params":{"name":"echo","arguments":{"text":"h\\u00e9"}}}',
    )
    assert opened["result"]["protocolVersion"] == "2025-03-26"  # type: ignore[index]
    assert (listed["id"], listed["result"]["tools"][0]["name"]) == ("a", "echo")  # type: ignore[index]
    assert called["id"] == 9007199254740993
    assert called["result"] == {"content": [{"type": "text", "text": "hé"}]}


def test_the_echo_server_speaks_the_modern_dialect():
    discovered, called, unknown = ask(
        '{"jsonrpc":"2.0","id":1,"method":"server/discover","params":{' + META + "}}",
        '{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"echo","arguments":{"text":"x"},' + META + "}}",
        '{"jsonrpc":"2.0","id":3,"method":"initialize","params":{' + META + "}}",
    )
    assert discovered["result"]["supportedVersions"] == ["2026-07-28"]  # type: ignore[index]
    assert called["result"]["resultType"] == "complete"  # type: ignore[index]
    assert unknown["error"]["code"] == -32601  # type: ignore[index]


def test_noise_on_its_stdin_does_not_end_the_echo_server():
    assert [answer.get("id") for answer in ask("not json", "", '{"jsonrpc":"2.0","id":5,"method":"ping"}')] == [None, 5]


def test_the_load_generator_counts_right_answers():
    done = run("load.py", "stdio", "--clients", "3", "--seconds", "0.1", "--warm-up", "0.05", "--",
               sys.executable, str(BENCH / "echo_stdio.py"), feed="go\n")  # fmt: skip
    ready, result = done.stdout.splitlines()
    found = json.loads(result)
    assert (done.returncode, ready, found["errors"]) == (0, "ready", 0), done.stderr
    assert found["calls"] > 10
    assert 0 < found["p50_us"] <= found["p99_us"]


def test_the_load_generator_notices_wrong_answers(tmp_path: Path):
    liar = tmp_path / "liar.py"
    liar.write_text(
        "import sys, json\n"
        "for line in sys.stdin:\n"
        "    m = json.loads(line)\n"
        "    if 'id' in m:\n"
        "        text = json.dumps({'jsonrpc': '2.0', 'id': m['id'], 'result': {'content': []}}, separators=(',', ':'))\n"
        "        print(text, flush=True)\n"
    )
    done = run("load.py", "stdio", "--seconds", "0.1", "--warm-up", "0.05", "--", sys.executable, str(liar), feed="go\n")
    found = json.loads(done.stdout.splitlines()[1])
    assert done.returncode == 1
    assert (found["calls"], found["errors"] > 0, '"content":[]' in found["first_error"]) == (0, True, True)


@pytest.mark.parametrize(("limit", "code", "word"), [("1000", 0, "ok"), ("0.01", 1, "TOO SLOW")])
def test_the_guard_judges_the_ratio(limit: str, code: int, word: str):
    started = time.monotonic()
    done = run("guard.py", "--rounds", "1", "--seconds", "0.3", "--limit", limit)
    assert done.returncode == code, done.stdout + done.stderr
    assert done.stdout.count(word) == 2, f"{done.stdout} after {time.monotonic() - started:.0f} s"


@pytest.mark.parametrize("recorded", [False, True], ids=["by itself", "in the record of a full run"])
def test_the_readmes_table_comes_from_what_was_measured(recorded: bool, tmp_path: Path):
    def row(program: str, rate: int) -> dict[str, object]:
        sample = {"calls_per_second": rate, "p50_us": 1500, "p99_us": None, "cpu_us": 63.4, "rss_mb": 55.2}
        named = {"program": program, "version": "1", "hop": "http-stdio", "dialect": "legacy", "clients": 16}
        return {**named, "samples": [sample, {**sample, "calls_per_second": rate + 20}, sample]}

    machine = {"cpu": "x", "cores": 2, "python": "3.11", "load_average": [0]}
    rows = [row("mcpbridge", 12000), row("slow", 1000), row("fast", 2000)]
    hop = {"machine": machine, "rounds": 3, "seconds": 1, "rows": rows}
    path = tmp_path / "measured.json"
    path.write_text(json.dumps({"stages": [{"numbers": {}}, {"numbers": {"hop": hop}}]} if recorded else hop))
    done = run("hop.py", "--table", str(path))
    assert "| HTTP → stdio | mcpbridge 1 | 12,000 | 1.5 | – | 63 | 55 |" in done.stdout.splitlines()
    assert done.stdout.splitlines()[-1] == "HTTP → stdio: 6.0 times the fastest peer (fast)."


def test_a_file_without_measurements_is_said_so(tmp_path: Path):
    path = tmp_path / "other.json"
    path.write_text("{}")
    done = run("hop.py", "--table", str(path))
    assert done.returncode != 0 and "holds no measurements" in done.stderr
