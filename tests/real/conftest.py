"""Set-up of the tests with real servers and clients."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import peers, setup
from tests.support.results import results

__all__ = ["results"]


@pytest.fixture(scope="session", autouse=True)
def _installed() -> None:
    if setup.missing() and setup.main([]) != 0:
        pytest.fail("the peers could not be installed; see the lines above (python tests/support/setup.py)")


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, peers.RealServer]:
    """The five published servers on data of this run."""
    return {server.name: server for server in peers.real_servers(tmp_path_factory.mktemp("servers"))}


@pytest.fixture(scope="session")
def five(servers: dict[str, peers.RealServer]) -> Iterator[peers.Gateway]:
    """One gateway with all five servers behind it."""
    with peers.gateway({name: server.command for name, server in servers.items()}) as bridge:
        yield bridge


@pytest.fixture(scope="session")
def dual_url() -> Iterator[str]:
    with peers.own_http("dual") as url:
        yield url
