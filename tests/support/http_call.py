"""One bounded request through a pool, for tests of the HTTP/1.1 client."""

from __future__ import annotations

import asyncio
from typing import Any

from mcpbridge.transports.http1.pool import HttpPool, HttpResponse


async def ask(pool: HttpPool, method: str = "POST", target: str = "/", body: bytes = b"x", **options: Any) -> HttpResponse:
    """The response as soon as its head is here; 5 seconds at most."""
    options = {"headers": (), "retry_safe": False, "max_response": 1 << 20, **options}
    async with asyncio.timeout(5):
        return await pool.request(method, target, options.pop("headers"), body, **options)


async def fetch(pool: HttpPool, method: str = "POST", target: str = "/", body: bytes = b"x", **options: Any) -> bytes:
    """The body of the answer."""
    response = await ask(pool, method, target, body, **options)
    async with asyncio.timeout(5):
        return await response.read()
