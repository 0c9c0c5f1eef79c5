"""A legacy stdio MCP server in plain Python that misbehaves on request. Not MCP-complete: initialize, tools/list, tools/call.

``python awkward_server.py MODE``:
  shuffle       answers calls late and out of order (the bridge has to sort by id)
  good          a well-behaved server with one tool
  exit          exits with code 3 before it says anything, with a line on stderr
  silent        reads everything, answers nothing
  noise         prints banners on stdout that are not JSON, and never speaks MCP
  chatty        prints noise lines between correct messages
  mute-call     answers initialize and lists, never a call
  dies-in-call  exits in the middle of a call
  bad-json      answers a call with a line that is not JSON
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from typing import Any

MODE = sys.argv[1] if len(sys.argv) > 1 else "good"
HELD: list[dict[str, Any]] = []
HOLD = 7  # answers kept back before they leave in random order
ECHO = {"name": "echo", "description": "echoes `payload`", "inputSchema": {"type": "object", "properties": {"payload": {}}}}


def send(message: dict[str, Any]) -> None:
    if MODE == "chatty":
        sys.stdout.write("[info] about to write a message\n\n")
    sys.stdout.write(json.dumps(message, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def release() -> None:
    random.shuffle(HELD)
    while HELD:
        send(HELD.pop())


def result_of(method: str, params: dict[str, Any]) -> dict[str, Any] | None:
    if method == "initialize":
        return {
            "protocolVersion": params["protocolVersion"],
            "capabilities": {"tools": {}},
            "serverInfo": {"name": f"awkward-{MODE}", "version": "1"},
        }
    if method == "tools/list":
        return {"tools": [ECHO]}
    if method == "tools/call":
        payload = params.get("arguments", {}).get("payload")
        return {"content": [{"type": "text", "text": json.dumps(payload, ensure_ascii=False)}]}
    return {} if method == "ping" else None


def answer(message: dict[str, Any]) -> None:
    method = message["method"]
    if method == "tools/call":
        if MODE == "mute-call":
            return
        if MODE == "dies-in-call":
            sys.stderr.write("fatal: the tool broke the server\n")
            sys.exit(9)
        if MODE == "bad-json":
            sys.stdout.write('{"jsonrpc": "2.0", "id": oops}\n')
            sys.stdout.flush()
            return
    result = result_of(method, message.get("params") or {})
    reply: dict[str, Any] = {"jsonrpc": "2.0", "id": message["id"]}
    reply |= {"error": {"code": -32601, "message": f"Method not found: {method}"}} if result is None else {"result": result}
    if MODE == "shuffle" and method == "tools/call":
        HELD.append(reply)
        if len(HELD) >= random.randint(1, HOLD):
            release()
    else:
        send(reply)


def lines_or_idle() -> None:
    """Read lines for ever; in shuffle mode what is held back leaves when no line comes for a moment."""
    import select

    pending = b""
    while True:
        if HELD and not select.select([0], [], [], 0.01)[0]:
            release()
            continue
        chunk = os.read(0, 65536)
        if not chunk:
            break
        *lines, pending = (pending + chunk).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if "id" in message and "method" in message:
                answer(message)
    release()


def main() -> None:
    if MODE == "exit":
        sys.stderr.write("fatal: no licence key found\n")
        sys.exit(3)
    if MODE == "silent":
        sys.stdin.read()
    elif MODE == "noise":
        for number in range(5):
            print(f"*** starting up, step {number} ***", flush=True)
        while True:
            time.sleep(60)
    else:
        lines_or_idle()


if __name__ == "__main__":
    main()
