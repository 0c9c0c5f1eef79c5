"""A server on a unix socket: each connection gets a demo server of its own, with the connection for stdin and stdout.

python tests/support/socket_server.py PATH NAME          prints a line when it listens
"""

from __future__ import annotations

import socket
import subprocess
import sys


def main(path: str, name: str) -> None:
    """Serve until somebody ends us."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(16)
        print("listening", flush=True)
        children = []
        while True:
            connection, _ = listener.accept()
            with connection:
                command = [sys.executable, "-m", "mcpbridge.demo.stdio", "--name", name]
                children.append(subprocess.Popen(command, stdin=connection, stdout=connection))
            children = [child for child in children if child.poll() is None]


if __name__ == "__main__":
    main(*sys.argv[1:])
