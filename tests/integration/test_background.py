"""What a gateway does in the background: it is begun anew when it dies, and stops in order whatever it met."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog
from redis.asyncio import Redis

from ra_gateway.app import ca, credential, gateway
from ra_gateway.app.application import Application
from ra_gateway.app.ca import BundledService
from ra_gateway.app.credential import CredentialFiles
from ra_gateway.app.running import STEADY
from ra_gateway.app.trust import operator_domain
from ra_gateway.ca.cross import RootKey, make_root_crl
from ra_gateway.ca.keys import expiries
from ra_gateway.ca.profiles import ENODEB_IPSEC
from ra_gateway.ca.records import Reason
from ra_gateway.clocks import now
from ra_gateway.cmp.crmf import CertTemplate
from ra_gateway.config.reading import load
from ra_gateway.errors import ServiceFailure
from ra_gateway.events import unheard
from ra_gateway.ra.agenda import UnconfirmedCertificates
from ra_gateway.tasks import ended
from tests.support.pki import VendorPKI
from tests.support.setups import make_setup
from tests.support.transactions import new_transaction


class Poison(Exception):
    """Nothing that anybody expects."""


@pytest.mark.parametrize("task,owner,method", [
    ("ra.credential", CredentialFiles, "watch"),
    ("unconfirmed", UnconfirmedCertificates, "run"),
])  # fmt: skip
async def test_a_task_that_dies(
    tmp_path: Path,
    vendor_pki: VendorPKI,
    monkeypatch: pytest.MonkeyPatch,
    task: str,
    owner: type,
    method: str,
) -> None:
    """Its death is logged with its cause, it is begun anew, and the gateway stops in order."""
    beginnings = []
    again = asyncio.Event()

    async def dies(*_: Any) -> None:
        beginnings.append(1)
        if len(beginnings) > 1:
            again.set()
        raise Poison

    monkeypatch.setattr(owner, method, dies)
    application = Application(load(make_setup(tmp_path, vendors={"acme": vendor_pki})))
    with structlog.testing.capture_logs() as logs:
        await application.start()
        async with asyncio.timeout(240):
            await again.wait()
        await application.stop()
    deaths = [line for line in logs if line["event"] == "task.died"]
    assert {line["task"] for line in deaths} == {task}
    assert {type(line["exc_info"]) for line in deaths} == {Poison}


async def test_a_poisoned_store(tmp_path: Path, vendor_pki: VendorPKI, redis_url: str) -> None:
    """Neither the start nor the work nor the stop minds what others have written to Redis."""
    config = make_setup(tmp_path, vendors={"acme": vendor_pki}, redis_url=redis_url)
    application = Application(load(config))
    async with Redis.from_url(redis_url) as raw:
        await raw.zadd("ra_gateway:agenda", {b"poison": 0, b"\xff\xfe": 0})
        with structlog.testing.capture_logs() as logs:
            await application.start()
            async with asyncio.timeout(240):
                while await raw.zcard("ra_gateway:agenda"):  # noqa: ASYNC110  # it is in Redis
                    await asyncio.sleep(0.05)
            await application.stop()
    assert [line["event"] for line in logs if line["log_level"] == "error"] == [
        "store.not_believed"
    ]


async def test_a_clock_that_is_set(
    tmp_path: Path, vendor_pki: VendorPKI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A day ahead, while all that `serve` starts is at work: nothing is revoked, forgotten or signed by it."""
    ahead = timedelta()

    def wall() -> datetime:
        return now() + ahead

    monkeypatch.setattr(gateway, "now", wall)
    monkeypatch.setattr(ca, "now", wall)
    for name, value in (("_clock", wall), ("_anchor", STEADY._anchor), ("_stepped_at", None)):
        monkeypatch.setattr(STEADY, name, value)
    application = Application(load(make_setup(tmp_path, vendors={"acme": vendor_pki})))
    await application.start()
    try:
        bundled = application._bundled
        assert bundled is not None
        steady = application.services.steady, bundled.ca._steady, bundled.wiring.publisher._steady
        assert [each() for each in steady] == [True] * 3
        transaction = new_transaction(created_at=wall(), expires_at=wall() + timedelta(hours=1))
        await application.store.create(transaction)
        ahead = timedelta(days=1)
        assert [each() for each in steady] == [False] * 3
        assert await application.store.load(transaction.key) == transaction
    finally:
        await application.stop()


def test_an_ra_certificate_that_expires_under_way(
    tmp_path: Path, vendor_pki: VendorPKI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Warned of once a day before; at its end an error, at once, and once a day from then on."""
    config = load(make_setup(tmp_path, vendors={"acme": vendor_pki}))
    files = CredentialFiles(config.ra, operator_domain(config), timedelta(hours=1))
    end = files.current.certificate.not_after
    hour = timedelta(hours=1)
    moments = [-800 * hour, -2 * hour, -hour, hour / 3600, hour, 24 * hour, 25 * hour]
    told = []
    for moment in moments:
        monkeypatch.setattr(credential, "now", lambda at=end + moment: at)
        with structlog.testing.capture_logs() as logs:
            files._warn()
        told.append([(line["log_level"], line["event"]) for line in logs])
    before, after = ("warning", "ra.credential_expires"), ("error", "ra.credential_expired")
    assert told == [[], [before], [], [after], [], [], [after]]


async def test_files_of_the_ra_that_cannot_be_used(
    tmp_path: Path, vendor_pki: VendorPKI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The metric tells of a half-written certificate until it is whole: nothing else fails before the restart."""
    monkeypatch.setattr(credential, "WATCH_SECONDS", 0.02)
    config = make_setup(tmp_path, vendors={"acme": vendor_pki})
    application = Application(load(config), sink=unheard)
    await application.start()

    async def becomes(value: int) -> None:
        wanted = f'ra_gateway_credential_files_current{{of="ra"}} {value}.0'
        async with asyncio.timeout(240):
            while wanted not in (await application.management.metrics("")).body.decode():  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    try:
        await becomes(1)
        file = tmp_path / "ra" / "ra.pem"
        whole = file.read_bytes()
        file.write_bytes(whole[:100])
        await becomes(0)
        file.write_bytes(whole)
        await becomes(1)
    finally:
        await application.stop()


async def test_a_certificate_of_the_ca_that_expires_under_way(
    tmp_path: Path, vendor_pki: VendorPKI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is looked for at that very moment, although the next look is a day away."""
    config = load(make_setup(tmp_path, vendors={"acme": vendor_pki}))
    assert config.ca is not None
    service = BundledService(config.ca, config.vendors, unheard)
    soonest = min(item.not_after for item in expiries(config.ca.directory_path))
    monkeypatch.setattr(ca, "now", lambda: soonest - timedelta(seconds=0.5))
    with structlog.testing.capture_logs() as logs:
        task = asyncio.create_task(service.wiring._warn_of_expiries())
        await asyncio.sleep(0.1)
        levels = {line["log_level"] for line in logs}
        monkeypatch.setattr(ca, "now", lambda: soonest + timedelta(seconds=2))
        async with asyncio.timeout(240):
            while not any(  # noqa: ASYNC110  # it is a list
                line["event"] == "ca.certificate_expired" for line in logs
            ):
                await asyncio.sleep(0.05)
        await ended(task)
    await service.stop()
    assert levels == {"warning"}


@pytest.mark.requirement("T26")
async def test_an_issuing_ca_that_the_root_revokes_under_way(
    tmp_path: Path, vendor_pki: VendorPKI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service that runs issues nothing more, although it loaded the CA before."""
    config = load(make_setup(tmp_path, vendors={"acme": vendor_pki}))
    assert config.ca is not None
    monkeypatch.setattr(ca, "_ROOT_SECONDS", 0.05)
    service = BundledService(config.ca, config.vendors, unheard)
    issuer = service.wiring._issuing[0]
    revoke = {issuer.certificate.serial_number: Reason.cACompromise}
    with structlog.testing.capture_logs() as logs:
        task = asyncio.create_task(service.wiring._watch_root())
        await asyncio.sleep(0.1)
        assert not task.done()
        directory = config.ca.directory_path
        make_root_crl(directory, RootKey(), now=now(), days=30, revoke=revoke, first=True)
        async with asyncio.timeout(240):
            await task
    await service.stop()
    assert [line["event"] for line in logs] == ["ca.issuing_revoked"]
    with pytest.raises(ServiceFailure, match="has revoked"):
        issuer.check(CertTemplate(), ENODEB_IPSEC, now())
