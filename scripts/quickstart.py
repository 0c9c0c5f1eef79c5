"""Shows the whole bridge at work: two demo servers, the gateway, the router, real calls, measured.

``quickstart.py [--check] [--calls N]``. Everything goes through the product's own commands: this program only speaks
newline-delimited JSON-RPC to ``mcpbridge router`` and HTTP to the gateway. With ``--check`` it asserts, cleans up and exits 0;
without, the gateway stays in the foreground until Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import queue
import shlex
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
HOME = ROOT / ".cache" / "quickstart"
PYTHON = sys.executable
BRIDGE = (PYTHON, "-m", "mcpbridge")
PATIENCE = 20.0  # seconds for anything to start or to answer


class QuickstartError(Exception):
    """Something did not work; the text says what, and where its log is."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: where calls went, and the times of each call in seconds."""

    path: str
    tool: str
    times: tuple[float, ...]


class Child:
    """A program of the product with its log in a file; ``stop`` ends it and waits."""

    def __init__(self, name: str, command: Sequence[str], **streams: Any) -> None:
        self.name = name
        self.log = HOME / f"{name}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, env=environment(), stderr=log, start_new_session=True, **streams)

    def stop(self) -> int:
        """Ask it to end, insist after ten seconds; returns its exit status."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
        return self.process.returncode

    def failed(self, what: str) -> QuickstartError:
        """The error for this child with the end of its log."""
        tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-8:])
        return QuickstartError(f"{self.name}: {what}\n{tail}\n(log: {self.log})")


class Router(Child):
    """``mcpbridge router`` as an editor runs it: requests on its stdin, answers on its stdout."""

    def __init__(self, name: str, *arguments: str) -> None:
        super().__init__(
            name,
            [*BRIDGE, "router", "--config", str(HOME / "router.yaml"), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._answers: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._last = 0
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._answers.put(json.loads(line))
        self._answers.put(None)

    def _send(self, message: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
        self.process.stdin.flush()

    def request(self, method: str, **params: Any) -> dict[str, Any]:
        """Send one request and wait for its result. Raises QuickstartError."""
        self._last += 1
        try:
            self._send({"id": self._last, "method": method, "params": params})
            while (message := self._answers.get(timeout=PATIENCE)) is not None:
                if message.get("id") == self._last and "method" not in message:
                    break
        except (queue.Empty, BrokenPipeError) as error:
            raise self.failed(f"no answer to {method}") from error
        if message is None or "error" in message:
            raise self.failed(f"{method}: {message['error'] if message else 'it ended'}")
        result: dict[str, Any] = message["result"]
        return result

    def open(self, tools: Sequence[str]) -> None:
        """Initialize and wait until these tools are listed. Raises QuickstartError."""
        self.request(
            "initialize", protocolVersion="2025-11-25", capabilities={}, clientInfo={"name": "quickstart", "version": "1"}
        )
        self._send({"method": "notifications/initialized"})
        ends = time.monotonic() + PATIENCE
        while True:
            names = [tool["name"] for tool in self.request("tools/list")["tools"]]
            if set(tools) <= set(names):
                return
            if time.monotonic() > ends:
                raise self.failed(f"wanted the tools {', '.join(tools)}, got {', '.join(names) or 'none'}")
            time.sleep(0.1)

    def measure(self, path: str, tool: str, calls: int) -> Row:
        """Call the echo tool several times, check every answer. Raises QuickstartError."""
        times = []
        for number in range(calls):
            text = f"hello {number}"
            began = time.perf_counter()
            result = self.request("tools/call", name=tool, arguments={"text": text})
            times.append(time.perf_counter() - began)
            if text not in json.dumps(result):
                raise self.failed(f"{tool} answered {json.dumps(result)[:200]}, not {text!r}")
        return Row(path, tool, tuple(times))

    def close(self) -> None:
        """End of input: the router answers what it has and exits 0. Raises QuickstartError."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            status = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired as error:
            raise self.failed("still running after the end of its input") from error
        if status != 0:
            raise self.failed(f"exit {status} after the end of its input")


def environment() -> dict[str, str]:
    """The person's environment without settings of the bridge, so that every run is the same."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("MCP_", "MCPBRIDGE_"))}


def port(wanted: int) -> int:
    """``wanted`` when it is free on loopback, else any free port."""
    for number in (wanted, 0):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", number))
            return int(probe.getsockname()[1])
    raise QuickstartError("no free port on 127.0.0.1")


def wait_for_port(child: Child, number: int) -> None:
    """Until somebody listens there. Raises QuickstartError when the child ends or the time is over."""
    ends = time.monotonic() + PATIENCE
    while child.process.poll() is None and time.monotonic() < ends:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", number), timeout=1):
            return
        time.sleep(0.05)
    raise child.failed(f"nothing listens on 127.0.0.1:{number}")


def execute(url: str, tool: str, calls: int) -> Row:
    """Call through the gateway's plain HTTP API. Raises QuickstartError."""
    times: list[float] = []
    answer: dict[str, Any] = {}
    for number in range(calls):
        params = {"name": tool, "arguments": {"text": f"hello {number}"}}
        body = json.dumps({"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}).encode()
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        began = time.perf_counter()
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as response:
                answer = json.load(response)
        except urllib.error.URLError as error:
            detail = error.read()[:500].decode(errors="replace") if isinstance(error, urllib.error.HTTPError) else ""
            raise QuickstartError(f"POST {url}: {error} {detail}") from error
        times.append(time.perf_counter() - began)
        if f"hello {number}" not in json.dumps(answer.get("result")):
            raise QuickstartError(f"POST {url} answered {json.dumps(answer)[:300]}")
    return Row(f"HTTP POST -> gateway -> ({answer['backend']}, {answer['protocol_used']})", tool, tuple(times))


def table(rows: Sequence[Row]) -> str:
    """The rows for people; times in milliseconds."""
    width = max(len(row.path) for row in rows)
    lines = [f"{'what went where':<{width}}  {'tool':<12} {'calls':>5} {'median ms':>10} {'slowest ms':>11}"]
    for row in rows:
        median, most = statistics.median(row.times) * 1000, max(row.times) * 1000
        lines.append(f"{row.path:<{width}}  {row.tool:<12} {len(row.times):>5} {median:>10.2f} {most:>11.2f}")
    return "\n".join(lines)


@contextlib.contextmanager
def running(name: str, command: Sequence[str]) -> Iterator[Child]:
    """A program that is stopped at the end, whatever happens."""
    child = Child(name, command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        yield child
    finally:
        child.stop()


@contextlib.contextmanager
def router(name: str, *arguments: str) -> Iterator[Router]:
    """A router with both demo tools listed; its input ends with the block."""
    child = Router(name, *arguments)
    try:
        child.open(("clock__echo", "web__echo"))
        yield child
        child.close()
    finally:
        child.stop()


def show(calls: int, check: bool) -> None:
    """Start everything, call, print; without ``check`` stay until Ctrl-C. Raises QuickstartError."""
    HOME.mkdir(parents=True, exist_ok=True)
    web, public, management = port(8081), port(8443), port(9090)
    server_command = f"{shlex.quote(PYTHON)} -m mcpbridge.demo.stdio"
    servers = ("--server", f"clock={server_command}", "--server", f"web=http://127.0.0.1:{web}/mcp")
    (HOME / "gateway.yaml").write_text(
        "# Written by scripts/quickstart.sh: no TLS and no sign-in, which the gateway only accepts on loopback.\n"
        f"server:\n  host: 127.0.0.1\n  port: {public}\n  tls:\n    enabled: false\n"
        f"auth:\n  type: none\nmetrics:\n  endpoint: 127.0.0.1:{management}\nlogging:\n  format: text\n"
    )
    (HOME / "router.yaml").write_text("# Written by scripts/quickstart.sh.\nlogging:\n  format: text\n")
    base = f"http://127.0.0.1:{public}"
    with (
        running("demo-http", [PYTHON, "-m", "mcpbridge.demo.http", "--port", str(web)]) as demo,
        running("gateway", [*BRIDGE, "gateway", "--config", str(HOME / "gateway.yaml"), *servers]) as gateway,
    ):
        wait_for_port(demo, web)
        wait_for_port(gateway, public)
        print(f"demo servers: clock ({server_command}), web (http://127.0.0.1:{web}/mcp)")
        print(f"gateway:      {base}/mcp, status {base}/api/v1/status, metrics http://127.0.0.1:{management}/metrics\n")
        rows = []
        with router("router-gateway", f"{base}/mcp") as through:
            rows.append(through.measure("router -> gateway -> stdio server", "clock__echo", calls))
            rows.append(through.measure("router -> gateway -> HTTP server", "web__echo", calls))
        with router("router-direct", *servers) as direct:
            rows.append(direct.measure("router -> stdio server", "clock__echo", calls))
            rows.append(direct.measure("router -> HTTP server", "web__echo", calls))
        rows.append(execute(f"{base}/api/v1/execute", "clock__echo", calls))
        print(table(rows))
        if check:
            if gateway.stop() != 0:
                raise gateway.failed(f"exit {gateway.process.returncode} after SIGTERM")
            return
        print(
            f"\nEverything above was measured just now. The gateway is still running; next:\n"
            f'  your editor   {{"mcpServers": {{"bridge": {{"command": "{ROOT}/.venv/bin/mcpbridge", '
            f'"args": ["router", "{base}/mcp"]}}}}}}\n'
            f"  your servers  {ROOT}/.venv/bin/mcpbridge gateway --server NAME='COMMAND ARGS' --server NAME=URL\n"
            f"  dashboard     {ROOT}/.venv/bin/mcpbridge tui --gateway {base}\n"
            f"Ctrl-C stops it.",
            flush=True,
        )
        status = gateway.process.wait()
        raise gateway.failed(f"exit {status}")


def main() -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="demo servers, gateway and router at work, measured")
    parser.add_argument("--check", action="store_true", help="assert, clean up and exit 0")
    parser.add_argument("--calls", type=int, default=50, help="calls per row (default 50)")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        show(max(1, options.calls), options.check)
    except QuickstartError as error:
        print(f"quickstart failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped")
        return 0
    if options.check:
        print("quickstart: ok")
    return 0


if __name__ == "__main__":
    sys.exit(main())
