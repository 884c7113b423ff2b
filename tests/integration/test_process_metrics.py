"""What the metrics tell of a process: its clock, its configuration, and no names that went out of that."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ra_gateway.app.configuration_changes import config_digest, shared_digest
from ra_gateway.app.running import STEADY
from ra_gateway.clocks import CALM_SECONDS, elapsed_seconds, now
from ra_gateway.config.reading import load, load_ca
from ra_gateway.device.errors import EnrollmentRefused
from tests.support.pki import VendorPKI
from tests.support.reloading import CASite, serving, serving_ca
from tests.support.scraping import scraped
from tests.support.setups import edit, http_upstream, make_setup, set_upstream

CLIENT = '\n[ca.client]\nidentity_from = "cn"\nvendors = [ "acme" ]\n'


@pytest.fixture
def config(tmp_path: Path, vendor_pki: VendorPKI) -> Path:
    return make_setup(tmp_path / "site", vendors={"acme": vendor_pki})


KINDS = pytest.mark.parametrize("kind", [serving, serving_ca])


@KINDS
async def test_a_clock_that_was_set(
    config: Path, kind: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told from the next scrape on, whether anything is to be revoked or not, until it has run evenly for an hour."""
    ahead, later = timedelta(), 0.0
    monkeypatch.setattr(STEADY, "_clock", lambda: now() + ahead + timedelta(seconds=later))
    monkeypatch.setattr(STEADY, "_elapsed", lambda: elapsed_seconds() + later)
    monkeypatch.setattr(STEADY, "_anchor", (now(), elapsed_seconds()))
    monkeypatch.setattr(STEADY, "_stepped_at", None)
    name = "ra_gateway_clock_steady"
    async with kind(config) as site:
        assert await scraped(site, name) == {(): 1}
        ahead = timedelta(days=-1)
        assert await scraped(site, name) == {(): 0}
        later = CALM_SECONDS + 1
        assert await scraped(site, name) == {(): 1}


# --- configurations that differ ---------------------------------------------------------------------------------


def of(config: Path) -> tuple[str, str]:
    """Both digests of a gateway's configuration."""
    settings = load(config)
    return config_digest(settings), shared_digest(settings)


def set_of_host(config: Path) -> None:
    """Give a configuration what is right on one host alone."""
    tables = (
        ("[server]\n", "max_connections = 77\n"),
        ("[ca.server]\n", "drain_seconds = 7\n"),
        ("[log]\n", 'path = "a.log"\n'),
    )
    for table, keys in tables:
        edit(config, table, table + keys)
    text = config.read_text().replace('listen_host = "127.0.0.1"', 'listen_host = "127.0.0.2"')
    more = "\n[management]\nlisten_port = 9999\n\n[ca.status]\nlisten_port = 9998\nproxy_protocol = 'on'\n"
    config.write_text(f"{text}{more}trusted_proxies = ['10.0.0.1']\n")


def test_what_differs_by_host_makes_no_difference(config: Path, tmp_path: Path) -> None:
    """Where it listens and logs, how it is reached, which RA it is; and where its files are."""
    config.write_text(f"{config.read_text()}\n[ca.status]\n")
    before = of(config)
    config.write_text(config.read_text().removesuffix("\n[ca.status]\n"))
    set_of_host(config)
    (tmp_path / "site").rename(tmp_path / "elsewhere")
    elsewhere = tmp_path / "elsewhere" / config.name
    (elsewhere.parent / "ra").rename(elsewhere.parent / "north")
    for name in ("ra.pem", "ra.key"):
        edit(elsewhere, f'"ra/{name}"', f'"north/{name}"')
    full, shared = of(elsewhere)
    assert full != before[0]
    assert shared == before[1]


@pytest.mark.parametrize(
    "old, new",
    [
        ('subject = "keep"', 'subject = "keep"\nsame_key = false'),
        ('profile = "trial"', 'profile = "trial"\nvalidity_days = 10'),
        ('kind = "memory"', 'kind = "memory"\nmax_held = 7'),
        ('["acme/root.pem"]', '["acme/root.pem", "acme/next.pem"]'),
        ('["acme/root.pem"]', '["acme/next.pem"]'),
    ],
)
def test_all_else_does(config: Path, old: str, new: str) -> None:
    """Of vendors, the CA, the store; and which files are named."""
    before = of(config)[1]
    (config.parent / "acme/next.pem").write_bytes((config.parent / "acme/root.pem").read_bytes())
    edit(config, old, new)
    assert of(config)[1] != before


def test_a_key_with_its_default_makes_no_difference(config: Path) -> None:
    """Nor does a release with a new one."""
    before = of(config)[1]
    edit(config, 'kind = "memory"', 'kind = "memory"\nmax_held = 10000')
    assert of(config)[1] == before


def test_so_it_is_with_cas(config: Path) -> None:
    config.write_text(config.read_text() + CLIENT)
    before = shared_digest(load_ca(config))
    edit(config, "[ca.server]\n", "[ca.server]\nmax_connections = 7\n")
    assert shared_digest(load_ca(config)) == before
    edit(config, '"cn"', '"serial_number"')
    assert shared_digest(load_ca(config)) != before


@KINDS
async def test_the_metric_follows_a_reload(config: Path, kind: Callable[..., Any]) -> None:
    """By which of the two it is: gateways and CAs of one job differ rightly."""
    name = "ra_gateway_shared_configuration_info"
    async with kind(config) as site:
        is_ca = isinstance(site, CASite)
        read, by = (load_ca, "ca") if is_ca else (load, "gateway")
        assert await scraped(site, name) == {(by, shared_digest(read(config))): 1}
        edit(config, 'profile = "trial"', 'profile = "trial"\nvalidity_days = 10')
        await (site.service if is_ca else site.application).reload()
        assert await scraped(site, name) == {(by, shared_digest(read(config))): 1}


# --- the CA's own names -----------------------------------------------------------------------------------------


async def test_client_mode_that_went_is_forgotten(config: Path, vendor_pki: VendorPKI) -> None:
    """After another reload, as the gateway forgets its endpoints; what it counts begins at nought."""
    set_upstream(config, http_upstream("http://127.0.0.1:1/cmp"))
    config.write_text(config.read_text() + CLIENT)
    async with serving_ca(config) as site:
        counted = await scraped(site, "ra_gateway_certificates_total")
        assert counted == {
            ("ca", event, ""): 0 for event in ("issued", "confirmed", "rejected", "unconfirmed")
        }
        with pytest.raises(EnrollmentRefused):  # nobody has registered it
            await site.enrol(vendor_pki, "A1", "/client")
        edit(config, CLIENT, "")
        for left in ([1], []):
            await site.service.reload()
            messages = await scraped(site, "ra_gateway_messages_total")
            assert [value for labels, value in messages.items() if "client" in labels] == left
