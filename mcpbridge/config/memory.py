"""What is done about memory. Source: contract sections 3.1 (``memory_optimization``) and 3.2 (``direct_clients``)."""

from __future__ import annotations

from typing import Annotated

from mcpbridge.config.kinds import BOOL
from mcpbridge.config.rows import Row, Section

OPTIMIZES = Row(
    BOOL,
    "what the start made is never looked at by the garbage collector again, which else works while no call is under way",
    env=("MCP_MEMORY_OPTIMIZATION_ENABLED",),
)


class MemoryOptimization(Section, frozen=True, kw_only=True):
    """The garbage collector."""

    enabled: Annotated[bool, OPTIMIZES] = True
