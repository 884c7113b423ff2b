"""Gateways behind a real HAProxy, by the sample in deploy/: who their peers are, and restarts one after the other."""

from __future__ import annotations

import asyncio
import os
import ssl
import subprocess
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest

from ra_gateway.app.application import Application
from ra_gateway.config.reading import load
from ra_gateway.device.client import post
from ra_gateway.device.values import Done
from ra_gateway.events import Component, Fact, RequestHandled
from ra_gateway.peers import Networks
from tests.support.haproxy import SAMPLE, balanced, haproxy_path, running
from tests.support.loops import run_on_uvloop
from tests.support.pki import VendorPKI, make_root, write_certificates
from tests.support.ports import free_port
from tests.support.raw_http import CMP_TYPE, PATH, served
from tests.support.setups import edit, make_setup
from tests.support.stations import Station, until

ROUNDS = int(os.environ.get("ROLLING_RESTARTS", "1"))
"""How often each gateway is restarted; `make rolling-restarts` asks for more."""

STATIONS = 4


class Site:
    """Gateways of this process that share a Redis, each with ports of its own.

    Args:
        directory: Of the setup that they share.
        config: Its file.
    """

    def __init__(self, directory: Path, config: Path, vendor: VendorPKI) -> None:
        self.directory, self.config, self.vendor = directory, config, vendor
        self.ports = [(free_port(), free_port()) for _ in range(2)]
        self.facts: list[Fact] = []
        self.gateways: list[Application] = []

    async def start(self, number: int) -> None:
        """Start a gateway."""
        service, management = self.ports[number]
        config = self.config.with_name(f"gateway-{number}.toml")
        config.write_text(self.config.read_text())
        proxied = f'{service}\ntrusted_proxies = ["127.0.0.1"]\nproxy_protocol = "on"'
        edit(config, 'listen_host = "127.0.0.1"\nlisten_port = 0', f"listen_port = {proxied}")
        edit(config, "[log]\n", f"[management]\nlisten_port = {management}\n\n[log]\n")
        application = Application(load(config), sink=self.facts.append)
        await application.start()
        self.gateways[number : number + 1] = [application]

    async def restart(self, number: int) -> None:
        """End a gateway, and start it anew."""
        await self.stop(number)
        await self.start(number)

    async def stop(self, number: int) -> None:
        """End a gateway as SIGTERM does."""
        await self.gateways[number].stop()

    async def enrol(self, url: str, serial: str, session: aiohttp.ClientSession) -> Done:
        """Have a base station enrol and confirm, without a second try of its own."""
        station = Station(serial, self.vendor, self.directory / "operator" / "root.pem")
        confirmation = await station.confirmation(
            await post(session, url, await station.enrollment.request())
        )
        return await station.finish(await post(session, url, confirmation))


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


def test_gateways_are_restarted_one_after_the_other_under_load(
    tmp_path: Path, vendor_pki: VendorPKI, redis_url: str
) -> None:
    """No request fails, and each gateway knows its base stations by their own addresses."""
    directory = tmp_path / "setup"
    config = make_setup(directory, vendors={"acme": vendor_pki}, redis_url=redis_url)
    # On the loop that gateways have: asyncio's own loses what it accepts while its server closes.
    run_on_uvloop(lambda: restarted_under_load(Site(directory, config, vendor_pki), tmp_path))


async def restarted_under_load(site: Site, tmp_path: Path) -> None:
    over, enrolled = asyncio.Event(), 0

    async def enrol_on_end(number: int) -> None:
        nonlocal enrolled
        connector = aiohttp.TCPConnector(local_addr=(f"127.0.1.{number}", 0))
        async with aiohttp.ClientSession(connector=connector) as session:
            while not over.is_set():
                await site.enrol(url, f"enb-{number}-{enrolled}", session)
                enrolled += 1

    async with AsyncExitStack() as stack:
        for number in range(2):
            await site.start(number)
            stack.push_async_callback(site.stop, number)
        port = stack.enter_context(balanced(tmp_path, site.ports))
        url = f"http://127.0.0.1:{port}/.well-known/cmp"
        async with asyncio.TaskGroup() as group:
            for number in range(STATIONS):
                group.create_task(enrol_on_end(number))
            for number in [0, 1] * ROUNDS:
                before = enrolled
                await until(lambda: enrolled >= before + STATIONS, "enrolments")  # noqa: B023
                await site.restart(number)
            before = enrolled
            await until(lambda: enrolled >= before + STATIONS, "enrolments")
            over.set()
    handled = [
        fact
        for fact in site.facts
        if isinstance(fact, RequestHandled) and fact.by is Component.gateway
    ]
    assert {fact.peer for fact in handled} == {f"127.0.1.{number}" for number in range(STATIONS)}
    assert len(handled) >= 2 * enrolled
