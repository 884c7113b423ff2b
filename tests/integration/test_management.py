"""The management listener: what it tells of a gateway, and to whom."""

from __future__ import annotations

import asyncio
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from ra_gateway.app.application import Application
from ra_gateway.config.reading import load
from ra_gateway.config.service_tables import ManagementConfig
from ra_gateway.keys import load_certificates
from tests.support.commandline import succeeded
from tests.support.nodes import running
from tests.support.old_device import OldDevice
from tests.support.pki import CMC_RA, VendorPKI, make_root, write_certificates
from tests.support.setups import edit, http_upstream, make_setup


async def get(application: Application, path: str, method: str = "GET") -> tuple[int, str]:
    """Ask the management listener; returns status and body."""
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, application.management.url + path) as response,
    ):
        return response.status, await response.text()


def values(text: str, name: str) -> dict[tuple[str, ...], float]:
    """Return the samples of one metric by the values of its labels, which are sorted by name."""
    return {
        tuple(value for _, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    }


async def test_messages_are_counted(tmp_path: Path, vendor_pki: VendorPKI) -> None:
    # The CA takes no proof of possession that is signed with SHA-1.
    upstream = 'kind = "bundled"\npop = "raverified"\n'
    config = make_setup(tmp_path, vendors={"acme": vendor_pki}, upstream=upstream)
    edit(config, "[vendors.acme]\n", '[vendors.acme]\nquirks = ["short_ids", "sha1"]\n')
    async with running(config) as node:
        await OldDevice.made(node, vendor_pki.device()).enrol()
        status, text = await get(node.application, "/metrics")
    assert status == 200
    counted = values(text, "ra_gateway_messages_total")
    assert counted[("gateway", "acme", "ran", "", "issued", "", "ir")] == 1
    assert counted[("gateway", "acme", "ran", "", "confirmed", "", "certConf")] == 1


async def test_registered_ras_that_end(tmp_path: Path, vendor_pki: VendorPKI) -> None:
    """By their newest certificate each; those that are blocked are not heard, and need none."""
    config = make_setup(tmp_path, vendors={"acme": vendor_pki})
    files = {}
    for name, days in (("gateway", 900), ("north", 20), ("north", 10), ("south", 5)):
        until = datetime.now(UTC) + timedelta(days=days)
        files[name, days] = make_root(f"CN={name} {days}").issue(
            f"CN={name}", not_after=until, eku=[CMC_RA]
        )
        write_certificates(tmp_path / f"{name}-{days}.pem", files[name, days].certificate)
        await asyncio.to_thread(
            succeeded,
            *("ca", "ra", "add", name, "--role", "ra", "-c", config),
            *("--certificate", tmp_path / f"{name}-{days}.pem"),
        )
    await asyncio.to_thread(succeeded, "ca", "ra", "block", "south", "-c", config)
    async with running(config) as node:
        _, text = await get(node.application, "/metrics")
    own = load_certificates(tmp_path / "ra" / "ra.pem", "RA")[0].not_after.timestamp()
    north = files["north", 20].certificate.not_valid_after_utc.timestamp()
    ends = values(text, "ra_gateway_ca_ra_expiry_timestamp_seconds")
    assert ends == {("gateway",): own, ("north",): north}


async def test_every_value_stands_there_once(tmp_path: Path, vendor_pki: VendorPKI) -> None:
    """Prometheus refuses a whole scrape with one that does not. Gateway, bundled CA and all listeners are there."""
    config = make_setup(tmp_path, vendors={"acme": vendor_pki})
    config.write_text(f"{config.read_text()}\n[ca.status]\nlisten_port = 0\n")
    async with running(config) as node:
        _, text = await get(node.application, "/metrics")
    samples = [
        (sample.name, *sorted(sample.labels.items()))
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]
    assert len(set(samples)) == len(samples)
    connections = values(text, "ra_gateway_http_connections")
    assert set(connections) == {("cmp",), ("management",), ("status",)}
    expiries = values(text, "ra_gateway_certificate_expiry_timestamp_seconds")
    uses = {(of, use) for _, of, _, use in expiries}
    assert uses >= {("acme", "anchor"), ("operator", "anchor"), ("ra", "ra"), ("ra", "ra_chain")}
    files = {file for file, _ in values(text, "ra_gateway_ca_expiry_timestamp_seconds")}
    assert files >= {"root.pem", "issuing.pem", "cmp.pem", "ocsp.pem"}
    for by in ("gateway", "ca"):
        assert values(text, "ra_gateway_store_losses_total")[by,] == 0
    assert set(values(text, "ra_gateway_ready").values()) == {1}


async def test_no_secret_is_told(tmp_path: Path, vendor_pki: VendorPKI) -> None:
    upstream = http_upstream("http://127.0.0.1:1/cmp?token=hush", probe_seconds=0)
    config = make_setup(tmp_path, vendors={"acme": vendor_pki}, upstream=upstream)
    async with running(config) as node:
        _, text = await get(node.application, "/metrics")
    assert values(text, "ra_gateway_upstream_url_healthy") == {
        ("bundled", "http://127.0.0.1:1/cmp"): 1
    }
    assert "hush" not in text


async def test_refusals_are_counted_by_status(tmp_path: Path, vendor_pki: VendorPKI) -> None:
    """All of them, however few the log is told of."""
    async with running(make_setup(tmp_path, vendors={"acme": vendor_pki})) as node:
        for _ in range(25):
            await get(node.application, "/nowhere")
        await get(node.application, "/metrics", "POST")
        _, text = await get(node.application, "/metrics")
    refused = values(text, "ra_gateway_http_refused_total")
    assert refused == {("management", "404"): 25, ("management", "405"): 1}


@pytest.mark.parametrize(
    "path, method, status",
    [
        ("/livez", "GET", 200),
        ("/readyz", "GET", 200),
        ("/readyz?verbose", "HEAD", 200),
        ("/metrics", "POST", 405),
        ("/", "GET", 404),
    ],
)
async def test_paths(
    tmp_path: Path, vendor_pki: VendorPKI, path: str, method: str, status: int
) -> None:
    async with running(make_setup(tmp_path, vendors={"acme": vendor_pki})) as node:
        assert (await get(node.application, path, method))[0] == status


@pytest.mark.parametrize("version", ["x", "1.x", ".", "-1.0.0", "1.0.0;escaping=x", ""])
async def test_whoever_asks_for_a_format_that_there_is_not_gets_one_that_there_is(
    tmp_path: Path, vendor_pki: VendorPKI, version: str
) -> None:
    accept = {"Accept": f"application/openmetrics-text;version={version}"}
    async with (
        running(make_setup(tmp_path, vendors={"acme": vendor_pki})) as node,
        aiohttp.ClientSession(headers=accept) as session,
        session.get(f"{node.application.management.url}/metrics") as response,
    ):
        assert response.status == 200
        assert "ra_gateway_build_info" in await response.text()


async def test_it_can_be_closed(tmp_path: Path, vendor_pki: VendorPKI) -> None:
    config = make_setup(tmp_path, vendors={"acme": vendor_pki})
    edit(config, "[log]", "[management]\nenabled = false\n\n[log]")
    application = Application(load(config))
    await application.start()
    await application.stop()
    assert application.management.url == ""


@pytest.mark.parametrize("service, port", [(8080, 9080), (65_000, 64_000), (0, 0)])
def test_its_port_follows_the_services(service: int, port: int) -> None:
    assert ManagementConfig().port_beside(service) == port
    assert ManagementConfig(listen_port=7).port_beside(service) == 7


@pytest.mark.parametrize(
    "host, status",
    [
        ("127.0.0.1:9080", 200),
        ("10.244.0.7:9080", 200),
        ("[::1]:9080", 200),
        ("localhost", 200),
        ("gateway-1:9080", 200),
        ("Gateway.Example.NET.:9080", 200),
        (socket.gethostname(), 200),
        ("evil.example", 421),
        ("127.0.0.1.evil.example:9080", 421),
        ("gateway.example.net.evil.example", 421),
        ("[evil.example]", 421),
        ("evil.example:127.0.0.1", 421),
    ],
)
async def test_no_web_page_asks_by_a_name_of_its_own(
    tmp_path: Path, vendor_pki: VendorPKI, host: str, status: int
) -> None:
    """A browser that an operator has open lets a page read what its own name leads to."""
    config = make_setup(tmp_path, vendors={"acme": vendor_pki})
    edit(config, "[log]", '[management]\nserver_names = ["gateway.example.net"]\n\n[log]')
    async with (
        running(config) as node,
        aiohttp.ClientSession(headers={"Host": host}) as session,
    ):
        for path in ("/status", "/metrics", "/livez", "/nowhere"):
            async with session.get(node.application.management.url + path) as response:
                assert response.status == (404 if (path, status) == ("/nowhere", 200) else status)
