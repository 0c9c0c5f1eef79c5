"""Kubernetes: Services with the wanted labels are servers, the ready addresses of their EndpointSlices are the endpoints.

    Service weather (mcp-enabled: "true")  +  EndpointSlices of it   ->  weather, http://10.0.0.7:8081/mcp
    annotations  mcp.bridge/protocol, mcp.bridge/path: what is spoken there; without the first it is detected

Both kinds are listed, then watched from there for ``refresh_rate`` seconds, then listed again. A cut watch goes on where its
last bookmark or event was; 410 lists again at once; 429 waits as told; whatever else fails waits with backoff.

Source: contract ``discovery.providers.kubernetes``; reliability section 3, row 26. The only user of kubernetes-asyncio.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from mcpbridge.config.sections import NAME_PATTERN, EndpointSpec, ServerSpec
from mcpbridge.discovery import Source
from mcpbridge.discovery.stranger import endpoint

PREFIX: Final = "mcp.bridge/"
SERVICE_NAME: Final = "kubernetes.io/service-name"
PORT_NAME: Final = "mcp"  # the port of several that is ours
MAX_OBJECTS: Final = 10_000  # of each kind
MAX_PAUSE: Final = 30.0  # seconds between two tries
Key = tuple[str, str]  # namespace, name
Objects = dict[Key, Mapping[str, Any]]


class Kubernetes:
    """``namespace_pattern`` must match a whole namespace, ``labels`` a service; ``detect``: without annotation, find out."""

    name = "kubernetes"

    def __init__(
        self, namespace_pattern: str, labels: Mapping[str, str], *, detect: bool, refresh_rate: float, kubeconfig: str = ""
    ) -> None:
        self._pattern = re.compile(namespace_pattern)
        self._labels = ",".join(f"{key}={value}" for key, value in sorted(labels.items()))
        self._detect = detect
        self._refresh_rate = refresh_rate
        self._kubeconfig = kubeconfig
        self._services: Objects | None = None
        self._slices: Objects | None = None

    async def watch(self, source: Source) -> None:
        pause = 1.0
        while True:
            try:
                async with self._client() as client:
                    await self._follow_both(client, source)
            except ImportError:
                source.failed("the Kubernetes client is not installed: pip install 'mcpbridge[kubernetes]'")
                return
            except Exception as error:  # noqa: BLE001 - a broken kubeconfig raises anything; the rest of the gateway goes on
                source.failed(f"no cluster can be asked: {_said(error)}")
            await asyncio.sleep(random.uniform(pause / 2, pause))
            pause = min(pause * 2, MAX_PAUSE)

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[Any]:
        from kubernetes_asyncio import client, config

        settings = client.Configuration()
        try:
            if self._kubeconfig:
                raise config.ConfigException
            config.load_incluster_config(client_configuration=settings)  # type: ignore[no-untyped-call]
        except config.ConfigException:
            await config.load_kube_config(config_file=self._kubeconfig or None, client_configuration=settings)
        async with client.ApiClient(settings) as api:
            yield api

    async def _follow_both(self, client: Any, source: Source) -> None:
        from kubernetes_asyncio.client import CoreV1Api, DiscoveryV1Api

        def changed() -> None:
            if self._services is not None and self._slices is not None:
                source.found(*servers_of(self._services, self._slices, self._detect))

        def take_services(objects: Objects) -> None:
            self._services = objects
            changed()

        def take_slices(objects: Objects) -> None:
            self._slices = objects
            changed()

        services, slices = CoreV1Api(client), DiscoveryV1Api(client)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow(services.list_service_for_all_namespaces, self._labels, take_services, source))
            group.create_task(self._follow(slices.list_endpoint_slice_for_all_namespaces, SERVICE_NAME, take_slices, source))

    async def _follow(self, ask: Callable[..., Any], labels: str, take: Callable[[Objects], None], source: Source) -> None:
        """Keep one kind of objects as it is in the cluster."""
        from kubernetes_asyncio.client import ApiException

        now = asyncio.get_running_loop().time
        objects: Objects = {}
        version, listed, pause = "", 0.0, 0.5
        while True:
            try:
                if not version or now() - listed >= self._refresh_rate:
                    objects, version = await self._list(ask, labels)
                    listed = now()
                    take(objects)
                left = max(1, round(self._refresh_rate - (now() - listed)))
                began, before = now(), version
                async for kind, item in _events(ask, labels, version, left):
                    version = item["metadata"].get("resourceVersion", version)
                    if kind != "BOOKMARK" and self._is_ours(item):
                        if kind == "DELETED":
                            objects.pop(_key(item), None)
                        else:
                            objects[_key(item)] = item
                        take(objects)
                if version != before or now() - began > 1:
                    pause = 0.5
                    continue
                wait = random.uniform(0, pause)  # a watch that ends at once is no reason to spin
            except ApiException as error:
                wait = _retry_after(error) or random.uniform(pause / 2, pause)
                if error.status == 410 and version:
                    version, wait = "", random.uniform(0, 0.1)  # too old a place: list again
                else:
                    source.failed(f"the API answered {error.status} {error.reason or ''}".rstrip())
            except Exception as error:  # noqa: BLE001 - the library lets through what its HTTP client and JSON raise
                version = ""
                wait = random.uniform(pause / 2, pause)
                source.failed(f"the API cannot be read: {_said(error)}")
            await asyncio.sleep(wait)
            pause = min(pause * 2, MAX_PAUSE)

    async def _list(self, ask: Callable[..., Any], labels: str) -> tuple[Objects, str]:
        objects: Objects = {}
        following = ""
        while True:
            response = await ask(
                label_selector=labels, limit=500, _continue=following or None, _preload_content=False, _request_timeout=30
            )
            page = await response.json()
            for item in page.get("items") or ():
                if self._is_ours(item):
                    objects[_key(item)] = item
            if len(objects) > MAX_OBJECTS:
                raise ValueError(f"more than {MAX_OBJECTS} objects match")
            following = page["metadata"].get("continue") or ""
            if not following:
                return objects, page["metadata"]["resourceVersion"]

    def _is_ours(self, item: Mapping[str, Any]) -> bool:
        return self._pattern.fullmatch(item["metadata"]["namespace"]) is not None


async def _events(ask: Callable[..., Any], labels: str, version: str, seconds: int) -> AsyncIterator[tuple[str, Any]]:
    """Events of one watch until it ends. Raises ApiException, also for an ERROR event."""
    from kubernetes_asyncio.client import ApiException
    from kubernetes_asyncio.watch import Watch

    async with Watch("object") as watch:
        stream = watch.stream(
            ask,
            label_selector=labels,
            resource_version=version,
            allow_watch_bookmarks=True,
            timeout_seconds=seconds,
            _request_timeout=seconds + 10,
        )
        async for event in stream:
            kind, item = event["type"], event["raw_object"]
            if kind == "ERROR":
                raise ApiException(status=item.get("code"), reason=item.get("reason"))
            yield kind, item


def servers_of(services: Objects, slices: Objects, detect: bool) -> tuple[list[ServerSpec], list[str]]:
    """The servers that services and slices make, and what was left out with its cause. Pure."""
    by_service: dict[Key, list[Mapping[str, Any]]] = {}
    for (namespace, _), item in sorted(slices.items()):
        owner = (item["metadata"].get("labels") or {}).get(SERVICE_NAME, "")
        by_service.setdefault((namespace, owner), []).append(item)
    servers: list[ServerSpec] = []
    skipped: list[str] = []
    for (namespace, name), service in sorted(services.items()):
        place = f"{namespace}/{name}"
        notes = service["metadata"].get("annotations") or {}
        protocol, path = str(notes.get(f"{PREFIX}protocol", "")), str(notes.get(f"{PREFIX}path", ""))
        endpoints: dict[str, EndpointSpec] = {}
        for item in by_service.get((namespace, name), ()):
            try:
                for host, port in _places(item):
                    spec = endpoint(host, port, protocol, path, detect=detect)
                    endpoints[spec.url] = spec
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                skipped.append(f"{place}: {_said(error)}")
        if re.fullmatch(NAME_PATTERN, name) is None:
            skipped.append(f"{place}: its name cannot be one of a server")
        elif endpoints:
            servers.append(
                ServerSpec(name=name, namespace=namespace, endpoints=tuple(endpoints[url] for url in sorted(endpoints)))
            )
    return servers, sorted(set(skipped))


def _places(item: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Host and port of each ready endpoint of a slice. Raises ValueError when the port is not clear."""
    ready = [
        one["addresses"][0]
        for one in item.get("endpoints") or ()
        if one.get("addresses") and (one.get("conditions") or {}).get("ready") is not False
    ]
    ports: Sequence[Mapping[str, Any]] = item.get("ports") or ()
    named = [port for port in ports if port.get("name") == PORT_NAME] or ports
    if ready and len(named) != 1:
        raise ValueError(f"it has {len(ports)} ports and none is called {PORT_NAME}")
    return [(host, named[0].get("port")) for host in ready]


def _key(item: Mapping[str, Any]) -> Key:
    return item["metadata"]["namespace"], item["metadata"]["name"]


def _retry_after(error: Any) -> float:
    """Seconds that a refusal asks for, at most a minute; 0: it does not say."""
    text = str((error.headers or {}).get("Retry-After", "")) if error.status in (429, 503) else ""
    return min(float(text), 60.0) if text.isascii() and text.isdigit() else 0.0


def _said(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}".splitlines()[0][:200] if not isinstance(error, ValueError) else str(error)[:200]
