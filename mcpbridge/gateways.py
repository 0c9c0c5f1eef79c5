"""The gateways of a router: where they are, how it signs in, and how calls outlast their outages.

Source: contract section 3.2 (``gateway.*``, ``advanced.*``); issue 5 item 8.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from urllib.parse import urlsplit, urlunsplit

from mcpbridge.bridge import Bridge
from mcpbridge.config.kinds import is_loopback, split_host_port
from mcpbridge.config.protocols import PROTOCOLS, protocol_of
from mcpbridge.config.router import RouterConfig
from mcpbridge.config.sections import GATEWAY, EndpointSpec, ServerSpec
from mcpbridge.core.backoff import Reconnect
from mcpbridge.core.balance.policy import Balancing
from mcpbridge.core.outage import Outage
from mcpbridge.core.server import Server
from mcpbridge.errors import BridgeError
from mcpbridge.observe.log import log

_log = log("router")
GATEWAY_TCP_PORT = 8444  # of a gateway whose address of frames is not named


def gateway_spec(config: RouterConfig, token: str | None = None) -> ServerSpec:
    """The gateway as a server, with this token or that of the configuration.

    Raises BridgeError for a secret that is not there.
    """
    from mcpbridge.secrets import gateway_token

    if token is None and config.gateway.auth.type == "bearer":
        token = gateway_token(config.gateway.auth)
    tls = config.gateway.tls
    if not tls.verify:
        _log.warn("gateway.tls.verify is false: anyone on the way can read and change what is sent to the gateway")
    keys = {
        "ca_file": tls.ca_file,
        "cert_file": tls.client_cert,
        "key_file": tls.client_key,
        "verify": "true" if tls.verify else "false",
        "min_version": tls.min_version,
    }
    headers = {"authorization": f"Bearer {token}"} if token else {}
    addresses = (gateway_address(config), *(gateway_address(config, url) for url in config.gateway.urls))
    endpoints = tuple(EndpointSpec(url=url, headers=headers, tls=keys) for url in addresses)
    return ServerSpec(name=GATEWAY, endpoints=endpoints)


def gateway_address(config: RouterConfig, url: str | None = None) -> str:
    """Where the gateway is, "" for none: its url, with the protocol's own path if it has none, or the place of its frames.

    ``url``: one of the further gateways instead of the first.
    """
    first = url is None
    url = config.gateway.url if url is None else url
    parts = urlsplit(url)
    if config.advanced.protocol == "tcp":
        address = config.advanced.tcp_address if first else ""
        host, port = split_host_port(address) if address else (parts.hostname or "", GATEWAY_TCP_PORT)
        scheme = "tcp" if is_loopback(host) else "tcps"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
    if url and parts.path in ("", "/"):
        return urlunsplit(parts._replace(path=PROTOCOLS[protocol_of(url)].path))
    return url


def outlast(config: RouterConfig, bridge: Bridge, gateway: Server) -> None:
    """Calls outlast outages of the gateway; of several addresses the first that answers is used."""
    delays = config.gateway.connection.reconnect
    gateway.reconnect = Reconnect(delays.initial_delay, delays.max_delay, delays.max_attempts, is_spread=True)
    gateway.balancer.policy = Balancing(is_ordered=True, panic_threshold=0.0)
    outage = Outage(gateway, gateway.reconnect, bridge.spawn, limit=config.local.max_concurrent_requests)
    bridge.one = outage.around(bridge.one)
    if len(gateway.backends) > 1:
        bridge.spawn(_look_for_lost(gateway, delays.max_delay))


async def _look_for_lost(gateway: Server, interval: float) -> None:
    """A gateway that calls go past is found again, so that the first of them is."""
    while True:
        await asyncio.sleep(interval * random.uniform(0.8, 1.2))
        for backend in gateway.backends:
            if backend.state == "down":
                with suppress(BridgeError):
                    await backend.check(backend.pool.start_timeout)
