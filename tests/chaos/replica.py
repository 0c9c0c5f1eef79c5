"""A replica for the chaos suite, a process of its own: what it executes is on file, and it garbles its answers while told to.

    replica.py OVER ERA FOLDER NAME [PORT]

Every ``tools/call`` and ``prompts/get`` names a ``token`` among its arguments; the answer says it again, and
``FOLDER/NAME.runs`` gets a line. While ``FOLDER/NAME.garble`` exists every such answer is garbled, in the way of
``garbled_server`` that it names or in any. The name ``never`` gets no answer at all. Over stdio each process leaves
``FOLDER/NAME-PID.pid``.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.support.garbled_server import Json, Mind, listening, over_stdio

GARBLES = ("no JSON", "broken JSON", "foreign id", "wrong version", "both", "cut", "closes")


class ReplicaMind(Mind):
    """What is answered, and noted."""

    def __init__(self, era: str, folder: Path, name: str) -> None:
        super().__init__(era, folder)
        self.name = name
        self.runs = os.open(folder / f"{name}.runs", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self.sign = str(folder / f"{name}.garble")
        self.token = ""

    def answer(self, request: Json) -> tuple[str | None, list[bytes]]:
        method, params = request["method"], request.get("params", {})
        if method in ("tools/call", "prompts/get"):
            self.token = params.get("arguments", {}).get("token", "")
            os.write(self.runs, f"{self.token}\n".encode())
            if params.get("name") != "never":
                params["name"] = self.fault()
        return super().answer(request)

    def fault(self) -> str:
        try:
            sign = Path(self.sign).read_text()
        except FileNotFoundError:
            return "well"
        return sign or random.choice(GARBLES)

    def outcome(self, method: str) -> Json:
        found: dict[str, Any] = super().outcome(method)
        if method == "tools/call":
            found["result"]["content"][0]["text"] = self.token
        elif method == "prompts/get":
            found["result"]["messages"][0]["content"]["text"] = self.token
        return found


async def serve(over: str, mind: Mind, port: int) -> None:
    async with listening(over, mind, port):
        print("ready", flush=True)
        await asyncio.Event().wait()


def main() -> None:
    over, era, folder, name, *port = sys.argv[1:]
    mind = ReplicaMind(era, Path(folder), name)
    if over == "stdio":
        (Path(folder) / f"{name}-{os.getpid()}.pid").touch()
        over_stdio(mind)
    else:
        asyncio.run(serve(over, mind, int(port[0])))


if __name__ == "__main__":
    main()
