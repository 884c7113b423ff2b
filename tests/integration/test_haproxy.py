"""Gateways behind a real HAProxy, by the sample in deploy/: who their peers are, and restarts one after the other."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest

from ra_gateway.device import client
from ra_gateway.device.errors import EnrollmentRefused
from ra_gateway.peers import Networks
from tests.support.haproxy import SAMPLE, balanced, haproxy_path, running
from tests.support.load import ROUNDS, STATIONS, under_load
from tests.support.pki import VendorPKI, make_root, write_certificates
from tests.support.polling import settled
from tests.support.ports import free_port
from tests.support.processes import GatewayProcess
from tests.support.raw_http import CMP_TYPE, PATH, served
from tests.support.setups import edit, http_upstream, make_setup
from tests.support.stations import Station, until


def test_the_sample_is_one() -> None:
    """As HAProxy itself sees it."""
    subprocess.run([haproxy_path(), "-c", "-f", str(SAMPLE)], check=True)


async def asked(port: int, count: int) -> list[int]:
    """Post from as many addresses, 127.0.1.0 and on; returns what is answered."""
    statuses = []
    for number in range(count):
        connector = aiohttp.TCPConnector(local_addr=(f"127.0.1.{number}", 0))
        async with aiohttp.ClientSession(connector=connector) as session:
            headers = {"Content-Type": CMP_TYPE, "X-Forwarded-For": "192.0.2.99"}
            url = f"http://127.0.0.1:{port}{PATH}"
            async with session.post(url, data=b"x", headers=headers) as response:
                statuses.append(response.status)
    return statuses


@pytest.mark.parametrize(
    "mode, sends, behind_tls",
    [
        ("tcp", "send-proxy", False),
        ("tcp", "send-proxy-v2", False),
        ("tcp", "send-proxy-v2", True),
        ("http", "send-proxy-v2 proxy-v2-options crc32c,unique-id", True),
        ("http", "", False),
    ],
)
async def test_how_haproxy_tells(tmp_path: Path, mode: str, sends: str, behind_tls: bool) -> None:
    """Whose connection or request it is; without `send-proxy` by X-Forwarded-For, in which clients write first."""
    root = make_root("TLS root")
    if behind_tls:
        write_certificates(tmp_path / "root.pem", root.certificate)
        sends += f" ssl verify required ca-file {tmp_path}/root.pem verifyhost localhost"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server = root.issue("gateway", san=["dns:localhost"])
    context.load_cert_chain(*server.write(tmp_path, "server"))
    forwards = "    option forwardfor\n    unique-id-format %rt\n" if mode == "http" else ""
    async with served(
        trusted_proxies=Networks(["127.0.0.1"]),
        proxy_protocol="proxy" in sends,
        forwarded_for="proxy" not in sends,
        tls=(lambda: context) if behind_tls else None,
    ) as gateway:
        text = (
            f"defaults\n    mode {mode}\n    timeout connect 60s\n    timeout client 60s\n"
            f"    timeout server 60s\n{forwards}listen all\n    bind {{bind}}\n"
            f"    server gateway 127.0.0.1:{gateway.port} {sends}\n"
        )
        with running(tmp_path, text) as port:
            assert await asked(port, 3) == [200] * 3
        assert [call[4] for call in gateway.echo.calls] == [
            f"127.0.1.{number}" for number in range(3)
        ]


def gateway_of(config: Path, number: int) -> tuple[GatewayProcess, int]:
    """Return a gateway for the balancer, configured as the sample says, and the port of its management listener."""
    service, management = free_port(), free_port()
    own = config.with_name(f"gateway-{number}.toml")
    own.write_text(config.read_text())
    told = 'trusted_proxies = ["127.0.0.1"]\nproxy_protocol = "on"\nlame_duck_seconds = 3'
    edit(own, 'listen_host = "127.0.0.1"\nlisten_port = 0', f"listen_port = {service}\n{told}")
    edit(own, "[log]\n", f"[management]\nlisten_port = {management}\n\n[log]\n")
    return GatewayProcess(own), management


async def test_gateways_are_restarted_one_after_the_other_under_load(
    tmp_path: Path, vendor_pki: VendorPKI, redis_url: str
) -> None:
    """No request fails, though none is tried again; and each gateway knows its base stations by their own addresses."""
    config = make_setup(tmp_path / "setup", vendors={"acme": vendor_pki}, redis_url=redis_url)
    async with AsyncExitStack() as stack:
        made = [gateway_of(config, number) for number in range(2)]
        gateways = [stack.enter_context(gateway) for gateway, _ in made]
        ports = [(gateway.port, management) for gateway, management in made]
        port = stack.enter_context(balanced(tmp_path, ports))
        addresses = [f"127.0.1.{number}" for number in range(STATIONS)]
        sessions = [
            await stack.enter_async_context(
                aiohttp.ClientSession(connector=aiohttp.TCPConnector(local_addr=(address, 0)))
            )
            for address in addresses
        ]

        async def enrol(serial: str) -> None:
            session = sessions[int(serial.split("-")[1])]
            station = Station(serial, vendor_pki, config.parent / "operator" / "root.pem")
            await client.run(
                station.enrollment, f"http://127.0.0.1:{port}/.well-known/cmp", session
            )

        async with under_load(enrol) as load:
            await load.goes_on()
            for gateway in gateways * ROUNDS:
                assert await asyncio.to_thread(gateway.stop) == 0
                await asyncio.to_thread(gateway.start)
                before = len(gateway.handled)
                await until(lambda: len(gateway.handled) > before, "a message for it")  # noqa: B023
        handled = [event for gateway in gateways for event in gateway.handled]
    assert {event["outcome"] for event in handled} <= {"issued", "confirmed", "replayed"}
    assert {event["peer"] for event in handled} == set(addresses)
    assert len(handled) >= 2 * load.count


async def test_gateways_without_their_ca_say_so_themselves(
    tmp_path: Path, vendor_pki: VendorPKI
) -> None:
    """None is ready then; base stations are told systemUnavail, signed, and no page of the balancer."""
    nobody = http_upstream(f"http://127.0.0.1:{free_port()}/.well-known/cmp")
    config = make_setup(tmp_path / "setup", vendors={"acme": vendor_pki}, upstream=nobody)
    gateway, management = gateway_of(config, 1)
    station = Station("enb-1", vendor_pki, config.parent / "operator" / "root.pem")
    with gateway, balanced(tmp_path, [(gateway.port, management)]) as port:
        async with client.open_session() as session:

            async def is_unready() -> bool:
                async with session.get(f"http://127.0.0.1:{management}/readyz") as response:
                    return response.status == 503

            await settled(is_unready)
            log = tmp_path / "haproxy.log"
            await until(lambda: "gateways/gateway-1 is DOWN" in log.read_text(), "it is out")
            with pytest.raises(EnrollmentRefused, match="systemUnavail"):
                await client.run(
                    station.enrollment, f"http://127.0.0.1:{port}/.well-known/cmp", session
                )
