"""What is measured: the bridge, no bridge, and peers installed from their registries at pinned versions.

peers.py install        npm and PyPI packages into .cache/bench-peers (repeatable, does nothing when all is there)
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

from messages import Dialect
from processes import ECHO_STDIO, HERE, ROOT, free_port

PEERS = ROOT / ".cache" / "bench-peers"
NPM = {"supergateway": "4.0.0", "mcp-proxy": "6.7.19"}
PYPI = {"mcp-proxy": "0.13.0", "fastmcp": "4.1.2"}

BRIDGE = ("env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "mcpbridge")
"""The bridge of this checkout, installed or not."""

Hop = Literal["http-http", "http-stdio"]


class Contender(NamedTuple):
    """One program in front of an echo server. ``command`` gets its port and the port of the HTTP backend."""

    name: str
    hop: Hop
    version: str
    path: str
    command: Callable[[int, int], list[str]]
    dialects: tuple[Dialect, ...] = ("legacy",)
    ready: Callable[[], bool] = lambda: True

    def backend_command(self) -> list[str]:
        """The stdio server behind it."""
        return echo_stdio()


def echo_stdio() -> list[str]:
    """The command of the stdio echo server."""
    return [sys.executable, str(ECHO_STDIO)]


def _node(name: str, *arguments: str) -> list[str]:
    return [str(PEERS / "node_modules" / ".bin" / name), *arguments]


def _python(name: str) -> Path:
    return PEERS / f"py-{name}" / "bin"


def _supergateway(port: int, backend: int) -> list[str]:
    echo = shlex.join(echo_stdio())
    out = ("--outputTransport", "streamableHttp", "--stateful", "--sessionTimeout", "60000", "--logLevel", "none")
    return _node("supergateway", "--stdio", echo, *out, "--port", str(port))


def _npm_mcp_proxy(port: int, backend: int) -> list[str]:
    return _node("mcp-proxy", "--port", str(port), "--host", "127.0.0.1", "--server", "stream", "--", *echo_stdio())


def _pypi_mcp_proxy(port: int, backend: int) -> list[str]:
    return [str(_python("mcp-proxy") / "mcp-proxy"), "--host", "127.0.0.1", "--port", str(port), "--", *echo_stdio()]


def _fastmcp(port: int, backend: int) -> list[str]:
    script = str(HERE / "fastmcp_proxy.py")
    return [str(_python("fastmcp") / "python"), script, str(port), f"http://127.0.0.1:{backend}/mcp"]


PEER_LIST = (
    Contender("FastMCP proxy", "http-http", PYPI["fastmcp"], "/mcp", _fastmcp),
    Contender("supergateway", "http-stdio", NPM["supergateway"], "/mcp", _supergateway),
    Contender("mcp-proxy (npm)", "http-stdio", NPM["mcp-proxy"], "/mcp", _npm_mcp_proxy),
    Contender("mcp-proxy (PyPI)", "http-stdio", PYPI["mcp-proxy"], "/mcp", _pypi_mcp_proxy),
)


def bridge(hop: Hop, work: Path) -> Contender:
    """The bridge as its embedded default configures it (loopback, no TLS, no sign-in), by a file in ``work``."""

    def command(port: int, backend: int) -> list[str]:
        http = {"url": f"http://127.0.0.1:{backend}/mcp"}
        stdio = {"command": sys.executable, "args": [str(ECHO_STDIO)]}
        config = work / f"bridge-{hop}.yaml"
        config.write_text(
            json.dumps(
                {
                    "server": {
                        "host": "127.0.0.1",
                        "port": port,
                        "tls": {"enabled": False},
                        "protocols": {"stdio": {"enabled": False}, "tcp_binary": {"enabled": False}},
                    },
                    "auth": {"type": "none"},
                    "metrics": {"endpoint": f"127.0.0.1:{free_port()}"},
                    "mcpServers": {"echo": http if hop == "http-http" else stdio},
                }
            )
        )
        return [*BRIDGE, "gateway", "--config", str(config)]

    told = subprocess.run([*BRIDGE, "--version"], capture_output=True, text=True, check=True).stdout
    return Contender("mcpbridge", hop, told.split()[-1], "/mcp/echo", command, ("legacy", "modern"))


def install() -> None:
    """Install the peers that are missing or of another version. Raises CalledProcessError."""
    PEERS.mkdir(parents=True, exist_ok=True)
    package = PEERS / "package.json"
    if not package.exists():
        package.write_text('{"name": "bench-peers", "private": true}\n')
    missing = [f"{name}@{wanted}" for name, wanted in NPM.items() if _npm_version(name) != wanted]
    if missing:
        subprocess.run(["npm", "install", "--no-audit", "--no-fund", "--silent", *missing], cwd=PEERS, check=True)
    for name, wanted in PYPI.items():
        interpreter = _python(name) / "python"
        if not interpreter.exists():
            subprocess.run([sys.executable, "-m", "venv", str(PEERS / f"py-{name}")], check=True)
        code = f"import importlib.metadata as m; raise SystemExit(m.version({name!r}) != {wanted!r})"
        if subprocess.run([str(interpreter), "-c", code], check=False, capture_output=True).returncode:
            subprocess.run([str(interpreter), "-m", "pip", "install", "-q", f"{name}=={wanted}"], check=True)


def _npm_version(name: str) -> str | None:
    manifest = PEERS / "node_modules" / name / "package.json"
    return json.loads(manifest.read_text())["version"] if manifest.exists() else None


if __name__ == "__main__":
    if sys.argv[1:] != ["install"]:
        sys.exit("usage: peers.py install")
    install()
