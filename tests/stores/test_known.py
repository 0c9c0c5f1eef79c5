"""What servers said last, on disk: kept, replaced atomically, and never a reason to fail."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from mcpbridge.stores import known as module
from mcpbridge.stores.known import Known, identity

HELLO = b'{"protocolVersion":"2025-11-25"}'


def test_what_was_kept_is_known_to_the_next_process_and_to_nobody_else(tmp_path: Path) -> None:
    path = tmp_path / "state" / "known.json"
    Known(path).keep("a", {"legacy": HELLO})
    assert Known(path).of("a") == {"legacy": HELLO}
    assert Known(path).of("b") == {}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in path.parent.iterdir()] == ["known.json"]


@pytest.mark.parametrize(
    "content",
    ["", "no json", "[]", '{"a": 1}', '{"a": {"legacy": "no json"}}', '{"a": {"legacy": "[1]"}}', '{"a": {"legacy": "{"}}'],
)
def test_a_damaged_file_only_costs_what_it_knew(tmp_path: Path, content: str) -> None:
    path = tmp_path / "known.json"
    path.write_text(content)
    known = Known(path)
    assert known.of("a") == {}
    known.keep("a", {"legacy": HELLO})
    assert Known(path).of("a") == {"legacy": HELLO}


def test_a_place_that_cannot_be_written_is_no_failure_and_leaves_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "known.json"
    path.mkdir()
    Known(path).keep("a", {"legacy": HELLO})
    assert [p.name for p in tmp_path.iterdir()] == ["known.json"]


def test_the_file_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_SERVERS", 3)
    known = Known(tmp_path / "known.json")
    for number in range(5):
        known.keep(str(number), {"legacy": HELLO})
    known.keep("huge", {"legacy": b'{"x":"' + b"x" * module.MAX_HELLO + b'"}'})
    assert list(json.loads((tmp_path / "known.json").read_text())) == ["3", "4", "huge"]
    assert known.of("huge") == {}


def test_identity_keeps_its_parts_apart() -> None:
    assert identity("a", "bc") != identity("ab", "c")
