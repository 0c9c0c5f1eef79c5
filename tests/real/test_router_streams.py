"""The router's stdin and stdout of every kind: files, /dev/null, pipes that close; stdout carries MCP and nothing else."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support import peers, raw

pytestmark = [pytest.mark.real, pytest.mark.timeout(60)]
GOOD = [sys.executable, str(peers.HERE / "awkward_server.py"), "good"]
LINES = [
    raw.initialize(1),
    raw.INITIALIZED,
    raw.request("two", "tools/list"),
    *(raw.request(id, "tools/call", name="echo", arguments={"payload": id}) for id in range(3, 40)),
]
END = 15.0  # seconds until a router whose input ended is gone


def conversation(folder: Path) -> Path:
    file = folder / "conversation.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in LINES))
    return file


def check_answers(output: str) -> None:
    """Every request of LINES is answered exactly once and no line is anything but MCP."""
    messages = [json.loads(line) for line in output.splitlines()]
    answers = {message["id"]: message for message in messages if "method" not in message}
    assert len([m for m in messages if "method" not in m]) == len(answers)
    assert set(answers) == {line["id"] for line in LINES if "id" in line}
    assert all("result" in answer for answer in answers.values()), answers
    assert all(answers[id]["result"]["content"][0]["text"] == str(id) for id in range(3, 40))


@pytest.mark.requirement("cli.stdin-eof")
def test_input_from_a_file_is_answered_completely_before_the_router_exits(tmp_path: Path) -> None:
    with conversation(tmp_path).open() as source:
        done = subprocess.run(
            peers.router("--", *GOOD),
            stdin=source,
            capture_output=True,
            text=True,
            timeout=END,
            env=peers.environment(),
            check=False,
        )
    assert done.returncode == 0, done.stderr
    check_answers(done.stdout)


def test_input_from_a_file_and_output_to_a_file(tmp_path: Path) -> None:
    target = tmp_path / "answers.jsonl"
    with conversation(tmp_path).open() as source, target.open("w") as sink:
        done = subprocess.run(
            peers.router("--", *GOOD),
            stdin=source,
            stdout=sink,
            stderr=subprocess.PIPE,
            text=True,
            timeout=END,
            env=peers.environment(),
            check=False,
        )
    assert done.returncode == 0, done.stderr
    check_answers(target.read_text())


def test_input_from_a_pipe_is_answered_completely_after_its_end() -> None:
    output, errors, code = peers.execute(
        peers.router("--", *GOOD), input_text="".join(json.dumps(line) + "\n" for line in LINES), timeout=END
    )
    assert code == 0, errors
    check_answers(output)


def test_input_from_dev_null_ends_the_router_with_nothing_said() -> None:
    done = subprocess.run(
        peers.router("--", *GOOD),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=END,
        env=peers.environment(),
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_a_last_line_without_a_newline_is_answered() -> None:
    output, errors, code = peers.execute(peers.router("--", *GOOD), input_text=json.dumps(raw.initialize(1)), timeout=END)
    assert code == 0, errors
    assert json.loads(output)["id"] == 1


def test_a_full_device_as_output_ends_the_router(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with conversation(tmp_path).open() as source, Path("/dev/full").open("w") as sink:
        done = subprocess.run(
            peers.router("--", *GOOD),
            stdin=source,
            stdout=sink,
            stderr=subprocess.PIPE,
            text=True,
            timeout=END,
            env=peers.environment(),
            check=False,
        )
    assert done.returncode != 70 and "Traceback" not in done.stderr, done.stderr


@pytest.mark.parametrize("how", ["closed stdout", "SIGTERM"])
def test_a_router_whose_client_goes_away_is_gone_within_five_seconds(how: str) -> None:
    server = [sys.executable, str(peers.HERE / "awkward_server.py"), "mute-call"]
    process = subprocess.Popen(
        peers.router("--", *server),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=peers.environment(),
        start_new_session=True,
    )
    assert process.stdin and process.stdout
    try:
        for line in (raw.initialize(1), raw.INITIALIZED, raw.request(2, "tools/call", name="echo", arguments={})):
            process.stdin.write(json.dumps(line).encode() + b"\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["id"] == 1
        began = time.monotonic()
        if how == "SIGTERM":
            process.send_signal(signal.SIGTERM)
        else:
            process.stdout.close()
            process.stdin.write(json.dumps(raw.request(3, "ping")).encode() + b"\n")
            process.stdin.flush()
        process.wait(timeout=8)
        assert time.monotonic() - began < 7
    finally:
        peers.kill_group(process)
        process.stdin.close()
        process.stdout.close()
