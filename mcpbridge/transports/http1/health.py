"""A server's health path: what its port says of it over plain HTTP, besides MCP.

Source: contract section 3.1 (``backends.websocket.health_check_path``).
"""

from __future__ import annotations

import asyncio
import ssl as ssl_module
from collections.abc import Callable, Mapping
from time import monotonic

from mcpbridge.errors import BridgeError
from mcpbridge.proxies import Proxy
from mcpbridge.transports.http1.pool import HttpPool

_LARGEST = 65_536  # bytes of what it says, which nobody reads
_NOT_OFFERED = (501, 505)  # it knows no GET, or no HTTP/1.1
_LONGEST = 5.0  # seconds until it has said nothing
_LEFT_ALONE = 300.0  # seconds in which one that offers nothing of the kind is not asked: each question is a connection


class HealthPath:
    """The health path of one endpoint. ``headers`` is read for each question."""

    def __init__(
        self,
        name: str,
        url: str,
        path: str,
        headers: Callable[[], Mapping[str, str]],
        *,
        ssl: ssl_module.SSLContext | None,
        proxy: Proxy | None,
    ) -> None:
        self._name = name
        self._url = url
        self._path = path
        self._headers = headers
        self._ssl = ssl
        self._proxy = proxy
        self._again_at = 0.0
        self._has_answered = False

    async def ask(self) -> None:
        """GET it. 404 and its like, and no answer ever: nothing is offered, and it is not asked again for a while.

        Raises BridgeError: it says 5xx, or does not answer any more.
        """
        if monotonic() < self._again_at:
            return
        try:
            async with asyncio.timeout(_LONGEST):
                status = await self._status()
        except (BridgeError, TimeoutError) as error:
            if not self._has_answered:  # whether anybody is there is for the check itself to find out
                self._again_at = monotonic() + _LEFT_ALONE
                return
            if isinstance(error, BridgeError):
                raise
            detail = f"server {self._name!r} did not answer at {self._path} in {_LONGEST:g} s"
            raise BridgeError("timeout", detail, sent=False, server=self._name) from None
        if status >= 500 and status not in _NOT_OFFERED:
            detail = f"server {self._name!r} answered HTTP {status} at {self._path}"
            raise BridgeError("backend_error", detail, sent=False, server=self._name, status=status)
        if status >= 400:
            self._again_at = monotonic() + _LEFT_ALONE
        else:
            self._has_answered = True

    async def _status(self) -> int:
        pool = HttpPool(self._url, ssl=self._ssl, proxy=self._proxy, reuse=False)
        try:
            response = await pool.request(
                "GET", self._path, list(self._headers().items()), b"", retry_safe=True, max_response=_LARGEST, queued=False
            )
            await response.aclose()
            return response.status
        finally:
            await pool.close()
