"""Detection with two hundred targets at once: the same verdicts, and nobody waits for somebody else's second."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from mcpbridge.core.detect import Target
from mcpbridge.detect.race import examine
from tests.detection import servers as s
from tests.detection.wires import Counts, Shape, running

pytestmark = pytest.mark.slow
BUDGET = 5.0  # seconds; two hundred targets and their servers in one process want more than the product's one on a busy machine
KINDS = (
    (s.http(s.modern()), "http://127.0.0.1:{}/mcp", ("http", "modern")),
    (s.http(s.legacy()), "http://127.0.0.1:{}/mcp", ("http", "legacy")),
    (s.http(s.events()), "http://127.0.0.1:{}/sse", ("sse", "legacy")),
    (s.websocket("legacy"), "ws://127.0.0.1:{}/mcp", ("websocket", "legacy")),
    (s.binary("modern"), "tcp://127.0.0.1:{}", ("tcp_binary", "modern")),
    (s.http(s.says(200, s.HTML, "text/html")), "http://127.0.0.1:{}/mcp", (None, None)),
    (s.echo, "127.0.0.1:{}", (None, None)),
    (s.black_hole, "http://127.0.0.1:{}/mcp", (None, None)),
)


async def test_two_hundred_detections_at_once_are_as_right_as_one():
    counts = Counts()
    async with AsyncExitStack() as stack:
        targets = []
        for number in range(200):
            serve, address, label = KINDS[number % len(KINDS)]
            port = await stack.enter_async_context(running(serve, Shape(), counts))
            targets.append((Target.of(address.format(port)), label))
        async with asyncio.TaskGroup() as group:
            found = await asyncio.gather(*(examine(target, group.create_task, budget=BUDGET) for target, _ in targets))
    positives = [one for one, (_, label) in zip(found, targets, strict=True) if one.is_proven and label == (None, None)]
    assert not positives
    wrong = [one for one, (_, label) in zip(found, targets, strict=True) if (one.protocol, one.era) != label]
    assert not wrong, wrong
    assert counts.calls == 0 and not counts.sessions
