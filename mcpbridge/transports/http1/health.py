"""A server's health path: what its port says of it over plain HTTP, besides MCP.

Source: contract section 3.1 (``backends.websocket.health_check_path``).
"""

from __future__ import annotations

import ssl as ssl_module
from collections.abc import Mapping

from mcpbridge.errors import BridgeError
from mcpbridge.proxies import Proxy
from mcpbridge.transports.http1.pool import HttpPool

_LARGEST = 65_536  # bytes of what it says, which nobody reads
_NOT_OFFERED = (501, 505)  # it knows no GET, or no HTTP/1.1


async def ask_health(
    name: str, url: str, path: str, headers: Mapping[str, str], *, ssl: ssl_module.SSLContext | None, proxy: Proxy | None
) -> None:
    """GET ``path`` at the origin of ``url``. 404 and its like: nothing of the kind is offered.

    Raises BridgeError: it cannot be connected to, or says 5xx.
    """
    pool = HttpPool(url, ssl=ssl, proxy=proxy, reuse=False)
    try:
        response = await pool.request(
            "GET", path, list(headers.items()), b"", retry_safe=True, max_response=_LARGEST, queued=False
        )
        await response.aclose()
    finally:
        await pool.close()
    if response.status >= 500 and response.status not in _NOT_OFFERED:
        detail = f"server {name!r} answered HTTP {response.status} at {path}"
        raise BridgeError("backend_error", detail, sent=False, server=name, status=response.status)
