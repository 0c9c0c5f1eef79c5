"""The questions of ``mcpbridge setup`` on a plain terminal, one after the other; Ctrl-D and Ctrl-C write nothing.

Source: ux section 1b (steps, without the wizard); contract cli.setup.
"""

from __future__ import annotations

import argparse
import getpass
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar, cast

from mcpbridge.cli.coded import coded
from mcpbridge.cli.setup import Stop, chosen, installed, is_stored, planned, show, try_gateway
from mcpbridge.cli.stored import clean
from mcpbridge.clients.table import CLIENTS, Layout
from mcpbridge.secrets import SecretError
from mcpbridge.secrets.stores import fit
from mcpbridge.setup.answers import Answers, Keep, SignIn, address, hazard, unreadable
from mcpbridge.setup.plan import importable, is_ours, make

T = TypeVar("T")
EX_INTERRUPTED = 130


def interview(options: argparse.Namespace, layout: Layout) -> int:
    """Ask everything that the options do not say. Raises Stop, SecretError, ClientFileError, ConfigError."""
    try:
        return _interview(options, layout)
    except (EOFError, KeyboardInterrupt):
        print("\nnothing was written")
        return EX_INTERRUPTED


def _interview(options: argparse.Namespace, layout: Layout) -> int:
    print("Setting up the router of this computer. Nothing is written before you have seen it.\n")
    answers = Answers(
        token_name=options.token_name, token_env=options.token_env or "", scope=options.scope, server_name=options.server_name,
        keep=options.secret_store, ca_file=options.ca_file, client_cert=options.client_cert, client_key=options.client_key,
    )  # fmt: skip
    answers = replace(answers, gateway=_gateway(options))
    if answers.gateway:
        answers = _sign_in(answers, options)
    answers = replace(answers, imports=_imports(options, layout), clients=_clients(options, layout))
    while True:
        found = planned(answers, options, layout)
        if answers.gateway and not options.no_test:
            print(f"\nTrying {answers.gateway} as your programs will use it.")
            report = try_gateway(found, options.test_timeout, quiet=False)
            if not report["ok"]:
                changed = _after_failure(answers, options, report)
                if changed is not None:
                    answers = changed
                    continue
        break
    print("\nThis would be written:\n")
    show(found, None)
    if options.dry_run:
        return 0
    if not _yes("\nWrite it?", default=True):
        print("nothing was written")
        return 0
    show(replace(found, notes=()), make(found, layout))
    return 0


def _gateway(options: argparse.Namespace) -> str:
    if options.no_gateway:
        return ""
    if options.gateway_url:
        try:
            return address(options.gateway_url)
        except ValueError as error:
            raise Stop(64, [f"--gateway-url: {error}"]) from None
    said = _ask("Address of your gateway (empty: none, local servers only)", lambda text: address(text) if text else "")
    if danger := hazard(said):
        print(f"  careful: {danger}")
    return said


def _sign_in(answers: Answers, options: argparse.Namespace) -> Answers:
    """How, and with what."""
    kinds = {"bearer": "a token", "mtls": "a client certificate", "none": "nothing"}
    kind = options.auth or _one_of("Sign in with", kinds, "bearer")
    answers = replace(answers, sign_in=cast(SignIn, kind))
    if kind == "mtls":
        while True:
            cert = answers.client_cert or _ask("  certificate, PEM", _needed)
            key = answers.client_key or _ask("  private key, PEM", _needed)
            answers = replace(answers, client_cert=cert, client_key=key)
            if not (bad := list(unreadable(answers))):
                return answers
            print("\n".join(f"  {line}" for line in bad))
            answers = replace(answers, client_cert="", client_key="")
    if kind != "bearer" or answers.token_env:
        return answers
    if is_stored(answers.token_name) and _yes(f"  {answers.token_name} is stored already. Use it?", default=True):
        return replace(answers, has_token=True, token="")
    return _token(answers)


def _token(answers: Answers) -> Answers:
    """The token and where it is kept."""
    token = ""
    while not token:
        try:
            token = clean(getpass.getpass("  Token (hidden): "))
        except ValueError as error:
            print(f"  {error}")
    keep = answers.keep
    if keep == "auto":
        kinds = {"keychain": "", "file": "an encrypted file of yours", "plain": "a file in plain text, for you only"}
        try:
            kinds["keychain"] = fit("keychain").title
        except SecretError as error:
            print(f"  {error.detail.partition('; ')[0]}")
            del kinds["keychain"]
        keep = cast(Keep, _one_of("  Keep it in", kinds, next(iter(kinds))))
    return replace(answers, token=token, keep=keep, has_token=False)


def _imports(options: argparse.Namespace, layout: Layout) -> tuple[str, ...]:
    files = importable(layout)
    if options.imports is not None:
        return chosen(options.imports, [file.client.key for file in files])
    for file in files:
        names = [name for name, entry in file.entries.items() if not is_ours(entry)]
        print(f"  {file.client.key}: {', '.join(names)}")
    if not files:
        return ()
    return _several("Move their servers behind mcpbridge? (all, none, or names)", [file.client.key for file in files], "none")


def _clients(options: argparse.Namespace, layout: Layout) -> tuple[str, ...]:
    there = installed(layout)
    if options.clients is not None:
        return chosen(options.clients, there)
    print(f"  found here: {', '.join(there) or 'no client'}")
    return _several("Which clients are to start mcpbridge? (all, none, or names)", there, "all" if there else "none")


def _after_failure(answers: Answers, options: argparse.Namespace, report: dict[str, object]) -> Answers | None:
    """Other answers to try again with; None: go on as it is. Raises EOFError to give up."""
    stages = cast("list[dict[str, object]]", report["stages"])
    why = coded(stages[-1], str(report["target"]))
    print(f"\n{why.said} [{why.code}]\n{why.action}")
    kinds = {"retry": "", "address": "another one", "token": "another one", "anyway": "go on without a test", "quit": ""}
    if answers.sign_in != "bearer" or answers.token_env:
        del kinds["token"]
    said = _one_of("What now", kinds, "retry")
    if said == "quit":
        raise EOFError
    if said == "address":
        return replace(answers, gateway=_ask("Address of your gateway", address))
    if said == "token":
        return _token(answers)
    return answers if said == "retry" else None


def _several(question: str, there: Sequence[str], default: str) -> tuple[str, ...]:
    def read(text: str) -> tuple[str, ...]:
        names = chosen(text or default, there)
        for name in names:
            if name not in CLIENTS:
                raise ValueError(f"{name} is none of {', '.join(CLIENTS)}")
        return names

    return _ask(f"{question} [{default}]", read)


def _one_of(question: str, kinds: dict[str, str], default: str) -> str:
    for kind, what in kinds.items():
        print(f"    {kind:9} {what}".rstrip())

    def read(text: str) -> str:
        fits = [kind for kind in kinds if kind.startswith(text.lower())]
        if text and len(fits) != 1:
            raise ValueError(f"one of {', '.join(kinds)}")
        return fits[0] if text else default

    return _ask(f"{question} [{default}]", read)


def _yes(question: str, *, default: bool) -> bool:
    def read(text: str) -> bool:
        if text.lower() not in ("", "y", "yes", "n", "no"):
            raise ValueError("y or n")
        return text.lower()[:1] == "y" if text else default

    return _ask(f"{question} [{'Y/n' if default else 'y/N'}]", read)


def _needed(text: str) -> str:
    if not text:
        raise ValueError("a path is needed")
    return text


def _ask(question: str, read: Callable[[str], T]) -> T:
    """Asked again until the answer can be read. Raises EOFError when there is no more."""
    while True:
        try:
            return read(input(f"{question}: ").strip())
        except ValueError as error:
            print(f"  {error}")
