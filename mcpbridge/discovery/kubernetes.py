"""Kubernetes: Services with the wanted labels are servers, the ready addresses of their EndpointSlices are the endpoints.

    Service weather (mcp-enabled: "true")  +  EndpointSlices of it   ->  weather, http://10.0.0.7:8081/mcp
    annotations  mcp.bridge/protocol, mcp.bridge/path: what is spoken there; without the first it is detected
                 mcp.bridge/weight: its share of calls, 0 to 100

Both kinds are listed, then watched from there for ``refresh_rate`` seconds, then listed again. A cut watch goes on where its
last bookmark or event was; 410 lists again at once; 429 waits as told; 401 reads the credentials again; whatever else fails
waits with backoff. Of an object only what is used is kept.

Source: contract ``discovery.providers.kubernetes``; reliability section 3, row 26. The only user of kubernetes-asyncio.
"""

from __future__ import annotations

import asyncio
import ipaddress
import random
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from mcpbridge.config.kinds import is_loopback
from mcpbridge.config.sections import NAME_PATTERN, NAMESPACE_PATTERN, EndpointSpec, ServerSpec
from mcpbridge.discovery import Source, calmly
from mcpbridge.discovery.stranger import endpoint

PREFIX: Final = "mcp.bridge/"
SERVICE_NAME: Final = "kubernetes.io/service-name"
PORT_NAME: Final = "mcp"  # the port of several that is ours
MAX_OBJECTS: Final = 10_000  # of each kind
MAX_NAMESPACE: Final = 63  # characters; patterns are harmless on so few
MAX_PAGE: Final = 64 * 1024 * 1024  # bytes of one page of a list: 500 objects
MAX_EVENT: Final = 4 * 1024 * 1024  # bytes of one event: twice what the largest object has
MAX_PAUSE: Final = 30.0  # seconds between two tries
Key = tuple[str, str]  # namespace, name
Objects = dict[Key, Mapping[str, Any]]


class Refused(Exception):
    """The API did not do what it was asked. ``wait``: seconds it wants to be left alone, 0: it does not say."""

    def __init__(self, status: int, reason: str, wait: float = 0.0) -> None:
        super().__init__(f"the API answered {status} {reason}".rstrip())
        self.status = status
        self.wait = wait


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
        self._unread: set[str] = set()  # kinds that cannot be read now
        self._is_local = False  # the API is on this machine

    async def watch(self, source: Source) -> None:
        now = asyncio.get_running_loop().time
        pause = 1.0
        while True:
            began = now()
            try:
                await asyncio.to_thread(_import)  # it takes more than a second
                async with self._client() as client:
                    await self._follow_both(client, source)
            except ImportError:
                source.failed("the Kubernetes client is not installed: pip install 'mcpbridge[kubernetes]'")
                return
            except Exception as error:  # noqa: BLE001 - a broken kubeconfig raises anything; the rest of the gateway goes on
                source.failed(f"no cluster can be asked: {_said(error)}")
            if now() - began > 2 * MAX_PAUSE:
                pause = 1.0  # it had worked for long
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
        self._is_local = is_loopback(str(urlsplit(settings.host).hostname))
        async with client.ApiClient(settings) as api:
            yield api

    async def _follow_both(self, client: Any, source: Source) -> None:
        from kubernetes_asyncio.client import CoreV1Api, DiscoveryV1Api

        changed = asyncio.Event()

        async def tell() -> None:
            if self._services is None or self._slices is None or self._unread:
                return  # half a picture is none
            known = dict(self._services), dict(self._slices)
            try:
                found = await asyncio.to_thread(servers_of, *known, self._detect, self._is_local)
            except (TypeError, AttributeError, KeyError) as error:
                source.failed(f"the API cannot be read: {_said(error)}")
                return
            if not self._unread:
                source.found(*found)

        def take_services(objects: Objects) -> None:
            self._services = objects
            self._unread.discard("services")
            changed.set()

        def take_slices(objects: Objects) -> None:
            self._slices = objects
            self._unread.discard("slices")
            changed.set()

        def failed(kind: str, reason: str) -> None:
            self._unread.add(kind)
            source.failed(f"{kind}: {reason}")

        services = CoreV1Api(client).list_service_for_all_namespaces
        slices = DiscoveryV1Api(client).list_endpoint_slice_for_all_namespaces
        async with asyncio.TaskGroup() as group:
            group.create_task(calmly(changed, tell))
            group.create_task(self._follow(services, self._labels, take_services, partial(failed, "services")))
            group.create_task(self._follow(slices, SERVICE_NAME, take_slices, partial(failed, "slices")))

    async def _follow(
        self, ask: Callable[..., Any], labels: str, take: Callable[[Objects], None], failed: Callable[[str], None]
    ) -> None:
        """Keep one kind of objects as it is in the cluster. Raises Refused when the credentials are not taken."""
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
                async for kind, item in _events(ask, labels, version, left, partial(take, objects)):
                    version = str(item["metadata"].get("resourceVersion", version))
                    if kind != "BOOKMARK" and self._is_ours(item):
                        if kind == "DELETED":
                            objects.pop(_key(item), None)
                        else:
                            objects[_key(item)] = _used(item)
                        take(objects)
                if version != before or now() - began > 1:
                    pause = 0.5
                    continue
                wait = random.uniform(0, pause)  # a watch that ends at once is no reason to spin
            except Refused as error:
                if error.status == 401:
                    raise  # tokens end; the next client reads them anew
                wait = error.wait or random.uniform(pause / 2, pause)
                if error.status == 410 and version:
                    version, wait = "", random.uniform(0, 0.1)  # too old a place: list again
                else:
                    failed(str(error))
            except Exception as error:  # noqa: BLE001 - the library lets through what its HTTP client and JSON raise
                version = ""
                wait = random.uniform(pause / 2, pause)
                failed(f"the API cannot be read: {_said(error)}")
            await asyncio.sleep(wait)
            pause = min(pause * 2, MAX_PAUSE)

    async def _list(self, ask: Callable[..., Any], labels: str) -> tuple[Objects, str]:
        objects: Objects = {}
        following = ""
        for _ in range(MAX_OBJECTS):  # pages that never end are not followed for ever
            async with _answer(ask, 30, label_selector=labels, limit=500, _continue=following or None) as content:
                body = bytearray()
                async for chunk in content.iter_any():
                    body += chunk
                    if len(body) > MAX_PAGE:
                        raise ValueError(f"a page of a list has more than {MAX_PAGE} bytes")
            page = msgspec.json.decode(body)
            for item in page.get("items") or ():
                if self._is_ours(item):
                    objects[_key(item)] = _used(item)
            if len(objects) > MAX_OBJECTS:
                break
            following = str(page["metadata"].get("continue") or "")
            if not following:
                return objects, str(page["metadata"]["resourceVersion"])
        raise ValueError(f"more than {MAX_OBJECTS} objects match")

    def _is_ours(self, item: Mapping[str, Any]) -> bool:
        namespace = item["metadata"]["namespace"]
        return len(namespace) <= MAX_NAMESPACE and self._pattern.fullmatch(namespace) is not None


def _import() -> None:
    import kubernetes_asyncio.client
    import kubernetes_asyncio.config  # noqa: F401


@asynccontextmanager
async def _answer(ask: Callable[..., Any], seconds: float, **query: Any) -> AsyncIterator[Any]:
    """The body of an answer while it comes. Raises Refused for any other than a good one."""
    response = await ask(**query, _preload_content=False, _request_timeout=seconds)
    try:
        if response.status != 200:
            raise Refused(response.status, str(response.reason or "")[:100], _retry_after(response))
        yield response.content
    finally:
        response.close()


async def _events(
    ask: Callable[..., Any], labels: str, version: str, seconds: int, opened: Callable[[], None]
) -> AsyncIterator[tuple[str, Any]]:
    """Events of one watch until it ends; ``opened``: they will come. Raises Refused, also for an ERROR event."""
    query = {"label_selector": labels, "resource_version": version, "timeout_seconds": seconds}
    async with _answer(ask, seconds + 10, watch=True, allow_watch_bookmarks=True, **query) as content:
        opened()
        rest = b""
        async for chunk in content.iter_any():
            *lines, rest = (rest + chunk).split(b"\n")
            if max(map(len, [*lines, rest])) > MAX_EVENT:
                raise ValueError(f"an event has more than {MAX_EVENT} bytes")
            for line in filter(None, map(bytes.strip, lines)):
                event = msgspec.json.decode(line)
                kind, item = event["type"], event["object"]
                if kind == "ERROR":
                    raise Refused(int(item.get("code") or 500), str(item.get("reason") or "")[:100])
                yield kind, item


def servers_of(services: Objects, slices: Objects, detect: bool, local: bool = False) -> tuple[list[ServerSpec], list[str]]:
    """The servers that services and slices make, and what was left out with its cause. Pure; ``local`` as in ``endpoint``."""
    by_service: dict[Key, list[Mapping[str, Any]]] = {}
    for (namespace, _), item in sorted(slices.items()):
        owner = (item["metadata"].get("labels") or {}).get(SERVICE_NAME, "")
        by_service.setdefault((namespace, owner), []).append(item)
    servers: list[ServerSpec] = []
    skipped: list[str] = []
    for (namespace, name), service in sorted(services.items()):
        place = f"{namespace}/{name}"
        notes = service["metadata"].get("annotations") or {}
        protocol, path, weight = (str(notes.get(f"{PREFIX}{key}", "")) for key in ("protocol", "path", "weight"))
        endpoints: dict[str, EndpointSpec] = {}
        for item in by_service.get((namespace, name), ()):
            try:
                places = _places(item)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                skipped.append(f"{place}: {_said(error)}")
                continue
            for host, port in places:
                try:
                    spec = endpoint(_address(host), port, protocol, path, weight, detect=detect, local=local)
                    endpoints[spec.url] = spec
                except (ValueError, TypeError, AttributeError) as error:
                    skipped.append(f"{place}: {_said(error)}")
        if re.fullmatch(NAME_PATTERN, name) is None or re.fullmatch(NAMESPACE_PATTERN, namespace) is None:
            skipped.append(f"{place!a}: its name or namespace cannot be one of a server")
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


def _address(text: object) -> str:
    """Raises ValueError for a name: what it means can change after it was looked at."""
    try:
        return str(ipaddress.ip_address(str(text)))
    except ValueError:
        raise ValueError(f"{str(text)[:60]!r} is no address, and names are not taken from a cluster") from None


def _key(item: Mapping[str, Any]) -> Key:
    return item["metadata"]["namespace"], str(item["metadata"]["name"])


def _used(item: Mapping[str, Any]) -> Mapping[str, Any]:
    """What is used of an object; a cluster may keep a megabyte of notes in each."""
    metadata = item["metadata"]
    labels, notes = metadata.get("labels") or {}, metadata.get("annotations") or {}
    return {
        "metadata": {
            "namespace": metadata["namespace"],
            "name": str(metadata["name"]),
            "labels": {SERVICE_NAME: labels[SERVICE_NAME]} if SERVICE_NAME in labels else {},
            "annotations": {key: value for key, value in notes.items() if key.startswith(PREFIX)},
        },
        "endpoints": item.get("endpoints"),
        "ports": item.get("ports"),
    }


def _retry_after(response: Any) -> float:
    """Seconds that a refusal asks for, at most a minute; 0: it does not say."""
    text = str(response.headers.get("Retry-After", "")) if response.status in (429, 503) else ""
    return min(float(text), 60.0) if text.isascii() and text.isdigit() else 0.0


def _said(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    kind = "" if isinstance(error, (ValueError, Refused)) else f"{type(error).__name__}: "
    return f"{kind}{error}"[:200].partition("\n")[0]
