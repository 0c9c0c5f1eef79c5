"""Every transport to every transport, both eras: one script in 81 cells, each through a real gateway to a real server."""

from __future__ import annotations

import pytest

from tests.interaction.cells import CELLS, ENDS, End, run_cells
from tests.support import setup

pytestmark = [pytest.mark.interaction, pytest.mark.timeout(240)]


@pytest.fixture(scope="session", autouse=True)
def _installed() -> None:
    if setup.missing() and setup.main([]) != 0:
        pytest.fail("the peers could not be installed; see the lines above (python tests/support/setup.py)")


def test_there_are_81_cells() -> None:
    eras = [(client.era, server.era) for client, server in CELLS]
    cells = {(mine, theirs): eras.count((mine, theirs)) for mine in ("legacy", "modern") for theirs in ("legacy", "modern")}
    assert cells == {("legacy", "legacy"): 25, ("legacy", "modern"): 20, ("modern", "legacy"): 20, ("modern", "modern"): 16}


@pytest.mark.parametrize("server", ENDS, ids=str)
def test_every_client_does_everything_with_this_server(server: End) -> None:
    failures = {str(client): failed for client, failed in run_cells(server).items() if failed}
    assert failures == {}
