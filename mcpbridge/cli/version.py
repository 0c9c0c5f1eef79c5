"""``mcpbridge version [--json]``. Source: contract ``cli.router.version``."""

from __future__ import annotations

import json
import os
import sys

from mcpbridge import __version__
from mcpbridge.cli.parsing import Parser


def run(name: str, arguments: list[str]) -> int:
    """Print the version."""
    parser = Parser(
        f"{name} version", "The version of this program.", [(f"{name} version", ""), (f"{name} version --json", "for programs")]
    )
    parser.add_argument("--json", action="store_true", help="one JSON document")
    if not parser.parse(arguments).json:
        print(f"{name} {__version__}")
        return 0
    import platform

    document = {
        "schema": "mcpbridge.version/v1",
        "version": __version__,
        "python": platform.python_version(),
        "platform": f"{sys.platform}-{platform.machine()}",
        "build": "zipapp" if _is_archive(sys.argv[0]) else "package",
    }
    print(json.dumps(document))
    return 0


def _is_archive(program: str) -> bool:
    """Whether the program is one file with everything in it; pip's launchers on Windows are archives too."""
    import zipfile

    return not program.lower().endswith(".exe") and os.path.isfile(program) and zipfile.is_zipfile(program)
