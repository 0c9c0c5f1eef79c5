"""Runs every labelled case once and keeps what came of it."""

from __future__ import annotations

import asyncio
import datetime
import gc
import ipaddress
import json
import os
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from mcpbridge.core.detect import Target, Verdict
from mcpbridge.detect.race import examine
from tests.detection.cases import Case, all_cases
from tests.detection.wires import Counts, running

TICK = 0.005  # seconds between two looks at how late the event loop is
AT_ONCE = 12  # cases that mostly wait run side by side; the quick ones one after the other, because their time counts


@dataclass(frozen=True)
class Outcome:
    """One case with its verdict, the seconds it took, and what was left at the server afterwards.

    ``starved``: seconds of it in which this process wanted to run and the machine ran others.
    """

    case: Case
    verdict: Verdict
    seconds: float
    starved: float
    counts: Counts
    left: int

    @property
    def own_seconds(self) -> float:
        """What it would have taken with a processor to itself, or a little more."""
        return self.seconds - self.starved

    @property
    def is_right(self) -> bool:
        result, protocol, eras = self.case.label
        return (self.verdict.result, self.verdict.protocol) == (result, protocol) and self.verdict.era in eras

    @property
    def is_wrong_positive(self) -> bool:
        return self.verdict.is_proven and not self.is_right


class Starvation:
    """How long the event loop was late though this process did not use the time: seconds, rather too few than too many."""

    def __init__(self) -> None:
        self.total = 0.0

    async def follow(self) -> None:
        """Count until cancelled."""
        while True:
            began, worked = time.perf_counter(), time.process_time()
            await asyncio.sleep(TICK)
            late = time.perf_counter() - began - TICK
            self.total += max(0.0, late - (time.process_time() - worked))


async def run_case(case: Case, folder: Path, contexts: dict[str, ssl.SSLContext], starvation: Starvation) -> Outcome:
    counts = Counts()
    path = str(folder / f"{abs(hash(case.name)) % 10**8}.sock") if case.unix else ""
    context = contexts.get(case.tls)
    async with running(case.serve(), case.shape, counts, path=path, tls=context, host=case.host) as port:
        address = case.where.format(port=port, path=path)
        async with asyncio.TaskGroup() as group:
            started, starved = time.perf_counter(), starvation.total
            verdict = await examine(Target.of(address), group.create_task, context=contexts["client"])
            seconds = time.perf_counter() - started
            starved = starvation.total - starved
        deadline = time.monotonic() + 1.0
        while (counts.connections or counts.sessions) and time.monotonic() < deadline:
            await asyncio.sleep(0.01)  # our goodbyes are on their way
        return Outcome(case, verdict, seconds, starved, counts, counts.connections)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with cert.pem and key.pem for localhost and 127.0.0.1, its own authority."""
    where = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (where / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    secret = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (where / "key.pem").write_bytes(secret)
    return where


@pytest.fixture(scope="session")
def contexts(certificates: Path) -> dict[str, ssl.SSLContext]:
    server, mutual = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    for context in (server, mutual):
        context.load_cert_chain(certificates / "cert.pem", certificates / "key.pem")
    mutual.verify_mode = ssl.CERT_REQUIRED
    mutual.load_verify_locations(certificates / "cert.pem")
    return {"server": server, "mutual": mutual, "client": ssl.create_default_context(cafile=str(certificates / "cert.pem"))}


@pytest.fixture(scope="session")
def outcomes(contexts: dict[str, ssl.SSLContext], tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Outcome]]:
    """Every case, run once. What thousands of other tests left in this process is kept from the collector meanwhile: looking
    through all of it takes longer than the 50 ms that detection has in hand."""
    gc.collect()
    gc.freeze()
    folder = tmp_path_factory.mktemp("s")
    cases = list(all_cases())

    async def run_all() -> list[Outcome]:
        starvation = Starvation()
        following = asyncio.create_task(starvation.follow())
        try:
            return await run_each(starvation)
        finally:
            following.cancel()

    async def run_each(starvation: Starvation) -> list[Outcome]:
        done = [await run_case(case, folder, contexts, starvation) for case in cases if case.is_quick]
        slots = asyncio.Semaphore(AT_ONCE)

        async def one(case: Case) -> Outcome:
            async with slots:
                return await run_case(case, folder, contexts, starvation)

        return done + list(await asyncio.gather(*(one(case) for case in cases if not case.is_quick)))

    found = uvloop.run(run_all())
    gc.unfreeze()
    yield found
    _report(found)


def quantile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _report(found: list[Outcome]) -> None:
    quick = [one.seconds for one in found if one.case.is_quick]
    every = [one.seconds for one in found]
    numbers = {
        "cases": len(found),
        "right": sum(one.is_right for one in found),
        "wrong_positives": sum(one.is_wrong_positive for one in found),
        "side_effects": sum(one.counts.calls + len(one.counts.sessions) + one.left for one in found),
        "p50_ms": round(quantile(quick, 0.5) * 1000, 1),
        "p95_ms": round(quantile(quick, 0.95) * 1000, 1),
        "p99_ms": round(quantile(every, 0.99) * 1000, 1),
        "max_ms": round(max(every) * 1000, 1),
    }
    print(f"\ndetection: {json.dumps(numbers)}")
    if folder := os.environ.get("BRIDGE_TEST_RESULTS"):
        Path(folder, "detection.json").write_text(json.dumps(numbers))
