"""Secrets: where they come from, in which order, and how ``${secret:NAME}`` is filled in when a server is reached.

Every secret that is resolved here is concealed from then on (``observe.redact``). Reading the keychain can take seconds or wait
for the user: where that matters, call from a thread.

Source: contract sections 3 (``${secret:NAME}``), 3.2 (``gateway.auth.token_*``) and 1.1 (``cli.token.store``).
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import msgspec

from mcpbridge.config.sections import EndpointSpec
from mcpbridge.observe.redact import conceal
from mcpbridge.secrets.faults import SecretError

if TYPE_CHECKING:
    from mcpbridge.config.router import GatewayAuth

__all__ = [
    "MAX_TOKEN_CHARS",
    "SecretError",
    "check_token",
    "fill",
    "gateway_token",
    "has_secrets",
    "lookup",
    "read_file",
    "read_stored",
    "resolve_endpoint",
]

MAX_TOKEN_CHARS: Final = 4096
_MAX_FILE_BYTES = 65_536
_MOUNTED = ("/var/run/secrets/mcpbridge", "/run/secrets")  # where Kubernetes and Docker mount them
_REFERENCE = re.compile(r"\$\{secret:([A-Za-z0-9_-][A-Za-z0-9._-]{0,127})\}")


def gateway_token(auth: GatewayAuth, env: Mapping[str, str] | None = None) -> str | None:
    """The router's token: MCP_AUTH_TOKEN, ``token_secure_key``, ``token_env``, ``token_file``; None when none is configured.

    A source that is configured and has no token is an error, never a silent step to the next one. Raises SecretError.
    """
    env = os.environ if env is None else env
    if env.get("MCP_AUTH_TOKEN"):
        return check_token(env["MCP_AUTH_TOKEN"], "MCP_AUTH_TOKEN")
    if auth.token_secure_key:
        return check_token(read_stored(auth.token_secure_key), f"secret {auth.token_secure_key}")
    if auth.token_env:
        return check_token(_from_variable(auth.token_env, env), f"variable {auth.token_env}")
    if auth.token_file:
        return check_token(read_file(auth.token_file), f"file {auth.token_file}")
    return None


def resolve_endpoint(endpoint: EndpointSpec, env: Mapping[str, str] | None = None) -> EndpointSpec:
    """The endpoint with every ``${secret:NAME}`` filled in and ``token_env`` turned into an ``authorization`` header.

    Call it for each child and each connection, so that a rotated secret is used at once. Raises SecretError.
    """
    env = os.environ if env is None else env
    headers = {name: fill(value, env) for name, value in endpoint.headers.items()}
    if endpoint.token_env:
        token = check_token(_from_variable(endpoint.token_env, env), f"variable {endpoint.token_env}")
        headers = {name: value for name, value in headers.items() if name.lower() != "authorization"}
        headers["authorization"] = f"Bearer {token}"
    return msgspec.structs.replace(
        endpoint,
        url=fill(endpoint.url, env),
        args=tuple(fill(word, env) for word in endpoint.args),
        env={name: fill(value, env) for name, value in endpoint.env.items()},
        headers=headers,
        token_env="",
    )


def has_secrets(endpoint: EndpointSpec) -> bool:
    """Whether there is a ``${secret:NAME}`` in it."""
    texts = (endpoint.url, *endpoint.args, *endpoint.env.values(), *endpoint.headers.values())
    return any("${secret:" in text for text in texts)


def fill(text: str, env: Mapping[str, str]) -> str:
    """The text with every ``${secret:NAME}`` replaced. Raises SecretError."""
    return _REFERENCE.sub(lambda match: lookup(match[1], env), text) if "${secret:" in text else text


def lookup(name: str, env: Mapping[str, str]) -> str:
    """One secret by name. Raises SecretError.

    Variable ``MCPBRIDGE_SECRET_<NAME>``; the file that ``MCPBRIDGE_SECRET_<NAME>_FILE`` names; the files that systemd, Docker
    and Kubernetes mount; the keychain; the file of this user's secrets.
    """
    variable = "MCPBRIDGE_SECRET_" + re.sub(r"[^A-Z0-9]", "_", name.upper())
    said, named = env.get(variable, ""), env.get(f"{variable}_FILE", "")
    if said and named:
        raise SecretError(name, f"both {variable} and {variable}_FILE are set", "set one of them")
    folders = [env["CREDENTIALS_DIRECTORY"]] if env.get("CREDENTIALS_DIRECTORY") else []
    paths = [os.path.join(folder, name) for folder in (*folders, *_MOUNTED)]
    path = named or next((path for path in paths if os.path.isfile(path)), "")
    value = said or (_content(path, name) if path else read_stored(name, f"set {variable}, mount {paths[-1]}"))
    conceal(value)
    return value


def check_token(text: str, source: str) -> str:
    """A bearer token without surrounding white space and without a leading ``Bearer``. Raises SecretError."""
    token = re.sub(r"^[Bb]earer(?:\s+|$)", "", text.strip())
    conceal(token)
    if not token:
        raise SecretError(source, "is empty", "put the token there")
    if len(token) > MAX_TOKEN_CHARS:
        raise SecretError(source, f"is longer than {MAX_TOKEN_CHARS} characters", "check that it holds the token only")
    if re.fullmatch(r"[\x21-\x7e]+", token) is None:
        raise SecretError(source, "has spaces, control or non-ASCII characters", "check that it holds the token only")
    return token


def read_file(path: str) -> str:
    """The first line of a secret file that nobody else can read. Raises SecretError."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise SecretError(path, error.strerror or "cannot be read", "check token_file") from None
    if not stat.S_ISREG(status.st_mode):
        raise SecretError(path, "is no regular file", "check token_file")
    if os.name == "posix":
        if stat.S_IMODE(status.st_mode) & 0o077:
            raise SecretError(path, f"can be read by others (mode {stat.S_IMODE(status.st_mode):04o})", f"chmod 600 {path}")
        if status.st_uid not in (os.geteuid(), 0):
            raise SecretError(path, "belongs to another user", "make a copy of your own")
    return _content(path, path).split("\n")[0].rstrip("\r")


def read_stored(name: str, alternatives: str = "use token_env or token_file") -> str:
    """A secret of the keychain, or of the file where this user's secrets are. Raises SecretError."""
    from mcpbridge.secrets.stores import find

    found = find(name)
    if found is None:
        raise SecretError(name, "is not stored here", f"mcpbridge token set --name {name}, or {alternatives}")
    conceal(found[1])
    return found[1]


def _from_variable(name: str, env: Mapping[str, str]) -> str:
    value = env.get(name, "")
    if not value:
        raise SecretError(f"variable {name}", "is not set or empty", "set it for the process that starts mcpbridge")
    return value


def _content(path: str, name: str) -> str:
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_FILE_BYTES)
    except OSError as error:
        raise SecretError(name, error.strerror or "cannot be read", f"check {path}") from None
    try:
        value = data.decode("utf-8").strip("\r\n")
    except UnicodeDecodeError:
        raise SecretError(name, "is no text", f"check {path}") from None
    if not value:
        raise SecretError(name, "is empty", f"check {path}")
    conceal(value)
    return value
