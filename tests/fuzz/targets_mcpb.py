"""Fuzz target for the frames of the binary transport and what their payloads say."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

from mcpbridge.errors import BridgeError
from mcpbridge.wire import mcpb
from mcpbridge.wire.framing import Overlong

GOLDEN = json.loads((Path(__file__).parents[1] / "data" / "mcpb.json").read_text(encoding="utf-8"))


def frames(data: bytes) -> None:
    """Two chunkings give the same frames and the same refusal; every frame encodes back to the bytes it came from."""
    max_message = 1 + zlib.crc32(data) % 200
    found, refused, held = _read([data], max_message)
    step = 1 + zlib.crc32(data) % 13
    assert (found, refused) == _read([data[start : start + step] for start in range(0, len(data), step)], max_message)[:2]
    again = b"".join(b"" if isinstance(frame.payload, Overlong) else mcpb.encode(*frame) for frame in found)
    if not any(isinstance(frame.payload, Overlong) for frame in found):
        assert data.startswith(again) and len(data) == len(again) + held
    for frame in found:
        assert len(frame.payload) <= mcpb.MAX_PAYLOAD
        _understand(frame)


def _read(chunks: list[bytes], max_message: int) -> tuple[list[mcpb.Frame], str | None, int]:
    reader, found = mcpb.FrameReader(max_message), []
    try:
        for chunk in chunks:
            reader.feed(chunk)
            while (frame := reader.next()) is not None:
                found.append(frame)
    except BridgeError as error:
        _is_mismatch(error)
        return found, error.reason, reader.held
    return found, None, reader.held


def _is_mismatch(error: BridgeError) -> None:
    assert error.reason == "protocol_mismatch"
    assert error.data["expected"] != error.data["got"]


def _understand(frame: mcpb.Frame) -> None:
    for understand in (mcpb.agree, mcpb.check_ack, mcpb.authorization):
        try:
            understand(frame.payload)
        except BridgeError as error:
            _is_mismatch(error)
    said = mcpb.refused(frame.payload)
    assert said.detail.isprintable() and len(said.detail) < 300
    mcpb.refuse(said)


TARGETS = {"mcpb": frames}
SEEDS = {
    "mcpb": [
        *(bytes.fromhex(row["bytes"]) for rows in GOLDEN.values() for row in rows),
        b"".join(bytes.fromhex(row["bytes"]) for row in GOLDEN["frames"]),
    ]
}
