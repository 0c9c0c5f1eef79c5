"""Pictures of gateways, and the environment that textual reads when it is imported (the rest is cleaned in tests/conftest)."""

from __future__ import annotations

import os
import time

for _name in ("TEXTUAL_FPS", "SSH_CONNECTION"):
    os.environ.pop(_name, None)
time.tzset()

import pytest  # noqa: E402

from mcpbridge.observe.snapshot import Snapshot  # noqa: E402
from tests.tui.pictures import make_healthy, make_outage  # noqa: E402


@pytest.fixture(autouse=True)
def _no_environment_in_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    # The report of a failed snapshot prints every environment variable; only these are anybody's business.
    for name in list(os.environ):
        if any(word in name for word in ("TOKEN", "SECRET", "PASSWORD", "KEY", "CREDENTIAL", "AUTH")):
            monkeypatch.delenv(name)


@pytest.fixture
def healthy() -> Snapshot:
    """Three backends of two protocols, all well."""
    return make_healthy()


@pytest.fixture
def outage() -> Snapshot:
    """The same with one slow, two dead and one starting backend."""
    return make_outage()
