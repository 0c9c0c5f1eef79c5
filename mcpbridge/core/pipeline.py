"""Composing policies into a ring. The list reads top to bottom = outside to inside."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence

from mcpbridge.core.exchange import Exchange, Handler, Policy
from mcpbridge.wire.message import Response


def compose(policies: Sequence[Policy], handler: Handler) -> Handler:
    """One handler that runs the policies from first to last around ``handler``; built once, so a call only walks it."""
    for policy in reversed(policies):
        handler = _wrap(policy, handler)
    return handler


def _wrap(policy: Policy, handler: Handler) -> Handler:
    def run(x: Exchange) -> Awaitable[Response | None]:
        return policy(x, handler)  # no frame of its own: a call passes ten of these

    return run
