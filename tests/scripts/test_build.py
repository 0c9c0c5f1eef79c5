"""The one-file build: the same bytes from any directory, and it runs where nothing else is installed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.counts import tier

ROOT = Path(__file__).resolve().parents[2]
PARTS = (
    "pyproject.toml",
    "requirements.lock",
    "requirements-dev.lock",
    "README.md",
    "LICENSE",
    "mcpbridge",
    "tui",
    "scripts",
    "packaging",
)
VERSION = f"{sys.version_info[0]}.{sys.version_info[1]}"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def build(folder: Path, versions: str = VERSION, sources: Path = ROOT) -> Path:
    """Copy what the build reads to ``folder`` and build there."""
    for part in PARTS:
        source, target = sources / part, folder / part
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
    environment = {**os.environ, "MCPBRIDGE_BUILD_PYTHON": sys.executable, "MCPBRIDGE_BUILD_PYTHONS": versions}
    environment["SOURCE_DATE_EPOCH"] = "1767225600"
    done = subprocess.run(["bash", "scripts/build.sh"], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "dist" / "mcpbridge"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("first"))


def alone(built: Path, cache: Path, arguments: Sequence[str], **more) -> subprocess.CompletedProcess[bytes]:
    """Run the file with an isolated interpreter and an empty environment."""
    base = Path(sys.base_prefix) / "bin" / f"python{VERSION}"
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(cache), "LANG": "C.UTF-8"}
    return subprocess.run([base, "-I", built, *arguments], cwd=cache, env=environment, capture_output=True, timeout=60, **more)


def test_two_builds_in_different_directories_are_the_same_bytes(built, tmp_path):
    again = build(tmp_path / "another" / "place with a space", sources=built.parents[1])
    assert again.read_bytes() == built.read_bytes()


def test_one_python_fits_in_25_megabytes(built):
    assert built.stat().st_size < 25_000_000


@pytest.mark.skipif(tier() != "t2", reason="three quarters of a minute; the full run builds for all of them")
def test_all_supported_pythons_fit_in_40_megabytes(tmp_path):
    assert build(tmp_path / "all", "3.11 3.12 3.13 3.14").stat().st_size < 40_000_000


def test_it_answers_with_nothing_else_installed(built, tmp_path):
    done = alone(built, tmp_path, ["version", "--json"])
    assert done.returncode == 0, done.stderr.decode()
    document = json.loads(done.stdout)
    assert (document["schema"], document["build"]) == ("mcpbridge.version/v1", "zipapp")


@pytest.mark.requirement("cli.argv0")
def test_its_name_chooses_the_program(built, tmp_path):
    for name, said in (("mcp-router", b"mcp-router "), ("mcp-gateway", b"mcp-gateway "), ("anything", b"mcpbridge ")):
        link = tmp_path / name
        shutil.copy(built, link)
        assert alone(link, tmp_path, ["--version"]).stdout.startswith(said)


def test_the_router_in_the_file_carries_a_call_to_a_server_in_the_file(built, tmp_path):
    """Router, child process, guard and server all run from the one file."""
    assert alone(built, tmp_path, ["--version"]).returncode == 0
    packages = next((tmp_path / ".cache/mcpbridge/zipapp").glob("*/site-packages"))
    program = "import sys; sys.path.insert(0, sys.argv.pop(1)); from mcpbridge.demo.stdio import main; main()"
    server = [str(Path(sys.base_prefix) / "bin" / f"python{VERSION}"), "-I", "-c", program, str(packages)]
    asked = [
        {"id": 1, "method": "initialize", "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {}}},
        {"id": 2, "method": "tools/call", "params": {"name": "echo", "arguments": {"text": "from one file"}}},
    ]
    lines = b"".join(json.dumps({"jsonrpc": "2.0", **one}).encode() + b"\n" for one in asked)
    done = alone(built, tmp_path, ["router", "--", *server], input=lines)
    assert done.returncode == 0, done.stderr.decode()
    answers = {answer["id"]: answer for answer in map(json.loads, done.stdout.splitlines()) if "id" in answer}
    assert "from one file" in json.dumps(answers[2]["result"])


def test_no_variable_chooses_what_the_file_runs(built, tmp_path):
    evil = tmp_path / "evil"
    evil.mkdir()
    (evil / "mcpbridge.py").write_text("raise SystemExit('hijacked')")
    variables = {"PYTHONPATH": str(evil), "SHIV_ROOT": str(evil), "SHIV_ENTRY_POINT": "os:abort", "SHIV_INTERPRETER": "1"}
    base = Path(sys.base_prefix) / "bin" / f"python{VERSION}"
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), **variables}
    done = subprocess.run([base, built, "--version"], env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout.split()[0]) == (0, "mcpbridge"), done.stderr


def test_a_cache_that_others_could_have_planted_is_not_run(built, tmp_path):
    cache = tmp_path / ".cache/mcpbridge/zipapp"
    cache.mkdir(parents=True)
    cache.parent.chmod(0o700)
    cache.chmod(0o777)
    done = alone(built, tmp_path, ["--version"])
    assert done.returncode == 73 and b"can be written by others" in done.stderr
    cache.chmod(0o700)
    assert alone(built, tmp_path, ["--version"]).returncode == 0


def test_first_starts_side_by_side_unpack_one_copy(built, tmp_path):
    base = Path(sys.base_prefix) / "bin" / f"python{VERSION}"
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    started = [subprocess.Popen([base, "-I", built, "--version"], env=environment, stdout=subprocess.DEVNULL) for _ in range(4)]
    assert [one.wait(60) for one in started] == [0, 0, 0, 0]
    assert len(list((tmp_path / ".cache/mcpbridge/zipapp").iterdir())) == 1


def test_the_installer_installs_the_file_that_was_built(built, tmp_path):
    """Real packages, real Python, no network; nothing of it needs a cache afterwards."""
    home = tmp_path / "home"
    home.mkdir()
    digest = hashlib.sha256(built.read_bytes()).hexdigest()
    base = Path(sys.base_prefix) / "bin" / f"python{VERSION}"
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(home), "SHELL": "/bin/bash", "MCPBRIDGE_PYTHON": str(base)}
    command = ["sh", str(ROOT / "install.sh"), "--from", str(built), "--sha256", digest]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    shown = subprocess.run(
        [home / ".local/bin/mcp-router", "version", "--json"], env=environment, capture_output=True, timeout=60, check=True
    )
    assert json.loads(shown.stdout)["version"]
    assert not (home / ".cache").exists()
