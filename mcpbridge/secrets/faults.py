"""What is wrong with a secret: its name, the cause and the next step; never a value."""

from __future__ import annotations

from typing import Final

from mcpbridge.errors import BridgeError

NONE: Final = "MCPB-KEY-NONE"
LOCKED: Final = "MCPB-KEY-LOCKED"
UNREADABLE: Final = "MCPB-KEY-UNREADABLE"


class SecretError(BridgeError):
    """A secret that is not there or must not be used. ``code``: of the store that failed, of ux section 1b; "" otherwise."""

    def __init__(self, name: str, cause: str, next_step: str, code: str = "") -> None:
        self.next_step = next_step
        self.code = code
        data = {"code": code} if code else {}
        super().__init__("secret_unavailable", f"{name}: {cause}; {next_step}", sent=False, **data)
