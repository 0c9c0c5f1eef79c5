"""The Autobahn test suite itself, which needs Python 2: ``python tests/support/autobahn.py`` puts it into ``.cache/autobahn``.

Python 2.7 comes from packages of Debian 11 that are unpacked beside the system, from the mirror that apt already uses; nothing
is installed into the system. Only on Debian; the port of its cases (tests/transports/websocket/test_autobahn.py) runs anywhere.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".cache" / "autobahn"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
DEBS = ("python2.7", "python2.7-minimal", "libpython2.7-stdlib", "libpython2.7-minimal", "libffi7", "libssl1.1")
TOOLS = ("setuptools==44.0.0", "wheel==0.37.1")
NEEDED = (
    *("txaio==2.1.0", "incremental==16.10.1", "pyOpenSSL==19.1.0", "cryptography==3.3.2", "Twisted==20.3.0"),
    *("zope.interface==4.6.0", "jinja2==2.11.3", "markupsafe==1.1.1", "Werkzeug==1.0.1", "klein==17.10.0"),
    *("service-identity==18.1.0", "unittest2==1.1.0", "six==1.16.0"),
)
SUITE = ("autobahn==0.10.9", "autobahntestsuite==25.10.1")
CASES = ["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "10.*"]


def is_ready() -> bool:
    return (FOLDER / "ready").exists()


def python2(*arguments: str) -> tuple[list[str], dict[str, str]]:
    """Command and environment of the unpacked interpreter."""
    root, site = FOLDER / "python2", FOLDER / "site"
    libraries = [str(root / place / "x86_64-linux-gnu") for place in ("usr/lib", "lib")]
    authorities = "/etc/ssl/certs/ca-certificates.crt"
    ours = {
        "HOME": str(FOLDER),
        "PATH": "/usr/bin:/bin",
        "PYTHONHOME": str(root / "usr"),
        "PYTHONPATH": str(site),
        "LD_LIBRARY_PATH": ":".join(libraries),
        "SSL_CERT_FILE": authorities,
        "PIP_CERT": authorities,
    }
    kept = {name: value for name, value in os.environ.items() if name.upper() in ("PIP_INDEX_URL", "HTTPS_PROXY", "NO_PROXY")}
    return [str(root / "usr" / "bin" / "python2.7"), *arguments], kept | ours


def wstest(mode: str, options: dict[str, Any], place: Path) -> subprocess.Popen[bytes]:
    """The suite in one of its modes; ``options`` is its specification file."""
    specification = place / f"{mode}.json"
    specification.write_text(json.dumps(options))
    command, environment = python2("-m", "autobahntestsuite.wstest", "-m", mode, "-s", str(specification))
    return subprocess.Popen(command, env=environment, cwd=place, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def install() -> None:
    """Raises CalledProcessError with the output of the step that failed, or OSError."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    debs, wheels = FOLDER / "debs", FOLDER / "wheels"
    for folder in (debs, wheels, FOLDER / "lists" / "partial", FOLDER / "archives" / "partial"):
        folder.mkdir(parents=True)
    sites = _run(["apt-get", "indextargets", "--format", "$(SITE)"]).split()
    mirror = next(site for site in sites if "security" not in site)
    sources = FOLDER / "sources.list"
    sources.write_text(f"deb [signed-by={KEYRING}] {mirror} bullseye main\n")
    places = {"Dir::Etc::sourcelist": sources, "Dir::Etc::sourceparts": "/dev/null", "Dir::State::lists": FOLDER / "lists"}
    places |= {"Dir::Cache::archives": FOLDER / "archives", "Dir::Cache::pkgcache": "", "Dir::Cache::srcpkgcache": ""}
    apt = ["apt-get", "-q", *(part for name, place in places.items() for part in ("-o", f"{name}={place}"))]
    _run([*apt, "update"])
    _run([*apt, "download", *DEBS], debs)
    for deb in debs.glob("*.deb"):
        _run(["dpkg-deb", "-x", str(deb), str(FOLDER / "python2")])
    _run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(wheels), "pip==20.3.4"])
    pip = next(wheels.glob("pip-*.whl")) / "pip"
    target = ["--isolated", "--prefer-binary", "--no-build-isolation", "--target", str(FOLDER / "site")]
    for packages in (TOOLS, NEEDED, ("--no-deps", *SUITE)):
        command, environment = python2(str(pip), "install", *target, *packages)
        _run(command, env=environment)
    (FOLDER / "site" / "zope" / "__init__.py").touch()
    (FOLDER / "ready").touch()


def _run(command: list[str], cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode != 0:
        raise subprocess.CalledProcessError(done.returncode, command, (done.stdout + done.stderr)[-2000:])
    return done.stdout


if __name__ == "__main__":
    try:
        if not is_ready():
            install()
    except subprocess.CalledProcessError as error:
        sys.exit(f"autobahn: {' '.join(error.cmd[:3])}…: exit {error.returncode}\n{error.output}")
    print(f"autobahn: ready in {FOLDER}")
