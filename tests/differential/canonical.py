"""Two conversations are the same when every message is: all of it but the spaces, the escapes and the ids that had to change.

Numbers keep their literals, objects the order of their members; only the envelope's own members have none.
"""

from __future__ import annotations

import json
from typing import Any

Canonical = Any
UNKNOWN = "<an id of somebody in between>"


def value(raw: bytes | str) -> Canonical:
    """The canonical form of a JSON text: objects as tuples of pairs in their order, numbers as their literals."""
    return json.loads(raw, object_pairs_hook=tuple, parse_float=_number, parse_int=_number, parse_constant=_number)


def heard(raw: bytes) -> Canonical:
    """A message as its client hears it: a question's id is whoever's it comes from."""
    members = dict(value(raw))
    if "method" in members and "id" in members:
        members["id"] = UNKNOWN
    return tuple(sorted(members.items(), key=lambda item: item[0]))


def received(raw: bytes) -> Canonical:
    """A message as its server receives it: the ids of calls and their progress tokens are whoever's they come from."""
    members = dict(value(raw))
    if "method" in members:
        if "id" in members:
            members["id"] = UNKNOWN
        if isinstance(members.get("params"), tuple):
            members["params"] = tuple((k, _untold(v) if k == "_meta" else v) for k, v in members["params"])
    return tuple(sorted(members.items(), key=lambda item: item[0]))


def _untold(meta: Canonical) -> Canonical:
    return tuple((k, UNKNOWN if k == "progressToken" else v) for k, v in meta) if isinstance(meta, tuple) else meta


def _number(literal: str) -> tuple[str, str]:
    return ("number", literal)
