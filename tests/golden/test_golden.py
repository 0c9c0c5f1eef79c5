"""The cells of client and server era as conversations through the real rings; the texts beside this file are the tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcpbridge.era import Crossings
from tests.golden.player import play

HERE = Path(__file__).parent
TRANSCRIPTS = sorted(path.name for path in HERE.glob("*.txt"))


@pytest.mark.parametrize("name", TRANSCRIPTS)
async def test_the_conversation_goes_as_written(name: str) -> None:
    await play(HERE / name, Crossings())


@pytest.mark.parametrize("name", [name for name in TRANSCRIPTS if name.startswith("legacy_legacy")])
async def test_the_same_era_works_without_the_era_room(name: str) -> None:
    await play(HERE / name, None)
