"""An echo MCP server on stdin and stdout: one blocking read, all lines in it answered, one write."""

from __future__ import annotations

import os
import sys

import msgspec
from echo import answer

READ_BYTES = 1 << 18


def main() -> int:
    """Answer until stdin ends. Returns the exit code."""
    pending = b""
    while chunk := os.read(0, READ_BYTES):
        lines = (pending + chunk).split(b"\n")
        pending = lines.pop()
        answers = []
        for line in lines:
            try:
                reply = answer(line) if line.strip() else None
            except msgspec.DecodeError:
                reply = b'{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"Parse error"}}'
            if reply is not None:
                answers.append(reply + b"\n")
        out = memoryview(b"".join(answers))
        while out:
            out = out[os.write(1, out) :]
    return 0


if __name__ == "__main__":
    sys.exit(main())
