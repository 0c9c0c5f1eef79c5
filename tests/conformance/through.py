"""``through.py WAY URL``: run the conformance client (``client.py``) with a bridge between it and ``URL``.

WAY is ``direct``, ``gateway`` (the client speaks HTTP to it), ``router`` (over stdio) or ``router-gateway``; with ``crossed-``
before it the client speaks the other era than the scenario's server. The suite appends the URL and sets the variables that the
client reads, so this program is the client that the suite sees.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # as a script it runs from anywhere
from tests.support import peers, setup

CLIENT = [setup.python("sdk2"), str(Path(__file__).with_name("client.py"))]
WAYS = ("direct", "gateway", "router", "router-gateway")
CROSSED = ("crossed-gateway", "crossed-router")


def main() -> int:
    way, url = sys.argv[1:]
    with contextlib.ExitStack() as stack:
        if way.endswith("gateway"):
            url = stack.enter_context(peers.gateway({"own": url})).url("own")
        between = ["--through", json.dumps(peers.router())] if "router" in way else []
        between += ["--crossed"] if way.startswith("crossed") else []
        return subprocess.run([*CLIENT, *between, url], check=False, env={**os.environ, **peers.environment()}).returncode


if __name__ == "__main__":
    sys.exit(main())
