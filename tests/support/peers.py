"""Real servers and clients as tests use them: commands, drivers, and processes that never outlive their test."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support import setup

Json = dict[str, Any]
HERE = Path(__file__).resolve().parent
DRIVERS = HERE.parent / "real" / "clients"
#: the bridge under test; another command (a built file) can be put in its place
BRIDGE = shlex.split(os.environ.get("BRIDGE_TEST_COMMAND", "")) or [sys.executable, "-m", "mcpbridge"]
START_TIMEOUT = 30.0  # seconds until a server listens; npm's servers need 1-2 s on an idle machine
DRIVE_TIMEOUT = 50.0  # seconds for one driver with its whole plan
#: listeners with addresses that all gateways share by default; a test that wants one switches it on
SHARED_OFF = {f"MCPBRIDGE_SERVER__PROTOCOLS__{name}__ENABLED": "false" for name in ("STDIO", "TCP_BINARY")}

#: the servers of our own with one catalogue: kind -> command that serves HTTP, and stdio with --stdio
OWN = {
    "dual": [setup.python("sdk2"), str(HERE / "dual_server.py")],
    "legacy": [setup.python("sdk1"), str(HERE / "legacy_server.py")],
    "legacy-websocket": [setup.python("websocket"), str(HERE / "legacy_server.py"), "--websocket"],
    "legacy-sse": [setup.python("sdk1"), str(HERE / "legacy_server.py"), "--sse"],
    "modern": [setup.python("sdk2"), str(HERE / "modern_server.py")],
}
DUAL_STDIO = [*OWN["dual"], "--stdio"]
#: a modern-only server on the other SDK, with one tool that asks in two rounds; HTTP only
TYPESCRIPT_MODERN = [setup.node(), str(HERE / "modern_server.mjs")]


@dataclass(frozen=True, slots=True)
class RealServer:
    """One published server: how to start it over stdio and one call whose answer is known."""

    name: str
    command: list[str]
    tool: str
    arguments: Json
    expect: str
    count: int  # number of its tools in the pinned version (everything: those that need no client capability)


def real_servers(folder: Path) -> list[RealServer]:
    """The five servers of the acceptance, working on fresh data below ``folder``."""
    files, repository = folder / "files", folder / "repository"
    files.mkdir(exist_ok=True)
    (files / "hello.txt").write_text("hello from a file\n")
    if not repository.exists():
        git = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost", "-C", str(repository)]
        subprocess.run(["git", "init", "-q", str(repository)], check=True, timeout=20)
        (repository / "a.txt").write_text("a\n")
        subprocess.run([*git, "add", "a.txt"], check=True, timeout=20)
        subprocess.run([*git, "commit", "-q", "-m", "the first commit"], check=True, timeout=20)
    node = setup.node()
    memory = ["env", f"MEMORY_FILE_PATH={folder / 'memory.jsonl'}", node, js("server-memory")]
    zones = {"source_timezone": "Europe/Berlin", "time": "12:00", "target_timezone": "Asia/Tokyo"}
    return [
        RealServer("everything", [node, js("server-everything")], "echo", {"message": "ünïcode 😀"}, "ünïcode 😀", 12),
        RealServer(
            "filesystem",
            [node, js("server-filesystem"), str(files)],
            "read_text_file",
            {"path": str(files / "hello.txt")},
            "hello from a file",
            14,
        ),
        RealServer("memory", memory, "read_graph", {}, "entities", 9),
        RealServer("time", [setup.python("servers"), "-m", "mcp_server_time"], "convert_time", zones, "Asia/Tokyo", 2),
        RealServer(
            "git",
            [setup.python("servers"), "-m", "mcp_server_git", "--repository", str(repository)],
            "git_log",
            {"repo_path": str(repository)},
            "the first commit",
            12,
        ),
    ]


def js(package: str) -> str:
    return setup.script(f"@modelcontextprotocol/{package}")


#: name of a client -> its driver and the mode it speaks
CLIENTS: dict[str, list[str]] = {
    "python-2-legacy": [setup.python("sdk2"), str(DRIVERS / "python2_client.py"), "--mode", "legacy"],
    "python-2-modern": [setup.python("sdk2"), str(DRIVERS / "python2_client.py"), "--mode", "2026-07-28"],
    "python-2-auto": [setup.python("sdk2"), str(DRIVERS / "python2_client.py"), "--mode", "auto"],
    "python-1": [setup.python("sdk1"), str(DRIVERS / "python1_client.py")],
    "python-1-websocket": [setup.python("websocket"), str(DRIVERS / "python1_client.py")],
    "python-1-sse": [setup.python("sdk1"), str(DRIVERS / "python1_client.py"), "--sse"],
    "typescript-1": [setup.node(), str(DRIVERS / "typescript_client.mjs"), "--sdk", "1"],
    "typescript-1-sse": [setup.node(), str(DRIVERS / "typescript_client.mjs"), "--sdk", "1", "--sse"],
    "typescript-2-legacy": [setup.node(), str(DRIVERS / "typescript_client.mjs"), "--sdk", "2", "--mode", "legacy"],
    "typescript-2-modern": [setup.node(), str(DRIVERS / "typescript_client.mjs"), "--sdk", "2", "--mode", "2026-07-28"],
}
MODERN_CLIENTS = [name for name in CLIENTS if name.endswith("modern")]
LEGACY_CLIENTS = [name for name in CLIENTS if not name.endswith(("modern", "auto", "sse", "websocket"))]
HTTP_CLIENTS = [name for name in CLIENTS if not name.endswith(("sse", "websocket"))]
SSE_CLIENTS = [name for name in CLIENTS if name.endswith("sse")]


def environment(**extra: str) -> dict[str, str]:
    """The environment of every process a test starts: pinned node, no personal configuration, this checkout's package."""
    base = {name: value for name, value in setup.node_environment().items() if not name.startswith(("MCP_", "MCPBRIDGE_"))}
    return {
        **base,
        "PEERS_NODE": str(setup.module("node").parent),
        "PYTHONPATH": str(setup.ROOT),
        "PYTHONUNBUFFERED": "1",
        **SHARED_OFF,
        **extra,
    }


def kill_group(process: subprocess.Popen[Any]) -> None:
    """End a process that leads its own group, with everything in the group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=10)


class PeerFailed(AssertionError):
    """A peer did not do what a test needs of it; the message carries its output."""


def execute(command: Sequence[str], *, input_text: str = "", timeout: float, cwd: Path | None = None) -> tuple[str, str, int]:
    """Run a command to its end in a group of its own: (stdout, stderr, exit code).

    Raises: PeerFailed when it takes longer than ``timeout`` seconds.
    """
    with tempfile.TemporaryDirectory(prefix="home-") as home:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=cwd,
            env=environment(HOME=home),
            start_new_session=True,
        )
        try:
            output, errors = process.communicate(input_text, timeout=timeout)
        except subprocess.TimeoutExpired as err:
            kill_group(process)
            output, errors = process.communicate(timeout=10)
            raise PeerFailed(f"no end after {timeout} s: {shlex.join(command)}\n{output[-2000:]}\n{errors[-4000:]}") from err
        finally:
            kill_group(process)
    return output, errors, process.returncode


def drive(
    client: str, target: str | Sequence[str], steps: list[Json], *, plain: bool = False, timeout: float = DRIVE_TIMEOUT
) -> Json:
    """Let a real client carry out a plan against a URL or a command; returns its report (see ``real/clients/plan.py``).

    Raises: PeerFailed when the client could not connect or did not end in ``timeout`` seconds.
    """
    where = ["--url", target] if isinstance(target, str) else ["--command", json.dumps(list(target))]
    flags = ["--plain"] if plain else []
    output, errors, _ = execute([*CLIENTS[client], *where, *flags], input_text=json.dumps(steps), timeout=timeout)
    try:
        report: Json = json.loads(output.splitlines()[-1])
    except (IndexError, ValueError) as err:
        raise PeerFailed(f"{client} gave no report\n{output[-2000:]}\n{errors[-4000:]}") from err
    if "failed" in report:
        raise PeerFailed(f"{client}: {report['failed']}\n{errors[-4000:]}")
    return report


def inspect(target: str | Sequence[str], *arguments: str, era: str = "legacy", timeout: float = DRIVE_TIMEOUT) -> Json:
    """One method by the Inspector's CLI mode; returns the result.

    Raises: PeerFailed when it exits non-zero.
    """
    with tempfile.TemporaryDirectory(prefix="inspector-") as folder:
        if isinstance(target, str):
            entry: Json = {"type": "streamable-http", "url": target}
        else:
            entry = {"command": target[0], "args": list(target[1:]), "env": environment()}
        config = Path(folder) / "servers.json"
        config.write_text(json.dumps({"mcpServers": {"target": entry}}))
        command = [
            setup.node(),
            js("inspector"),
            "--cli",
            "--format",
            "json",
            "-q",
            "--config",
            str(config),
            "--server",
            "target",
            "--protocol-era",
            era,
            *arguments,
        ]
        output, errors, code = execute(command, timeout=timeout)
    if code != 0:
        raise PeerFailed(f"inspector exit {code}: {output[-2000:]} {errors[-4000:]}")
    result: Json = json.loads(output)["result"]
    return result


def texts(entry: Json) -> str:
    """The text blocks of a tools/call step, joined; fails with the entry when the step failed."""
    assert "ok" in entry, entry
    return "\n".join(block["text"] for block in entry["ok"]["content"] if block["type"] == "text")


def names(entry: Json) -> list[str]:
    """Names (or URIs) of a list step."""
    assert "ok" in entry, entry
    return [item.get("uri") or item.get("uriTemplate") or item["name"] for item in entry["ok"]["items"]]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(command: Sequence[str], **extra: str) -> Iterator[subprocess.Popen[str]]:
    """A process in its own group for the time of the block; its stderr goes to a file that ``errors_of`` reads."""
    with tempfile.TemporaryDirectory(prefix="peer-") as folder, (Path(folder) / "stderr").open("w") as errors:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment(**extra),
            start_new_session=True,
        )
        process.errors = Path(folder) / "stderr"  # type: ignore[attr-defined]
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=8)
            kill_group(process)
            if process.stdout:
                process.stdout.close()


def errors_of(process: subprocess.Popen[str]) -> str:
    """What a ``running`` process wrote to stderr so far (its end)."""
    path: Path = process.errors  # type: ignore[attr-defined]
    return path.read_text(errors="replace")[-6000:]


@contextlib.contextmanager
def serving(command: Sequence[str]) -> Iterator[str]:
    """A server that prints its port as JSON (HTTP or HTTP+SSE); gives its URL. Raises: PeerFailed when it does not start."""
    with running(command) as process:
        assert process.stdout
        line = process.stdout.readline()
        if not line:
            raise PeerFailed(f"{shlex.join(command)} did not start: {errors_of(process)}")
        path = next((path for flag, path in {"--sse": "sse", "--websocket": "ws"}.items() if flag in command), "mcp")
        url = f"http://localhost:{json.loads(line)['port']}/{path}"
        wait_listening(process, url)
        yield url


def own_http(kind: str) -> contextlib.AbstractContextManager[str]:
    """One of our ``OWN`` servers over HTTP, as ``serving``."""
    return serving(OWN[kind])


def wait_listening(process: subprocess.Popen[str], url: str) -> None:
    """Return when the port of ``url`` answers HTTP at all.

    Raises: PeerFailed when the process ends before, or nothing listens after START_TIMEOUT.
    """
    until = time.monotonic() + START_TIMEOUT
    while time.monotonic() < until:
        try:
            urllib.request.urlopen(url, timeout=2).close()
            return
        except urllib.error.HTTPError:
            return
        except OSError:
            if process.poll() is not None:
                raise PeerFailed(f"exit {process.returncode} before it listened: {errors_of(process)}") from None
            time.sleep(0.05)
    raise PeerFailed(f"nothing listens at {url} after {START_TIMEOUT} s: {errors_of(process)}")


@dataclass(slots=True)
class Gateway:
    """A running gateway: its base address and process."""

    base: str
    process: subprocess.Popen[str]

    def url(self, server: str | None = None) -> str:
        return f"{self.base}/mcp/{server}" if server else f"{self.base}/mcp"

    def stream(self, server: str) -> str:
        """The address of a server's HTTP+SSE stream."""
        return f"{self.base}/events/{server}"

    def socket(self, server: str) -> str:
        """The address of a server's WebSocket."""
        return f"{self.base.replace('http://', 'ws://')}/ws/{server}"

    def errors(self) -> str:
        return errors_of(self.process)


@contextlib.contextmanager
def gateway(servers: dict[str, str | Sequence[str]], *, file: Path | None = None, **settings: str) -> Iterator[Gateway]:
    """A gateway in front of ``servers`` (name -> URL or command) for the time of the block; ports are free ones.

    ``file``: a configuration file with more. Raises: PeerFailed when it does not start.
    """
    port = free_port()
    arguments = ["--config", str(file)] if file else []
    arguments += [
        part
        for name, target in servers.items()
        for part in ("--server", f"{name}={target if isinstance(target, str) else shlex.join(target)}")
    ]
    variables = {"MCPBRIDGE_SERVER__PORT": str(port), "MCPBRIDGE_METRICS__ENABLED": "false", **settings}
    with running([*BRIDGE, "gateway", *arguments], **variables) as process:
        base = f"http://localhost:{port}"
        wait_listening(process, f"{base}/healthz")
        yield Gateway(base, process)


def router(*arguments: str) -> list[str]:
    """Command line of a router."""
    return [*BRIDGE, "router", *arguments]
