"""What base stations leave behind: octets in Redis, in the ledger and on the wire, and the memory of the processes.

    python -m tests.bench.capacity [--count 200] [--postgres] [--rsa]

Base stations with a vendor chain of three certificates enrol, confirm and renew at a gateway with the bundled CA; all
keys are P-256, or RSA with 2048 bits. docs/capacity.md has the figures, and reckons with them.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager, closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import aiohttp
import redis.asyncio
import structlog
import uvloop
from cryptography.hazmat.primitives.asymmetric import rsa

from ra_gateway.app.application import Application
from ra_gateway.ca.ledger.ledger import open_ledger
from ra_gateway.cmp.codes import BodyType
from ra_gateway.config.reading import load
from ra_gateway.device.client import open_session, post
from ra_gateway.device.enrollment import Enrollment
from ra_gateway.device.values import DeviceIdentity, Done, RequestOptions, Send, operator_trust
from ra_gateway.keys import load_certificates
from tests.support.commandline import succeeded
from tests.support.credentials import cmp_credential
from tests.support.pki import KeyKind, VendorPKI, make_key, make_vendor_pki
from tests.support.postgres_server import PostgresServer
from tests.support.processes import CAProcess, GatewayProcess, ServerProcess
from tests.support.redis_server import RedisServer
from tests.support.setups import edit, http_upstream, keep_in_file, make_setup, set_upstream

AT_ONCE: Final = 8

_LEDGER: Final = 'ledger_path = "ca/ledger.sqlite"'


@dataclass
class Fleet:
    """Base stations that talk to a gateway, and how many octets of CMP that took both ways."""

    url: str
    session: aiohttp.ClientSession
    octets: int = 0

    async def ask(self, operations: Sequence[Enrollment]) -> list[Send]:
        """Send all first messages; returns what is to be sent next."""

        async def first(operation: Enrollment) -> Send | Done:
            return await self._exchange(operation, await operation.request())

        steps = await _all([first(operation) for operation in operations])
        return [step for step in steps if isinstance(step, Send)]

    async def confirm(self, operations: Sequence[Enrollment], steps: Sequence[Send]) -> list[Done]:
        """Confirm what all of them got."""
        pairs = zip(operations, steps, strict=True)
        ended = await _all([self._exchange(operation, step.der) for operation, step in pairs])
        return [step for step in ended if isinstance(step, Done)]

    async def _exchange(self, operation: Enrollment, der: bytes) -> Send | Done:
        answer = await post(self.session, self.url, der)
        self.octets += len(der) + len(answer)
        return await operation.receive(answer)


async def _all(exchanges: Sequence[Any]) -> list[Any]:
    turns = asyncio.Semaphore(AT_ONCE)

    async def in_turn(exchange: Any) -> Any:
        async with turns:
            return await exchange

    return await asyncio.gather(*map(in_turn, exchanges))


@dataclass(frozen=True, slots=True)
class Site:
    """What is measured.

    Args:
        config: The gateway's and its CA's.
        key_kind: Of all keys: the operator's, the vendor's and the base stations'.
    """

    config: Path
    vendor: VendorPKI
    redis_url: str
    key_kind: KeyKind = "p256"

    @classmethod
    def make(cls, directory: Path, redis_url: str, key_kind: KeyKind = "p256") -> Site:
        """Make what `init` makes in a new directory.

        Args:
            redis_url: Of a server that is emptied.
        """
        vendor = make_vendor_pki("acme", key_kind)
        config = make_setup(
            directory,
            vendors={"acme": vendor},
            domain="ran.example.net",
            redis_url=redis_url,
            key_kind=key_kind,
        )
        config.write_text(f"{config.read_text()}\n[management]\nlisten_port = 0\n")
        return cls(config, vendor, redis_url, key_kind)

    def operation(self, identity: DeviceIdentity, body_type: BodyType, **names: Any) -> Enrollment:
        """Return what one base station sends, message by message."""
        return Enrollment(
            identity,
            # Those of the tests come again, which the CA refuses.
            make_key("p256") if self.key_kind == "p256" else rsa.generate_private_key(65537, 2048),
            RequestOptions(body_type=body_type, **names),
            clock=lambda: datetime.now(UTC),
            random_octets=secrets.token_bytes,
        )

    def new(self, word: str, count: int) -> list[Enrollment]:
        """Return so many first contacts, each of another base station."""
        root = self.config.parent / "operator" / "root.pem"
        trust = operator_trust(*load_certificates(root, "root"))
        return [
            self.operation(
                DeviceIdentity(cmp_credential(self.vendor.device(name, self.key_kind)), trust),
                BodyType.ir,
                subject=f"CN={name}.ran.example.net,O=Example Operator",
                san=(f"dns:{name}.ran.example.net",),
            )
            for name in (f"{word}-{number}" for number in range(count))
        ]


@asynccontextmanager
async def _served(config: Path) -> AsyncIterator[Fleet]:
    application = Application(load(config), sink=lambda _: None)
    host, port = await application.start()
    try:
        async with open_session() as session:
            yield Fleet(f"http://{host}:{port}/.well-known/cmp", session)
    finally:
        await application.stop()


async def _stored(url: str) -> int:
    """Return the octets of all keys in a Redis."""
    async with redis.asyncio.from_url(url) as connection:
        keys = [key async for key in connection.scan_iter(count=1000)]
        return sum([await connection.memory_usage(key, samples=0) or 0 for key in keys])


async def _forget(url: str) -> None:
    async with redis.asyncio.from_url(url) as connection:
        await connection.flushall()


async def _kept(ledger: Path | str, server: PostgresServer | None) -> int:
    """Return the octets of a ledger that nobody serves, without what it keeps for minutes only."""
    opened = open_ledger(ledger)
    await opened.open()
    await opened.sweep(datetime.now(UTC) + timedelta(days=1))
    await opened.close()
    if isinstance(ledger, Path):
        with closing(sqlite3.connect(ledger, isolation_level=None)) as connection:
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return ledger.stat().st_size
    assert server is not None
    name = ledger.rpartition("/")[2]
    server.execute("VACUUM FULL", database=name)
    return int(server.execute("SELECT pg_database_size(current_database())", database=name))


async def measure(
    site: Site, count: int, postgres: PostgresServer | None = None
) -> dict[str, float]:
    """Have base stations enrol, renew, and ask to be approved.

    Args:
        postgres: Where the ledger is to be; an SQLite file if absent.

    Returns:
        Octets for one base station, by what of.
    """
    config, redis_url = site.config, site.redis_url
    ledger: Path | str = config.parent / "ca" / "ledger.sqlite"
    if postgres is not None:
        ledger = postgres.new_database()
        await asyncio.to_thread(_move, config, ledger)
    figures: dict[str, float] = {}
    before = await _kept(ledger, postgres)
    operations = site.new("enb", count)
    for name in ("enrolment", "renewal"):
        await _forget(redis_url)
        async with _served(config) as fleet:
            steps = await fleet.ask(operations)
            figures[f"Redis, {name} issued"] = await _stored(redis_url) / count
            done = await fleet.confirm(operations, steps)
            figures[f"Redis, {name} confirmed"] = await _stored(redis_url) / count
        figures[f"messages, {name}"] = fleet.octets / count
        after = await _kept(ledger, postgres)
        figures[f"ledger, {name}"] = (after - before) / count
        before = after
        operations = [site.operation(item.identity, BodyType.kur) for item in done]
    await _forget(redis_url)
    edit(config, "[endpoints.ran]\n", '[endpoints.ran]\napproval = "required"\n')
    async with _served(config) as fleet:
        await fleet.ask(site.new("other", count))
    figures["Redis, held for approval"] = await _stored(redis_url) / count
    return figures


def _move(config: Path, url: str) -> None:
    """Take the ledger of a setup to a database of PostgreSQL."""
    dump = config.parent / "ledger.dump"
    succeeded("ca", "backup", dump, "-c", config)
    keep_in_file(config, _LEDGER, "ledger_url_path", url)
    succeeded("ca", "migrate", "-c", config)
    succeeded("ca", "restore", dump, "-c", config)


def _resident(process: ServerProcess) -> float:
    """Return the memory of a process, MB."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1000


async def measure_processes(site: Site, count: int) -> dict[str, float]:
    """Return what gateway and CA, a process each, have in memory before and after base stations enrolled, MB."""
    figures: dict[str, float] = {}
    await _forget(site.redis_url)
    with CAProcess(site.config) as ca:
        set_upstream(site.config, http_upstream(ca.url, replays_repeats=True))
        with GatewayProcess(site.config) as gateway:
            processes = {"gateway": gateway, "CA": ca}
            for name, process in processes.items():
                figures[f"memory, {name} at its start"] = _resident(process)
            operations = site.new("enb", count)
            async with open_session() as session:
                fleet = Fleet(gateway.url, session)
                await fleet.confirm(operations, await fleet.ask(operations))
            for name, process in processes.items():
                figures[f"memory, {name} after {count} enrolments"] = _resident(process)
    return figures


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--postgres", action="store_true", help="the ledger in PostgreSQL")
    parser.add_argument("--rsa", action="store_true", help="keys of RSA with 2048 bits")
    arguments = parser.parse_args()
    kind: KeyKind = "rsa2048" if arguments.rsa else "p256"
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = RedisServer(directory)
        server.start()
        stack.callback(server.stop)
        postgres = PostgresServer() if arguments.postgres else None
        if postgres is not None:
            stack.callback(postgres.remove)
            postgres.start()
        site = Site.make(directory / "stored", server.url, kind)
        for name, octets in uvloop.run(measure(site, arguments.count, postgres)).items():
            print(f"{name:40} {octets / 1000:8.1f} kB")
        site = Site.make(directory / "processes", server.url, kind)
        for name, megabytes in uvloop.run(measure_processes(site, arguments.count)).items():
            print(f"{name:40} {megabytes:8.0f} MB")


if __name__ == "__main__":
    main()
