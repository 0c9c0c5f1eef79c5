"""The whole screen as a picture. Few on purpose: what can be asserted on a widget is asserted there.

After a wanted change: ``pytest tests/tui/test_snapshots.py --snapshot-update``, then look at the pictures.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import msgspec
import pytest
from textual.pilot import Pilot

from mcpbridge.admin.client import Unreachable
from mcpbridge.observe.snapshot import Snapshot
from tests.tui.pictures import make_healthy, make_outage
from tui.dashboard.dashboard import Dashboard
from tui.dashboard.screens import SCREENS

NOW = 1795442550.4
LOADS = (0.55, 0.61, 0.7, 0.84, 0.78, 0.9, 1.0)


def recorded(snapshot: Snapshot, *, lost: bool = False) -> Callable[[], AsyncIterator[Snapshot]]:
    async def follow() -> AsyncIterator[Snapshot]:
        for number, load in enumerate(LOADS):
            protocols = tuple(
                msgspec.structs.replace(p, requests_per_sec=p.requests_per_sec * load) if p.requests_per_sec else p
                for p in snapshot.protocols
            )
            yield msgspec.structs.replace(snapshot, sequence=number, protocols=protocols)
        if lost:
            raise Unreachable("connection refused")
        await asyncio.Event().wait()

    return follow


async def settled(pilot: Pilot[None]) -> None:
    app = pilot.app
    assert isinstance(app, Dashboard)
    async with asyncio.timeout(5):
        while len(app.overview.calls) < len(LOADS):
            await pilot.pause()
    await pilot.pause()


def app_of(snapshot: Snapshot, key: str = "1", *, lost: bool = False, plain: bool = False) -> Dashboard:
    source = recorded(snapshot, lost=lost)
    return Dashboard(source, url="http://127.0.0.1:8443", plain=plain, first=key, clock=lambda: NOW)


@pytest.mark.parametrize("size", [(80, 24), (140, 40)], ids=["80x24", "140x40"])
@pytest.mark.parametrize("make", [make_healthy, make_outage], ids=["healthy", "outage"])
@pytest.mark.parametrize("key", [row.key for row in SCREENS], ids=[row.title.lower() for row in SCREENS])
def test_every_screen_looks_as_it_should(
    snap_compare: Callable[..., bool], make: Callable[[], Snapshot], size: tuple[int, int], key: str
):
    assert snap_compare(app_of(make(), key), terminal_size=size, run_before=settled)


@pytest.mark.parametrize("key", [row.key for row in SCREENS], ids=[row.title.lower() for row in SCREENS])
def test_a_lost_gateway_looks_as_it_should_on_an_ascii_terminal(snap_compare: Callable[..., bool], key: str):
    assert snap_compare(app_of(make_outage(), key, lost=True, plain=True), terminal_size=(80, 24), run_before=settled)


def test_without_colours_everything_is_still_there(snap_compare: Callable[..., bool], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NO_COLOR", "1")
    assert snap_compare(app_of(make_outage()), terminal_size=(80, 24), run_before=settled)
