"""Issuance in the bundled CA: certificates a second, one process, durable.

python -m tests.bench.ca [--count N] [--postgres] [--profile]

Requests are made beforehand: an ir each, P-256, its own key, signed by a registered RA. What is timed is
`BundledCA.handle` with 64 requests at a time, from the received octets to the signed answer in hand, which leaves
when certificate and answer are on the disk.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import pstats
import secrets
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog
import uvloop
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from ra_gateway.ca.ledger.ledger import LedgerLocation, open_ledger
from ra_gateway.cmp.codes import BodyType
from ra_gateway.cmp.crmf import CertTemplate
from ra_gateway.cmp.messages import PKIMessage
from ra_gateway.cmp.names import from_rfc4514
from tests.support import pki
from tests.support.desk import Desk, open_desk
from tests.support.postgres_server import PostgresServer

CONCURRENCY: Final = 64


@dataclass(frozen=True, slots=True)
class Result:
    """What one run took.

    Args:
        wall_seconds, cpu_seconds: Of `count` issuances.
        floor_seconds: CPU of what no CA can do without: two verifications and two signatures with P-256.
    """

    ledger: str
    count: int
    wall_seconds: float
    cpu_seconds: float
    floor_seconds: float

    @property
    def per_second(self) -> float:
        """Certificates a second."""
        return self.count / self.wall_seconds

    @property
    def per_core_second(self) -> float:
        """Certificates a second of CPU: what a core that does nothing else would reach."""
        return self.count / self.cpu_seconds

    def __str__(self) -> str:
        cpu, floor = (1e6 * took / self.count for took in (self.cpu_seconds, self.floor_seconds))
        return (
            f"{self.ledger:<12}{self.per_second:>8.0f}/s{self.per_core_second:>8.0f}/s of CPU"
            f"{cpu:>8.0f} us{floor:>8.0f} us floor  x{cpu / floor:.1f}"
        )


async def measure(where: LedgerLocation, count: int, profile: cProfile.Profile | None) -> Result:
    """Issue certificates and say what it took."""
    operator = pki.make_operator_pki()
    async with _desk(operator, where) as desk:
        requests = [await _request(desk, number) for number in range(count + CONCURRENCY)]
        await _all(desk, requests[:CONCURRENCY])  # connections, caches
        todo = requests[CONCURRENCY:]
        floor = _floor() * count
        if profile is not None:
            profile.enable()
        wall, cpu = time.perf_counter(), time.process_time()
        await _all(desk, todo)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        if profile is not None:
            profile.disable()
    kind = "SQLite" if isinstance(where, Path) else "PostgreSQL"
    return Result(kind, count, wall, cpu, floor)


@asynccontextmanager
async def _desk(operator: pki.OperatorPKI, where: LedgerLocation) -> AsyncIterator[Desk]:
    if isinstance(where, str):
        await open_ledger(where).migrate()
    ledger = open_ledger(where)
    async with open_desk(operator, Path("/nonexistent"), ledger=ledger) as desk:
        yield desk


async def _request(desk: Desk, number: int) -> bytes:
    subject_der = from_rfc4514(f"CN=enb{number}.ran.example.net,O=Example Operator")
    return await desk.request(template=CertTemplate(subject_der=subject_der))


async def _all(desk: Desk, requests: list[bytes]) -> None:
    waiting = iter(requests)

    async def work() -> None:
        for der in waiting:
            reply = await desk.ca.handle(der)
            assert PKIMessage.from_der(reply.der).body_type is BodyType.ip

    await asyncio.gather(*(work() for _ in range(CONCURRENCY)))


def _floor() -> float:
    """Return the CPU seconds of two verifications and two signatures with P-256."""
    key, octets, rounds = ec.generate_private_key(ec.SECP256R1()), secrets.token_bytes(600), 500
    public, algorithm = key.public_key(), ec.ECDSA(hashes.SHA256())
    begun = time.process_time()
    for _ in range(rounds):
        public.verify(key.sign(octets, algorithm), octets, algorithm)
        public.verify(key.sign(octets, algorithm), octets, algorithm)
    return (time.process_time() - begun) / rounds


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=4000)
    parser.add_argument("--postgres", action="store_true", help="PostgreSQL as well")
    parser.add_argument("--profile", action="store_true", help="where the time goes (slower)")
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    profile = cProfile.Profile() if arguments.profile else None
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "ledger.sqlite"
        print(_run(path, arguments.count, profile))
    if profile is not None:
        pstats.Stats(profile).sort_stats("tottime").print_stats(45)
    if arguments.postgres:
        server = PostgresServer(durable=True)
        server.start()
        try:
            print(_run(server.new_database(), arguments.count, None))
        finally:
            server.remove()


def _run(where: LedgerLocation, count: int, profile: cProfile.Profile | None) -> Result:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(measure(where, count, profile))


if __name__ == "__main__":
    main()
