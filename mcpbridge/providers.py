"""Discovery as the gateway's configuration wants it: which providers there are, and what of their findings is used.

    discovery = discovery_of(loaded, reach.apply, bridge.spawn)
    reconfigure(discovery, before, loaded)                                               another configuration

Source: contract section 3.1 (``discovery.*``, ``backends.*.auto_discovery``, ``backends.stdio.socket_*``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TypedDict, TypeVar

from mcpbridge.config.changes import changed_keys
from mcpbridge.config.gateway import GatewayConfig
from mcpbridge.config.load import Loaded
from mcpbridge.config.problems import ConfigError, Place, Problem
from mcpbridge.config.sections import EndpointSpec, ServerSpec
from mcpbridge.core.tasks import Spawn
from mcpbridge.discovery import Discovery, Provider
from mcpbridge.discovery.consul import Consul
from mcpbridge.discovery.kubernetes import Kubernetes
from mcpbridge.discovery.sockets import Sockets
from mcpbridge.observe.log import log
from mcpbridge.transports.tls import client_tls
from mcpbridge.wiring import Changes

T = TypeVar("T")
_log = log("discovery")
_PROVIDER = re.compile(r"discovery\.(?!providers\.static\.)|backends\.\w+\.(enabled|auto_discovery|socket_)")


class Terms(TypedDict):
    """What Discovery is told besides."""

    refresh_rate: float
    disabled: Sequence[str]
    admits: Callable[[EndpointSpec], bool]


def discovery_of(loaded: Loaded[GatewayConfig], apply: Callable[[list[ServerSpec]], T], spawn: Spawn) -> Discovery[T]:
    """Discovery of this configuration. Raises ConfigError."""
    return Discovery(static_of(loaded.config), providers_of(loaded), apply, spawn, **terms_of(loaded.config))


def reconfigure(discovery: Discovery[Changes], before: GatewayConfig, after: Loaded[GatewayConfig]) -> Changes:
    """Another configuration counts: providers begin anew only when theirs is another. Raises ConfigError; nothing has changed
    then."""
    providers = providers_of(after)
    static = discovery.static
    try:
        changes = discovery.restate(static_of(after.config))
    except ConfigError:
        discovery.static = static
        raise
    keys = changed_keys(before, after.config)
    if any(_PROVIDER.match(key) for key in keys):
        more = discovery.restart(discovery.static, providers, **terms_of(after.config))
        changes = Changes(*(one + other for one, other in zip(changes, more, strict=True)))
    return changes


def static_of(config: GatewayConfig) -> list[ServerSpec]:
    """The configured servers whose protocols are switched on."""
    used = []
    for spec in config.servers:
        if all(getattr(config.backends, endpoint.spoken).enabled for endpoint in spec.endpoints):
            used.append(spec)
        else:
            _log.warn("server left out: its protocol is switched off", server=spec.name)
    return used


def providers_of(loaded: Loaded[GatewayConfig]) -> list[Provider]:
    """The providers that are switched on, the one whose names come first at the front. Raises ConfigError for files of
    Consul's tls that cannot be used."""
    config = loaded.config
    discovery, stdio = config.discovery, config.backends.stdio
    providers: list[Provider] = []
    if stdio.enabled and stdio.socket_discovery:
        providers.append(Sockets(stdio.socket_paths))
    cluster = discovery.providers.kubernetes
    if cluster.enabled:
        detect = discovery.protocol_detection if cluster.protocol_detection is None else cluster.protocol_detection
        providers.append(
            Kubernetes(cluster.namespace_pattern, cluster.service_labels, detect=detect, refresh_rate=discovery.refresh_rate)
        )
    consul = discovery.providers.consul
    if consul.enabled:
        try:
            tls = client_tls(**consul.tls) if consul.tls else None
        except OSError as error:  # of ssl too
            key = "discovery.providers.consul.tls"
            why = f"{key}: its files cannot be used: {error}"
            raise ConfigError(
                [Problem(loaded.places.get(key, Place()), why, "PEM files; certificate and key belong together", key)]
            ) from error
        providers.append(
            Consul(
                consul.address,
                token=consul.token,
                tag=consul.tag,
                datacenter=consul.datacenter,
                tls=tls,
                detect=discovery.protocol_detection,
                wait=discovery.refresh_rate,
            )
        )
    return providers


def terms_of(config: GatewayConfig) -> Terms:
    """How often, which not, and what of the findings is used."""
    return {
        "refresh_rate": config.discovery.refresh_rate,
        "disabled": [name for name, is_on in _switches(config).items() if not is_on],
        "admits": lambda endpoint: _is_used(config, endpoint),
    }


def is_alone(config: GatewayConfig) -> bool:
    """Whether there can be one server only."""
    others = [name for name, is_on in _switches(config).items() if is_on and name != "static"]
    return len(config.servers) == 1 and not others


def has_prefix(config: GatewayConfig) -> bool:
    """Whether names of tools begin with that of their server."""
    return config.routing.prefix == "always" or (config.routing.prefix == "auto" and not is_alone(config))


def _switches(config: GatewayConfig) -> dict[str, bool]:
    providers = config.discovery.providers
    return {
        "static": providers.static.enabled,
        "sockets": config.backends.stdio.socket_discovery and config.backends.stdio.enabled,
        "kubernetes": providers.kubernetes.enabled,
        "consul": providers.consul.enabled,
    }


def _is_used(config: GatewayConfig, endpoint: EndpointSpec) -> bool:
    kind = getattr(config.backends, endpoint.spoken)
    return bool(kind.enabled and getattr(kind, "auto_discovery", True))
