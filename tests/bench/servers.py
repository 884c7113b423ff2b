"""What a benchmark measures: gateways and a CA as processes of their own, and the load on them."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import aiohttp
from cryptography.hazmat.primitives.asymmetric import ec

from ra_gateway.cli.setup import write_setup
from ra_gateway.cmp.algorithms import digest
from ra_gateway.cmp.bodies import CertStatus, cert_confirm_body, cert_rep_message
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.codes import BodyType
from ra_gateway.cmp.messages import PKIHeader, PKIMessage
from ra_gateway.cmp.protection import Credential, protect
from ra_gateway.cmp.requests import cert_hash_name
from ra_gateway.device.enrollment import Enrollment
from ra_gateway.device.factory import Vendor
from ra_gateway.device.values import DeviceIdentity, RequestOptions
from tests.support.patience import PATIENCE_SECONDS

ROOT: Final = Path(__file__).parents[2]

PLAIN: Final = ("-c", "from ra_gateway.cli.main import main; main()")
"""How Python runs `ra-gateway`, of whichever version."""


# --- processes --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Server:
    """One that listens."""

    pid: int
    port: int

    @property
    def url(self) -> str:
        """URL to post to."""
        return f"http://127.0.0.1:{self.port}/.well-known/cmp"

    @property
    def cpu_seconds(self) -> float:
        """User and system time of the process so far, all its threads'."""
        return cpu_seconds(self.pid)

    @property
    def children(self) -> list[int]:
        """IDs of the processes that it has begun."""
        return list(
            map(int, Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split())
        )


def cpu_seconds(pid: int) -> float:
    """Return user and system time of a process so far, all its threads'."""
    return time.clock_gettime(~pid << 3 | 2)  # what clock_getcpuclockid(3) gives


def busy_seconds() -> float:
    """Return what all cores together have worked since the machine began."""
    user, nice, system, idle, iowait, irq, softirq, *_ = map(
        int, Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    )
    del idle, iowait
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


@contextmanager
def server(
    *arguments: str, log: Path, tree: Path = ROOT, program: Sequence[str] = PLAIN
) -> Iterator[Server]:
    """Run `ra-gateway` with arguments until the block ends; it listens when the block begins.

    Args:
        tree: Of which sources.
        program: How Python runs it.
    """
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, *program, *arguments],
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=tree,
            env=os.environ | {"PYTHONPATH": f"{tree}:{ROOT}"},
        )
        try:
            yield Server(process.pid, _await_port(process, log))
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE_SECONDS)


def _await_port(process: subprocess.Popen[bytes], log: Path) -> int:
    give_up_at = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < give_up_at:
        ended = process.poll() is not None
        if found := re.search(r"^listening on \S+:(\d+)\n", log.read_text(), re.MULTILINE):
            return int(found[1])
        if ended:
            raise SystemExit(f"a server ended:\n{log.read_text()}")
        time.sleep(0.05)
    raise SystemExit(f"a server does not listen:\n{log.read_text()}")


@dataclass(frozen=True, slots=True)
class Site:
    """Configurations and keys of a CA and its gateways, all of which take any free port."""

    directory: Path
    vendor: Vendor

    @classmethod
    def make(cls, directory: Path) -> Site:
        """Write everything into a new directory."""
        vendor = Vendor.found("Bench Radio", clock=lambda: datetime.now(UTC))
        vendor.write(directory / "vendor")
        path = write_setup(
            directory,
            organisation="Bench",
            vendors={"acme": ("vendor/root.pem", "vendor/sub.pem")},
            domain=None,
            now=datetime.now(UTC),
            port=0,
            implicit_confirm="relay",
        )
        # No CRLs beside: what is measured is enrolment.
        text = path.read_text().replace("[ca.status]\nlisten_port = 8082\n", "")
        path.write_text(f"{text}\n[ca.server]\nlisten_port = 0\n")
        return cls(directory, vendor)

    @contextmanager
    def ca(self) -> Iterator[Server]:
        """Run the CA."""
        config = str(self.directory / "gateway.toml")
        with server("ca", "serve", "--config", config, log=self.directory / "ca.log") as found:
            yield found

    def gateway_config(
        self, name: str, ca: Server, redis_url: str | None, tree: Path = ROOT
    ) -> Path:
        """Write the configuration of a gateway in front of the CA, as the sources in a tree can read it."""
        text = (self.directory / "gateway.toml").read_text()
        text = text.replace(
            'kind = "bundled"\n',
            f'kind = "cmp_http"\nurl = "{ca.url}"\nreplays_repeats = true\n',
        )
        # The CA's tables are the CA's.
        text = re.sub(r"^\[ca[.\]].*\n(?:[^\[\n].*\n|\n)*", "", text, flags=re.MULTILINE)
        if redis_url is not None:
            text = text.replace('kind = "memory"', f'kind = "redis"\nredis_url = "{redis_url}"')
        tables = (path.read_text() for path in tree.glob("ra_gateway/**/*.py"))
        if not any("seal_key_paths" in table for table in tables):
            text = text.replace('seal_key_paths = ["seal.key"]\n', "")
        path = self.directory / f"{name}.toml"
        path.write_text(text)
        return path


# --- load -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Prepared:
    """A base station with its ir ready to be sent."""

    credential: Credential
    ir: bytes


async def prepare(vendor: Vendor, count: int, *, implicit: bool) -> list[Prepared]:
    prepared = []
    for number in range(count):
        serial = f"ENB-{secrets.token_hex(4)}-{number}"
        credential, _ = vendor.make_device(serial)
        enrollment = Enrollment(
            DeviceIdentity(credential),
            ec.generate_private_key(ec.SECP256R1()),
            RequestOptions(
                subject=f"CN={serial.lower()}.ran.example.net", implicit_confirm=implicit
            ),
            clock=lambda: datetime.now(UTC),
            random_octets=secrets.token_bytes,
        )
        prepared.append(Prepared(credential, await enrollment.request()))
    return prepared


async def certconf_for(device: Prepared, ip: PKIMessage) -> bytes:
    """Build a certConf as a device would; its checks of the ip are left out, they are not the gateway's."""
    certificate_der = cert_rep_message(ip.body_content).responses[0].certificate_der
    if certificate_der is None:
        raise SystemExit(f"not issued: {cert_rep_message(ip.body_content)}")
    certificate = Certificate.from_der(certificate_der)
    header = PKIHeader(
        sender_der=device.credential.sender_der,
        recipient_der=ip.header.sender_der,
        message_time=datetime.now(UTC),
        transaction_id=ip.header.transaction_id,
        sender_nonce=secrets.token_bytes(16),
        recip_nonce=ip.header.sender_nonce,
    )
    status = CertStatus(digest(cert_hash_name(certificate), certificate_der), 0)
    return await protect(
        header, cert_confirm_body(status), device.credential, device.credential.certificates
    )


async def enrol(
    session: aiohttp.ClientSession, url: str, device: Prepared, *, implicit: bool
) -> float:
    """Enrol one base station; returns milliseconds spent waiting for the gateway."""
    started = time.perf_counter()
    ip = await _post(session, url, device.ir)
    waited = time.perf_counter() - started
    if ip.body_type is not BodyType.ip or ip.header.implicit_confirm is not implicit:
        raise SystemExit(f"unexpected answer {ip.body_type.name}")
    if not implicit:
        certconf = await certconf_for(device, ip)
        started = time.perf_counter()
        pkiconf = await _post(session, url, certconf)
        waited += time.perf_counter() - started
        if pkiconf.body_type is not BodyType.pkiconf:
            raise SystemExit(f"unexpected answer {pkiconf.body_type.name}")
    return waited * 1000


async def _post(session: aiohttp.ClientSession, url: str, der: bytes) -> PKIMessage:
    headers = {"Content-Type": "application/pkixcmp"}
    async with session.post(url, data=der, headers=headers) as response:
        return PKIMessage.from_der(await response.read())


async def drive(
    url: str, devices: list[Prepared], concurrency: int, *, implicit: bool
) -> list[float]:
    queue = list(devices)
    waits: list[float] = []

    async def station(session: aiohttp.ClientSession) -> None:
        while queue:
            waits.append(await enrol(session, url, queue.pop(), implicit=implicit))

    async with aiohttp.ClientSession() as session:
        await asyncio.gather(*(station(session) for _ in range(concurrency)))
    return waits
