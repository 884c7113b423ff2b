"""The RA's new certificate reaches the gateways of a site one after the other, while they share transactions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from ra_gateway.app import credential
from ra_gateway.app.application import Application
from ra_gateway.cmp.messages import PKIMessage
from ra_gateway.config.reading import load
from ra_gateway.events import unheard
from tests.support.commandline import run
from tests.support.pki import VendorPKI
from tests.support.polling import settled
from tests.support.setups import edit, make_setup
from tests.support.stations import Station

LATER: Final = "begin_after_seconds = 3600\n"
"""Longer than any test: neither begins by itself."""


class Pair:
    """Two gateways with one Redis, each with RA files of its own.

    Args:
        configs: Their configurations.
    """

    def __init__(self, configs: list[Path], vendor: VendorPKI) -> None:
        self.configs, self._vendor = configs, vendor
        self._directory = configs[0].parent
        self.gateways = [
            Application(load(path), sink=unheard, read=partial(load, path)) for path in configs
        ]

    async def enrol(self, first: int, second: int) -> bytes:
        """Have a base station ask at one gateway and confirm at another; returns who signed for them, DER."""
        serial = f"enb-{first}-{second}"
        station = Station(serial, self._vendor, self._directory / "operator" / "root.pem")
        answer = await self._ask(first, await station.enrollment.request())
        await station.finish(await self._ask(second, await station.confirmation(answer)))
        return PKIMessage.from_der(answer).extra_certs[0]

    async def _ask(self, number: int, der: bytes) -> bytes:
        (endpoint,) = self.gateways[number].services.endpoints
        return (await self.gateways[number].gateway.handle(der, endpoint=endpoint)).der

    async def issue(self) -> None:
        """Make a new certificate for the RA, at the CA."""
        password = self._directory / "transport.password"
        password.touch(0o600)
        password.write_text("only on the way")
        await self._run("ca", "ra", "issue", "gateway", "--out", str(self._file), config=0)

    async def install(self, number: int) -> None:
        """Install it at one gateway, and wait until that one knows it."""
        await self._run("ca", "ra", "install", str(self._file), config=number)

        async def is_known() -> bool:
            return bool(self.gateways[number].services.other_credentials())

        await settled(is_known)

    @property
    def _file(self) -> Path:
        return self._directory / "gateway.p12"

    async def _run(self, *arguments: str, config: int) -> None:
        password = str(self._directory / "transport.password")
        options = ("--password-file", password, "-c", str(self.configs[config]))
        ended = await asyncio.to_thread(run, *arguments, *options)
        assert ended.exit_code == 0, ended


@asynccontextmanager
async def a_pair(
    directory: Path, vendor: VendorPKI, redis_url: str, setting: str = LATER
) -> AsyncIterator[Pair]:
    config = make_setup(directory, vendors={"acme": vendor}, redis_url=redis_url)
    edit(config, "[ra]\n", f"[ra]\n{setting}")
    config.write_text(f"{config.read_text()}\n[management]\nlisten_port = 0\n")
    other = config.with_name("other.toml")
    other.write_text(config.read_text().replace('"ra/', '"ra-2/'))
    (directory / "ra-2").mkdir()
    for file in (directory / "ra").iterdir():
        copy = directory / "ra-2" / file.name
        copy.touch(0o600)
        copy.write_bytes(file.read_bytes())
    pair = Pair([config, other], vendor)
    async with AsyncExitStack() as stack:
        for gateway in pair.gateways:
            await gateway.start()
            stack.push_async_callback(gateway.stop)
        yield pair


async def test_no_base_station_meets_a_gateway_without_the_certificate(
    tmp_path: Path, vendor_pki: VendorPKI, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is known at each gateway before the first one begins with it; each ends what another one began."""
    monkeypatch.setattr(credential, "WATCH_SECONDS", 0.02)
    ways = [(0, 1), (1, 0)]
    async with a_pair(tmp_path, vendor_pki, redis_url) as pair:
        old = await pair.enrol(0, 1)
        await pair.issue()
        for number in range(2):
            await pair.install(number)
            assert [await pair.enrol(*way) for way in ways] == [old, old]
        await pair.gateways[0].reload()
        new = await pair.enrol(0, 1)
        assert new != old
        assert await pair.enrol(1, 0) == old
        await pair.gateways[1].reload()
        assert [await pair.enrol(*way) for way in ways] == [new, new]


async def test_it_begins_by_itself(
    tmp_path: Path, vendor_pki: VendorPKI, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(credential, "WATCH_SECONDS", 0.02)
    soon = "begin_after_seconds = 0.2\n"
    async with a_pair(tmp_path, vendor_pki, redis_url, soon) as pair:
        services = pair.gateways[0].services
        old = services.credential().certificate
        await pair.issue()
        await pair.install(0)

        async def has_begun() -> bool:
            return services.credential().certificate != old

        await settled(has_begun)
        assert [item.certificate for item in services.other_credentials()] == [old]
