"""Composing policies into a ring. The list reads top to bottom = outside to inside."""

from __future__ import annotations

from collections.abc import Sequence

from mcpbridge.core.exchange import Exchange, Handler, Policy
from mcpbridge.wire.message import Response


def compose(policies: Sequence[Policy], handler: Handler) -> Handler:
    """One handler that runs the policies from first to last around ``handler``; built once, so a call only walks it."""
    for policy in reversed(policies):
        handler = _wrap(policy, handler)
    return handler


def _wrap(policy: Policy, handler: Handler) -> Handler:
    async def run(x: Exchange) -> Response | None:
        return await policy(x, handler)

    return run
