"""Which providers of servers a configuration asks for, and what of their findings is used."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from mcpbridge.config.gateway import GatewayConfig
from mcpbridge.config.load import Loaded
from mcpbridge.config.sections import EndpointSpec
from mcpbridge.providers import has_prefix, is_alone, providers_of, static_of, terms_of
from tests.support.certificates import make_tls
from tests.support.configs import gateway

ONE = {"name": "a", "url": "http://127.0.0.1:1/mcp"}


@pytest.fixture
def load(tmp_path: Path) -> Any:
    def load(env: Mapping[str, str] | None = None, **sections: Any) -> Loaded[GatewayConfig]:
        path = tmp_path / "gateway.json"
        path.write_text(json.dumps({"auth": {"type": "none"}, "server": {"tls": {"enabled": False}}, **sections}))
        return gateway(str(path), env)

    return load


def names(loaded: Loaded[GatewayConfig]) -> list[str]:
    return [provider.name for provider in providers_of(loaded)]


def test_nothing_but_the_configured_servers_is_used_by_default(load: Any) -> None:
    loaded = load(servers=[ONE])
    assert (names(loaded), terms_of(loaded.config)["disabled"]) == ([], ["sockets", "kubernetes", "consul"])
    assert is_alone(loaded.config) and not has_prefix(loaded.config)


@pytest.mark.requirement(
    "env.MCP_SERVICE_DISCOVERY_KUBERNETES", "env.MCP_SERVICE_DISCOVERY_CONSUL", "env.MCP_SERVICE_DISCOVERY_STATIC"
)
def test_variables_switch_providers_on_and_off(load: Any) -> None:
    prefix = "MCP_SERVICE_DISCOVERY_"
    loaded = load({f"{prefix}KUBERNETES": "true", f"{prefix}CONSUL": "on", f"{prefix}STATIC": "false"}, servers=[ONE])
    assert names(loaded) == ["kubernetes", "consul"]
    assert static_of(loaded.config) == [] and "static" in terms_of(loaded.config)["disabled"]


def test_names_begin_with_their_server_as_soon_as_there_can_be_others(load: Any) -> None:
    others = {"backends": {"stdio": {"socket_discovery": True}}}
    assert has_prefix(load(servers=[ONE], **others).config)
    assert not has_prefix(load(servers=[ONE], routing={"prefix": "never"}, **others).config)
    assert has_prefix(load(servers=[ONE], routing={"prefix": "always"}).config)
    assert has_prefix(load().config), "it is the same when the first server comes"


@pytest.mark.requirement("config.gateway.backends.http.auto_discovery", "config.gateway.backends.websocket.auto_discovery")
def test_what_is_found_is_used_where_its_protocol_says_so(load: Any) -> None:
    urls = ("http://h:1/mcp", "ws://h:1/ws", "sse://h:1/events", "tcp://h:1", "unix:///s")

    def used(**backends: Any) -> list[str]:
        admits = terms_of(load(backends=backends).config)["admits"]
        return [url for url in urls if admits(EndpointSpec(url=url))]

    assert used() == list(urls)
    assert used(http={"auto_discovery": False}, tcp_binary={"enabled": False}) == [
        "ws://h:1/ws",
        "sse://h:1/events",
        "unix:///s",
    ]
    assert used(websocket={"auto_discovery": False}) == [url for url in urls if not url.startswith("ws")]


@pytest.mark.requirement(
    "config.gateway.discovery.providers.kubernetes.protocol_detection", "config.gateway.discovery.protocol_detection"
)
@pytest.mark.parametrize(("whole", "own", "detects"), [(True, None, True), (False, None, False), (False, True, True)])
def test_a_cluster_is_detected_as_all_are_unless_it_says_otherwise(load: Any, whole: bool, own: Any, detects: bool) -> None:
    cluster = {"enabled": True} | ({} if own is None else {"protocol_detection": own})
    (found,) = providers_of(load(discovery={"protocol_detection": whole, "providers": {"kubernetes": cluster}}))
    assert found._detect is detects  # type: ignore[attr-defined]


@pytest.mark.requirement("config.gateway.discovery.providers.consul.tls")
def test_consul_is_asked_with_the_files_of_its_tls(load: Any, tmp_path: Path) -> None:
    tls = make_tls(tmp_path)
    consul = {"enabled": True, "address": "https://127.0.0.1:8501", "tls": {"ca_file": str(tls.authority)}}
    (found,) = providers_of(load(discovery={"providers": {"consul": consul}}))
    assert found._tls.get_ca_certs()  # type: ignore[attr-defined]
