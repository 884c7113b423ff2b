"""The benchmark: full and implicit-confirm enrolments through a gateway, with the crypto floor beside them.

Gateway, CA and load are processes of their own, on loopback. What is quoted is the gateway's CPU time per
enrolment as a multiple of the *floor*: the CPU time of the signature operations that one enrolment cannot do
without, measured in the same run: once alone, and once beside the load, where caches are cold and cores shared
for everybody. Absolute times depend on the machine; the ratios much less.

    make bench              prints the table
    make bench JSON=FILE    writes the same as JSON
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import select
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Protocol

import aiohttp
import uvloop
from cryptography.hazmat.primitives import hashes
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
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer

FULL_VERIFIES: Final = 7
"""ir: the device certificate's signature, protection, POP; ip: protection, the new certificate's signature;
certConf: protection; pkiConf: protection. CA certificates are verified once and remembered."""
FULL_SIGNS: Final = 4
"""ir' and certConf' to the CA, ip and pkiConf to the device."""
IMPLICIT_VERIFIES: Final = 5
IMPLICIT_SIGNS: Final = 2

_TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Floor:
    """CPU time of one P-256 operation, microseconds."""

    verify_us: float
    sign_us: float

    def of(self, verifies: int, signs: int) -> float:
        return verifies * self.verify_us + signs * self.sign_us


@dataclass(frozen=True, slots=True)
class Figure:
    """What one run showed."""

    store: str
    confirmation: str
    enrolments: int
    concurrency: int
    enrolments_per_second: float
    p50_ms: float
    p99_ms: float
    gateway_cpu_us: float
    ca_cpu_us: float
    floor_us: float
    ratio: float
    loaded_floor_us: float
    loaded_ratio: float


def sample_floor() -> None:
    """Measure verify and sign once every 20 ms until standard input closes, then print both medians.

    Run as a process of its own beside the load: what a signature costs when caches are cold and the cores are
    shared, as they are for the gateway.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    algorithm, octets = ec.ECDSA(hashes.SHA256()), secrets.token_bytes(900)
    signature, public_key = key.sign(octets, algorithm), key.public_key()
    verifies: list[float] = []
    signs: list[float] = []
    print("sampling", flush=True)
    while not verifies or not select.select([sys.stdin], [], [], 0.02)[0]:
        started = time.thread_time()
        public_key.verify(signature, octets, algorithm)
        between = time.thread_time()
        key.sign(octets, algorithm)
        verifies.append(between - started)
        signs.append(time.thread_time() - between)
    print(statistics.median(verifies) * 1e6, statistics.median(signs) * 1e6)


@contextmanager
def floor_under_load() -> Iterator[list[Floor]]:
    """Sample the floor while the block runs; the list has it afterwards."""
    found: list[Floor] = []
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.run", "--sample-floor"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    yield found
    output, _ = process.communicate()
    found.append(Floor(*map(float, output.split())))


def measure_floor(rounds: int = 400) -> Floor:
    """Measure verify and sign; the best of five, since whatever disturbs only ever adds."""
    key = ec.generate_private_key(ec.SECP256R1())
    algorithm, octets = ec.ECDSA(hashes.SHA256()), secrets.token_bytes(900)
    signature, public_key = key.sign(octets, algorithm), key.public_key()

    def cpu_us(operation: Any) -> float:
        best = float("inf")
        for _ in range(5):
            started = time.process_time()
            for _ in range(rounds):
                operation()
            best = min(best, (time.process_time() - started) / rounds * 1e6)
        return best

    return Floor(
        verify_us=cpu_us(lambda: public_key.verify(signature, octets, algorithm)),
        sign_us=cpu_us(lambda: key.sign(octets, algorithm)),
    )


# --- processes --------------------------------------------------------------------------------------------------


@contextmanager
def server(*arguments: str, port: int, log: Path) -> Iterator[int]:
    """Run `ra-gateway` with arguments until the block ends; gives its process ID."""
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", "from ra_gateway.cli.main import main; main()", *arguments],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            await_port(port, process, log)
            yield process.pid
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)


class Polled(Protocol):
    """A process that can be asked whether it has ended."""

    def poll(self) -> int | None: ...


def await_port(port: int, process: Polled, log: Path) -> None:
    """Return when a server listens.

    Raises:
        SystemExit: It ended, or does not listen in time.
    """
    give_up_at = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < give_up_at:
        if process.poll() is not None:
            raise SystemExit(f"a server ended:\n{log.read_text()}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise SystemExit(f"a server does not listen on {port}:\n{log.read_text()}")


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND


def write_configs(directory: Path, *, redis_url: str | None) -> tuple[Path, int, int]:
    """Write one configuration for gateway and CA; returns it with both ports."""
    gateway_port, ca_port = free_port(), free_port()
    path = write_setup(
        directory,
        organisation="Bench",
        vendors={"acme": ("vendor/root.pem", "vendor/sub.pem")},
        domain=None,
        now=datetime.now(UTC),
        port=gateway_port,
        implicit_confirm="relay",
    )
    # No CRLs beside: what is measured is enrolment.
    text = path.read_text().replace("[ca.status]\nlisten_port = 8082\n", "")
    text = text.replace(
        '[upstreams.bundled]\nkind = "bundled"\n',
        "[upstreams.bundled]\n"
        'kind = "cmp_http"\n'
        f'url = "http://127.0.0.1:{ca_port}/.well-known/cmp"\n'
        "replays_repeats = true\n",
    )
    text += f"\n[ca.server]\nlisten_port = {ca_port}\n"
    if redis_url is not None:
        text = text.replace('kind = "memory"', f'kind = "redis"\nredis_url = "{redis_url}"')
    path.write_text(text)
    return path, gateway_port, ca_port


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


def run_one(
    store: str, *, implicit: bool, enrolments: int, concurrency: int, floor: Floor
) -> Figure:
    """Run one combination in fresh processes."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ra-bench-")))
        redis_url = None
        if store == "redis":
            (directory / "redis").mkdir()
            redis = RedisServer(directory / "redis")
            redis.start()
            stack.callback(redis.stop)
            redis_url = redis.url
        vendor = Vendor.found("Bench Radio", clock=lambda: datetime.now(UTC))
        vendor.write(directory / "vendor")
        config, port, ca_port = write_configs(directory, redis_url=redis_url)
        ca_pid = stack.enter_context(
            server("ca", "serve", "-c", str(config), port=ca_port, log=directory / "ca.log")
        )
        gateway_pid = stack.enter_context(
            server("serve", "-c", str(config), port=port, log=directory / "gateway.log")
        )
        url = f"http://127.0.0.1:{port}/.well-known/cmp"
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            warm_up = runner.run(prepare(vendor, 20, implicit=implicit))
            devices = runner.run(prepare(vendor, enrolments, implicit=implicit))
            runner.run(drive(url, warm_up, concurrency, implicit=implicit))
            with floor_under_load() as sampled:
                before = cpu_seconds(gateway_pid), cpu_seconds(ca_pid)
                started = time.perf_counter()
                waits = runner.run(drive(url, devices, concurrency, implicit=implicit))
                elapsed = time.perf_counter() - started
                after = cpu_seconds(gateway_pid), cpu_seconds(ca_pid)
    operations = (IMPLICIT_VERIFIES, IMPLICIT_SIGNS) if implicit else (FULL_VERIFIES, FULL_SIGNS)
    floor_us, loaded_us = floor.of(*operations), sampled[0].of(*operations)
    gateway_us = (after[0] - before[0]) / enrolments * 1e6
    waits.sort()
    return Figure(
        store=store,
        confirmation="implicit" if implicit else "certConf",
        enrolments=enrolments,
        concurrency=concurrency,
        enrolments_per_second=round(enrolments / elapsed, 1),
        p50_ms=round(statistics.median(waits), 2),
        p99_ms=round(waits[int(len(waits) * 0.99)], 2),
        gateway_cpu_us=round(gateway_us, 1),
        ca_cpu_us=round((after[1] - before[1]) / enrolments * 1e6, 1),
        floor_us=round(floor_us, 1),
        ratio=round(gateway_us / floor_us, 2),
        loaded_floor_us=round(loaded_us, 1),
        loaded_ratio=round(gateway_us / loaded_us, 2),
    )


def main() -> None:
    """Run every combination and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--enrolments", type=int, default=600, help="per combination")
    parser.add_argument("--concurrency", type=int, default=8, help="base stations at once")
    parser.add_argument("--store", choices=("memory", "redis"), action="append")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    parser.add_argument("--sample-floor", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.sample_floor:
        sample_floor()
        return
    figures = []
    for store in arguments.store or ("memory", "redis"):
        for implicit in (False, True):
            floor = measure_floor()
            figures.append(
                run_one(
                    store,
                    implicit=implicit,
                    enrolments=arguments.enrolments,
                    concurrency=arguments.concurrency,
                    floor=floor,
                )
            )
    print(
        f"P-256, vendor chain of three, {arguments.concurrency} base stations at once, "
        f"{os.cpu_count()} cores for load, gateway, CA and store together\n"
    )
    print(
        "store   confirm   enrol/s  p50 ms  p99 ms  gateway us  CA us  floor us  ratio  "
        "loaded floor us  ratio"
    )
    for figure in figures:
        print(
            f"{figure.store:7} {figure.confirmation:9} {figure.enrolments_per_second:7.0f} "
            f"{figure.p50_ms:7.2f} {figure.p99_ms:7.2f} {figure.gateway_cpu_us:11.0f} "
            f"{figure.ca_cpu_us:6.0f} {figure.floor_us:9.0f} {figure.ratio:6.2f} "
            f"{figure.loaded_floor_us:16.0f} {figure.loaded_ratio:6.2f}"
        )
    print(f"\nfloor: verify {floor.verify_us:.1f} us, sign {floor.sign_us:.1f} us (CPU time)")
    if arguments.json is not None:
        arguments.json.write_text(
            json.dumps(
                {
                    "cores": os.cpu_count(),
                    "verify_us": round(floor.verify_us, 1),
                    "sign_us": round(floor.sign_us, 1),
                    "figures": [asdict(figure) for figure in figures],
                },
                indent=2,
            )
            + "\n"
        )


if __name__ == "__main__":
    main()
