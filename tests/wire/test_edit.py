"""Changes inside JSON values: what does not change keeps its bytes, and itself."""

from __future__ import annotations

from msgspec import Raw

from mcpbridge.wire.edit import each, edited


def test_arrays_and_objects_come_back_themselves_when_nothing_changes() -> None:
    raw = Raw(b'[ {"a":1} , 2 ]')
    assert each(raw, lambda item: item) is raw
    whole = Raw(b'{"a":1}')
    assert edited(whole, {"b": lambda raw: raw, "a": lambda raw: raw}) is whole
