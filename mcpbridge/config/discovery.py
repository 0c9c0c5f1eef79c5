"""Where servers come from: the rows of every provider.

Source: contract section 3.1 (``discovery.*``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Final

from msgspec import field

from mcpbridge.config.kinds import BOOL, MAP, SERVERS, TEXT, URL, duration, matching, regex
from mcpbridge.config.rows import Row, Section
from mcpbridge.config.sections import EndpointSpec, ServerSpec
from mcpbridge.config.servers import endpoint_fault

LABEL_KEY: Final = re.compile(r"([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
LABEL_VALUE: Final = re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?")


class KubernetesProvider(Section, frozen=True, kw_only=True):
    """Services of a cluster: from inside it, else by $KUBECONFIG. Its annotations ``mcp.bridge/protocol``, ``mcp.bridge/path``
    and ``mcp.bridge/weight`` say how a service is reached; a port called ``mcp`` is taken when it has several."""

    enabled: Annotated[bool, Row(BOOL, "find servers in Kubernetes", env=("MCP_SERVICE_DISCOVERY_KUBERNETES",))] = False
    namespace_pattern: Annotated[str, Row(regex(), "regular expression that matches a namespace as a whole")] = "mcp-servers.*"
    service_labels: Annotated[Mapping[str, str], Row(MAP, "labels a service must have")] = field(
        default_factory=lambda: {"mcp-enabled": "true"}
    )
    protocol_detection: Annotated[
        bool | None,
        Row(BOOL, "detect what a service without annotation mcp.bridge/protocol speaks; as discovery.protocol_detection"),
    ] = None


class ConsulProvider(Section, frozen=True, kw_only=True):
    """Services of Consul with a tag, by blocking queries. Their meta ``mcp-protocol``, ``mcp-path``, ``mcp-weight`` and
    ``mcp-namespace`` say how they are reached and shown."""

    enabled: Annotated[bool, Row(BOOL, "find servers in Consul", env=("MCP_SERVICE_DISCOVERY_CONSUL",))] = False
    address: Annotated[str, Row(URL, "agent or server")] = "http://127.0.0.1:8500"
    token: Annotated[str, Row(matching(r"[\x21-\x7e]{0,4096}", "visible ASCII characters"), "ACL token", secret=True)] = ""
    tag: Annotated[str, Row(TEXT, "tag of the services that are servers")] = "mcp"
    tls: Annotated[
        Mapping[str, str],
        Row(MAP, "ca_file instead of the system's authorities, cert_file and key_file of ours, verify: false for any"),
    ] = {}
    datacenter: Annotated[str, Row(TEXT, "datacenter that is asked; empty: the agent's")] = ""


class StaticServers(Section, frozen=True, kw_only=True):
    """Servers that are named here."""

    enabled: Annotated[bool, Row(BOOL, "use them", env=("MCP_SERVICE_DISCOVERY_STATIC",))] = True
    servers: Annotated[
        tuple[ServerSpec, ...], Row(SERVERS, "servers with their endpoints", aliases=("servers",), item=ServerSpec)
    ] = ()


class Providers(Section, frozen=True, kw_only=True):
    """Where servers come from. A name belongs to the provider that comes first: static, sockets, kubernetes, consul."""

    kubernetes: KubernetesProvider = KubernetesProvider()
    consul: ConsulProvider = ConsulProvider()
    static: StaticServers = StaticServers()


class Discovery(Section, frozen=True, kw_only=True):
    """How servers are found."""

    providers: Providers = Providers()
    refresh_rate: Annotated[float, Row(duration(1.0), "everything is listed anew so often, besides being watched")] = 30.0
    protocol_detection: Annotated[bool, Row(BOOL, "detect what a server speaks that does not say it; else http")] = True


def faults(config: Discovery) -> list[tuple[str, str]]:
    """Faults between rows: key and message."""
    found: list[tuple[str, str]] = []
    for key, value in config.providers.kubernetes.service_labels.items():
        if LABEL_KEY.fullmatch(key) is None or LABEL_VALUE.fullmatch(value) is None:
            found.append(("discovery.providers.kubernetes.service_labels", f"{key}={value} is no legal label"))
    consul = config.providers.consul
    if consul.tls and not consul.address.lower().startswith("https:"):
        found.append(("discovery.providers.consul.tls", "tls belongs to an https address"))
    elif consul.tls and (why := endpoint_fault(EndpointSpec(url=consul.address, tls=consul.tls))):
        found.append(("discovery.providers.consul.tls", why))
    if not consul.tag:
        found.append(("discovery.providers.consul.tag", "without a tag every service of Consul would be a server"))
    return found
