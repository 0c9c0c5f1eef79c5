"""What differs between two configurations, and what of it can change while clients are here.

Source: contract ``config.reload``.
"""

from __future__ import annotations

import re
from typing import Any, Final

from msgspec.structs import replace

from mcpbridge.config.gateway import GatewayConfig
from mcpbridge.config.problems import Place
from mcpbridge.config.rows import at, fields_of
from mcpbridge.config.sections import ServerSpec

_LIVE: Final = re.compile(
    r"discovery\..+|logging\.\w+|load_balancing\.(?!rebalance_interval).+"
    r"|routing\.(prefix|strategy|protocol_preference_order)"
    r"|auth\.(static_tokens|max_token_length|jwt\.\w+)"
    r"|server\.(allowed_hosts|allowed_origins)|server\.tls\.(cert_file|key_file)"
    r"|backends\.\w+\.(enabled|auto_discovery|socket_discovery|socket_paths)"
)


def is_live(key: str) -> bool:
    """Whether a reload changes this key; the others are read once, at the start."""
    return _LIVE.fullmatch(key) is not None


def changed_keys(before: GatewayConfig, after: GatewayConfig) -> list[str]:
    """The keys whose values differ, in the order of the rows; where something was written is no difference."""
    return [field.key for field in fields_of(GatewayConfig) if _value(before, field.key) != _value(after, field.key)]


def _value(config: GatewayConfig, key: str) -> Any:
    value = at(config, key)
    if isinstance(value, tuple):
        return tuple(replace(one, place=Place()) if isinstance(one, ServerSpec) else one for one in value)
    return value
