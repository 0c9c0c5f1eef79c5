"""argv to commands: names, versions, misuse, exit statuses, and what is not imported on the way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from mcpbridge import __version__
from mcpbridge.cli import COMMANDS, called_name, main

HEAVY = ("textual", "rich", "redis", "prometheus_client", "keyring", "aiohttp", "yaml", "argparse", "asyncio", "msgspec")
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def run_program(
        *arguments: str, called: str = "mcpbridge", stdin: str = "", **env: str
    ) -> subprocess.CompletedProcess[str]:
        clean = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "MCPBRIDGE_ARGV0": called, **env}
        command = [sys.executable, "-m", "mcpbridge", *arguments]
        return subprocess.run(
            command,
            env=clean | {"PYTHONPATH": os.getcwd()},
            cwd=tmp_path,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=20,
        )

    return run_program


@pytest.mark.requirement("cli.argv0")
@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/usr/local/bin/mcp-router", "mcp-router"),
        ("C:\\Tools\\MCP-Router.exe", "mcp-router"),
        ("./mcp-gateway.pyz", "mcp-gateway"),
        ("dist/mcpbridge", "mcpbridge"),
        ("/x/mcpbridge/__main__.py", "mcpbridge"),
        ("something-else", "mcpbridge"),
        ("", "mcpbridge"),
    ],
)
def test_the_base_name_of_the_program_decides_what_it_is(path: str, name: str) -> None:
    assert called_name(path) == name


def test_a_launcher_can_name_the_program_and_children_do_not_inherit_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MCPBRIDGE_ARGV0", "mcp-gateway")
    assert called_name("/opt/mcpbridge.pyz") == "mcp-gateway"
    assert "MCPBRIDGE_ARGV0" not in os.environ


@pytest.mark.requirement("cli.argv0")
def test_router_and_gateway_by_name_are_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    for name, word in (("mcp-router", "router"), ("mcp-gateway", "gateway")):
        with_name = (main([name, "--help"]), capsys.readouterr().out)
        with_word = (main(["mcpbridge", word, "--help"]), capsys.readouterr().out)
        assert with_name[0] == with_word[0] == 0
        assert with_name[1].replace(name, f"mcpbridge {word}").split() == with_word[1].split()


@pytest.mark.parametrize("name", ["mcp-router", "mcp-gateway", "mcpbridge"])
def test_shared_commands_are_reachable_from_every_name(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("token", "status", "config", "version"):
        assert main([name, command, "--help"]) == 0
        assert capsys.readouterr().out.startswith(f"usage: {name} {command}")


@pytest.mark.requirement("cli.router.version")
@pytest.mark.parametrize("name", ["mcp-router", "mcp-gateway", "mcpbridge"])
def test_the_version_has_the_called_name(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--version"]) == 0
    assert capsys.readouterr().out == f"{name} {__version__}\n"
    assert main([name, "version"]) == 0
    assert capsys.readouterr().out == f"{name} {__version__}\n"


@pytest.mark.requirement("cli.router.version")
def test_the_version_as_json_is_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mcp-router", "version", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document.keys() == {"schema", "version", "python", "platform", "build"}
    assert (document["schema"], document["version"]) == ("mcpbridge.version/v1", __version__)


@pytest.mark.parametrize(("file", "build"), [("mcpbridge", "zipapp"), ("a.pyz", "zipapp"), ("mcpbridge.exe", "package")])
def test_the_version_knows_the_one_file_whatever_its_name(
    file: str, build: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with zipfile.ZipFile(tmp_path / file, "w") as archive:
        archive.writestr("__main__.py", "")
    monkeypatch.setattr(sys, "argv", [str(tmp_path / file)])
    assert main(["mcpbridge", "version", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["build"] == build


@pytest.mark.parametrize(
    ("program", "heavy"),
    [
        ("import mcpbridge.cli", HEAVY),
        ("from mcpbridge.cli import main; main(['mcpbridge', 'router', '--version'])", HEAVY),
        ("from mcpbridge.cli import main; main(['mcp-router', '--version'])", HEAVY),
        (
            "import mcpbridge.cli.router; import mcpbridge.config.load as m; m.load_router(None, {'HOME': '/nowhere'})",
            tuple(library for library in HEAVY if library != "msgspec"),
        ),
    ],
    ids=["import", "router --version", "mcp-router --version", "router configuration without a file"],
)
def test_the_fast_door_imports_nothing_heavy(program: str, heavy: tuple[str, ...]) -> None:
    check = f"import sys; {program}; print([name for name in {heavy!r} if name in sys.modules], file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stderr.strip()) == (0, "[]")


@pytest.mark.requirement("cli.router.version")
def test_the_version_opens_no_file_beyond_the_code() -> None:
    check = (
        "import sys, os; opened = []\n"
        "import mcpbridge.cli\n"
        "watched = ('open', 'socket.connect', 'subprocess.Popen')\n"
        "sys.addaudithook(lambda event, args: event in watched and opened.append(str(args[0])))\n"
        "mcpbridge.cli.main(['mcp-router', '--version'])\n"
        "print([name for name in opened if not name.endswith(('.py', '.pyc'))], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, timeout=20)
    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["rooter"], "unknown command rooter; did you mean router?"),
        (["xyzzy"], "unknown command xyzzy\n"),
        (["--confg"], "unknown option --confg"),
        (["router", "--confg", "x"], "unknown argument --confg; did you mean --config?"),
        (["router", "--log-level", "loud"], "'trace', 'debug', 'info', 'warn'"),
        (["router", "npx", "-y"], "unknown argument -y"),
        (["router", "npx"], "mcpbridge router -- npx ..."),
        (["router", "ftp://x/"], "begins with unix://"),
        (["router", "http://x/", "--", "y"], "either an address or a command"),
        (["router", "--"], "a command is needed"),
        (["router", "--server", "a=x", "--", "y"], "--server names one of several"),
        (["router", "--server", "nonsense"], "NAME=URL"),
        (["gateway", "--server", "a=x", "--server", "a=y"], "two servers are named 'a'"),
        (["gateway", "--log-level", "7"], "'error'"),
        (["gateway", "stray"], "unknown argument stray"),
        (["token"], "action"),
        (["token", "mint"], "action"),
        (["token", "issue"], "--user"),
        (["config", "explain"], "validate"),
        (["tui", "--interval", "soon"], "a duration"),
        (["tui", "--interval", "1ms"], "between 250ms and 60s"),
        (["status", "--token-env", "NOT_THERE"], "NOT_THERE is not set"),
        (["help", "xyzzy"], "unknown command xyzzy"),
    ],
)
def test_misuse_is_64_with_the_next_step(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mcpbridge", *arguments]) == 64
    seen = capsys.readouterr()
    assert seen.out == ""
    assert words in seen.err and "--help" in seen.err


@pytest.mark.requirement("cli.router.log-level")
def test_every_level_is_accepted_by_the_parser_and_reaches_the_flags() -> None:
    from mcpbridge.cli.router import _flags

    for level in ("trace", "debug", "info", "warn", "warning", "error"):
        assert _flags("mcp-router", ["--log-level", level])[1].values == {"logging.level": level}


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "help"])
def test_every_help_has_examples_first_and_fits_a_screen(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mcpbridge", command, "--help"]) == 0
    text = capsys.readouterr().out
    assert len(text.splitlines()) < 60
    assert "examples:" in text and text.index("examples:") < text.index("options:")
    assert f"mcpbridge {command}" in text[text.index("examples:") :]


def test_the_overview_lists_every_command_on_stdout_when_asked_for_and_on_stderr_when_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for arguments in (["--help"], ["-h"], ["help"]):
        assert main(["mcpbridge", *arguments]) == 0
        out = capsys.readouterr().out
        assert all(f"  {command} " in out for command in COMMANDS)
    assert main(["mcpbridge"]) == 64
    seen = capsys.readouterr()
    assert seen.out == "" and all(f"  {command} " in seen.err for command in COMMANDS)


# -- whole processes


@pytest.mark.requirement("cli.router.config")
def test_exit_statuses_of_configuration_faults(run: Run, tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("gateway:\n  ulr: http://x/\nlogging: {level: loud}\n")
    for command in (("router",), ("gateway",), ("gateway", "--check")):
        assert run(*command, "--config", "none.yaml").returncode == 66
        assert run(*command, "--config", str(bad)).returncode == 78
    done = run("--config", "bad.yaml", called="mcp-router")
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert (done.returncode, done.stdout) == (78, "")
    assert [line["message"] for line in lines] == [
        "bad.yaml:2:3: gateway.ulr: unknown key (did you mean url?)",
        "bad.yaml:3:18: logging.level: must be trace, debug, info, warn or error, not 'loud'",
    ]
    assert {line["protocol"] for line in lines} == {"none"}


def test_a_gateway_without_sign_in_beyond_loopback_is_78(run: Run, tmp_path: Path) -> None:
    (tmp_path / "open.yaml").write_text("server: {host: 0.0.0.0}\nauth: {type: none}\n")
    done = run("gateway", "--config", "open.yaml", "--check")
    assert done.returncode == 78 and "open.yaml:1:10: server.host" in done.stderr
    assert run("gateway", "--check", MCPBRIDGE_SERVER__HOST="0.0.0.0").returncode == 78


def test_check_says_ok_and_starts_nothing(run: Run, tmp_path: Path) -> None:
    done = run("gateway", "--check", "--server", "a=false")
    assert (done.returncode, done.stdout) == (0, "embedded default: ok\n")
    (tmp_path / "config").mkdir()
    (tmp_path / "config/gateway.yaml").write_text("{}\n")
    done = run("--check", called="mcp-gateway")
    assert done.returncode == 78 and "nobody could sign in" in done.stderr and "server.tls.cert_file" in done.stderr


@pytest.mark.requirement("cli.router.stderr-json")
def test_every_line_of_a_router_on_stderr_is_json_with_protocol_and_message(run: Run) -> None:
    request = '{"jsonrpc":"2.0","id":1,"method":"ping"}\nnot json\n'
    done = run("--log-level", "debug", called="mcp-router", stdin=request)
    assert done.returncode == 0
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert lines and all(line["protocol"] and line["message"] for line in lines)
    assert [json.loads(line).get("id") for line in done.stdout.splitlines()].count(1) == 1


def test_a_token_that_is_configured_but_missing_is_78_with_the_next_step(run: Run, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("gateway: {url: 'http://127.0.0.1:9/', auth: {token_env: MY_TOKEN}}\n")
    done = run("router", "--config", "r.yaml")
    assert done.returncode == 78
    assert "variable MY_TOKEN: is not set or empty" in json.loads(done.stderr.splitlines()[-1])["message"]


def test_a_reader_that_is_gone_is_74_without_a_traceback(tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "wb") as stdout:
        command = [sys.executable, "-m", "mcpbridge", "config", "schema"]
        done = subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, env={"HOME": str(tmp_path)}, timeout=20)
    assert (done.returncode, done.stderr) == (74, b"")


def test_a_bug_is_70_with_its_traceback_in_one_json_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(name: str, arguments: list[str]) -> int:
        raise RuntimeError("boom")

    monkeypatch.setattr("mcpbridge.cli.version.run", broken)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr("mcpbridge.observe.log._catch_others", lambda level: None)
    assert main(["mcpbridge", "version"]) == 70
    record = json.loads(capfd.readouterr().err)
    assert "bug" in record["message"] and "RuntimeError: boom" in record["traceback"]


def test_an_interrupt_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(name: str, arguments: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("mcpbridge.cli.version.run", interrupted)
    assert main(["mcpbridge", "version"]) == 130
