"""Consul: services with a tag are servers, their instances that pass every check are the endpoints.

    GET /v1/catalog/services       which services have the tag        one blocking query
    GET /v1/health/service/NAME    its passing instances              one blocking query each

    meta of an instance:  mcp-protocol, mcp-namespace, mcp-path, mcp-weight; without the first the protocol is detected

An index that goes back starts again from nothing (a restored or another server).

Source: contract ``discovery.providers.consul``.
"""

from __future__ import annotations

import asyncio
import random
import re
import ssl
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from mcpbridge.config.kinds import is_loopback
from mcpbridge.config.sections import NAME_PATTERN, NAMESPACE_PATTERN, EndpointSpec, ServerSpec
from mcpbridge.discovery import CALM, Source, calmly
from mcpbridge.discovery.stranger import endpoint
from mcpbridge.outbound import OutboundError, get

MAX_SERVICES: Final = 500
MAX_INSTANCES: Final = 10_000  # of one service
MAX_PAUSE: Final = 30.0  # seconds between two tries
MAX_ID: Final = 200  # characters of an instance's id, for people
_META: Final = ("mcp-protocol", "mcp-namespace", "mcp-path", "mcp-weight")
_CATALOG: Final = "/v1/catalog/services"  # no service can be called so
Instances = dict[str, list[Any]]  # by service


class Consul:
    """``wait``: seconds a query may block; ``token``: ACL token; ``tls``: of an https address that needs its own files."""

    name = "consul"

    def __init__(
        self,
        address: str,
        *,
        token: str = "",
        tag: str = "mcp",
        datacenter: str = "",
        tls: ssl.SSLContext | None = None,
        detect: bool = True,
        wait: float = 30.0,
    ) -> None:
        self._address = address.rstrip("/")
        self._headers = {"X-Consul-Token": token} if token else {}
        self._tag = tag
        self._datacenter = datacenter
        self._tls = tls
        self._detect = detect
        self._is_local = is_loopback(urlsplit(address).hostname or "")
        self._wait = min(max(1, round(wait)), 600)  # the agent's own limit

    async def watch(self, source: Source) -> None:
        found: Instances = {}
        watches: dict[str, asyncio.Task[None]] = {}
        unread: set[str] = set()  # what cannot be read now

        changed = asyncio.Event()

        async def tell() -> None:
            if not unread and all(name in found for name in watches):  # half a picture is none
                source.found(*await asyncio.to_thread(servers_of, dict(found), self._detect, self._is_local))

        def failed(what: str, reason: str) -> None:
            unread.add(what)
            source.failed(reason)

        def take(names: Any) -> None:
            if not isinstance(names, dict):
                raise ValueError("the agent's answer is no catalog of services")
            unread.discard(_CATALOG)
            wanted = sorted(name for name, tags in names.items() if self._tag in tags)
            if len(wanted) > MAX_SERVICES:
                raise ValueError(f"more than {MAX_SERVICES} services have the tag {self._tag}")
            for name in watches.keys() - set(wanted):
                watches.pop(name).cancel()
                found.pop(name, None)
                unread.discard(name)
            for name in wanted:
                if name not in watches:
                    path = f"/v1/health/service/{quote(name, safe='')}"
                    query = {"passing": "true", "tag": self._tag}
                    work = self._follow(path, query, partial(keep, name), partial(failed, name))
                    watches[name] = group.create_task(work)
            changed.set()

        def keep(name: str, instances: Any) -> None:
            if not isinstance(instances, list):
                raise ValueError(f"the agent's answer is no list of instances of {name}")
            if len(instances) > MAX_INSTANCES:
                raise ValueError(f"more than {MAX_INSTANCES} instances of {name}")
            found[name] = [used(instance) for instance in instances]
            unread.discard(name)
            changed.set()

        async with asyncio.TaskGroup() as group:
            group.create_task(calmly(changed, tell))
            await self._follow(_CATALOG, {}, take, partial(failed, _CATALOG))

    async def _follow(
        self, path: str, query: Mapping[str, str], take: Callable[[Any], None], failed: Callable[[str], None]
    ) -> None:
        """Blocking queries of one path, for ever: ``take`` gets each answer, ``failed`` the cause of none."""
        index, pause = 0, 0.5
        while True:
            try:
                newer, answer = await self._ask(path, query, index)
                take(answer)  # also when nothing changed: that it is still so is news too
                # Never spin, whatever it answers: the index rises with every change of any service.
                wait = random.uniform(CALM, 2 * CALM) if newer > index else random.uniform(0.5, 1.0)
                index, pause = newer if newer >= index else 0, 0.5
            except (OutboundError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                failed(str(error)[:200])
                index, wait = 0, random.uniform(pause / 2, pause)
                pause = min(pause * 2, MAX_PAUSE)
            await asyncio.sleep(wait)

    async def _ask(self, path: str, query: Mapping[str, str], index: int) -> tuple[int, Any]:
        """The index and the document of one query. Raises OutboundError, ValueError."""
        given = {**query, "dc": self._datacenter, "index": str(index or ""), "wait": f"{self._wait}s" if index else ""}
        url = f"{self._address}{path}?{urlencode({key: value for key, value in given.items() if value})}"
        # the agent adds up to a sixteenth of the wait
        answer = await get(url, headers=self._headers, timeout=self._wait * 17 / 16 + 10, tls=self._tls)
        if answer.status != 200:
            why = {403: ": the ACL token may not read this", 401: ": an ACL token is needed"}.get(answer.status, "")
            raise ValueError(f"the agent answered {answer.status}{why}")
        try:
            document = msgspec.json.decode(answer.body)
        except msgspec.DecodeError:
            raise ValueError("the agent did not answer JSON") from None
        text = answer.headers.get("x-consul-index", "")
        return int(text) if re.fullmatch(r"[0-9]{1,20}", text) else 0, document


def used(instance: Any) -> Any:
    """What is used of an instance; an agent may say megabytes of each."""
    match instance:
        case {"Service": {"ID": name, "Port": port} as service}:
            node, meta = instance.get("Node"), service.get("Meta")
            return {
                "Node": {"Address": node.get("Address")} if isinstance(node, dict) else None,
                "Service": {
                    "ID": name if isinstance(name, str) and len(name) <= MAX_ID else "?",
                    "Port": port,
                    "Address": service.get("Address"),
                    "Meta": {key: meta[key] for key in _META if key in meta} if isinstance(meta, dict) else meta and "?",
                },
            }
    return None


def servers_of(found: Instances, detect: bool, local: bool = False) -> tuple[list[ServerSpec], list[str]]:
    """The servers that instances make, and what was left out with its cause. Pure; ``local`` as in ``endpoint``."""
    servers: list[ServerSpec] = []
    skipped: list[str] = []
    for name, instances in sorted(found.items()):
        by_namespace: dict[str, dict[str, EndpointSpec]] = {}
        for instance in instances:
            place = name
            try:
                service = instance["Service"]
                place = f"{name}/{service['ID']}"
                meta = service.get("Meta") or {}
                namespace = str(meta.get("mcp-namespace") or "default")
                if re.fullmatch(NAME_PATTERN, name) is None or re.fullmatch(NAMESPACE_PATTERN, namespace) is None:
                    raise ValueError("its name or namespace cannot be one of a server")
                host = service.get("Address") or instance["Node"]["Address"]
                protocol, path, weight = (str(meta.get(f"mcp-{key}", "")) for key in ("protocol", "path", "weight"))
                spec = endpoint(host, service["Port"], protocol, path, weight, detect=detect, local=local)
                by_namespace.setdefault(namespace, {})[spec.url] = spec
            except ValueError as error:
                skipped.append(f"{place}: {error}"[:300])
            except (KeyError, TypeError, AttributeError):
                skipped.append(f"{place}: Service, ID, Port, Address or Meta is missing or in another form"[:300])
        servers += [
            ServerSpec(name=name, namespace=namespace, endpoints=tuple(urls[url] for url in sorted(urls)))
            for namespace, urls in sorted(by_namespace.items())
        ]
    return servers, sorted(skipped)
