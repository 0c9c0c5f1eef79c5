"""Packs a directory of packages into one executable file: ``pack.py SITE OUTPUT``. The same content gives the same bytes.

The archive holds ``site-packages/``, ``start.py`` (which unpacks and runs them), and the hash of all that as its build id.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
import zipfile
from pathlib import Path

SHEBANG = b"#!/usr/bin/env -S python3 -I -X utf8\n"
MAIN = b"import start\n\nstart.main()\n"


def pack(site: Path, output: Path, epoch: int) -> None:
    """Write the archive. ``epoch``: seconds since 1970, the time stamp of every member."""
    members = {f"site-packages/{path.relative_to(site).as_posix()}": path for path in site.rglob("*") if path.is_file()}
    members["start.py"] = Path(__file__).with_name("start.py")
    when = time.gmtime(max(epoch, 315532800))[:6]  # a zip knows no time before 1980
    build = hashlib.sha256()
    with output.open("wb") as file:
        file.write(SHEBANG)
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:

            def add(name: str, data: bytes) -> None:
                member = zipfile.ZipInfo(name, when)
                member.compress_type = zipfile.ZIP_DEFLATED
                member.external_attr = 0o100644 << 16
                archive.writestr(member, data)

            for name in sorted(members):
                data = members[name].read_bytes()
                build.update(f"{name}\0{len(data)}\0".encode() + data)
                add(name, data)
            add("build-id", build.hexdigest().encode())
            add("__main__.py", MAIN)
    output.chmod(0o755)


if __name__ == "__main__":
    pack(Path(sys.argv[1]), Path(sys.argv[2]), int(os.environ["SOURCE_DATE_EPOCH"]))
