"""Real HTTP proxies on loopback: squid and tinyproxy, each with a login, each as strict as its distribution ships it."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support import peers

HOST = "server.test"  # a name that only the proxy can resolve: 127.0.0.1
SQUID = shutil.which("squid", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
TINYPROXY = shutil.which("tinyproxy")


@dataclass(frozen=True, slots=True)
class RealProxy:
    """Where a proxy listens, and what it noted of the requests it served."""

    port: int
    log: Path
    login: str  # as in a URL

    def url(self, login: str | None = None) -> str:
        """Its URL, with the login that it knows unless another is given ("" for none)."""
        login = self.login if login is None else login
        return f"http://{login}@127.0.0.1:{self.port}" if login else f"http://127.0.0.1:{self.port}"

    def served(self) -> str:
        return self.log.read_text(errors="replace")


@contextlib.contextmanager
def squid(tunnels: Sequence[int]) -> Iterator[RealProxy]:
    """Squid with a login. CONNECT leads to the ports ``tunnels`` only, as Debian allows 443 only; it alone knows HOST."""
    assert SQUID is not None
    port = peers.free_port()
    with _folder() as folder:
        encrypted = _run(["openssl", "passwd", "-apr1", "se cret"])
        (folder / "users").write_text(f"me:{encrypted}\n")
        (folder / "hosts").write_text(f"127.0.0.1 {HOST}\n")
        helper = "/usr/lib/squid/basic_ncsa_auth"
        (folder / "squid.conf").write_text(
            f"""
http_port 127.0.0.1:{port}
auth_param basic program {helper} {folder}/users
auth_param basic children 1
acl known proxy_auth REQUIRED
acl tunnels port {" ".join(map(str, tunnels)) or "443"}
acl CONNECT method CONNECT
http_access deny CONNECT !tunnels
http_access allow known
http_access deny all
hosts_file {folder}/hosts
dns_nameservers 127.0.0.1
cache deny all
access_log stdio:{folder}/log/access
cache_log {folder}/log/cache
pid_filename none
coredump_dir {folder}/log
shutdown_lifetime 0 seconds
via off
"""
        )
        (folder / "log" / "access").touch()
        (folder / "log" / "access").chmod(0o666)
        with peers.running([SQUID, "-N", "-f", str(folder / "squid.conf")]) as process:
            _wait(process, port)
            yield RealProxy(port, folder / "log" / "access", "me:se%20cret")


@contextlib.contextmanager
def tinyproxy(tunnels: Sequence[int]) -> Iterator[RealProxy]:
    """Tinyproxy with a login; CONNECT leads to the ports ``tunnels`` only."""
    assert TINYPROXY is not None
    port = peers.free_port()
    with _folder() as folder:
        (folder / "tinyproxy.conf").write_text(
            f"""
Port {port}
Listen 127.0.0.1
Timeout 600
MaxClients 100
Allow 127.0.0.1
BasicAuth me secret
LogFile "{folder}/log/tinyproxy"
LogLevel Connect
"""
            + "".join(f"ConnectPort {allowed}\n" for allowed in tunnels or [443])
        )
        (folder / "log" / "tinyproxy").touch()
        (folder / "log" / "tinyproxy").chmod(0o666)
        with peers.running([TINYPROXY, "-d", "-c", str(folder / "tinyproxy.conf")]) as process:
            _wait(process, port)
            yield RealProxy(port, folder / "log" / "tinyproxy", "me:secret")


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """A folder that a proxy can use after it gave up root."""
    with tempfile.TemporaryDirectory(prefix="proxy-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "log").mkdir()
        (folder / "log").chmod(0o777)
        yield folder


def _wait(process: subprocess.Popen[str], port: int) -> None:
    """Return when it answers: without a login it says 407."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        with contextlib.suppress(OSError):
            peers.wait_listening(process, f"http://127.0.0.1:{port}/")
            return
    raise peers.PeerFailed(f"no proxy at {port}: {peers.errors_of(process)}")


def _run(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout.strip()
