"""What differs between two configurations is found without reading annotations anew: it is done while clients wait."""

from __future__ import annotations

import msgspec
import pytest
from msgspec.structs import replace

from mcpbridge.config.changes import changed_keys
from mcpbridge.config.gateway import GatewayConfig


def test_changed_keys_are_found_without_reading_annotations_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    before = GatewayConfig()
    after = replace(before, routing=replace(before.routing, prefix="always"))
    assert changed_keys(before, after) == ["routing.prefix"]
    monkeypatch.setattr(msgspec.structs, "fields", lambda section: pytest.fail(f"{section} was read again"))
    assert changed_keys(before, after) == ["routing.prefix"]
