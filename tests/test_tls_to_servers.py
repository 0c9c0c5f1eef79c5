"""TLS towards servers: authorities and certificates of our own by every protocol, and what is said when they do not fit."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import peers
from tests.support.certificates import self_signed
from tests.support.raw import INITIALIZED, child, initialize, request

SERVER = [sys.executable, "-m", "mcpbridge.demo.stdio"]


@dataclass(frozen=True, slots=True)
class Place:
    """A gateway that wants a certificate of an authority of its own, and the files of both sides."""

    port: int
    tcp: int
    theirs: Path
    ours: Path

    def address(self, scheme: str) -> str:
        paths = {"https": "/mcp", "wss": "/ws", "sses": "/events", "tcps": ""}
        return f"{scheme}://localhost:{self.tcp if scheme == 'tcps' else self.port}{paths[scheme]}"

    def files(self) -> dict[str, str]:
        return {"ca_file": str(self.theirs), "cert_file": str(self.ours), "key_file": str(self.ours.with_name("key.pem"))}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder, ours = tmp_path_factory.mktemp("theirs"), self_signed(tmp_path_factory.mktemp("ours"), "client.test")
    theirs = self_signed(folder, "localhost")
    port, tcp = peers.free_port(), peers.free_port()
    tls = {"cert_file": str(theirs), "key_file": str(folder / "key.pem"), "client_auth": "require", "ca_file": str(ours)}
    config = {
        "server": {"port": port, "tcp_port": tcp, "tcp_health_port": 0, "tls": tls, "protocols": {"stdio": {"enabled": False}}},
        "metrics": {"enabled": False, "endpoint": f"127.0.0.1:{peers.free_port()}"},
        "auth": {"type": "none"},
        "servers": [{"name": "demo", "command": SERVER[0], "args": SERVER[1:]}],
    }
    (folder / "gateway.yaml").write_text(json.dumps(config))
    with peers.running(
        [sys.executable, "-m", "mcpbridge", "gateway", "--config", str(folder / "gateway.yaml")],
        MCPBRIDGE_SERVER__PROTOCOLS__TCP_BINARY__ENABLED="true",
    ) as process:
        until = time.monotonic() + peers.START_TIMEOUT
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            assert process.poll() is None and time.monotonic() < until, peers.errors_of(process)
            time.sleep(0.05)
        yield Place(port, tcp, theirs, ours)


def router(folder: Path, config: dict[str, Any]) -> list[str]:
    path = folder / "router.yaml"
    path.write_text(json.dumps(config))
    return [sys.executable, "-m", "mcpbridge", "router", "--config", str(path)]


async def listed(command: list[str]) -> Any:
    """The answer to tools/list of a router that is asked for it at once."""
    async with child(command) as client:
        client.send(initialize())
        await client.answer(1)
        client.send(INITIALIZED)
        client.send(request(2, "tools/list"))
        return await client.answer(2)


@pytest.mark.parametrize("scheme", ["https", "wss", "sses", "tcps"])
async def test_a_server_is_shown_our_certificate_and_trusted_by_an_authority_of_its_own(
    scheme: str, place: Place, tmp_path: Path
) -> None:
    server = {"name": "one", "url": place.address(scheme), "tls": place.files()}
    answer = await listed(router(tmp_path, {"servers": [server]}))
    assert answer["result"]["tools"], answer


@pytest.mark.requirement("config.router.gateway.tls.client_cert")
@pytest.mark.requirement("config.router.gateway.tls.client_key")
@pytest.mark.parametrize("scheme", ["https", "tcps"])
async def test_a_gateway_is_shown_the_routers_certificate(scheme: str, place: Place, tmp_path: Path) -> None:
    files = place.files()
    tls = {"ca_file": files["ca_file"], "client_cert": files["cert_file"], "client_key": files["key_file"]}
    gateway = {"url": place.address(scheme), "auth": {"type": "none"}, "tls": tls}
    answer = await listed(router(tmp_path, {"gateway": gateway}))
    assert answer["result"]["tools"], answer


@pytest.mark.parametrize("scheme", ["https", "wss", "sses", "tcps"])
@pytest.mark.parametrize("lacks", ["ca_file", "cert_file"])
async def test_who_cannot_prove_himself_is_told_so_and_calls_nothing(
    scheme: str, lacks: str, place: Place, tmp_path: Path
) -> None:
    files = place.files()
    wanted = ("cert_file", "key_file") if lacks == "ca_file" else ("ca_file",)
    server = {"name": "one", "url": place.address(scheme), "tls": {key: files[key] for key in wanted}}
    answer = await listed(router(tmp_path, {"servers": [server]}))
    said = json.dumps(answer)
    assert not answer["result"]["tools"] and answer["result"]["_meta"]["mcpbridge/unavailable"]["one"]
    assert "TLS certificate refused" in said if lacks == "ca_file" else ("TLS" in said or "closed" in said), said


def test_verification_can_be_switched_off_for_one_server_only_by_name(place: Place, tmp_path: Path) -> None:
    files = place.files()
    trusting = {"cert_file": files["cert_file"], "key_file": files["key_file"], "verify": False}
    server = {"name": "one", "url": place.address("https"), "protocol": "http", "tls": trusting}
    done = subprocess.run(
        router(tmp_path, {"servers": [server]}),
        input="".join(json.dumps(line) + "\n" for line in (initialize(), INITIALIZED, request(2, "tools/list"))),
        capture_output=True,
        text=True,
        timeout=30,
        env=peers.environment(),
    )
    answers = {answer.get("id"): answer for answer in map(json.loads, done.stdout.splitlines())}
    assert answers[2]["result"]["tools"], done.stderr


@pytest.mark.parametrize(
    ("tls", "cause"),
    [
        ({"ca_file": "/no/such/file"}, "No such file"),
        ({"ca_file": __file__}, "server 'one': the files of its tls cannot be used"),
        ({"cert_file": "/x"}, "tls.cert_file and tls.key_file belong together"),
        ({"ca": "/x"}, "tls.ca is unknown; there are ca_file, cert_file, key_file, verify"),
        ({"verify": "maybe"}, "tls.verify must be true or false"),
    ],
)
def test_what_cannot_be_used_ends_the_start_with_78_and_its_cause(tls: dict[str, str], cause: str, tmp_path: Path) -> None:
    server = {"name": "one", "url": "https://localhost:1/mcp", "tls": tls}
    done = subprocess.run(
        router(tmp_path, {"servers": [server]}), input="", capture_output=True, text=True, timeout=30, env=peers.environment()
    )
    assert done.returncode == 78 and cause in done.stderr, done.stderr


def test_tls_keys_belong_to_an_address_with_tls(tmp_path: Path) -> None:
    server = {"name": "one", "url": "http://localhost:1/mcp", "tls": {"verify": "false"}}
    done = subprocess.run(
        router(tmp_path, {"servers": [server]}), input="", capture_output=True, text=True, timeout=30, env=peers.environment()
    )
    assert done.returncode == 78 and "tls belongs to an address with" in done.stderr
