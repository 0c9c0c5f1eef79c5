"""dial(): a conversation with a Streamable HTTP endpoint.

Source: mcp-eras sections 1.2 and 1.3.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from urllib.parse import urlsplit

from mcpbridge.core.exchange import Era
from mcpbridge.core.ports import Dial, Inbox, Upstream
from mcpbridge.core.tasks import Spawn
from mcpbridge.transports.http.params import ParamHeaders
from mcpbridge.transports.http.upstream import CONTENT_TYPES, HttpUpstream
from mcpbridge.transports.http1.pool import HttpPool


def dial(
    name: str,
    spawn: Spawn,
    pool: HttpPool,
    url: str,
    *,
    headers: Callable[[], Mapping[str, str]] = dict,
    max_response: int = 10_485_760,
    content_types: Collection[str] = CONTENT_TYPES,
) -> Dial:
    """How to reach server ``name`` at ``url``. ``headers`` is read for each conversation (it may hold a credential)."""
    parts = urlsplit(url)
    path = (parts.path or "/mcp") + (f"?{parts.query}" if parts.query else "")
    params = ParamHeaders()

    async def run(era: Era, inbox: Inbox) -> Upstream:
        return HttpUpstream(
            pool,
            path,
            era,
            inbox,
            spawn,
            headers=headers(),
            params=params,
            max_response=max_response,
            content_types=content_types,
            name=name,
        )

    return run
