"""How the one file starts, and how the installed program starts: finds or unpacks the packages, then calls the program.

In the zipapp this module stands beside ``site-packages/`` in the archive, which is unpacked once into a private cache. An
installation (install.sh) has it beside an unpacked ``site-packages/``: nothing is written, so a read-only root will do.
No variable but XDG_CACHE_HOME and HOME has a say: neither PYTHONPATH nor one that names code to run.
"""

import os
import shutil
import stat
import sys
import tempfile
import time
import zipfile

BUILD_ID = "build-id"
EX_UNAVAILABLE, EX_CANTCREAT = 69, 73
LEFT_OVER = 3600.0  # seconds; a half-unpacked directory that old belongs to a process that was killed


def main():
    """Become the program. Exits with 69 on a Python that is too old, 73 where the cache cannot be used."""
    if sys.version_info < (3, 11):
        fail(EX_UNAVAILABLE, "needs Python 3.11 or newer, this is " + sys.version.split()[0])
    if os.name == "posix" and not sys.flags.isolated and sys.executable:
        os.execv(sys.executable, [sys.executable, "-I", "-X", "utf8", *sys.argv])
    here = os.path.dirname(os.path.abspath(__file__))
    site = unpacked(here) if os.path.isfile(here) else here
    enter(os.path.join(site, "site-packages"))
    from mcpbridge.cli import main as program

    sys.exit(program())


def enter(packages):
    """Let imports find ``packages`` after the standard library and before what else is installed."""
    here = os.path.dirname(os.path.abspath(__file__))  # of the archive: its own path, which is the first entry
    own = [path for path in sys.path if os.path.abspath(path) != here]
    names = [os.path.basename(path) for path in own]
    first = next((place for place, name in enumerate(names) if name in ("site-packages", "dist-packages")), len(own))
    sys.path[:] = [*own[:first], packages, *own[first:]]


def unpacked(archive):
    """The directory of the cache that holds this archive's packages for this Python; unpacks them on the first start."""
    with zipfile.ZipFile(archive) as packed:
        build = packed.read(BUILD_ID).decode("ascii").strip()
    cache = cache_directory()
    target = os.path.join(cache, f"{build[:32]}-{sys.implementation.cache_tag}")
    if os.path.isdir(target):
        check(target)
        return target
    try:
        sweep(cache)
        fresh = tempfile.mkdtemp(prefix=".new-", dir=cache)
        try:
            unpack(archive, fresh)
            os.rename(fresh, target)
        except OSError:
            if not os.path.isdir(target):  # else another first start was faster
                raise
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    except OSError as error:
        no_cache(cache, error)
    return target


def unpack(archive, target):
    """Write ``site-packages/`` and this module below ``target``, without what was compiled for other Pythons.

    Raises: OSError; ValueError for a member that would land elsewhere.
    """
    tag = sys.implementation.cache_tag  # cpython-311
    with zipfile.ZipFile(archive) as packed:
        for member in packed.infolist():
            name = member.filename
            if name != "start.py" and not name.startswith("site-packages/"):
                continue
            if name.startswith("/") or "\\" in name or ".." in name.split("/"):
                raise ValueError(f"{archive}: a member is called {name!r}")
            base = name.rsplit("/", 1)[-1]
            if ".cpython-" in base and f".{tag}-" not in base and base.endswith(".so"):
                continue
            packed.extract(member, target)


def cache_directory():
    """The private directory for unpacked archives, made on demand. Exits with 73 when it cannot be used."""
    if os.name == "nt":
        base = os.environ.get("LOCALAPPDATA") or os.path.expanduser("~")
    else:
        base = os.environ.get("XDG_CACHE_HOME", "")
        base = base if os.path.isabs(base) else os.path.join(os.path.expanduser("~"), ".cache")
    cache = os.path.join(base, "mcpbridge", "zipapp")
    for path in (os.path.dirname(cache), cache):
        try:
            os.makedirs(path, 0o700, exist_ok=True)
            check(path)
        except OSError as error:
            no_cache(path, error)
    return cache


def check(path):
    """Refuse a directory in which somebody else could have put code."""
    if os.name == "nt":
        return
    status = os.lstat(path)
    if not stat.S_ISDIR(status.st_mode):
        fail(EX_CANTCREAT, f"{path} is not a directory", "remove it, or set XDG_CACHE_HOME to a directory of yours")
    if status.st_uid not in (os.geteuid(), 0) or status.st_mode & 0o022:
        whose = "can be written by others" if status.st_mode & 0o022 else "belongs to another user"
        fail(
            EX_CANTCREAT,
            f"{path} {whose}, so what is in it is not run",
            "remove it, or set XDG_CACHE_HOME to a directory of yours",
        )


def sweep(cache):
    """Remove what killed first starts left."""
    for name in os.listdir(cache):
        path = os.path.join(cache, name)
        if name.startswith(".new-") and time.time() - os.lstat(path).st_mtime > LEFT_OVER:
            shutil.rmtree(path, ignore_errors=True)


def no_cache(path, error):
    """Say that nothing can be unpacked, and how to do without."""
    why = error.strerror or error
    fail(
        EX_CANTCREAT,
        f"cannot unpack into {path}: {why}",
        "set XDG_CACHE_HOME to a directory of yours, or use install.sh: what it installs needs no cache",
    )


def fail(status, *lines):
    """Cause and next step on stderr; exits."""
    sys.stderr.write("mcpbridge: " + "\n  ".join(str(line) for line in lines) + "\n")
    sys.exit(status)


if __name__ == "__main__":
    main()
