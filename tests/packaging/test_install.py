"""install.sh with small archives: every shell, every refusal, what is written and what is left."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.releases import ARTIFACT, INSTALLER, archive, install, publish, tree

shells = pytest.mark.parametrize(
    "shell", ["sh", *(pytest.param(shell, marks=pytest.mark.slow) for shell in ("dash", "bash", "busybox sh", "zsh"))]
)
TOOLS = (
    "sh", "awk", "cat", "chmod", "cmp", "cp", "dirname", "find", "grep",
    "mkdir", "mktemp", "mv", "rm", "rmdir", "sed", "sort", "tr", "uname",
)  # fmt: skip
NAMES = ("mcpbridge", "mcp-router", "mcp-gateway")


@pytest.fixture(autouse=True)
def _shell_is_there(request: pytest.FixtureRequest) -> None:
    chosen = request.node.callspec.params.get("shell", "sh") if hasattr(request.node, "callspec") else "sh"
    if shutil.which(chosen.split()[0]) is None:
        pytest.skip(f"no {chosen} here; scripts/system.sh installs it")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    place = tmp_path / "home of it's me"
    place.mkdir()
    return place


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The archives of three versions."""
    return {
        version: archive(tmp_path_factory.mktemp("archive"), version).read_bytes() for version in ("0.1.0", "0.2.0", "0.3.0")
    }


@pytest.fixture
def base(tmp_path: Path, packed) -> Path:
    publish(tmp_path / "releases", "0.1.0", packed["0.1.0"])
    return tmp_path / "releases"


def ran(home: Path, name: str = "mcpbridge", *arguments: str, **variables: str) -> str:
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(home), **variables}
    done = subprocess.run(
        [home / ".local/bin" / name, *arguments], env=environment, capture_output=True, text=True, timeout=20, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def versions(home: Path) -> list[str]:
    return sorted(path.name.split("-")[0] for path in (home / ".local/share/mcpbridge/versions").glob("[!.]*"))


@pytest.mark.requirement("cli.install.pipe", "cli.install.links", "cli.install.platform", "file.install")
@shells
@pytest.mark.parametrize("piped", [False, True], ids=["file", "pipe"])
def test_every_shell_installs_from_a_file_or_a_pipe_and_a_second_time_changes_nothing(home, base, shell, piped):
    done = install(home, "--base-url", f"file://{base}", shell=shell, piped=piped)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert [ran(home, name, "--version") for name in NAMES] == [f"{name} 0.1.0" for name in NAMES]
    first = tree(home)
    again = install(home, "--base-url", f"file://{base}", shell=shell, piped=piped)
    assert again.returncode == 0, again.stderr
    assert "already unpacked" in again.stderr
    assert tree(home) == first
    assert (home / ".bashrc").read_text().count(">>> mcpbridge >>>") == 1


@pytest.mark.requirement("cli.install.completions")
def test_completions_are_installed_unless_somebody_wants_none_or_another_place(home, base):
    offered = home / ".local/share/bash-completion/completions/mcpbridge"
    for wish in (["--no-completions"], ["--prefix", home / "other"]):
        assert install(home, "--base-url", f"file://{base}", *wish).returncode == 0
        assert not offered.exists()
    assert install(home, "--base-url", f"file://{base}").returncode == 0
    assert offered.exists() and f"completion {offered}" in (home / ".local/share/mcpbridge/receipt").read_text()
    offered.write_text("# somebody else's now\n")
    assert install(home, "--uninstall").returncode == 0
    assert offered.read_text() == "# somebody else's now\n"


@pytest.mark.requirement("cli.install.uninstall")
@shells
def test_uninstall_leaves_a_home_as_it_was(home, base, shell):
    (home / ".bashrc").write_text("alias ll='ls -l'\n")
    (home / ".config/mcpbridge").mkdir(parents=True)
    (home / ".config/mcpbridge/router.yaml").write_text("servers: []\n")
    before = tree(home)
    assert install(home, "--base-url", f"file://{base}", shell=shell).returncode == 0
    assert tree(home) != before
    assert install(home, "--uninstall", "--dry-run", shell=shell).returncode == 0
    assert (home / ".local/bin/mcpbridge").exists()
    done = install(home, "--uninstall", shell=shell)
    assert done.returncode == 0, done.stderr
    assert tree(home) == before
    assert install(home, "--uninstall", shell=shell).returncode == 66


def test_uninstall_with_purge_removes_configuration_and_cache_too(home, base):
    for place in (".config/mcpbridge/router.yaml", ".cache/mcpbridge/x", ".local/state/mcpbridge/y", ".config/other/z"):
        (home / place).parent.mkdir(parents=True, exist_ok=True)
        (home / place).write_text("")
    assert install(home, "--base-url", f"file://{base}").returncode == 0
    assert install(home, "--uninstall", "--purge").returncode == 0
    assert list(tree(home)) == [".config/other/z"]


@shells
def test_an_upgrade_keeps_the_version_before_and_rollback_goes_back(home, base, packed, shell):
    for version in ("0.1.0", "0.2.0", "0.3.0"):
        publish(base, version, packed[version])
        assert install(home, "--base-url", f"file://{base}", shell=shell).returncode == 0
        assert ran(home, "mcp-router", "--version") == f"mcp-router {version}"
    assert versions(home) == ["0.2.0", "0.3.0"]
    for version in ("0.2.0", "0.3.0"):
        done = install(home, "--rollback", shell=shell)
        assert done.returncode == 0, done.stderr
        assert ran(home, "mcpbridge", "--version") == f"mcpbridge {version}"
    assert versions(home) == ["0.2.0", "0.3.0"]


def test_a_certain_version_is_installed_and_check_tells_of_a_newer_one(home, base, packed):
    publish(base, "0.2.0", packed["0.2.0"])
    assert install(home, "--base-url", f"file://{base}", "--version=0.1.0").returncode == 0
    assert ran(home, "mcpbridge", "--version") == "mcpbridge 0.1.0"
    check = install(home, "--base-url", f"file://{base}", "--check")
    assert check.returncode == 1 and "0.2.0" in check.stdout
    assert install(home, "--base-url", f"file://{base}").returncode == 0
    assert install(home, "--base-url", f"file://{base}", "--check").returncode == 0
    assert install(home, "--base-url", f"file://{base}", "--version=9.9").returncode == 69


def test_without_an_earlier_version_there_is_nothing_to_go_back_to(home, base):
    assert install(home, "--base-url", f"file://{base}").returncode == 0
    done = install(home, "--rollback")
    assert done.returncode == 66 and "no version before" in done.stderr


# Refusals: nothing may be written


def refused(home: Path, status: int, *arguments: object, words: str, **more) -> None:
    before = tree(home), sorted(home.parent.iterdir())
    done = install(home, *arguments, **more)
    assert done.returncode == status, done.stderr
    assert words in done.stderr
    assert (tree(home), sorted(home.parent.iterdir())) == before, "something was written"
    assert not list(home.iterdir())


@shells
def test_the_installer_of_the_source_tree_says_that_it_belongs_to_no_release(home, shell):
    refused(home, 64, shell=shell, words="--base-url URL")
    refused(home, 64, shell=shell, words="--from PATH")


@pytest.mark.requirement("defect.install-unverified")
@shells
def test_a_file_that_is_not_what_its_digest_says_is_refused(home, base, shell):
    path = base / "0.1.0" / ARTIFACT
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    refused(home, 65, "--base-url", f"file://{base}", shell=shell, words="Nothing was installed")


def test_a_file_that_was_cut_short_is_refused(home, base):
    path = base / "0.1.0" / ARTIFACT
    path.write_bytes(path.read_bytes()[:500])
    refused(home, 65, "--base-url", f"file://{base}", words="expected sha256")


@shells
def test_a_file_for_another_machine_is_refused(home, base, tmp_path, shell):
    (base / "0.1.0" / ARTIFACT).rename(base / "0.1.0" / "mcpbridge-macos-arm64.pyz")
    sums = base / "0.1.0" / "SHA256SUMS"
    sums.write_text(sums.read_text().replace(ARTIFACT, "mcpbridge-macos-arm64.pyz"))
    refused(home, 69, "--base-url", f"file://{base}", shell=shell, words="it has: mcpbridge-macos-arm64.pyz")
    refused(home, 69, "--from", base / "0.1.0" / "mcpbridge-macos-arm64.pyz", shell=shell, words="not for this machine")


@pytest.mark.parametrize(
    ("script", "words"), [("echo FreeBSD", "supported: Linux"), ("[ $1 = -m ] && echo riscv64 || echo Linux", "riscv64")]
)
def test_a_machine_that_no_release_is_for_is_told_which_ones_are(home, base, tmp_path, script, words):
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "uname").write_text(f"#!/bin/sh\n{script}\n")
    (tools / "uname").chmod(0o755)
    refused(home, 69, "--base-url", f"file://{base}", words=words, PATH=f"{tools}:/usr/bin:/bin")


def test_a_python_that_is_too_old_or_missing_is_named(home, base, tmp_path):
    refused(home, 69, "--base-url", f"file://{base}", words="MCPBRIDGE_PYTHON=/bin/true", MCPBRIDGE_PYTHON="/bin/true")
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("sh", "mktemp", "rm", "sed", "uname", "cat"):
        (tools / name).symlink_to(shutil.which(name) or name)
    refused(home, 69, "--base-url", f"file://{base}", words="no Python 3.11", MCPBRIDGE_PYTHON="", PATH=str(tools))


def test_a_home_on_a_read_only_file_system_is_named_with_a_way_out(home, base, tmp_path):
    """A mount in a namespace of its own; root may otherwise write everywhere."""
    script = (
        f'mount --bind "{home}" "{home}" && mount -o remount,ro,bind "{home}" && exec sh {INSTALLER} --base-url file://{base}'
    )
    can = subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False)
    if can.returncode:
        pytest.skip("no mount namespaces here")
    refused(home, 73, "-c", script, words="--prefix", shell="unshare -rm sh", script=Path("-e"))


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/releases",
        "http://localhost.example.com/",
        "http://localhost:80@example.com/",
        "http://localhost@example.com",
        "http://127.0.0.1:8000x/",
        "ftp://example.com",
        "file://relative",
        "example.com",
    ],
)
def test_an_address_where_anybody_could_change_the_download_is_refused(home, url):
    refused(home, 64, "--base-url", url, words="--base-url")


@pytest.mark.parametrize(
    "arguments",
    [["--what"], ["extra"], ["--version"], ["--version", "../x"], ["--purge"], ["--check", "--rollback"], ["--sha256", "abc"]],
)
def test_misuse_is_64(home, base, arguments):
    refused(home, 64, "--base-url", f"file://{base}", *arguments, words="error: ")


def test_a_version_in_latest_txt_that_is_none_is_refused(home, base):
    (base / "latest.txt").write_text("../../etc\n")
    refused(home, 65, "--base-url", f"file://{base}", words="is no version")


def test_a_release_that_holds_another_version_is_refused_and_what_is_installed_stays(home, base, packed):
    assert install(home, "--base-url", f"file://{base}").returncode == 0
    before = tree(home)
    publish(base, "0.2.0", packed["0.1.0"])
    done = install(home, "--base-url", f"file://{base}")
    assert done.returncode == 65 and "holds version 0.1.0" in done.stderr
    assert tree(home) == before


def test_an_archive_that_does_not_run_here_leaves_the_installed_one_alone(home, base, tmp_path):
    assert install(home, "--base-url", f"file://{base}").returncode == 0
    before = tree(home)
    publish(base, "0.2.0", archive(tmp_path / "x", "0.2.0", gateway="import compiled_for_another_machine").read_bytes())
    done = install(home, "--base-url", f"file://{base}")
    assert done.returncode == 69 and "compiled_for_another_machine" in done.stderr
    assert tree(home) == before


def test_somebody_elses_command_of_the_same_name_is_not_overwritten(home, base):
    (home / ".local/bin").mkdir(parents=True)
    (home / ".local/bin/mcp-router").write_text("#!/bin/sh\necho mine\n")
    before = tree(home)
    done = install(home, "--base-url", f"file://{base}")
    assert done.returncode == 73 and "was not made by install.sh" in done.stderr
    assert tree(home) == before


@shells
def test_a_download_of_the_script_that_was_cut_short_runs_nothing(home, base, tmp_path, shell):
    text = INSTALLER.read_text()
    lines = [index + 1 for index, letter in enumerate(text) if letter == "\n"]
    cuts = [*lines[20:-1:60], *range(len(text) - 14, len(text) - 1)]
    part = tmp_path / "part.sh"
    for cut in cuts:
        part.write_text(text[:cut])
        done = install(home, "--base-url", f"file://{base}", shell=shell, script=part, piped=True)
        assert done.returncode != 0, text[:cut][-40:]
        assert not list(home.iterdir())


# What it does with what it is given


@pytest.mark.requirement("cli.install.links")
def test_a_directory_a_single_file_and_a_digest_by_hand_will_do(home, base, packed):
    release = base / "0.1.0"
    digest = hashlib.sha256(packed["0.1.0"]).hexdigest()
    single = base.parent / "downloaded"
    single.write_bytes(packed["0.1.0"])
    refused(home, 66, "--from", single, words="--sha256")
    refused(home, 66, "--from", base.parent / "nothing", words="no such file")
    refused(home, 65, "--from", single, "--sha256", "0" * 64, words="expected sha256")
    for arguments in ((base,), (release,), (release / ARTIFACT,), (single, "--sha256", digest.upper())):
        done = install(home, "--from", *arguments)
        assert done.returncode == 0, done.stderr
        assert ran(home, "mcpbridge", "--version") == "mcpbridge 0.1.0"
        assert install(home, "--uninstall").returncode == 0
    single.with_name("downloaded.sha256").write_text(f"{digest}  downloaded\n")
    assert install(home, "--from", single).returncode == 0


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(home, base):
    done = install(home, "--base-url", f"file://{base}", "--dry-run")
    assert done.returncode == 0
    assert "would install mcpbridge 0.1.0" in done.stderr and ".bashrc" in done.stderr
    assert not list(home.iterdir())


def test_the_launcher_lets_no_variable_choose_what_runs(home, base, tmp_path):
    assert install(home, "--base-url", f"file://{base}").returncode == 0
    evil = tmp_path / "evil"
    evil.mkdir()
    for name in ("mcpbridge", "json", "sitecustomize"):
        (evil / f"{name}.py").write_text("raise SystemExit('hijacked')")
    planted = home / ".cache/mcpbridge/zipapp"
    planted.mkdir(parents=True)
    variables = {"PYTHONPATH": str(evil), "PYTHONHOME": str(evil), "PYTHONSTARTUP": str(evil / "json.py")}
    variables |= {"SHIV_ROOT": str(evil), "SHIV_ENTRY_POINT": "os:abort", "SHIV_INTERPRETER": "1", "SHIV_MODULE": "os:abort"}
    seen = json.loads(ran(home, "mcp-gateway", "a b", "*", "", **variables))
    assert (seen["name"], seen["isolated"], seen["argv"]) == ("mcp-gateway", 1, ["a b", "*", ""])
    assert seen["file"].startswith(str(home / ".local/share/mcpbridge/versions/"))
    assert str(evil) not in seen["path"]


def test_what_is_installed_runs_from_a_read_only_home_and_others_cannot_write_it(home, base):
    assert install(home, "--base-url", f"file://{base}").returncode == 0
    for path in (home / ".local/share/mcpbridge").rglob("*"):
        assert path.stat().st_mode & 0o022 == 0, path
    before = tree(home)
    ran(home, "mcpbridge", "anything")
    assert tree(home) == before, "it needs no cache"


def test_a_python_that_has_gone_away_is_named_by_the_launcher(home, base, tmp_path):
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\nexec python3 "$@"\n')
    python.chmod(0o755)
    assert install(home, "--base-url", f"file://{base}").returncode == 0
    launcher = home / ".local/bin/mcpbridge"
    text = launcher.read_text()
    interpreter = text.partition("exec '")[2].partition("'")[0]
    assert os.path.isabs(interpreter) and "/shims/" not in interpreter
    launcher.write_text(text.replace(interpreter, "/nowhere/python3"))
    done = subprocess.run([launcher], env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=False)
    assert done.returncode == 69 and "install.sh" in done.stderr


@pytest.mark.parametrize(
    ("shell", "profile", "starts"),
    [
        ("bash", ".bashrc", ["bash", "--norc", "-c", ". ~/.bashrc; command -v mcpbridge"]),
        ("zsh", ".zshrc", ["zsh", "-f", "-c", ". ~/.zshrc; command -v mcpbridge"]),
        ("fish", ".config/fish/conf.d/mcpbridge.fish", ["fish", "-c", "command -v mcpbridge"]),
        ("dash", ".profile", ["dash", "-c", ". ~/.profile; command -v mcpbridge"]),
    ],
)
def test_the_marked_block_puts_the_commands_on_the_path_of_each_shell(home, base, shell, profile, starts):
    done = install(home, "--base-url", f"file://{base}", SHELL=f"/usr/bin/{shell}")
    assert done.returncode == 0, done.stderr
    assert ">>> mcpbridge >>>" in (home / profile).read_text()
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(home)}
    found = subprocess.run(starts, env=environment, capture_output=True, text=True, timeout=20, check=False)
    assert str(home / ".local/bin/mcpbridge") in found.stdout.splitlines(), found.stderr
    assert install(home, "--uninstall").returncode == 0
    assert list(tree(home)) in ([], [".config/fish/fish_variables"])


def test_start_up_files_are_left_alone_when_asked_or_not_needed(home, base):
    for arguments, variables in (
        (["--no-modify-path"], {}),
        ([], {"MCPBRIDGE_NO_MODIFY_PATH": "1"}),
        ([], {"PATH": f"{home}/.local/bin:/usr/bin:/bin"}),
    ):
        assert install(home, "--base-url", f"file://{base}", *arguments, **variables).returncode == 0
        assert not (home / ".bashrc").exists()


def test_a_block_whose_end_was_deleted_takes_nothing_else_with_it(home, base):
    (home / ".bashrc").write_text("before\n# >>> mcpbridge >>>\nafter\n")
    assert install(home, "--base-url", f"file://{base}").returncode == 0
    assert install(home, "--uninstall").returncode == 0
    assert (home / ".bashrc").read_text().startswith("before\n# >>> mcpbridge >>>\nafter\n")


def test_a_start_up_file_that_is_a_link_stays_one(home, base):
    (home / "dotfiles").mkdir()
    (home / "dotfiles/bashrc").write_text("mine\n")
    (home / ".bashrc").symlink_to("dotfiles/bashrc")
    assert install(home, "--base-url", f"file://{base}").returncode == 0
    assert (home / ".bashrc").is_symlink() and ">>> mcpbridge" in (home / "dotfiles/bashrc").read_text()
    assert install(home, "--uninstall").returncode == 0
    assert (home / "dotfiles/bashrc").read_text() == "mine\n"


def test_installers_side_by_side_do_not_disturb_each_other(home, base):
    done: list[int] = []
    threads = [
        threading.Thread(target=lambda: done.append(install(home, "--base-url", f"file://{base}").returncode)) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done == [0, 0, 0]
    assert ran(home, "mcpbridge", "--version") == "mcpbridge 0.1.0"
    assert os.listdir(home / ".local/share/mcpbridge/versions") == [
        path for path in os.listdir(home / ".local/share/mcpbridge/versions") if path.startswith("0.1.0-")
    ]


# Over HTTP


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files, redirects what lies below /moved."""

    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        if self.path.startswith("/moved"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/moved"))
            self.end_headers()
        else:
            super().do_GET()


@pytest.fixture
def served(base) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(base)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(params=["curl", "Python alone"])
def tools(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A PATH with curl, and one that has nothing to fetch with."""
    if request.param == "curl":
        if shutil.which("curl") is None:
            pytest.skip("no curl here")
        return "/usr/bin:/bin"
    place = tmp_path / "tools"
    place.mkdir()
    for name in TOOLS:
        (place / name).symlink_to(shutil.which(name) or name)
    return str(place)


def test_a_server_on_this_machine_will_do_and_no_proxy_is_asked(home, served, tools):
    done = install(home, "--base-url", served, PATH=tools, http_proxy="http://127.0.0.1:9", HTTP_PROXY="http://127.0.0.1:9")
    assert done.returncode == 0, done.stderr
    assert ran(home, "mcpbridge", "--version") == "mcpbridge 0.1.0"


def test_what_cannot_be_fetched_is_named(home, served, tools):
    refused(home, 69, "--base-url", f"{served}/nowhere", words="cannot fetch", PATH=tools)
    refused(home, 69, "--base-url", "http://127.0.0.1:9", words="cannot fetch", PATH=tools)


def test_a_redirect_without_tls_is_not_followed(home, served, tools):
    done = install(home, "--base-url", f"{served}/moved", PATH=tools)
    assert done.returncode in (65, 69)
    assert not list(home.iterdir())


def test_a_release_build_writes_its_address_into_the_installer(home, served, tmp_path):
    script = tmp_path / "release-install.sh"
    script.write_text(INSTALLER.read_text().replace("default_base_url=''", f"default_base_url='{served}'"))
    assert install(home, script=script, piped=True).returncode == 0
    assert ran(home, "mcpbridge", "--version") == "mcpbridge 0.1.0"
