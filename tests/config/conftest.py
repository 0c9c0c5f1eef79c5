"""A file with a given text."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from tests.support.configs import Write


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """``write(text, name)``: the path of a file with that text, dedented."""

    def write_file(text: str | bytes, name: str = "gateway.yaml") -> str:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else textwrap.dedent(text).encode())
        return str(path)

    return write_file
