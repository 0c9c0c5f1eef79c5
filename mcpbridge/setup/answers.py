"""The answers of a person, or of the flags of ``setup --yes``, and what is wrong with each. Pure but for one look at files.

Source: ux section 1b (steps); contract cli.setup.*.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import urlsplit, urlunsplit

from mcpbridge.clients.table import Scope
from mcpbridge.config.protocols import ADDRESS, LOCAL

SignIn = Literal["bearer", "mtls", "none"]
Keep = Literal["auto", "keychain", "file", "plain", "none"]
TOKEN_NAME: Final = "gateway-token"  # noqa: S105 - what it is called
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


@dataclass(frozen=True)
class Answers:
    """Everything ``setup`` asks. ``gateway`` "" is no gateway; ``token`` "" is none given, or one that lies elsewhere."""

    gateway: str = ""
    sign_in: SignIn = "bearer"
    token: str = ""
    token_name: str = TOKEN_NAME
    token_env: str = ""
    token_file: str = ""
    keep: Keep = "auto"
    ca_file: str = ""
    client_cert: str = ""
    client_key: str = ""
    imports: tuple[str, ...] = ()
    """Keys of clients whose servers move behind mcpbridge."""
    clients: tuple[str, ...] = ()
    """Keys of clients that are to start mcpbridge."""
    scope: Scope = "user"
    server_name: str = "mcpbridge"
    has_token: bool = False
    """A token of that name is stored already."""

    @property
    def is_bearer(self) -> bool:
        """Whether a token is sent to a gateway."""
        return bool(self.gateway) and self.sign_in == "bearer"


def address(text: str) -> str:
    """A gateway's address as somebody typed it, with a scheme and without what does not belong there.

    Raises ValueError, which says what is wrong with it.
    """
    text = text.strip().strip("\"'")
    if not text:
        raise ValueError("an address is needed, such as https://gateway.example.com")
    if _SCHEME.match(text) is None:
        text = f"{'http' if _is_loopback(text.partition('/')[0]) else 'https'}://{text}"
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"it cannot be read: {str(error).lower()}") from None
    scheme = parts.scheme.lower()
    if scheme in LOCAL or scheme == "file":
        raise ValueError("a gateway is reached over the network; a local server belongs to the servers of the router")
    if parts.username is not None or parts.password is not None:
        raise ValueError("a user name or password in the address would be logged; a token is asked for next")
    if not parts.hostname:
        raise ValueError("there is no host name in it")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    clean = urlunsplit((scheme, host if port is None else f"{host}:{port}", parts.path.rstrip("/"), parts.query, ""))
    try:
        ADDRESS.parse(clean)
    except ValueError as error:
        raise ValueError(f"it must be {error}") from None
    return clean


def hazard(url: str) -> str | None:
    """What is dangerous about an address that can be used; None for nothing."""
    parts = urlsplit(url)
    if parts.scheme in ("http", "ws", "sse", "tcp") and not _is_loopback(parts.netloc):
        return f"{parts.scheme}:// sends the token in the clear; is there {parts.scheme}s:// too?"
    return None


def gaps(answers: Answers) -> Iterator[tuple[str, str]]:
    """``(what is missing, how to give it)``, all at once."""
    if answers.is_bearer:
        given = [bool(answers.token), bool(answers.token_env), answers.has_token]
        if not any(given):
            yield "a token for the gateway", "--token-stdin, --token-file FILE or --token-env NAME; never as an argument"
    if answers.gateway and answers.sign_in == "mtls":
        for name, path in (("--client-cert", answers.client_cert), ("--client-key", answers.client_key)):
            if not path:
                yield f"{name[2:].replace('-', ' ')}", f"{name} FILE"
    if bool(answers.client_cert) != bool(answers.client_key) and answers.sign_in != "mtls":
        yield "one of client certificate and key", "--client-cert FILE and --client-key FILE belong together"


def unreadable(answers: Answers) -> Iterator[str]:
    """What is wrong with the files that were named."""
    for path in filter(None, (answers.ca_file, answers.client_cert, answers.client_key)):
        where = os.path.expanduser(path)
        if not os.access(where, os.R_OK) or not os.path.isfile(where):
            yield f"{path}: cannot be read"
    key = os.path.expanduser(answers.client_key)
    if answers.client_key and os.name == "posix" and os.path.isfile(key) and os.stat(key).st_mode & 0o077:
        yield f"{answers.client_key}: others can read this private key; chmod 600 {answers.client_key}"


def _is_loopback(netloc: str) -> bool:
    host = urlsplit(f"//{netloc}").hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
