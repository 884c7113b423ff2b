"""What the metrics tell of a process: its clock, and no names that went out of its configuration."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from ra_gateway.app.running import STEADY
from ra_gateway.clocks import CALM_SECONDS, elapsed_seconds, now
from ra_gateway.device.errors import EnrollmentRefused
from ra_gateway.metrics import collecting
from tests.support.pki import VendorPKI
from tests.support.reloading import CASite, Site, serving, serving_ca
from tests.support.setups import edit, http_upstream, make_setup, set_upstream

CLIENT = '\n[ca.client]\nidentity_from = "cn"\nvendors = [ "acme" ]\n'


@pytest.fixture(autouse=True)
def _no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each scrape is written anew."""
    monkeypatch.setattr(collecting, "REST_FACTOR", 0.0)


@pytest.fixture
def config(tmp_path: Path, vendor_pki: VendorPKI) -> Path:
    return make_setup(tmp_path / "site", vendors={"acme": vendor_pki})


async def scraped(site: Site | CASite, name: str) -> dict[tuple[str, ...], float]:
    """The values of one metric by its labels, which are sorted by name."""
    service = site.application if isinstance(site, Site) else site.service
    async with aiohttp.ClientSession() as session:
        text = await (await session.get(f"{service.management.url}/metrics")).text()
    return {
        tuple(value for _, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    }


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
