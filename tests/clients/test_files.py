"""The files of all clients on all systems: an entry goes in and out, and every other byte stays."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mcpbridge.clients import changes, shapes
from mcpbridge.clients.document import Document
from mcpbridge.clients.entry import Entry, Source
from mcpbridge.clients.faults import ClientFileError
from mcpbridge.clients.journal import journal_of
from mcpbridge.clients.table import CLIENTS, Client, Layout, Location, System

SYSTEMS: tuple[System, ...] = ("linux", "macos", "windows")
NEW = Entry("mcpbridge", "stdio", command="/opt/bin/mcpbridge", args=("router",))
JSON = '{\r\n  "first": [1, 2.50, "ä"],\r\n  "%s": {\r\n    "old": {"command": "uvx"}\r\n  },\r\n  "last": -0.0\r\n}'
JSONC = '\ufeff// mine\n{\n\t"first": 1, /* why */\n\t"%s": {\n\t\t"old": {"command": "uvx"}, // stays\n\t},\n}\n'
TOML = '# mine\nmodel = "x"   # why\n\n[%s.old]\ncommand = "uvx"\n\n[other]\na = 0x10\n'
BIN = str(Path(sys.executable).parent)
FORMS = {"json": JSON, "jsonc": JSONC, "toml": TOML}


def place(tmp_path: Path, system: System, client: Client) -> tuple[Layout, Location]:
    layout = Layout(system, str(tmp_path / "home"), {}, str(tmp_path / "project"))
    location = client.location(layout, "user")
    assert location is not None
    return layout, location


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("key", CLIENTS)
def test_an_entry_is_all_that_changes_and_undo_gives_the_same_file_back(key: str, system: System, tmp_path: Path) -> None:
    client = CLIENTS[key]
    layout, location = place(tmp_path, system, client)
    path = Path(location.path())
    assert path.is_relative_to(tmp_path / "home")
    path.parent.mkdir(parents=True)
    before = (FORMS[client.format] % location.servers[-1]).encode()
    path.write_bytes(before)
    change = changes.plan_add(client, location, [NEW], replace=False)
    changes.make([change], journal_of(layout))
    after = path.read_bytes()
    rest = iter(after)
    assert all(byte in rest for byte in before), "nothing of the old file is gone or moved"
    found = changes.look(client, location)
    assert found.fault is None
    assert found.entries["mcpbridge"].says_the_same(NEW)
    assert found.entries["old"].command == "uvx"
    assert changes.plan_add(client, location, [NEW], replace=False).is_needed is False
    changes.undo(journal_of(layout), [], force=False, dry_run=False)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir() if "mcpbridge-" in file.name] == [], "no backup is left"


@pytest.mark.parametrize("key", CLIENTS)
def test_a_client_without_a_file_gets_one_and_undo_takes_it_and_its_directories_away(key: str, tmp_path: Path) -> None:
    layout, location = place(tmp_path, "linux", CLIENTS[key])
    (tmp_path / "home").mkdir()
    changes.make([changes.plan_add(CLIENTS[key], location, [NEW], replace=False)], journal_of(layout))
    assert changes.look(CLIENTS[key], location).entries["mcpbridge"].says_the_same(NEW)
    changes.undo(journal_of(layout), [], force=False, dry_run=False)
    assert not os.path.exists(location.path())


@pytest.mark.parametrize("key", CLIENTS)
def test_a_file_that_does_not_parse_is_named_with_its_place_and_left_alone(key: str, tmp_path: Path) -> None:
    _, location = place(tmp_path, "linux", CLIENTS[key])
    path = Path(location.path())
    path.parent.mkdir(parents=True)
    path.write_bytes(b'x = "open\n' if CLIENTS[key].format == "toml" else b'{\n  "a": tru\n}')
    with pytest.raises(ClientFileError) as caught:
        changes.plan_add(CLIENTS[key], location, [NEW], replace=False)
    problem = caught.value.problems[0]
    assert caught.value.exit_code == 65
    assert (problem.place.source, problem.place.line > 0, problem.place.column > 0) == (str(path), True, True)


def test_another_server_of_the_name_is_replaced_only_when_told(tmp_path: Path) -> None:
    client = CLIENTS["cursor"]
    _, location = place(tmp_path, "linux", client)
    path = Path(location.path())
    path.parent.mkdir(parents=True)
    path.write_text('{"mcpServers": {"mcpbridge": {"command": "other", "mine": 1}}}')
    with pytest.raises(ClientFileError) as caught:
        changes.plan_add(client, location, [NEW], replace=False)
    assert caught.value.exit_code == 73
    assert b'"mine": 1' in changes.plan_add(client, location, [NEW], replace=True).after


def test_undo_refuses_what_somebody_else_changed_since(tmp_path: Path) -> None:
    client = CLIENTS["zed"]
    layout, location = place(tmp_path, "linux", client)
    changes.make([changes.plan_add(client, location, [NEW], replace=False)], journal_of(layout))
    path = Path(location.path())
    path.write_text(path.read_text() + "// more\n")
    with pytest.raises(ClientFileError, match="changed by somebody else"):
        changes.undo(journal_of(layout), [], force=False, dry_run=False)
    assert path.read_text().endswith("// more\n")


def run(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mcpbridge", "clients", *arguments],
        env={"HOME": str(home), "USERPROFILE": str(home), "PATH": os.pathsep.join((BIN, os.environ["PATH"]))},
        cwd=Path(__file__).parent, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip


@pytest.mark.requirement("cli.clients")
def test_the_command_adds_lists_imports_removes_and_undoes(tmp_path: Path) -> None:
    file = tmp_path / ".cursor" / "mcp.json"
    diff = run(tmp_path, "diff", "cursor", "--name", "time", "--", "uvx", "mcp-server-time")
    assert (diff.returncode, "+" in diff.stdout, file.exists()) == (0, True, False)
    added = run(tmp_path, "add", "cursor", "--name", "time", "--", "uvx", "mcp-server-time")
    assert added.returncode == 0, added.stderr
    assert "next: Cursor reads the file again" in added.stdout
    assert json.loads(file.read_text()) == {"mcpServers": {"time": {"command": "uvx", "args": ["mcp-server-time"]}}}
    listed = json.loads(run(tmp_path, "list", "--json").stdout)
    assert [(one["client"], list(one["servers"])) for one in listed["files"] if one["servers"]] == [("cursor", ["time"])]
    imported = json.loads(run(tmp_path, "import", "cursor").stdout)
    assert imported["mcpServers"]["time"]["command"] == "uvx"
    assert run(tmp_path, "remove", "cursor", "--name", "time").returncode == 0
    assert json.loads(file.read_text()) == {"mcpServers": {}}
    assert run(tmp_path, "undo").returncode == 0
    assert "mcp-server-time" in file.read_text()


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["add"], 64, "add needs a client"),
        (["add", "curser"], 64, "did you mean cursor?"),
        (["add", "cursor", "--url", "ws://x"], 64, "must be http://"),
        (["add", "windsurf", "--scope", "project"], 64, "no file of scope project"),
        (["list", "--replace"], 64, "belongs to add and diff"),
        (["import", "--url", "http://x"], 64, "belong to add, diff and export"),
        (["add", "claude-desktop", "--url", "http://x/mcp"], 65, "mcpbridge router http://x/mcp"),
    ],
)
def test_misuse_is_told_with_the_next_step(arguments: list[str], status: int, said: str, tmp_path: Path) -> None:
    done = run(tmp_path, *arguments)
    assert (done.returncode, said in done.stderr) == (status, True), done.stderr


def test_a_broken_file_is_told_in_json_too(tmp_path: Path) -> None:
    (tmp_path / ".cursor").mkdir()
    (tmp_path / ".cursor" / "mcp.json").write_text('{\n  "a": tru\n}')
    done = run(tmp_path, "add", "cursor", "--json")
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["ok"], answer["error"]["line"]) == (65, False, 2)


@pytest.mark.parametrize("key", CLIENTS)
def test_what_is_exported_is_read_again_as_the_same_server(key: str, tmp_path: Path) -> None:
    client = CLIENTS[key]
    _, location = place(tmp_path, "linux", client)
    text = changes.exported(client, location, [NEW])
    ((name, plain),) = Document(text.encode(), client.format, location.servers, "x").entries().items()
    assert shapes.read(client, name, plain, Source(key, "user", "x")).says_the_same(NEW)
