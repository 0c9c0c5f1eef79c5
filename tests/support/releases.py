"""Small releases that install.sh can install: real archives of packaging/pack.py around a program of a few lines."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
INSTALLER = ROOT / "install.sh"
MACHINE = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64"}[platform.machine().lower()]
ARTIFACT = f"mcpbridge-linux-{MACHINE}.pyz"  # what install.sh asks for on the machines that run these tests
PYTHON = Path(sys.base_prefix) / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}"

PROGRAM = """\
import os, sys

def main():
    name = os.environ.pop("MCPBRIDGE_ARGV0", "mcpbridge")
    if sys.argv[1:] == ["--version"]:
        from mcpbridge import __version__
        print(name, __version__)
    elif sys.argv[1:] == ["completions", "install"]:
        path = os.path.expanduser("~/.local/share/bash-completion/completions/mcpbridge")
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as file:
            file.write("# bash completion of mcpbridge; made by a test\\n")
        print("wrote", path)
    else:
        import json
        seen = {"name": name, "isolated": sys.flags.isolated, "argv": sys.argv[1:]}
        print(json.dumps({**seen, "file": __file__, "path": sys.path}))
"""


def load_pack():
    """The module packaging/pack.py, which is a script and in no package."""
    spec = importlib.util.spec_from_file_location("pack", ROOT / "packaging" / "pack.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def archive(folder: Path, version: str, gateway: str = "") -> Path:
    """An archive whose program says which version it is; ``gateway`` is the text of its module of that name."""
    package = folder / "site" / "mcpbridge"
    package.mkdir(parents=True, exist_ok=True)
    package.joinpath("__init__.py").write_text(f'__version__ = "{version}"\n')
    package.joinpath("cli.py").write_text(PROGRAM)
    package.joinpath("gateway.py").write_text(gateway)
    package.joinpath("router.py").write_text("")
    load_pack().pack(folder / "site", folder / "packed", 1767225600)
    return folder / "packed"


def publish(base: Path, version: str, content: bytes, name: str = ARTIFACT) -> Path:
    """Lay ``content`` out as the latest release below ``base``; its directory."""
    release = base / version
    release.mkdir(parents=True, exist_ok=True)
    (release / name).write_bytes(content)
    (release / "SHA256SUMS").write_text(f"{hashlib.sha256(content).hexdigest()}  {name}\n")
    (base / "latest.txt").write_text(f"{version}\n")
    return release


def install(
    home: Path, *arguments: object, shell: str = "sh", script: Path = INSTALLER, piped: bool = False, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run the installer for a person whose home is ``home`` and whose PATH has nothing of ours."""
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(home), "SHELL": "/bin/bash", "TMPDIR": str(home.parent)}
    environment["MCPBRIDGE_PYTHON"] = str(PYTHON)
    command = [*shell.split(), *(["-s", "--"] if piped else [str(script)]), *map(str, arguments)]
    return subprocess.run(
        command,
        cwd=home.parent,
        env=environment | variables,
        input=script.read_text() if piped else "",
        capture_output=True,
        text=True,
        timeout=50,
    )


def tree(home: Path) -> dict[str, bytes]:
    """Every file below ``home`` with its content."""
    return {
        os.path.relpath(path, home): path.read_bytes() if path.is_file() else b""
        for path in sorted(home.rglob("*"))
        if not path.is_dir()
    }
