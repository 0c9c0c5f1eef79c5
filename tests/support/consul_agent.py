"""A double of a Consul agent: catalog and health with blocking queries, ACL, TLS and an index that may go back.

async with ConsulAgent(token="...") as agent:      # agent.url
    agent.register("weather", "w1", 8081); agent.reset()
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

from aiohttp import web


class ConsulAgent:
    """``token``: what every query must carry; ``answer_with``: a status instead of every answer; ``raw``: bytes instead."""

    def __init__(self, token: str = "", tls: ssl.SSLContext | None = None) -> None:
        self.index = 10
        self.answer_with = 0
        self.raw: bytes | None = None
        self.asked: list[dict[str, str]] = []
        self._token = token
        self._tls = tls
        self._instances: dict[str, dict[str, Any]] = {}
        self._changed = asyncio.Condition()

    async def __aenter__(self) -> ConsulAgent:
        app = web.Application()
        app.router.add_get("/v1/catalog/services", self._catalog)
        app.router.add_get("/v1/health/service/{name}", self._health)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self._tls).start()
        self.url = f"http{'s' if self._tls else ''}://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: Any) -> None:
        await self._runner.cleanup()

    async def register(self, name: str, id: str, port: int, *, tags: Any = ("mcp",), passing: bool = True, **more: Any) -> None:
        service = {"ID": id, "Service": name, "Tags": list(tags), "Address": "10.0.0.1", "Port": port, "Meta": {}, **more}
        entry = {"Node": {"Address": "10.9.9.9"}, "Service": service, "Checks": [], "passing": passing}
        self._instances[id] = entry
        await self.turn(self.index + 1)

    async def deregister(self, id: str) -> None:
        del self._instances[id]
        await self.turn(self.index + 1)

    async def turn(self, index: int) -> None:
        """The state is another one; a lower index is that of a restored server."""
        async with self._changed:
            self.index = index
            self._changed.notify_all()

    async def _catalog(self, request: web.Request) -> web.Response:
        def services() -> Any:
            names: dict[str, set[str]] = {}
            for entry in self._instances.values():
                names.setdefault(entry["Service"]["Service"], set()).update(entry["Service"]["Tags"])
            return {name: sorted(tags) for name, tags in names.items()}

        return await self._answer(request, services)

    async def _health(self, request: web.Request) -> web.Response:
        def instances() -> Any:
            return [
                entry
                for entry in self._instances.values()
                if entry["Service"]["Service"] == request.match_info["name"]
                and (entry["passing"] or request.query.get("passing") != "true")
                and request.query.get("tag", "") in ("", *entry["Service"]["Tags"])
            ]

        return await self._answer(request, instances)

    async def _answer(self, request: web.Request, read: Any) -> web.Response:
        self.asked.append(dict(request.query))
        if self._token and request.headers.get("X-Consul-Token") != self._token:
            return web.Response(status=403, text="Permission denied")
        since = int(request.query.get("index", 0))
        if since == self.index and not self.answer_with:
            seconds = float(request.query["wait"].removesuffix("s"))
            async with self._changed:
                try:
                    await asyncio.wait_for(self._changed.wait_for(lambda: self.index != since or self.answer_with), seconds)
                except TimeoutError:
                    pass
        if self.answer_with:
            return web.Response(status=self.answer_with)
        headers = {"X-Consul-Index": str(self.index)}
        if self.raw is not None:
            return web.Response(body=self.raw, headers=headers, content_type="application/json")
        return web.json_response(read(), headers=headers)
