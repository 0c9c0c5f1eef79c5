"""Raw numbers of tests, for the record of a full run."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

Results = dict[str, Any]


@pytest.fixture
def results() -> Iterator[Results]:
    """What a test puts here is printed and written to the folder ``BRIDGE_TEST_RESULTS``, if there is one."""
    found: Results = {}
    yield found
    for name, value in found.items():
        print(f"{name}: {json.dumps(value)}")
        if folder := os.environ.get("BRIDGE_TEST_RESULTS"):
            Path(folder, f"{name}.json").write_text(json.dumps(value) + "\n")
