"""A double of the Kubernetes API: Services and EndpointSlices to list and watch, with the faults of a real control plane.

    async with KubernetesApi() as api:      # api.url, api.kubeconfig(folder)
        api.put("services", {...}); api.delete("services", namespace, name)
        api.answer_with = 403; api.expire(); api.cut(); api.bookmark()

Real kubectl and the real client library are held against it. Source: reliability section 8.4.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from aiohttp import web

GROUP = "discovery.k8s.io"
KINDS = {"services": ("v1", "Service"), "endpointslices": (f"{GROUP}/v1", "EndpointSlice")}


def _resource(name: str) -> dict[str, Any]:
    kind = KINDS[name][1]
    return {"name": name, "singularName": kind.lower(), "namespaced": True, "kind": kind, "verbs": ["get", "list", "watch"]}


class KubernetesApi:
    """See the module. ``answer_with``: status of every list and watch instead of an answer; ``slow``: seconds before a list;
    ``raw``: the bytes that follow a 200 instead, by what is asked (list, watch); ``page``: most objects of one page."""

    def __init__(self, port: int = 0) -> None:
        self._port = port
        self.version = 100
        self.oldest = 100  # versions below are gone
        self.answer_with = 0
        self.retry_after = ""
        self.slow = 0.0
        self.raw: dict[str, bytes] = {}
        self.page = 500
        self.token = ""  # the only one that is taken; "": any, and none (kubectl sends none over plain HTTP)
        self.asked: list[tuple[str, str]] = []  # (list or watch, kind)
        self._objects: dict[str, dict[tuple[str, str], dict[str, Any]]] = {name: {} for name in KINDS}
        self._log: list[tuple[int, str, str, dict[str, Any]]] = []
        self._watchers: set[tuple[str, asyncio.Queue[tuple[str, dict[str, Any]] | None]]] = set()

    async def __aenter__(self) -> KubernetesApi:
        app = web.Application()
        app.router.add_get("/api", self._fixed({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}))
        version = {"groupVersion": f"{GROUP}/v1", "version": "v1"}
        group = {"name": GROUP, "versions": [version], "preferredVersion": version}
        app.router.add_get("/apis", self._fixed({"kind": "APIGroupList", "apiVersion": "v1", "groups": [group]}))
        for name, (api_version, _) in KINDS.items():
            base = f"/api/{api_version}" if name == "services" else f"/apis/{api_version}"
            about = {"kind": "APIResourceList", "groupVersion": api_version, "resources": [_resource(name)]}
            app.router.add_get(base, self._fixed(about))
            for path in (f"{base}/{name}", f"{base}/namespaces/{{namespace}}/{name}"):
                app.router.add_get(path, partial(self._serve, kind=name))
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: Any) -> None:
        await self.close()

    async def close(self) -> None:
        """Nobody listens any more."""
        self.cut()
        await self._runner.cleanup()

    def kubeconfig(self, folder: Path) -> str:
        """A file that leads here."""
        entry = {"name": "d", "cluster": {"server": self.url}}
        context = {"name": "d", "context": {"cluster": "d", "user": "d"}}
        user = {"name": "d", "user": {"token": self.token or "t"}}
        parts = {"clusters": [entry], "contexts": [context], "users": [user], "current-context": "d"}
        path = folder / "kubeconfig"
        path.write_text(json.dumps({"apiVersion": "v1", "kind": "Config", **parts}))
        return str(path)

    def put(self, kind: str, item: Mapping[str, Any]) -> None:
        """Create or change an object; watchers hear of it."""
        self.version += 1
        key = item["metadata"]["namespace"], item["metadata"]["name"]
        api_version, name = KINDS[kind]
        metadata = {**item["metadata"], "resourceVersion": str(self.version)}
        whole = {"apiVersion": api_version, "kind": name, **item, "metadata": metadata}
        self._tell(kind, "MODIFIED" if key in self._objects[kind] else "ADDED", whole)
        self._objects[kind][key] = whole

    def delete(self, kind: str, namespace: str, name: str) -> None:
        self.version += 1
        item = self._objects[kind].pop((namespace, name))
        item = {**item, "metadata": {**item["metadata"], "resourceVersion": str(self.version)}}
        self._tell(kind, "DELETED", item)

    def objects(self, kind: str) -> Mapping[tuple[str, str], Mapping[str, Any]]:
        """Those there are, by namespace and name."""
        return self._objects[kind]

    def bookmark(self) -> None:
        """Tell every watcher how far it is."""
        for kind, queue in self._watchers:
            api_version, name = KINDS[kind]
            item = {"apiVersion": api_version, "kind": name, "metadata": {"resourceVersion": str(self.version)}}
            queue.put_nowait(("BOOKMARK", item))

    def cut(self) -> None:
        """End every watch."""
        for _, queue in self._watchers:
            queue.put_nowait(None)

    def expire(self) -> None:
        """Whoever watches from an older place is told 410 from now on."""
        self.version += 1
        self.oldest = self.version

    def _tell(self, kind: str, event: str, item: dict[str, Any]) -> None:
        self._log.append((self.version, kind, event, item))
        for wanted, queue in self._watchers:
            if wanted == kind:
                queue.put_nowait((event, item))

    def _fixed(self, answer: Any) -> Any:
        async def handler(_: web.Request) -> web.Response:
            return web.json_response(answer)

        return handler

    async def _serve(self, request: web.Request, kind: str) -> web.StreamResponse:
        is_watch = request.query.get("watch", "").lower() in (
            "1",
            "true",
        )  # the library says True, which the real one takes too
        self.asked.append(("watch" if is_watch else "list", kind))
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            return _status(401, "Unauthorized", {})
        if self.answer_with:
            headers = {"Retry-After": self.retry_after} if self.retry_after else {}
            return _status(self.answer_with, "Refused", headers)
        if (raw := self.raw.get(self.asked[-1][0])) is not None:
            return web.Response(body=raw, content_type="application/json")
        if is_watch:
            return await self._watch(request, kind)
        await asyncio.sleep(self.slow)
        api_version, name = KINDS[kind]
        items = [item for item in self._objects[kind].values() if _matches(request, item)]
        start = int(request.query.get("continue") or 0)
        limit = min(self.page, int(request.query.get("limit") or self.page))
        metadata = {"resourceVersion": str(self.version)}
        if start + limit < len(items):
            metadata["continue"] = str(start + limit)
        body = {"kind": f"{name}List", "apiVersion": api_version, "metadata": metadata}
        return web.json_response({**body, "items": items[start : start + limit]})

    async def _watch(self, request: web.Request, kind: str) -> web.StreamResponse:
        since = int(request.query.get("resourceVersion") or 0)
        if 0 < since < self.oldest:
            return _status(410, "Expired", {})
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        queue: asyncio.Queue[tuple[str, dict[str, Any]] | None] = asyncio.Queue()
        for version, of, event, item in self._log:
            if of == kind and version > since > 0:
                queue.put_nowait((event, item))
        entry = (kind, queue)
        self._watchers.add(entry)
        try:
            async with asyncio.timeout(float(request.query.get("timeoutSeconds") or 300)):
                while (news := await queue.get()) is not None:
                    if news[0] == "BOOKMARK" or _matches(request, news[1]):
                        await response.write(json.dumps({"type": news[0], "object": news[1]}).encode() + b"\n")
        except TimeoutError:
            pass
        finally:
            self._watchers.discard(entry)
        return response


def _matches(request: web.Request, item: Mapping[str, Any]) -> bool:
    labels = item["metadata"].get("labels", {})
    namespace = request.match_info.get("namespace")
    if namespace and item["metadata"]["namespace"] != namespace:
        return False
    for term in filter(None, request.query.get("labelSelector", "").split(",")):
        key, equals, value = term.partition("=")
        if key not in labels or (equals and labels[key] != value):
            return False
    return True


def _status(code: int, reason: str, headers: Mapping[str, str]) -> web.Response:
    body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": reason, "code": code}
    return web.json_response(body, status=code, headers=headers)
