"""Install the test peers (official suites, servers, clients and SDKs) into ``.cache/peers/``, once per set of pins.

``python tests/support/setup.py [--check] [--only NODE|sdk1|sdk2|servers]``: installs what is missing, prints progress and
exits 1 with the cause when a part cannot be had. ``--check`` installs nothing and exits 1 when a part is missing or stale.
Paths and versions that other tests need are the constants and functions of this module.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PEERS = Path(os.environ.get("BRIDGE_TEST_PEERS") or ROOT / ".cache" / "peers")

#: name in node_modules -> npm specification. Two conformance suites stand side by side under alias names.
NPM = {
    "conformance-0.1": "npm:@modelcontextprotocol/conformance@0.1.16",
    "conformance-0.2": "npm:@modelcontextprotocol/conformance@0.2.0-alpha.12",
    "node": "22.23.3",
    "@modelcontextprotocol/server-everything": "2026.8.31",
    "@modelcontextprotocol/server-filesystem": "2026.8.31",
    "@modelcontextprotocol/server-memory": "2026.8.31",
    "@modelcontextprotocol/inspector": "2.12.0",
    "@modelcontextprotocol/sdk": "1.32.2",
    "@modelcontextprotocol/client": "2.4.0",
}
#: environment name -> exact PyPI requirements.
VENVS = {
    "sdk2": ("mcp==2.3.0", "mcp-types==2.3.0"),
    "sdk1": ("mcp==1.30.0",),
    "websocket": ("mcp==1.30.0", "websockets==17.4"),  # beside sdk1: its WebSocket transport needs a library more
    "servers": ("mcp-server-time==2026.10.19", "mcp-server-git==2026.10.19"),
}
PARTS = ("node", *VENVS)
INSTALL_TIMEOUT = 900.0  # seconds for one npm or pip run


class SetupFailed(Exception):
    """A part could not be installed; the message is the cause for a person."""


@dataclass(frozen=True, slots=True)
class Part:
    """One directory under ``.cache/peers`` and the pins it was made from."""

    name: str

    @property
    def folder(self) -> Path:
        return PEERS / self.name

    @property
    def stamp(self) -> Path:
        return self.folder / ".pins"

    def pins(self) -> str:
        """Digest of everything the content of this part depends on."""
        wanted: object = NPM if self.name == "node" else [VENVS[self.name], sys.version_info[:2]]
        return hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()

    def is_ready(self) -> bool:
        """True when the part was installed completely from the present pins."""
        try:
            return self.stamp.read_text() == self.pins()
        except OSError:
            return False


def python(environment: str) -> str:
    """Path of the interpreter of one of the peers' environments."""
    return str(PEERS / environment / "bin" / "python")


def module(name: str) -> Path:
    """Folder of an installed npm package, by its name or alias."""
    return PEERS / "node" / "node_modules" / name


def node() -> str:
    """Path of the Node 22 executable from npm."""
    return str(module("node") / "bin" / "node")


def script(package: str, command: str | None = None) -> str:
    """Path of the JavaScript file behind a package's command (its only one when ``command`` is None).

    Raises: KeyError when the package has no such command.
    """
    folder = module(package)
    bins = json.loads((folder / "package.json").read_text())["bin"]
    if isinstance(bins, str):
        return str(folder / bins)
    return str(folder / (bins[command] if command else next(iter(bins.values()))))


def node_environment() -> dict[str, str]:
    """Process environment in which ``node`` is the pinned one."""
    return {**os.environ, "PATH": f"{module('node') / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}", "NO_COLOR": "1"}


def missing() -> list[str]:
    """Names of the parts that are absent or made from other pins."""
    return [name for name in PARTS if not Part(name).is_ready()]


def run(command: list[str], cwd: Path, what: str) -> None:
    """Run one installer command to its end.

    Raises: SetupFailed with the last lines of its output when it fails, is absent or takes too long.
    """
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=INSTALL_TIMEOUT,
            check=False,
        )
    except FileNotFoundError as err:
        raise SetupFailed(f"{what}: {command[0]} is not on this machine (Debian: apt-get install npm python3-venv)") from err
    except subprocess.TimeoutExpired as err:
        raise SetupFailed(f"{what}: no end after {INSTALL_TIMEOUT:.0f} s: {' '.join(command)}") from err
    if done.returncode != 0:
        tail = "\n".join(done.stdout.strip().splitlines()[-15:])
        raise SetupFailed(f"{what}: exit {done.returncode} from {' '.join(command)}\n{tail}")


def install_node(folder: Path) -> None:
    """npm packages with exact versions and without a lock file (a lock would name registry hosts)."""
    if not shutil.which("npm"):
        raise SetupFailed("npm packages: npm is not on this machine (Debian: apt-get install npm)")
    (folder / "package.json").write_text(json.dumps({"name": "peers", "private": True, "dependencies": NPM}, indent=2))
    run(
        ["npm", "install", "--no-package-lock", "--no-audit", "--no-fund", "--loglevel=error"],
        folder,
        "npm packages",
    )
    run([str(folder / "node_modules" / "node" / "bin" / "node"), "--version"], folder, "node from npm")


def install_venv(name: str, folder: Path) -> None:
    """A virtual environment of its own with exact top-level versions."""
    run([sys.executable, "-m", "venv", str(folder)], PEERS, f"environment {name}")
    run(
        [str(folder / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check", "-q", *VENVS[name]],
        folder,
        f"environment {name}",
    )


def install(name: str) -> float:
    """Make one part anew if it is not ready; returns the seconds it took (0.0 when nothing was to do).

    Raises: SetupFailed.
    """
    part = Part(name)
    if part.is_ready():
        return 0.0
    began = time.monotonic()
    shutil.rmtree(part.folder, ignore_errors=True)
    part.folder.mkdir(parents=True)
    if name == "node":
        install_node(part.folder)
    else:
        install_venv(name, part.folder)
    part.stamp.write_text(part.pins())
    return time.monotonic() - began


@contextlib.contextmanager
def exclusive() -> Iterator[None]:
    """One installer at a time per checkout: a second one waits for the first and then finds everything ready."""
    PEERS.mkdir(parents=True, exist_ok=True)
    with (PEERS / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main(argv: list[str] | None = None) -> int:
    """Command line: install (or ``--check``) the parts; returns the exit code."""
    parser = argparse.ArgumentParser(description="install the peers that the real-input and conformance tests talk to")
    parser.add_argument("--check", action="store_true", help="install nothing; exit 1 when a part is missing")
    parser.add_argument("--only", action="append", choices=PARTS, help="only this part (may be repeated)")
    options = parser.parse_args(argv)
    names = tuple(options.only or PARTS)
    if options.check:
        absent = [name for name in names if not Part(name).is_ready()]
        print(f"peers missing: {', '.join(absent)}" if absent else f"peers ready in {PEERS}")
        return 1 if absent else 0
    failed = False
    with exclusive(), concurrent.futures.ThreadPoolExecutor(2) as workers:
        running = {workers.submit(install, name): name for name in names}
        for done in concurrent.futures.as_completed(running):
            name = running[done]
            try:
                took = done.result()
            except (SetupFailed, OSError) as err:
                failed = True
                print(f"{name}: FAILED: {err}", file=sys.stderr, flush=True)
            else:
                print(f"{name}: {'ready' if not took else f'installed in {took:.0f} s'}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
