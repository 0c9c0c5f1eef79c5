"""What the real shells offer after the name of the program, and where the files for them go."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from mcpbridge.cli import COMMANDS, EVERYWHERE, main
from mcpbridge.cli.completions import PROGRAMS, SHELLS, files, script

LINES = [
    ("mcpbridge clie", {"clients"}),
    ("mcpbridge --ver", {"--version"}),
    ("mcpbridge clients imp", {"import"}),
    ("mcpbridge clients --dry", {"--dry-run"}),
    ("mcpbridge token --exp", {"--expiry"}),
    ("mcpbridge help err", {"errors"}),
    ("mcp-router --direct", {"--direct-mode"}),
    ("mcp-router stat", {"status"}),
    ("mcp-gateway --che", {"--check"}),
    ("mcp-gateway completions pow", {"powershell"}),
    ("mcpbridge nonsense --x", set()),
]


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("completions")
    paths = {shell: folder / shell for shell in SHELLS}
    for shell, path in paths.items():
        path.write_text(script(shell))
    return paths


def shell(name: str, *arguments: str) -> str:
    program = shutil.which(name)
    if program is None:
        pytest.skip(f"{name} is not installed")
    done = subprocess.run(
        [program, *arguments], capture_output=True, text=True, timeout=20, env={"PATH": os.environ["PATH"], "HOME": "/"}
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


@pytest.mark.requirement("cli.completions")
@pytest.mark.parametrize(("line", "found"), LINES)
def test_bash_offers_the_words_that_may_follow(scripts: dict[str, Path], line: str, found: set[str]) -> None:
    words = line.split()
    state = f"COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}"
    command = f'source {scripts["bash"]}; {state}; _mcpbridge; printf "%s\\n" "${{COMPREPLY[@]}}"'
    assert set(shell("bash", "--norc", "-c", command).split()) == found


@pytest.mark.requirement("cli.completions")
@pytest.mark.parametrize(("line", "found"), [one for one in LINES if "--ver" not in one[0]])
def test_fish_offers_the_words_that_may_follow(scripts: dict[str, Path], line: str, found: set[str]) -> None:
    told = shell("fish", "--no-config", "-c", f'source {scripts["fish"]}; complete -C "{line}"')
    assert {one.split("\t")[0] for one in told.splitlines()} == found


@pytest.mark.requirement("cli.completions")
def test_zsh_completes_the_word_that_may_follow(scripts: dict[str, Path]) -> None:
    if (zsh := shutil.which("zsh")) is None:
        pytest.skip("zsh is not installed")
    process, terminal = pty.fork()
    if process == 0:
        os.chdir("/")
        os.execve(zsh, [zsh, "-f", "-i"], {"PATH": os.environ["PATH"], "HOME": "/", "TERM": "dumb", "PS1": "> "})
    try:
        setup = f"autoload -U compinit; compinit -u -D; source {scripts['zsh']}; "
        setup += "".join(f'{program}() {{ print -r -- "[$*]"; }}; ' for program in PROGRAMS)
        os.write(terminal, f"{setup} print rea''dy\n".encode())
        said(terminal, "ready")
        for line, found in LINES:
            if not found or "--ver" in line:
                continue
            (word,) = found
            os.write(terminal, f"{line}\t".encode())
            said(terminal, word)  # the line editor shows what it completed
            os.write(terminal, b"\n")
            assert f"[{' '.join([*line.split()[1:-1], word])}]" in said(terminal, "]\r")
    finally:
        os.kill(process, 9)
        os.waitpid(process, 0)
        os.close(terminal)


def said(terminal: int, until: str) -> str:
    """What a terminal shows up to these words."""
    text, ends = "", time.monotonic() + 60
    while until not in text:
        ready, _, _ = select.select([terminal], [], [], max(0.0, ends - time.monotonic()))
        assert ready, f"{until!r} did not come: {text!r}"
        text += os.read(terminal, 4096).decode(errors="replace").replace("\a", "")
    return text


def test_powershell_is_told_every_command_and_option() -> None:
    text = script("powershell")
    for command in COMMANDS:
        assert re.search(rf"^    '{command}' = @\('", text, re.MULTILINE)
    assert text.count("{") == text.count("}") and "'--direct-mode'" in text


def test_every_command_is_in_every_script() -> None:
    for name in ("bash", "zsh", "fish"):
        assert all(re.search(rf"\b{command}\b", script(name)) for command in (*COMMANDS, *EVERYWHERE, *PROGRAMS))


@pytest.mark.requirement("cli.install.completions")
@pytest.mark.parametrize(
    ("name", "paths"),
    [
        ("bash", [f".local/share/bash-completion/completions/{program}" for program in PROGRAMS]),
        ("zsh", [".zfunc/_mcpbridge"]),
        ("fish", [f".config/fish/completions/{program}.fish" for program in PROGRAMS]),
    ],
)
def test_installing_writes_where_the_shell_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, paths: list[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SHELL", f"/usr/bin/{name}")
    for variable in ("XDG_DATA_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(variable, raising=False)
    for _ in range(2):  # a second time changes nothing
        assert main(["mcpbridge", "completions", "install", "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert told == {
            "schema": "mcpbridge.completions/v1",
            "shell": name,
            "written": [str(tmp_path / path) for path in paths],
        }
    assert all((tmp_path / path).read_text() == script(name) for path in paths)
    assert files(name, {"HOME": "/h", "XDG_DATA_HOME": "/d", "XDG_CONFIG_HOME": "/c"}).keys()


def test_a_shell_that_nobody_knows_is_a_usage_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SHELL", "/bin/tcsh")
    assert main(["mcpbridge", "completions", "install"]) == 64
    assert "tcsh" in (told := capsys.readouterr().err) and "--shell" in told
    assert main(["mcpbridge", "completions", "tcsh"]) == 64
