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
from mcpbridge.errors import BridgeError
from mcpbridge.observe.redact import conceal

if TYPE_CHECKING:
    from mcpbridge.config.router import GatewayAuth

SERVICE: Final = "mcpbridge"
"""Under this service name tokens lie in the keychain."""

MAX_TOKEN_CHARS: Final = 4096
_MAX_FILE_BYTES = 65_536
_MOUNTED = "/run/secrets"  # where Docker and Kubernetes mount them
_REFERENCE = re.compile(r"\$\{secret:([A-Za-z0-9_-][A-Za-z0-9._-]{0,127})\}")


class SecretError(BridgeError):
    """A secret that is not there or must not be used. The text names it, the cause and the next step; never a value."""

    def __init__(self, name: str, cause: str, next_step: str) -> None:
        self.next_step = next_step
        super().__init__("secret_unavailable", f"{name}: {cause}; {next_step}", sent=False)


def gateway_token(auth: GatewayAuth, env: Mapping[str, str] | None = None) -> str | None:
    """The router's token: MCP_AUTH_TOKEN, ``token_secure_key``, ``token_env``, ``token_file``; None when none is configured.

    A source that is configured and has no token is an error, never a silent step to the next one. Raises SecretError.
    """
    env = os.environ if env is None else env
    if env.get("MCP_AUTH_TOKEN"):
        return check_token(env["MCP_AUTH_TOKEN"], "MCP_AUTH_TOKEN")
    if auth.token_secure_key:
        return check_token(read_keychain(auth.token_secure_key), f"keychain item {auth.token_secure_key}")
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


def fill(text: str, env: Mapping[str, str]) -> str:
    """The text with every ``${secret:NAME}`` replaced. Raises SecretError."""
    return _REFERENCE.sub(lambda match: lookup(match[1], env), text) if "${secret:" in text else text


def lookup(name: str, env: Mapping[str, str]) -> str:
    """One secret by name: variable ``MCPBRIDGE_SECRET_<NAME>``, file ``/run/secrets/<name>``, keychain. Raises SecretError."""
    variable = "MCPBRIDGE_SECRET_" + re.sub(r"[^A-Z0-9]", "_", name.upper())
    path = os.path.join(_MOUNTED, name)
    if env.get(variable):
        value = env[variable]
    elif os.path.isfile(path):
        value = _content(path, name)
    else:
        value = read_keychain(name, f"set {variable}, mount {path}")
    conceal(value)
    return value


def check_token(text: str, source: str) -> str:
    """A bearer token without surrounding white space and without a leading ``Bearer``. Raises SecretError."""
    token = re.sub(r"^[Bb]earer\s+", "", text.strip())
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


def read_keychain(name: str, alternatives: str = "use token_env or token_file") -> str:
    """A secret of the platform's keychain. Imports keyring, which takes 100 ms and more. Raises SecretError."""
    try:
        import keyring
        from keyring.errors import KeyringError, NoKeyringError
    except ImportError:
        raise SecretError(name, "this installation has no keychain support", f"install keyring, or {alternatives}") from None
    try:
        value = keyring.get_password(SERVICE, name)
    except NoKeyringError:
        raise SecretError(name, "this machine has no keychain", alternatives) from None
    except KeyringError as error:
        raise SecretError(name, f"the keychain refused: {type(error).__name__}", f"unlock it, or {alternatives}") from None
    except Exception as error:
        raise SecretError(name, f"the keychain failed: {type(error).__name__}", alternatives) from error
    if not value:
        raise SecretError(name, "is not in the keychain", f"store it there (service {SERVICE}), or {alternatives}")
    conceal(value)
    return value


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
