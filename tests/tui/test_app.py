from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Mapping

import pytest

from mcpbridge.admin.client import Unreachable
from mcpbridge.observe.snapshot import Snapshot
from tests.tui.pictures import make_healthy, make_outage
from tui import app


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stdin", "stderr", "environ", "expected"),
    [
        (Terminal(), Terminal(), {"TERM": "xterm"}, True),
        (io.StringIO(), Terminal(), {"TERM": "xterm"}, False),
        (Terminal(), io.StringIO(), {"TERM": "xterm"}, False),
        (Terminal(), Terminal(), {"TERM": "dumb"}, False),
        (Terminal(), Terminal(), {"TERM": ""}, False),
        (Terminal(), Terminal(), {}, False),
    ],
)
def test_a_dashboard_needs_a_terminal(stdin: io.StringIO, stderr: io.StringIO, environ: Mapping[str, str], expected: bool):
    assert app.is_terminal(stdin, stderr, environ) is expected


@pytest.mark.parametrize(("encoding", "expected"), [("utf-8", True), ("UTF8", True), ("ascii", False), ("latin-1", False)])
def test_only_utf8_gets_more_than_ascii(encoding: str, expected: bool):
    assert app.is_utf8(io.TextIOWrapper(io.BytesIO(), encoding=encoding)) is expected


@pytest.mark.parametrize(("snapshot", "code"), [(make_healthy(), 0), (make_outage(), 1)])
def test_without_a_terminal_it_prints_the_status_and_exits_with_its_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], snapshot: Snapshot, code: int
):
    async def fetch(url: str, token: str | None) -> Snapshot:
        assert (url, token) == ("http://h:1", "secret")
        return snapshot

    monkeypatch.setattr(app, "fetch", fetch)
    assert app.main("http://h:1", "secret") == code
    printed = capsys.readouterr().out
    assert "weather/0" in printed
    assert "\x1b" not in printed
    assert "secret" not in printed


def test_an_unreachable_gateway_is_two_lines_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    async def fetch(url: str, token: str | None) -> Snapshot:
        raise Unreachable("connection refused")

    monkeypatch.setattr(app, "fetch", fetch)
    assert app.main("http://h:1", None, once=True) == 2
    assert capsys.readouterr().out.splitlines()[0].endswith("http://h:1 unreachable: connection refused")


def test_the_status_as_text_does_not_load_the_terminal_library():
    code = "import sys, tui.app, mcpbridge.admin.text; sys.exit(bool({'textual', 'rich'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], timeout=20, check=False).returncode == 0
