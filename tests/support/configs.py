"""Loading configurations in tests: from a text, without the environment of whoever runs them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from mcpbridge.config.gateway import GatewayConfig
from mcpbridge.config.load import Flags, Loaded, load_gateway, load_router
from mcpbridge.config.problems import ConfigError
from mcpbridge.config.router import RouterConfig

SECRET = "kX9v2mQ7pL4sR8tY1wZ5bN3cF6hJ0dG="
NOWHERE = {"HOME": "/nonexistent"}
Write = Callable[..., str]


def gateway(path: str | None, env: Mapping[str, str] | None = None, flags: Flags | None = None) -> Loaded[GatewayConfig]:
    """A gateway's configuration with these variables only."""
    return load_gateway(path, {**NOWHERE, **(env or {})}, flags)


def router(path: str | None, env: Mapping[str, str] | None = None, flags: Flags | None = None) -> Loaded[RouterConfig]:
    """A router's configuration with these variables only."""
    return load_router(path, {**NOWHERE, **(env or {})}, flags)


def faults(path: str | None, env: Mapping[str, str] | None = None, *, of: Callable[..., object] = gateway) -> list[str]:
    """Everything that is wrong, without the file's name."""
    with pytest.raises(ConfigError) as caught:
        of(path, env)
    assert caught.value.exit_code == 78
    return [str(problem).replace(f"{path}:", "") for problem in caught.value.problems]


def server_names(config: GatewayConfig | RouterConfig) -> list[str]:
    """Names of the configured servers, in order."""
    return [spec.name for spec in config.servers]
